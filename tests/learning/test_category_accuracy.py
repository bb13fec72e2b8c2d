import pytest
import torch

from interp_train.learning.category_accuracy import CategoryAccuracy
from interp_train.learning.label_counts import LabelCounts, membership_of
from interp_train.structures import BACKGROUND

LABELS = torch.tensor([0, 0, 0, 1, BACKGROUND])
PREDICTED = torch.tensor([0, 0, 1, 1, 0])


def test_accuracy_over_images_and_over_categories():
    metric = CategoryAccuracy(3)
    metric.update(PREDICTED, LABELS)
    found = metric.compute()
    assert found["top1"].item() == pytest.approx(3 / 5)
    # 2 of 3, 1 of 1, 0 of 1 background; category 2 does not occur.
    assert found["per_category_mean"].item() == pytest.approx((2 / 3 + 1 + 0) / 3)


def test_accuracy_of_nothing_is_zero():
    metric = CategoryAccuracy(3)
    metric.update(PREDICTED[:0], LABELS[:0])
    assert metric.compute()["top1"] == 0


def counts_of_share():
    rank = torch.distributed.get_rank()
    metric, counts = CategoryAccuracy(3), LabelCounts(3)
    share = slice(0, 2) if rank == 0 else slice(2, None)  # unequal numbers
    metric.update(PREDICTED[share], LABELS[share])
    counts.update(LABELS[share])
    return metric.compute(), counts.shares()


def test_two_processes_count_what_one_counts(two_processes):
    metric, counts = CategoryAccuracy(3), LabelCounts(3)
    metric.update(PREDICTED, LABELS)
    counts.update(LABELS)
    for found, shares in two_processes(counts_of_share):
        assert found == metric.compute()
        assert torch.equal(shares, counts.shares())


def test_shares_are_even_at_first_and_then_counted():
    counts = LabelCounts(2)
    assert counts.shares().tolist() == [0.5, 0.5]
    counts.update(LABELS)
    counts.update(torch.tensor([0, 0, 0, 0, 0]))
    assert counts.shares().tolist() == pytest.approx([0.8, 0.1])  # a tenth is background


def test_the_background_is_a_member_of_nothing():
    member = membership_of(LABELS, 2, torch.empty(0))
    assert member.tolist() == [[1, 0], [1, 0], [1, 0], [0, 1], [0, 0]]
