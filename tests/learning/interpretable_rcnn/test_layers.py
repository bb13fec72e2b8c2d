"""The And-Or head inside torchvision's Faster R-CNN, and alone."""

import math

import pytest
import torch
from torch import nn
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.ops import MultiScaleRoIAlign

from interp_train.and_or_graph import AndOrGraph
from interp_train.learning.interpretable_rcnn.layers import AndOrHead, AndOrPredictor

STAGES = [0.0, 2.0, math.inf]


def head_of(**options):
    torch.manual_seed(0)
    options = {"projection_size": 5, "representation_size": 16, **options}
    graph = options.pop("graph", None) or AndOrGraph(7, 7, min_side=2)
    return AndOrHead(6, 4, graph, **options)


@pytest.mark.parametrize("class_aware", [True, False])
def test_part_scores_equal_a_loop_over_parts(class_aware):
    head = head_of(class_aware=class_aware, graph=AndOrGraph(3, 4))
    features = torch.randn(2, 6, 3, 4)
    scores = head.part_scores(features)
    projected = head.projection(features).relu()
    for row, (x, y, width, height) in enumerate(head.parsing.terminal_rectangles):
        mean = projected[:, :, y : y + height, x : x + width].mean(dim=(2, 3))
        expected = mean @ head.part_weights[row] + head.part_biases[row]
        torch.testing.assert_close(scores[row], expected)
    assert scores.shape == (60, 2, 3 if class_aware else 1)


def unlike(cells, precision):
    """Mean squared distance of cells ``(n, 3)`` from their mean, colour axes weighted alike."""
    return sum(d @ precision @ d for d in cells - cells.mean(0)) / len(cells)


def precision_of(cells):
    """Inverse covariance of a box's colours, where no axis has less than a hundredth of it."""
    covariance = sum(torch.outer(d, d) for d in cells - cells.mean(0)) / len(cells)
    return (covariance + 0.01 * covariance.trace() * torch.eye(3, dtype=cells.dtype)).inverse()


@pytest.mark.parametrize("class_aware", [True, False])
@pytest.mark.parametrize("root_terminal", [True, False])
def test_costs_equal_a_loop_over_parts(class_aware, root_terminal):
    graph = AndOrGraph(3, 4, root_terminal=root_terminal)
    head = head_of(class_aware=class_aware, graph=graph).double()
    features = torch.randn(2, 9, 3, 4, dtype=torch.float64)
    free = head.part_scores(features[:, :6])
    head.homogeneity, head.leaf_cost = 3.0, 0.25
    for row, (x, y, width, height) in enumerate(head.parsing.terminal_rectangles):
        for box in range(2):
            cells = features[box, 6:].flatten(1).T
            part = features[box, 6:, y : y + height, x : x + width].flatten(1).T
            precision = precision_of(cells)
            share = unlike(part, precision) / unlike(cells, precision)
            cost = 3 * share + 0.25 * 12 / (width * height)
            torch.testing.assert_close(head.part_scores(features)[row, box], free[row, box] - cost)


@pytest.mark.parametrize("homogeneity", [0.0, 3.0])
def test_a_parse_pays_for_its_leaves_and_what_differs_inside_them(homogeneity):
    head = head_of(class_aware=False, homogeneity=homogeneity, leaf_cost=0.5).double()
    features = torch.randn(4, 9 if homogeneity else 6, 7, 7, dtype=torch.float64)
    nn.init.zeros_(head.part_weights)
    for box, parse in enumerate(head.parses(features, torch.ones(4, dtype=torch.long))):
        leaves = parse.tree.leaves()
        cost = 0.5 * len(leaves)
        if homogeneity:
            colours = features[box, 6:]
            precision = precision_of(colours.flatten(1).T)
            inside = [
                width * height * unlike(part.flatten(1).T, precision) / 49
                for x, y, width, height in leaves
                for part in [colours[:, y : y + height, x : x + width]]
            ]
            cost += 3 * sum(inside) / unlike(colours.flatten(1).T, precision)
        assert parse.score == pytest.approx(-float(cost))
        assert homogeneity or len(leaves) == 1


