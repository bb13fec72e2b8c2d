"""Shares of objects and of whole images that are found, and one against two processes."""

import pytest
import torch

from interp_train.evaluation.object_accuracy import ObjectAccuracy

SCORES = torch.tensor([[0.9, 0.8, 0.1], [0.9, 0.1, 0.8], [0.1, 0.2, 0.3], [0.5, 0.6, 0.4]])
LABELS = torch.tensor([[1, 0], [0, 1], [1, 2], [2, 0]])


def test_shares_by_hand():
    metric = ObjectAccuracy()
    metric.update(SCORES[:1], LABELS[:1])
    metric.update(SCORES[1:], LABELS[1:])
    found = metric.compute()
    # Both, the first, both, the second.
    assert found["all_objects"].item() == pytest.approx(2 / 4)
    assert found["objects"].item() == pytest.approx(6 / 8)


def test_nothing_is_found_in_nothing():
    metric = ObjectAccuracy()
    metric.update(SCORES[:0], LABELS[:0])
    assert metric.compute() == {"all_objects": 0, "objects": 0}


def share():
    rank = torch.distributed.get_rank()
    metric = ObjectAccuracy()
    part = slice(0, 1) if rank == 0 else slice(1, None)  # unequal numbers
    metric.update(SCORES[part], LABELS[part])
    return {name: float(value) for name, value in metric.compute().items()}


def test_two_processes_count_what_one_counts(two_processes):
    for found in two_processes(share):
        assert found == pytest.approx({"all_objects": 0.5, "objects": 0.75})
