import pytest
import torch

from interp_train.evaluation.category_accuracy import CategoryAccuracy
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


def accuracy_of_share():
    rank = torch.distributed.get_rank()
    metric = CategoryAccuracy(3)
    share = slice(0, 2) if rank == 0 else slice(2, None)  # unequal numbers
    metric.update(PREDICTED[share], LABELS[share])
    return metric.compute()


def test_two_processes_count_what_one_counts(two_processes):
    metric = CategoryAccuracy(3)
    metric.update(PREDICTED, LABELS)
    for found in two_processes(accuracy_of_share):
        assert found == metric.compute()
