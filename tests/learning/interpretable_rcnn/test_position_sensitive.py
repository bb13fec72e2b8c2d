"""The position-sensitive head against maps that are really made, and sampled point by point."""

import math

import pytest
import torch
from torch import nn
from torchvision.ops import MultiScaleRoIAlign, ps_roi_align

from interp_train.and_or_graph import AndOrGraph
from interp_train.learning.interpretable_rcnn.position_sensitive import (
    PositionSensitiveHead,
    PositionSensitivePredictor,
    SensitiveRoIAlign,
)

STAGES = [0.0, 2.0, math.inf]
STRIDE, SIZE, GRID, CLASSES, CHANNELS = 4, 32, 3, 3, 2
BOXES = torch.tensor([[1.0, 2.0, 27.0, 17.0], [6.5, 3.0, 31.0, 32.0]], dtype=torch.float64)


def parts_of(graph=None, **options):
    """Pooling, head and predictor in double precision."""
    torch.manual_seed(0)
    graph = graph or AndOrGraph(GRID, GRID)
    pool = SensitiveRoIAlign(["0"], graph.height, 4, CHANNELS).double()
    head = PositionSensitiveHead(CHANNELS, CLASSES, graph, **options).double()
    predictor = PositionSensitivePredictor(head).double()
    for parameter in (head.part_biases, head.shared.bias, predictor.bbox_pred.bias):
        nn.init.normal_(parameter)
    nn.init.normal_(predictor.bbox_pred.weight)
    return pool, head, predictor


def run(parts, maps, boxes):
    pool, head, predictor = parts
    return predictor(head(pool({"0": maps}, [boxes], [(SIZE, SIZE)])))


def sampled(plane, y, x):
    """Bilinear value of a map between its cells; beyond the edge the edge goes on."""
    height, width = plane.shape
    y, x = min(max(y, 0.0), height - 1.0), min(max(x, 0.0), width - 1.0)
    top, left = min(int(y), height - 2), min(int(x), width - 2)
    down, right = y - top, x - left
    upper = plane[top, left] * (1 - right) + plane[top, left + 1] * right
    lower = plane[top + 1, left] * (1 - right) + plane[top + 1, left + 1] * right
    return upper * (1 - down) + lower * down


def mean_in(plane, box, rectangle):
    """Mean of a map over cells of a box's grid: four points in each cell."""
    x0, y0, x1, y1 = [value / STRIDE for value in box.tolist()]
    wide, high = (x1 - x0) / GRID, (y1 - y0) / GRID
    left, top, width, height = rectangle
    points = [
        sampled(plane, y0 + (row + a) * high, x0 + (column + b) * wide)
        for row in range(top, top + height)
        for column in range(left, left + width)
        for a in (0.25, 0.75)
        for b in (0.25, 0.75)
    ]
    return sum(points) / len(points)


def value_of(graph, scores, sharpness):
    """Value of the root and its best leaves, by recursion; scores: rectangle -> number."""

    def parsed(rectangle):
        index = graph.index(rectangle)
        choices = [(scores[rectangle], [rectangle])] if graph.terminal[index] else []
        for node in graph.and_nodes[index]:
            below = [parsed(part) for part in node.parts]
            shares = [part.area / rectangle.area for part in node.parts]
            total = sum(share * value for share, (value, _) in zip(shares, below, strict=True))
            choices.append((total, [leaf for _, leaves in below for leaf in leaves]))
        values = torch.stack([value for value, _ in choices])
        best = choices[int(values.argmax())][1]
        if sharpness == 0:
            return values.mean(), best
        if math.isinf(sharpness):
            return values.max(), best
        return (values * sharpness).exp().mean().log() / sharpness, best

    return parsed(graph.root)


def vote(planes, box, regions):
    """Sum over the cells of what each cell's own map says in the cell's region."""
    cells = [(row, column) for row in range(GRID) for column in range(GRID)]
    return sum(mean_in(planes[cell], box, regions[cell]) for cell in cells)


