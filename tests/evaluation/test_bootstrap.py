import math

import pytest
import torch

from interp_train.evaluation.bootstrap import (
    bootstrap_accuracy,
    bootstrap_location_instability,
    bootstrap_part_tracking,
    instability_scores,
    paired_differences,
    resample_counts,
    tracking_scores,
)
from interp_train.evaluation.location_instability import location_instability
from interp_train.evaluation.part_tracking import part_tracking
from interp_train.evaluation.peak_table import PeakTable
from interp_train.evaluation.tracking_r2 import tracking_r2
from tests.evaluation.tables import FRAME, random_table


def followed(table, noise, seed):
    """The same images, with filters that follow part 0 up to noise."""
    generator = torch.Generator().manual_seed(seed)
    target = table.part_locations[:, :1].nan_to_num(50)
    moved = target + noise * torch.randn(table.positions.shape, generator=generator)
    return table._replace(positions=FRAME.snapped(moved))


@pytest.mark.parametrize("classes", [1, 3])
def test_scores_without_resampling_are_the_measures(classes):
    table = followed(random_table(images=150, classes=classes), 8.0, 0)
    table.values[:, 5] = 0
    result = part_tracking(table, num_categories=classes)
    counts = resample_counts(150, resamples=3)
    scores = tracking_scores(table, result, counts)
    assert float(scores["mean_r2"][0]) == pytest.approx(float(result.scores.mean()), abs=1e-10)
    assert float(scores["share"][0]) == float((result.scores > 0.25).double().mean())
    whole = location_instability(
        table, FRAME.diagonal(), parts=(0, 2), num_categories=classes, top=20
    )
    assigned = whole.categories if classes > 1 else None
    found = instability_scores(
        table, counts, FRAME.diagonal(), parts=(0, 2), categories=assigned, top=20
    )
    expected = float(whole.own_category.mean())
    assert float(found["location_instability"][0]) == pytest.approx(expected, abs=1e-10)


def test_resamples_agree_with_repeated_images():
    """Row b of the counts is the measure on a table in which image i stands counts[b, i] times."""
    table = followed(random_table(images=60, background=0), 8.0, 0)
    result = part_tracking(table)
    counts = resample_counts(60, resamples=4)
    scores = tracking_scores(table, result, counts)
    sides = table.boxes[:, None, 2:] - table.boxes[:, None, :2]
    corners = table.boxes[:, None, :2]
    places = (table.positions - corners) / sides
    landmarks = (table.part_locations - corners) / sides
    for row in range(1, 5):
        images = [i for i in range(1, 60, 2) for _ in range(int(counts[row, i]))]
        r2 = tracking_r2(places[images].double(), landmarks[images].double())
        own = r2.gather(1, result.parts[:, None])[:, 0]
        assert float(scores["mean_r2"][row]) == pytest.approx(float(own.mean()), abs=1e-5)


def test_resampled_deviations_agree_with_repeated_images():
    table = random_table(images=40, filters=2, background=0)
    counts = resample_counts(40, resamples=4)
    scores = instability_scores(table, counts, 1.0, parts=(0,), top=15)
    rows = table.part_locations[:, 0].isfinite().all(-1).nonzero()[:, 0]
    for row in range(5):
        deviations = []
        for unit in range(2):
            ranked = sorted(rows.tolist(), key=lambda i: -float(table.values[i, unit]))[:15]
            distances = torch.tensor(
                [
                    math.dist(
                        table.positions[i, unit].tolist(), table.part_locations[i, 0].tolist()
                    )
                    for i in ranked
                    for _ in range(int(counts[row, i]))
                ]
            )
            deviations.append(float(distances.std()))
        expected = sum(deviations) / 2
        assert float(scores["location_instability"][row]) == pytest.approx(expected, rel=1e-5)


def test_counts_are_resamples():
    counts = resample_counts(30, resamples=50, seed=3)
    assert (counts.sum(1) == 30).all()
    assert (counts[0] == 1).all()
    assert torch.equal(counts, resample_counts(30, resamples=50, seed=3))
    assert not torch.equal(counts, resample_counts(30, resamples=50, seed=4))


def test_percentiles_by_hand():
    first = {"score": torch.zeros(102).double()}
    second = {"score": torch.cat((torch.tensor([50.0]), torch.arange(101.0))).double()}
    found = paired_differences(first, second)["score"]
    assert tuple(found) == pytest.approx((0.0, 50.0, 50.0, 2.5, 97.5))


def test_a_network_does_not_differ_from_itself():
    table = followed(random_table(images=100), 8.0, 0)
    for difference in bootstrap_part_tracking(table, table, resamples=20).values():
        assert difference[2:] == (0.0, 0.0, 0.0)


def test_differences_are_found_with_intervals_around_them():
    table = random_table(images=300)
    good, bad = followed(table, 6.0, 0), followed(table, 40.0, 1)
    found = bootstrap_part_tracking(bad, good, resamples=200)
    assert found["mean_r2"].low > 0.3
    assert found["mean_r2"].low < found["mean_r2"].difference < found["mean_r2"].high
    assert found["share"].difference == found["share"].second - found["share"].first == 1
    unstable = bootstrap_location_instability(
        good, bad, diagonal=FRAME.diagonal(), parts=(0,), resamples=200
    )["location_instability"]
    assert unstable.low > 0
    assert unstable.low < unstable.difference < unstable.high


def test_the_interval_is_that_of_theory():
    """Accuracies of independent coins: standard error sqrt(2 * p * (1 - p) / n)."""
    generator = torch.Generator().manual_seed(0)
    first, second = (torch.rand(2, 4000, generator=generator) < 0.7).unbind(0)
    found = bootstrap_accuracy(first, second, resamples=4000)["accuracy"]
    error = math.sqrt(2 * 0.7 * 0.3 / 4000)
    assert (found.high - found.low) / 2 == pytest.approx(1.96 * error, rel=0.06)
    assert found.difference == pytest.approx(float(second.double().mean() - first.double().mean()))


def test_several_seeds_are_averaged_on_the_same_images():
    table = random_table(images=200)
    tables = [followed(table, 6.0, seed) for seed in range(2)]
    other = followed(table, 20.0, 9)
    both = bootstrap_part_tracking(tables, other, resamples=50)["mean_r2"]
    each = [bootstrap_part_tracking(t, other, resamples=50)["mean_r2"] for t in tables]
    assert both.first == pytest.approx((each[0].first + each[1].first) / 2)
    right = [torch.tensor([True, True, False]), torch.tensor([True, False, False])]
    assert bootstrap_accuracy(right, right[0], resamples=5)["accuracy"].first == 0.5


def test_other_images_are_an_error():
    table = random_table(images=100)
    fewer = PeakTable(*(field[:50] for field in table))
    with pytest.raises(ValueError, match="must show the same images, but one table has 100"):
        bootstrap_part_tracking(table, fewer)
    with pytest.raises(ValueError, match="must hold the same images"):
        bootstrap_accuracy(torch.ones(3), torch.ones(4))
