import math

import pytest
import torch
import torch.distributed

from interp_train.evaluation.mutual_information_score import (
    MutualInformationScoreMetric,
    class_entropies,
    class_information,
    equal_count_bins,
)
from tests.evaluation.tables import GEOMETRY, random_batches


def slow_bins(values, bins):
    """One filter: how many of the ends, each an order statistic, lie below the value."""
    ordered, count = sorted(values), len(values)
    ends = [ordered[max(math.ceil(count * number / bins) - 1, 0)] for number in range(1, bins)]
    return [sum(end < value for end in ends) for value in values]


def slow_information(bins, inside):
    """One filter and class, by loops over both values and all bins."""
    count, total = len(bins), 0.0
    for value in set(bins):
        for member in (False, True):
            both = sum(b == value and i == member for b, i in zip(bins, inside, strict=True))
            product = bins.count(value) * inside.count(member)
            total += both / count * math.log(both * count / product) if both else 0.0
    return total


def test_agrees_with_loops():
    values, labels = torch.randn(47, 5), torch.randint(-1, 3, (47,))
    values[:, 1] = values[:, 1].relu()  # many equal values
    values[:, 2] = 0
    bins = equal_count_bins(values, 6)
    found = class_information(bins, labels)
    for unit in range(5):
        expected = slow_bins(values[:, unit].tolist(), 6)
        assert bins[:, unit].tolist() == expected
        for column, label in enumerate(sorted(set(labels.tolist()))):
            inside = [own == label for own in labels.tolist()]
            information = slow_information(expected, inside)
            assert found[unit, column].item() == pytest.approx(information, abs=1e-12)


def test_bins_by_hand():
    values = torch.tensor([[5.0, 0.0], [1.0, 0.0], [3.0, 0.0], [2.0, 0.1], [4.0, 7.0], [6.0, 0.0]])
    assert equal_count_bins(values, 3)[:, 0].tolist() == [2, 0, 1, 0, 1, 2]
    # Four equal values fill two bins: both ends are 0, whatever lies above is in the last.
    assert equal_count_bins(values, 3)[:, 1].tolist() == [0, 0, 0, 2, 2, 0]


def test_information_by_hand():
    """Two bins that tell class 1 of four images without error: log 2; constant: nothing."""
    bins = torch.tensor([[0, 0], [0, 0], [1, 0], [1, 0]])
    labels = torch.tensor([0, 2, 1, 1])
    found = class_information(bins, labels)
    assert found[0, 1].item() == pytest.approx(math.log(2))
    assert found[1].tolist() == [0.0, 0.0, 0.0]
    quarter = math.log(4) / 4 + 3 / 4 * math.log(4 / 3)
    entropies = [quarter, math.log(2), quarter]
    assert class_entropies(labels).tolist() == pytest.approx(entropies)


def test_a_perfect_filter_is_the_most_that_a_filter_can_reach():
    labels = torch.arange(60) % 3
    values = torch.stack([labels == 1, labels != 2, torch.arange(60) % 2], dim=1).float()
    information = class_information(equal_count_bins(values, 10), labels)
    torch.testing.assert_close(information[:2].amax(1), class_entropies(labels)[:2])
    assert information[2].max() < 1e-9  # independent of the class


def test_the_score_does_not_see_a_monotonous_change():
    values, labels = torch.rand(80, 4), torch.randint(0, 3, (80,))
    first = class_information(equal_count_bins(values, 10), labels)
    second = class_information(equal_count_bins(values.exp() * 9, 10), labels)
    assert torch.equal(first, second)


def test_metric_reads_means_and_gives_the_mean_of_the_largest():
    metric = MutualInformationScoreMetric(GEOMETRY, bins=4)
    values, labels = [], []
    for activations, batch in random_batches(images=60, classes=3, size=7):
        metric.update(activations, batch)
        values.append(activations.mean((2, 3)))
        labels.append(batch.labels)
    numbers = metric.compute()
    information = class_information(equal_count_bins(torch.cat(values), 4), torch.cat(labels))
    expected = information.amax(1).mean()
    torch.testing.assert_close(numbers["mutual_information_score"], expected)
    torch.testing.assert_close(metric.information, information)
    entropy = class_entropies(torch.cat(labels)).amax()
    torch.testing.assert_close(numbers["mutual_information_score_perfect_filter"], entropy)


def test_shuffled_labels_stand_beside():
    metric = MutualInformationScoreMetric(GEOMETRY)
    for activations, batch in random_batches(images=300, classes=2, size=50):
        activations[batch.labels == 1] *= 5
        metric.update(activations, batch)
    numbers = metric.compute()
    chance = numbers["mutual_information_score_shuffled_labels"]
    assert numbers["mutual_information_score"] > 0.5
    # (bins - 1) / (2 N) for one class, a little more for the largest of three.
    assert 9 / 600 < chance < 3 * 9 / 600
    assert numbers["mutual_information_score_perfect_filter"] > numbers["mutual_information_score"]


def test_what_it_refuses():
    metric = MutualInformationScoreMetric(GEOMETRY)
    (activations, batch), *_ = random_batches(size=5)
    metric.update(activations, batch._replace(labels=torch.zeros(5).long()))
    assert metric.compute() == {}
    assert metric.missing == "images of at least two classes"
    with pytest.raises(ValueError, match="`bins` must be >= 2, but got 1"):
        MutualInformationScoreMetric(bins=1)
    with pytest.raises(ValueError, match=r"`labels` must have shape \(4\), but got \(3,\)"):
        class_information(torch.zeros(4, 2).long(), torch.zeros(3))


def score_of(shards):
    metric = MutualInformationScoreMetric(GEOMETRY)
    for activations, batch in shards[torch.distributed.get_rank()]:
        metric.update(activations, batch)
    return metric.compute()


def test_two_processes_are_equal(two_processes):
    batches = random_batches(classes=2)
    metric = MutualInformationScoreMetric(GEOMETRY)
    for activations, batch in batches:
        metric.update(activations, batch)
    expected = metric.compute()
    assert two_processes(score_of, (batches[:10], batches[9:])) == [expected, expected]