def slow(parts, maps, boxes):
    """Logits and offsets from score maps of every part, category and cell, one by one."""
    pool, head, predictor = parts
    weight = pool.reduction.weight[:, :, 0, 0]
    base = torch.einsum("dc,chw->dhw", weight, maps[0]) + pool.reduction.bias[:, None, None]
    base = base.relu()

    def plane_of(weights, bias=0.0):
        return sum(w * m for w, m in zip(weights, base, strict=True)) + bias

    def sensitive(layer, output):
        """Map of each cell."""
        weights = layer.weight[output].view(CHANNELS, GRID, GRID)
        return {(r, c): plane_of(weights[:, r, c]) for r in range(GRID) for c in range(GRID)}

    logits, offsets = [], []
    for box in boxes:
        values, layouts = [], []
        for column in range(CLASSES if head.class_aware else 1):
            scores = {
                rectangle: mean_in(
                    plane_of(
                        head.part_weights[row, :, column] + head.shared.weight[column],
                        head.part_biases[row, 0, column] + head.shared.bias[column],
                    ),
                    box,
                    rectangle,
                )
                for row, rectangle in enumerate(head.parsing.terminal_rectangles)
            }
            value, leaves = value_of(head.graph, scores, head.sharpness)
            values.append(value)
            layouts.append(leaves)
        best = int(torch.stack(values[1:]).argmax()) + 1 if head.class_aware else 0
        regions = {(r, c): (c, r, 1, 1) for r in range(GRID) for c in range(GRID)}
        if head.pooling == "leaves":
            for leaf in layouts[best]:
                for row in range(leaf.top, leaf.top + leaf.height):
                    for column in range(leaf.left, leaf.left + leaf.width):
                        regions[row, column] = leaf
        layer = predictor.bbox_pred
        four = [vote(sensitive(layer, k), box, regions) + layer.bias[k] for k in range(4)]
        offsets.append(torch.stack(four * CLASSES))
        if not head.class_aware:
            layer, zero = predictor.cls_score, values[0] * 0
            told = [vote(sensitive(layer, k), box, regions) for k in range(CLASSES)]
            values = [(values[0] if k else zero) + told[k] + layer.bias[k] for k in range(CLASSES)]
        logits.append(torch.stack(values))
    return torch.stack(logits), torch.stack(offsets)


@pytest.mark.parametrize(
    ("class_aware", "pooling", "sharpness"),
    [
        (True, "cells", 0.0), (True, "leaves", math.inf), (False, "cells", 2.0),
        (False, "leaves", math.inf),
    ],
)  # fmt: skip
def test_logits_offsets_and_gradients_are_those_of_the_maps(class_aware, pooling, sharpness):
    parts = parts_of(class_aware=class_aware, pooling=pooling)
    parts[1].sharpness = sharpness
    maps = torch.randn(1, 4, 8, 8, dtype=torch.float64, requires_grad=True)
    found, expected = run(parts, maps, BOXES), slow(parts, maps, BOXES)
    weights = [torch.randn_like(value) for value in found]
    inputs = [maps, *(p for part in parts for p in part.parameters())]
    gradients = []
    for values in (found, expected):
        total = sum((value * weight).sum() for value, weight in zip(values, weights, strict=True))
        gradients.append(torch.autograd.grad(total, inputs))
    for value, other in zip(found, expected, strict=True):
        torch.testing.assert_close(value, other, rtol=0, atol=1e-11)
    for value, other in zip(*gradients, strict=True):
        assert value.any()
        torch.testing.assert_close(value, other, rtol=0, atol=1e-10)


def test_with_single_cells_alone_it_is_the_vote_of_torchvision_s_operator():
    parts = parts_of(pooling="cells")
    pool, head, _ = parts
    row = {rectangle: row for row, rectangle in enumerate(head.parsing.terminal_rectangles)}
    larger = [index for rectangle, index in row.items() if rectangle.area > 1]
    with torch.no_grad():
        head.part_biases.zero_()[larger] = -1e3  # no such part is ever chosen
    maps = torch.randn(1, 4, 8, 8, dtype=torch.float64)
    logits, _ = run(parts, maps, BOXES)
    cells = [row[c, r, 1, 1] for r in range(GRID) for c in range(GRID)]
    weights = (head.part_weights[cells] + head.shared.weight.t()).permute(2, 0, 1)
    score_maps = nn.functional.conv2d(
        pool.reduction(maps).relu(), weights.flatten(0, 1)[..., None, None]
    )
    # This operator has cell centres at halves.
    shifted = torch.cat([torch.zeros(2, 1, dtype=torch.float64), BOXES + STRIDE / 2], 1)
    votes = ps_roi_align(score_maps, shifted, GRID, 1 / STRIDE, 2).mean((2, 3))
    torch.testing.assert_close(logits, votes + head.shared.bias)


@pytest.mark.parametrize("sharpness", STAGES)
def test_equal_parts_score_the_whole_box(sharpness):
    """The mean of means, weighted by areas, is the mean, folded and unfolded."""
    parts = parts_of()
    pool, head, _ = parts
    head.sharpness = sharpness
    with torch.no_grad():
        head.part_weights.zero_()
        head.part_biases.zero_()
    maps = torch.randn(1, 4, 8, 8, dtype=torch.float64)
    features = pool({"0": maps}, [BOXES], [(SIZE, SIZE)])
    logits, _ = run(parts, maps, BOXES)
    torch.testing.assert_close(logits, head.shared(features.mean((2, 3))))


