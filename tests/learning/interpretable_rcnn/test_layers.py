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


@pytest.mark.parametrize("class_aware", [True, False])
@pytest.mark.parametrize("root_terminal", [True, False])
def test_costs_equal_a_loop_over_parts(class_aware, root_terminal):
    graph = AndOrGraph(3, 4, root_terminal=root_terminal)
    head = head_of(class_aware=class_aware, graph=graph).double()
    features = torch.randn(2, 6, 3, 4, dtype=torch.float64)
    free = head.part_scores(features)
    head.homogeneity, head.leaf_cost = 3.0, 0.25
    projected = head.projection(features).relu()
    for row, (x, y, width, height) in enumerate(head.parsing.terminal_rectangles):
        for box in range(2):
            cells = projected[box].flatten(1).T
            part = projected[box, :, y : y + height, x : x + width].flatten(1).T
            within = sum(((cell - part.mean(0)) ** 2).sum() for cell in part) / len(part)
            whole = sum(((cell - cells.mean(0)) ** 2).sum() for cell in cells) / len(cells)
            cost = 3 * within / whole + 0.25 * 12 / (width * height)
            torch.testing.assert_close(head.part_scores(features)[row, box], free[row, box] - cost)


@pytest.mark.parametrize("homogeneity", [0.0, 3.0])
def test_a_parse_pays_for_its_leaves_and_what_differs_inside_them(homogeneity):
    head = head_of(class_aware=False, homogeneity=homogeneity, leaf_cost=0.5).double()
    features = torch.randn(4, 6, 7, 7, dtype=torch.float64)
    nn.init.zeros_(head.part_weights)
    projected = head.projection(features).relu()
    for box, parse in enumerate(head.parses(features, torch.ones(4, dtype=torch.long))):
        leaves = parse.tree.leaves()
        rest = projected[box].clone()
        for x, y, width, height in leaves:
            part = rest[:, y : y + height, x : x + width]
            part -= part.mean(dim=(1, 2), keepdim=True).clone()
        whole = projected[box] - projected[box].mean(dim=(1, 2), keepdim=True)
        share = rest.square().sum() / whole.square().sum()
        cost = homogeneity * share + 0.5 * len(leaves)
        assert parse.score == pytest.approx(-cost.item())
        assert homogeneity or len(leaves) == 1


@pytest.mark.parametrize("cut", [2, 3, 5])
def test_cuts_fall_where_the_box_changes(cut):
    """Evidence says nothing; left of the cut the box looks unlike the right of it."""
    features = torch.zeros(2, 6, 7, 7)
    features[0, 0, :, :cut], features[0, 1, :, cut:] = 4.0, 4.0
    features[1] = 1.0
    head = head_of(homogeneity=5.0, leaf_cost=0.05)
    nn.init.zeros_(head.part_weights)
    torch.nn.init.normal_(head.projection.weight, generator=torch.Generator().manual_seed(1))
    parse, even = head.parses(features, torch.tensor([1, 3]))
    assert sorted(leaf[:3] for leaf in parse.tree.leaves()) == [(0, 0, cut), (cut, 0, 7 - cut)]
    assert parse.score == pytest.approx(-0.1, abs=1e-4)  # two leaves
    assert even.tree.leaves() == [head.graph.root]


def test_costs_are_exact_at_low_precision():
    head = head_of(homogeneity=5.0, leaf_cost=0.05)
    features = 50 + torch.randn(3, 6, 7, 7)
    exact = head.part_scores(features)
    with torch.autocast("cpu", torch.bfloat16):
        found = head.part_scores(features)
    assert found.dtype == torch.float32
    spread = (exact - exact.mean(0)).std()
    assert (found - exact - (found - exact).mean(0)).std() < 0.05 * spread


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
    features = torch.randn(number, 6, 7, 7, requires_grad=True)
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