@pytest.mark.parametrize("cut", [2, 3, 5])
def test_cuts_fall_where_the_box_changes(cut):
    """Evidence says nothing; left of the cut the box looks unlike the right of it."""
    features = torch.zeros(2, 9, 7, 7)
    features[0, 6, :, :cut], features[0, 7, :, cut:] = 4.0, 4.0
    features[1] = 1.0
    head = head_of(homogeneity=5.0, leaf_cost=0.05)
    nn.init.zeros_(head.part_weights)
    parse, even = head.parses(features, torch.tensor([1, 3]))
    assert sorted(leaf[:3] for leaf in parse.tree.leaves()) == [(0, 0, cut), (cut, 0, 7 - cut)]
    assert parse.score == pytest.approx(-0.1, abs=1e-4)  # two leaves
    assert even.tree.leaves() == [head.graph.root]


def test_a_hue_counts_like_brightness():
    """Cuts ignore how strong the contrast of an axis of colours is."""
    head = head_of(homogeneity=5.0, leaf_cost=0.05)
    nn.init.zeros_(head.part_weights)
    colours = torch.zeros(1, 9, 7, 7)
    colours[:, 6:, :, :3] += 1.0  # bright, left
    faint = colours.clone()
    faint[:, 6, :4] += 0.5  # red, above
    (parse,) = head.parses(faint, torch.tensor([1]))
    expected = [(0, 0, 3, 4), (0, 4, 3, 3), (3, 0, 4, 4), (3, 4, 4, 3)]
    assert sorted(tuple(leaf) for leaf in parse.tree.leaves()) == expected
    (parse,) = head.parses(colours, torch.tensor([1]))
    assert len(parse.tree.leaves()) == 2


def test_costs_are_exact_at_low_precision():
    head = head_of(homogeneity=5.0, leaf_cost=0.05)
    features = 50 + torch.randn(3, 9, 7, 7)
    exact = head.part_scores(features)
    with torch.autocast("cpu", torch.bfloat16):
        found = head.part_scores(features)
    assert found.dtype == torch.float32
    spread = (exact - exact.mean(0)).std()
    assert (found - exact - (found - exact).mean(0)).std() < 0.05 * spread


def test_the_number_of_channels_is_checked():
    with pytest.raises(ValueError, match="`features` must have 9 channels for in_channels=6 and"):
        head_of(homogeneity=5.0)(torch.zeros(2, 6, 7, 7))
    with pytest.raises(ValueError, match="must have 6 channels .* but got 9"):
        head_of()(torch.zeros(2, 9, 7, 7))


@pytest.mark.parametrize("sharpness", STAGES)
@pytest.mark.parametrize("class_aware", [True, False])
@pytest.mark.parametrize(("pooling", "homogeneity"), [("leaves", 0), ("cells", 0), ("cells", 3)])
@pytest.mark.parametrize("number", [0, 3])
def test_every_parameter_learns_in_every_stage(
    sharpness, class_aware, pooling, homogeneity, number
):
    head = head_of(class_aware=class_aware, pooling=pooling, homogeneity=homogeneity)
    predictor = AndOrPredictor(head)
    head.sharpness = sharpness
    features = torch.randn(number, 9 if homogeneity else 6, 7, 7, requires_grad=True)
    logits, offsets = predictor(head(features))
    assert logits.shape == (number, 4)
    assert offsets.shape == (number, 16)
    (logits.square().sum() + offsets.square().sum()).backward()
    named = {**dict(head.named_parameters()), **dict(predictor.named_parameters())}
    assert all(parameter.grad is not None for parameter in named.values())
    if number:
        still = [name for name, parameter in named.items() if not parameter.grad.any()]
        assert not still
        assert features.grad.any()


def test_leaf_pooling_reaches_the_linear_layers():
    head = head_of(pooling="leaves")
    seen = []
    head.fc6.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    features = torch.randn(2, 6, 7, 7)
    head(features)
    (pooled,) = seen
    scores = head.part_scores(features)
    best = head.parsing(scores).argmax(1) + 1
    for box, parse in enumerate(head.parses(features, best)):
        for x, y, width, height in parse.tree.leaves():
            part = features[box, :, y : y + height, x : x + width].mean(dim=(1, 2))
            found = pooled.view(2, 6, 7, 7)[box, :, y, x]
            torch.testing.assert_close(found, part)


