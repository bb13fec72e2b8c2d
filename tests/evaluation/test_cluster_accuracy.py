import pytest
import torch
import torch.distributed

from interp_train.evaluation.cluster_accuracy import ClusterAccuracyMetric, cluster_predictions
from interp_train.structures import BACKGROUND

N, K, C = 9, 5, 3


def slow_predictions(maps, owners, labels, weights):
    """Image by image: keep filters, sum each map, take the best class."""

    def named(own_maps, keep):
        pooled = [m.sum().item() if k else 0.0 for m, k in zip(own_maps, keep, strict=True)]
        scores = [sum(w * p for w, p in zip(row, pooled, strict=True)) for row in weights.tolist()]
        return scores.index(max(scores))

    rows = []
    for own_maps, label in zip(maps, labels.tolist(), strict=True):
        everything = named(own_maps, [True] * K)
        own = named(own_maps, [owner == everything for owner in owners.tolist()])
        others = named(own_maps, [owner != label for owner in owners.tolist()])
        rows.append([everything, own, others])
    return torch.tensor(rows).T


def test_agrees_with_loops():
    maps, weights = torch.randn(N, K, 2, 2), torch.randn(C, K)
    owners = torch.tensor([0, 1, 2, BACKGROUND, 1])
    labels = torch.tensor([0, 1, 2, 0, 1, 2, BACKGROUND, 0, 1])

    def predict(activations):
        return (activations.sum((2, 3)) @ weights.T).argmax(1)

    found = cluster_predictions(maps, owners, labels, predict)
    assert torch.equal(found, slow_predictions(maps, owners, labels, weights))


def test_filters_with_classes_of_their_own_by_hand():
    """Filter c fires for class c alone: its cluster is enough, and without it nothing is right."""
    labels = torch.tensor([0, 1, 2, 1])
    maps = torch.nn.functional.one_hot(labels, C).float()[:, :, None, None] * 3
    bias = torch.tensor([0.3, 0.2, 0.1])

    def predict(activations):
        return (activations.sum((2, 3)) + bias).argmax(1)

    metric = ClusterAccuracyMetric()
    metric.update(cluster_predictions(maps, torch.arange(C), labels, predict), labels)
    # Without its filter, an image of class 0 is still named 0, by the bias.
    expected = {"all": 1.0, "own": 1.0, "others": 0.25}
    numbers = {name: value.item() for name, value in metric.compute().items()}
    assert numbers == {f"cluster_accuracy_{name}": value for name, value in expected.items()}


def test_shapes_are_checked():
    with pytest.raises(ValueError, match=r"`filter_categories` must have shape \(5\)"):
        cluster_predictions(torch.zeros(2, 5, 1, 1), torch.zeros(4), torch.zeros(2), lambda x: x)


def accuracies(shards):
    metric = ClusterAccuracyMetric()
    for found, labels in shards[torch.distributed.get_rank()]:
        metric.update(found, labels)
    return metric.compute()


def test_two_processes_are_equal(two_processes):
    batches = [(torch.randint(0, C, (3, n)), torch.randint(0, C, (n,))) for n in (4, 3, 5)]
    metric = ClusterAccuracyMetric()
    for found, labels in batches:
        metric.update(found, labels)
    expected = metric.compute()
    assert two_processes(accuracies, (batches[:1], batches[1:])) == [expected, expected]
