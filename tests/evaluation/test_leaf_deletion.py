"""Deletion of leaves: orders, painted leaves, and areas under curves by hand."""

import pytest
import torch

from interp_train.evaluation.leaf_deletion import LeafDeletion, covered, deletion_orders


def test_orders_follow_the_contributions():
    orders = deletion_orders([0.1, 0.5, -0.2, 0.3], seed=0)
    assert orders["most_first"] == [1, 3, 0, 2]
    assert orders["least_first"] == [2, 0, 3, 1]
    assert sorted(orders["random"]) == [0, 1, 2, 3]
    assert orders == deletion_orders([0.1, 0.5, -0.2, 0.3], seed=0)
    drawn = {tuple(deletion_orders([0.0] * 4, seed=seed)["random"]) for seed in range(9)}
    assert len(drawn) > 3


def test_leaves_are_painted():
    image = torch.ones(3, 6, 8)
    boxes = torch.tensor([[-2.0, 1, 3, 4], [5, 0, 99, 2]])
    painted = covered(image, boxes, torch.tensor([0.1, 0.2, 0.3]))
    expected = torch.ones(3, 6, 8)
    for channel, value in enumerate((0.1, 0.2, 0.3)):
        expected[channel, 1:4, 0:3] = value
        expected[channel, 0:2, 5:8] = value
    torch.testing.assert_close(painted, expected)
    assert bool((image == 1).all())


def test_areas_by_hand():
    metric = LeafDeletion()
    metric.update(
        {"most_first": torch.tensor([0.8, 0.2, 0.0]), "random": torch.tensor([0.8, 0.8, 0])}
    )
    metric.update({"most_first": torch.tensor([0.5, 0.0])})  # one leaf: one order only
    found = metric.compute()
    assert found["deletion_most_first"] == pytest.approx((0.5 + 0.25 + 0.0) / 2)
    assert found["deletion_random"] == pytest.approx(0.75)
    assert "deletion_least_first" not in found
