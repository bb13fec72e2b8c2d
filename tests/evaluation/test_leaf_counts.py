"""Leaves per box, counted by hand."""

import pytest
import torch

from interp_train.and_or_graph import ParseTree, Rectangle
from interp_train.evaluation.leaf_counts import LeafCounts
from interp_train.structures import Detections

WHOLE = ParseTree(Rectangle(0, 0, 4, 4))
LEFT, RIGHT = ParseTree(Rectangle(0, 0, 2, 4)), ParseTree(Rectangle(2, 0, 2, 4))
TWO = ParseTree(Rectangle(0, 0, 4, 4), (LEFT, RIGHT))
QUARTERS = (ParseTree(Rectangle(0, 0, 2, 2)), ParseTree(Rectangle(0, 2, 2, 2)))
THREE = ParseTree(Rectangle(0, 0, 4, 4), (ParseTree(Rectangle(0, 0, 2, 4), QUARTERS), RIGHT))


def found(trees, scores, label=0):
    scores = torch.tensor(scores)
    labels = torch.full((len(scores),), label)
    return Detections(torch.zeros(len(scores), 4), scores, labels, trees, scores)


def test_by_hand():
    metric = LeafCounts(3)
    metric.update([found([WHOLE, TWO, THREE, TWO], [0.9, 0.8, 0.5, 0.4]), found([], [0.9])])
    metric.update([found([THREE], [0.7], label=2)])
    assert {name: value.item() for name, value in metric.compute().items()} == pytest.approx(
        {
            "unfolded_share": 0.75, "unfolded_share_category_mean": (2 / 3 + 1) / 2,
            "leaves_per_box": 9 / 4, "tree_depth": 5 / 4,
        }
    )  # fmt: skip


def test_nothing_is_said_without_trees():
    metric = LeafCounts(3)
    metric.update([found([], [0.9]), found([TWO], [0.1])])
    assert metric.compute() == {}


def of_share():
    metric = LeafCounts(3)
    rank = torch.distributed.get_rank() if torch.distributed.is_initialized() else 0
    step = 2 if torch.distributed.is_initialized() else 1
    images = [found([tree], [0.9]) for tree in (WHOLE, TWO, THREE)]
    metric.update(images[rank::step])
    return {name: value.item() for name, value in metric.compute().items()}


def test_two_processes_count_what_one_counts(two_processes):
    assert two_processes(of_share) == [of_share()] * 2
