"""Agreement of layouts and recovery of parts, against counting cells and by hand."""

import itertools
import random

import pytest
import torch

from interp_train.and_or_graph import AndOrGraph, ParseTree, Rectangle
from interp_train.evaluation.part_layouts import (
    LayoutConsistency,
    PartRecovery,
    RandomTrees,
    even_grid,
    layout_agreement,
    leaf_boxes_of,
    mirrored_leaves,
    recovered,
)

GRAPH = AndOrGraph(5, 5, min_side=2)


def slow_agreement(first, second, height, width):
    def cells(leaf):
        return {
            (x, y)
            for x in range(leaf.left, leaf.left + leaf.width)
            for y in range(leaf.top, leaf.top + leaf.height)
        }

    total = 0.0
    for x in range(width):
        for y in range(height):
            one = next(cells(leaf) for leaf in first if (x, y) in cells(leaf))
            other = next(cells(leaf) for leaf in second if (x, y) in cells(leaf))
            total += len(one & other) / len(one | other)
    return total / (width * height)


def trees(number, seed=0):
    source = random.Random(seed)
    return [GRAPH.random_parse_tree(source) for _ in range(number)]


def test_agreement_equals_counting_cells():
    drawn = trees(12)
    assert len({tuple(sorted(tree.leaves())) for tree in drawn}) > 4
    for one, other in itertools.pairwise(drawn):
        expected = slow_agreement(one.leaves(), other.leaves(), 5, 5)
        assert layout_agreement(one.leaves(), other.leaves()) == pytest.approx(expected)
        assert layout_agreement(one.leaves(), one.leaves()) == pytest.approx(1)


def test_agreement_by_hand():
    """Halves against quarters: each quarter has an IoU of a half with its half."""
    whole = [Rectangle(0, 0, 4, 4)]
    halves = [Rectangle(0, 0, 2, 4), Rectangle(2, 0, 2, 4)]
    quarters = [Rectangle(x, y, 2, 2) for x in (0, 2) for y in (0, 2)]
    assert layout_agreement(halves, quarters) == pytest.approx(0.5)
    assert layout_agreement(whole, quarters) == pytest.approx(0.25)


def test_mirrored_leaves_by_hand():
    tree = ParseTree(
        GRAPH.root, tuple(map(ParseTree, (Rectangle(0, 0, 2, 5), Rectangle(2, 0, 3, 5))))
    )
    assert mirrored_leaves(tree, 5) == [Rectangle(3, 0, 2, 5), Rectangle(0, 0, 3, 5)]


def mirrored(tree):
    whole = tree.rectangle
    turned = whole._replace(left=5 - whole.left - whole.width)
    return ParseTree(turned, tuple(map(mirrored, tree.parts)))


def test_a_perfectly_mirrored_layout_has_a_consistency_of_one():
    drawn = trees(6)
    metric = LayoutConsistency(GRAPH)
    metric.update(drawn, [mirrored(tree) for tree in drawn], [0, 0, 0, 1, 1, 2], 7)
    found = metric.compute()
    assert found["layout_consistency"] == pytest.approx(1)
    assert 0.2 < found["layout_consistency_random"] < 0.9
    pairs = [(0, 1), (1, 2), (2, 0), (3, 4), (4, 3)]
    expected = [layout_agreement(drawn[i].leaves(), drawn[j].leaves()) for i, j in pairs]
    assert found["layout_consistency_exchanged"] == pytest.approx(sum(expected) / 5)


def test_random_trees_have_the_wanted_number_of_leaves():
    drawn, source = RandomTrees(GRAPH), random.Random(1)
    for tree in trees(10):
        assert len(drawn.like(tree, source).leaves()) == len(tree.leaves())
    assert drawn.like(ParseTree(GRAPH.root), source) == ParseTree(GRAPH.root)


def test_recovery_by_hand():
    leaves = torch.tensor([[0.0, 0, 5, 10], [5, 0, 10, 10]])
    nan = float("nan")
    parts = torch.tensor([[0.0, 0, 5, 5], [5, 0, 10, 10], [nan, nan, nan, nan]])
    assert recovered(leaves, parts) == pytest.approx((0.5 + 1) / 2)
    assert torch.tensor(recovered(leaves, parts[2:])).isnan()


@pytest.mark.parametrize(
    ("number", "shape"), [(1, (1, 1)), (2, (1, 2)), (4, (2, 2)), (6, (2, 3)), (7, (1, 7))]
)
def test_even_grids(number, shape):
    pieces = even_grid(number, torch.tensor([10.0, 0, 34, 12]))
    wide, high = pieces[:, 2] - pieces[:, 0], pieces[:, 3] - pieces[:, 1]
    torch.testing.assert_close(wide, torch.full_like(wide, 24 / shape[1]))
    torch.testing.assert_close(high, torch.full_like(high, 12 / shape[0]))
    assert len(pieces) == number


def test_true_parts_are_recovered_in_full_and_random_trees_are_nought():
    box = torch.tensor([3.0, 4, 28, 24])
    tree = next(tree for tree in trees(20) if len(tree.leaves()) == 3)
    parts = leaf_boxes_of(tree.leaves(), box, (5, 5)).float()
    metric = PartRecovery(GRAPH)
    metric.update([tree], box[None], parts[None], sample_id=3)
    found = metric.compute()
    assert found["part_recovery"] == pytest.approx(1, abs=1e-6)
    assert found["part_recovery_oracle"] == pytest.approx(1, abs=1e-6)
    assert found["part_recovery_normalised"] == pytest.approx(1, abs=1e-5)
    assert found["part_recovery_random"] < 0.9
    assert found["part_recovery_grid"] < 0.9
    chance = PartRecovery(GRAPH)
    source = random.Random(5)
    for key in range(60):
        other = chance.random_trees.like(tree, source)
        chance.update([other], box[None], parts[None], sample_id=key)
    assert abs(chance.compute()["part_recovery_normalised"]) < 0.2


def test_objects_without_visible_parts_do_not_count():
    metric = PartRecovery(GRAPH)
    box = torch.tensor([[0.0, 0, 10, 10]])
    metric.update(trees(1), box, torch.full((1, 2, 4), torch.nan), sample_id=1)
    assert metric.compute() == {}


def of_share():
    metric = PartRecovery(GRAPH)
    rank = torch.distributed.get_rank() if torch.distributed.is_initialized() else 0
    step = 2 if torch.distributed.is_initialized() else 1
    box = torch.tensor([[3.0, 4, 28, 24]])
    for key, tree in list(enumerate(trees(5)))[rank::step]:
        parts = leaf_boxes_of(trees(1, seed=9)[0].leaves(), box[0], (5, 5))
        metric.update([tree], box, parts[None], sample_id=key)
    return {name: value.item() for name, value in metric.compute().items()}


def test_two_processes_measure_what_one_measures(two_processes):
    expected = of_share()
    for found in two_processes(of_share):
        assert found == pytest.approx(expected)