def test_parses_are_those_of_the_asked_category():
    head = head_of()
    features = torch.randn(5, 6, 7, 7)
    labels = torch.tensor([1, 2, 3, 1, 2])
    scores = head.part_scores(features)
    for box, (parse, label) in enumerate(zip(head.parses(features, labels), labels, strict=True)):
        own = scores[:, box, label - 1]
        row = {rect: row for row, rect in enumerate(head.parsing.terminal_rectangles)}
        by_leaves = sum(leaf.area / 49 * own[row[leaf]].item() for leaf in parse.tree.leaves())
        assert parse.score == pytest.approx(by_leaves, abs=1e-5)
        assert parse.score >= own[row[head.graph.root]].item()
    assert head.parses(features[:0], labels[:0]) == []
    for bad, message in ((0, ">= 1"), (4, "<= 3")):
        with pytest.raises(ValueError, match=rf"`labels.m\w+\(\)` must be {message}"):
            head.parses(features[:1], torch.tensor([bad]))


@pytest.mark.parametrize("sharpness", STAGES)
def test_mixed_precision(sharpness):
    head = head_of()
    predictor = AndOrPredictor(head)
    head.sharpness = sharpness
    features = torch.randn(3, 6, 7, 7)
    exact, _ = predictor(head(features))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rough, _ = predictor(head(features))
    rough.float().sum().backward()
    assert head.part_weights.grad.isfinite().all()
    if sharpness == 0:  # unfolded, rounding may choose other parts
        torch.testing.assert_close(rough.float(), exact, rtol=0.1, atol=0.1)


def detector(head_sharpness):
    torch.manual_seed(0)
    backbone = nn.Sequential(
        nn.Conv2d(3, 8, 3, 4, 1), nn.ReLU(), nn.Conv2d(8, 6, 3, 4, 1), nn.ReLU()
    )
    backbone.out_channels = 6
    head = head_of()
    head.sharpness = head_sharpness
    return FasterRCNN(
        backbone,
        rpn_anchor_generator=AnchorGenerator(((16, 32),), ((1.0,),)),
        box_roi_pool=MultiScaleRoIAlign(["0"], 7, 2),
        box_head=head,
        box_predictor=AndOrPredictor(head),
        min_size=64,
        max_size=96,
        box_detections_per_img=5,
    )


@pytest.mark.parametrize("sharpness", STAGES)
def test_it_learns_and_detects_inside_faster_rcnn(sharpness):
    network = detector(sharpness)
    images = [torch.rand(3, 64, 80), torch.rand(3, 64, 64)]
    boxes = torch.tensor([[5.0, 5.0, 40.0, 40.0]])
    targets = [
        {"boxes": boxes, "labels": torch.tensor([2])},
        {"boxes": boxes[:0], "labels": torch.zeros(0, dtype=torch.long)},
    ]
    optimizer = torch.optim.SGD(network.parameters(), lr=0.01)
    losses = []
    for _ in range(4):
        torch.manual_seed(1)  # of the sampled proposals
        found = network(images, targets)
        assert set(found) == {
            "loss_classifier", "loss_box_reg", "loss_objectness", "loss_rpn_box_reg",
        }  # fmt: skip
        loss = sum(found.values())
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert losses[-1] < losses[0]
    network.eval()
    detections = network(images)
    assert [sorted(found) for found in detections] == [["boxes", "labels", "scores"]] * 2


def test_bad_arguments():
    with pytest.raises(ValueError, match="`pooling` must be one of 'leaves', 'cells'"):
        head_of(pooling="roots")
    with pytest.raises(ValueError, match="`homogeneity` must be >= 0.0, but got -1"):
        head_of(homogeneity=-1)
    with pytest.raises(ValueError, match="`leaf_cost` must be >= 0.0, but got -1"):
        head_of(leaf_cost=-1)
    with pytest.raises(ValueError, match="`num_classes` must be >= 2"):
        AndOrHead(6, 1, AndOrGraph(3, 3))
    with pytest.raises(ValueError, match=r"`maps` must be \(N, C, 7, 7\)"):
        head_of()(torch.zeros(1, 6, 5, 5))
