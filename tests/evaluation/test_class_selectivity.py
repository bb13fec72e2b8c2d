import pytest
import torch
import torch.distributed

from interp_train.evaluation.class_selectivity import (
    ClassSelectivityMetric,
    class_means,
    class_selectivity,
)
from tests.evaluation.tables import GEOMETRY, random_batches


def slow_selectivity(values, labels):
    """One filter, by loops over classes."""
    means = []
    for label in sorted(set(labels)):
        chosen = [v for v, own in zip(values, labels, strict=True) if own == label]
        means.append(sum(chosen) / len(chosen))
    highest = max(means)
    means.remove(highest)
    rest = sum(means) / len(means)
    return (highest - rest) / (highest + rest) if highest + rest else 0.0


def test_agrees_with_loops():
    values, labels = torch.rand(50, 6).double(), torch.randint(-1, 3, (50,))
    values[:, 2] = 0
    found = class_selectivity(class_means(values, labels))
    for unit in range(6):
        expected = slow_selectivity(values[:, unit].tolist(), labels.tolist())
        assert float(found[unit]) == pytest.approx(expected, abs=1e-12)


def test_number_by_hand():
    """Means 6, 1 and 3: (6 - 2) / (6 + 2)."""
    assert class_selectivity(torch.tensor([[6.0], [1.0], [3.0]])).tolist() == [0.5]
    assert class_selectivity(torch.tensor([[4.0, 1.0, 0.0], [0.0, 1.0, 0.0]])).tolist() == [1, 0, 0]


@pytest.mark.parametrize("statistic", ["mean", "peak"])
def test_metric_reads_mean_or_peak_and_cuts_negative_values(statistic):
    metric = ClassSelectivityMetric(GEOMETRY, statistic=statistic)
    values, labels = [], []
    for activations, batch in random_batches(classes=2, size=5):
        metric.update(activations, batch)
        positive = activations.clamp(min=0).flatten(2)
        values.append(positive.mean(-1) if statistic == "mean" else positive.amax(-1))
        labels.append(batch.labels)
    numbers = metric.compute()
    expected = class_selectivity(class_means(torch.cat(values), torch.cat(labels)))
    torch.testing.assert_close(numbers["class_selectivity"], expected.mean(), atol=1e-6, rtol=0)
    torch.testing.assert_close(metric.result, expected, atol=1e-6, rtol=0)


def test_shuffled_labels_stand_beside():
    metric = ClassSelectivityMetric(GEOMETRY)
    for activations, batch in random_batches(images=200, classes=2, size=50):
        activations[batch.labels == 1] *= 5
        metric.update(activations, batch)
    numbers = metric.compute()
    assert numbers["class_selectivity"] > 0.6
    assert numbers["class_selectivity_shuffled_labels"] < 0.15


def test_one_class_has_no_selectivity():
    metric = ClassSelectivityMetric(GEOMETRY)
    (activations, batch), *_ = random_batches(size=5)
    metric.update(activations, batch._replace(labels=torch.zeros(5).long()))
    assert metric.compute() == {}
    assert metric.missing == "images of at least two classes"
    with pytest.raises(ValueError, match="`means` must hold at least two classes, but got 1"):
        class_selectivity(torch.ones(1, 3))
    with pytest.raises(ValueError, match="`statistic` must be one of 'mean', 'peak'"):
        ClassSelectivityMetric(statistic="median")


def selectivity_of(shards):
    metric = ClassSelectivityMetric(GEOMETRY)
    for activations, batch in shards[torch.distributed.get_rank()]:
        metric.update(activations, batch)
    return metric.compute()


def test_two_processes_are_equal(two_processes):
    batches = random_batches(classes=2)
    metric = ClassSelectivityMetric(GEOMETRY)
    for activations, batch in batches:
        metric.update(activations, batch)
    expected = metric.compute()
    assert two_processes(selectivity_of, (batches[:10], batches[9:])) == [expected, expected]