def test_boxes_are_pooled_from_the_reduced_maps_of_all_levels():
    pool = SensitiveRoIAlign(["0", "1"], 7, 4, 5)
    maps = {
        "0": torch.randn(1, 4, 16, 16),
        "1": torch.randn(1, 4, 8, 8),
        "2": torch.zeros(1, 4, 4, 4),
    }
    boxes = [torch.tensor([[0.0, 0.0, 10.0, 12.0], [0.0, 0.0, 60.0, 60.0]])]
    reduced = {name: pool.reduction(maps[name]).relu() for name in ("0", "1")}
    like = MultiScaleRoIAlign(["0", "1"], 7, 2, canonical_scale=32, canonical_level=2)
    expected = like(reduced, boxes, [(64, 64)])
    same = SensitiveRoIAlign(["0", "1"], 7, 4, 5, like)
    same.load_state_dict(pool.state_dict())
    torch.testing.assert_close(same(maps, boxes, [(64, 64)]), expected)
    usual = MultiScaleRoIAlign(["0", "1"], 7, 2)(reduced, boxes, [(64, 64)])
    torch.testing.assert_close(pool(maps, boxes, [(64, 64)]), usual)


@pytest.mark.parametrize("sharpness", STAGES)
@pytest.mark.parametrize("class_aware", [True, False])
@pytest.mark.parametrize("pooling", ["leaves", "cells"])
@pytest.mark.parametrize("number", [0, 3])
def test_every_parameter_learns_in_every_stage(sharpness, class_aware, pooling, number):
    head = PositionSensitiveHead(
        6, 4, AndOrGraph(7, 7, min_side=2), class_aware=class_aware, pooling=pooling
    )
    predictor = PositionSensitivePredictor(head)
    head.sharpness = sharpness
    features = torch.randn(number, 6, 7, 7, requires_grad=True)
    logits, offsets = predictor(head(features))
    assert logits.shape == (number, 4)
    assert offsets.shape == (number, 16)
    (logits.square().sum() + offsets.square().sum()).backward()
    named = {**dict(head.named_parameters()), **dict(predictor.named_parameters())}
    assert all(parameter.grad is not None for parameter in named.values())
    if number:
        assert not [name for name, parameter in named.items() if not parameter.grad.any()]
        assert features.grad.any()


@pytest.mark.parametrize("sharpness", [0.0, 2.0])
def test_numerical_gradients(sharpness):
    # With leaves, no gradient goes through the choice of the leaves that features are read from.
    _, head, predictor = parts_of(AndOrGraph(2, 2), pooling="cells")
    head.sharpness = sharpness
    features = torch.randn(2, CHANNELS, 2, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda values: predictor(head(values)), features)


def test_parses_belong_to_the_logit_of_their_category():
    _, head, predictor = parts_of()
    features = torch.randn(5, CHANNELS, GRID, GRID, dtype=torch.float64)
    labels = torch.tensor([1, 2, 2, 1, 2])
    logits, _ = predictor(head(features))
    parses = head.parses(features, labels)
    leaves = head.leaf_scores(features, labels)
    for box, (parse, scored) in enumerate(zip(parses, leaves, strict=True)):
        assert parse.score == pytest.approx(logits[box, labels[box]].item())
        assert sum(scored.contributions) == pytest.approx(parse.score)
        assert scored.tree == parse.tree
    assert head.parses(features[:0], labels[:0]) == []
    for bad in (0, 3):
        with pytest.raises(ValueError, match=r"`labels.m\w+\(\)` must be"):
            head.parses(features[:1], torch.tensor([bad]))


@pytest.mark.parametrize("sharpness", STAGES)
def test_mixed_precision(sharpness):
    torch.manual_seed(0)
    pool = SensitiveRoIAlign(["0"], 7, 6, 5)
    head = PositionSensitiveHead(5, 4, AndOrGraph(7, 7, min_side=2))
    predictor = PositionSensitivePredictor(head)
    head.sharpness = sharpness
    maps, boxes = {"0": torch.randn(1, 6, 8, 8)}, [BOXES.float()]
    exact, _ = predictor(head(pool(maps, boxes, [(SIZE, SIZE)])))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rough, offsets = predictor(head(pool(maps, boxes, [(SIZE, SIZE)])))
    (rough.float().sum() + offsets.float().sum()).backward()
    assert rough.dtype == torch.float32
    assert head.part_weights.grad.isfinite().all()
    # The maximum of values that are nearly equal is nearly equal, whichever part it takes.
    torch.testing.assert_close(rough, exact, rtol=0.03, atol=0.03)


def test_bad_arguments():
    with pytest.raises(ValueError, match="`pooling` must be one of 'leaves', 'cells'"):
        PositionSensitiveHead(6, 4, AndOrGraph(3, 3), pooling="roots")
    with pytest.raises(ValueError, match="`num_classes` must be >= 2"):
        PositionSensitiveHead(6, 1, AndOrGraph(3, 3))
    with pytest.raises(ValueError, match="`out_channels` must be >= 1"):
        SensitiveRoIAlign(["0"], 7, 6, 0)
