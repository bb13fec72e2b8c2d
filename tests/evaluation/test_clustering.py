"""Matchings against all permutations; counts over processes."""

import functools
import itertools

import pytest
import torch

from interp_train.evaluation.clustering import ClusterCounts, best_assignment, clustering_accuracy
from interp_train.structures import BACKGROUND
from interp_train.testing import check_metric_merges


def slow_best(gains):
    """Largest sum over all one-to-one matchings."""
    rows, columns = gains.shape
    if rows > columns:
        return slow_best(gains.T)
    choices = itertools.permutations(range(columns), rows)
    return max(sum(gains[r, c].item() for r, c in enumerate(choice)) for choice in choices)


@pytest.mark.parametrize("shape", [(1, 1), (4, 4), (3, 5), (5, 3), (6, 6)])
def test_matchings_are_the_best_of_all(shape):
    for seed in range(5):
        gains = torch.randint(-4, 9, shape, generator=torch.Generator().manual_seed(seed))
        found = best_assignment(gains)
        used = [(row, column) for row, column in enumerate(found.tolist()) if column >= 0]
        assert len(used) == min(shape)
        assert len({column for _, column in used}) == len(used)
        assert sum(gains[row, column].item() for row, column in used) == slow_best(gains)


def test_a_greedy_matching_would_be_worse():
    gains = torch.tensor([[10.0, 9.0], [9.0, 0.0]])
    assert best_assignment(gains).tolist() == [1, 0]


def test_a_large_matching_is_found():
    order = torch.randperm(60, generator=torch.Generator().manual_seed(0))
    gains = torch.rand(60, 60)
    gains[torch.arange(60), order] += 1.0
    assert torch.equal(best_assignment(gains), order)


def test_accuracy_by_hand():
    counts = torch.tensor([[0, 8], [5, 1], [4, 2]])
    matching = best_assignment(counts)
    assert matching.tolist() == [1, 0, -1]
    assert clustering_accuracy(counts, matching).item() == pytest.approx(13 / 20)


def test_counts_leave_out_the_background():
    metric = ClusterCounts(3, 2)
    metric.update(torch.tensor([0, 0, 2, 1]), torch.tensor([1, 1, 0, BACKGROUND]))
    assert metric.compute().tolist() == [[0, 2], [0, 0], [1, 0]]


def test_counts_are_equal_over_processes(two_processes):
    updates = [(torch.tensor([0, 1]), torch.tensor([c, 1])) for c in (0, 1, 1)]
    make = functools.partial(ClusterCounts, 2, 2)
    check_metric_merges(make, updates, run_on_two=two_processes)
