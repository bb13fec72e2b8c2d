import math

import pytest
import torch

from interp_train.evaluation.location_instability import (
    LocationInstabilityMetric,
    highest_rows,
    landmark_deviations,
    location_instability,
)
from interp_train.structures import BACKGROUND
from tests.evaluation.tables import FRAME, GEOMETRY, info, random_batches, random_table


def slow_instability(table, unit, part, category, top):
    """D_{f,k} by loops: rank the images with the landmark, take distances, unbiased std."""
    rows = [
        row
        for row in range(len(table.labels))
        if table.labels[row] == category and table.part_locations[row, part].isfinite().all()
    ]
    rows.sort(key=lambda row: (-float(table.values[row, unit]), row))
    distances = [
        math.dist(table.positions[row, unit].tolist(), table.part_locations[row, part].tolist())
        for row in rows[:top]
    ]
    if len(distances) < 2:
        return None
    mean = sum(distances) / len(distances)
    variance = sum((d - mean) ** 2 for d in distances) / (len(distances) - 1)
    return math.sqrt(variance) / FRAME.diagonal()


@pytest.mark.parametrize("top", [5, 1000])
@pytest.mark.parametrize("coarse", [False, True])
def test_agrees_with_loops(top, coarse):
    table = random_table(images=60, classes=2)
    if coarse:  # equal peaks, and a filter that never fires
        values = (table.values * 3).round()
        values[:, 2] = 0
        table = table._replace(values=values)
    parts = (0, 2)
    result = location_instability(table, FRAME.diagonal(), parts=parts, num_categories=2, top=top)
    for unit in range(7):
        scores = []
        peaks = []
        for category in (0, 1):
            deviations = [slow_instability(table, unit, k, category, top) for k in parts]
            scores.append(sum(deviations) / len(deviations))
            peaks.append(float(table.values[table.labels == category, unit].double().mean()))
        best, own = min(scores), scores[peaks.index(max(peaks))]
        assert float(result.best_category[unit]) == pytest.approx(best, abs=1e-9)
        assert float(result.own_category[unit]) == pytest.approx(own, abs=1e-9)


def test_highest_rows_take_the_first_of_equals():
    values = torch.tensor([[1.0, 0.0], [3.0, 0.0], [1.0, 0.0], [1.0, 0.0]])
    assert highest_rows(values, 2).tolist() == [[0, 0], [1, 1]]


def test_number_by_hand():
    """Distances 0, 6 and 9: mean 5, variance (25 + 1 + 16) / 2 = 21."""
    table = random_table(images=3, filters=1, parts=1, background=0)
    positions = torch.full((3, 1, 2), 23.5)
    locations = positions + torch.tensor([[0.0, 0.0], [6.0, 0.0], [0.0, -9.0]])[:, None]
    table = table._replace(positions=positions, part_locations=locations)
    deviation = landmark_deviations(table, 100.0, (0,))
    assert float(deviation) == pytest.approx(math.sqrt(21) / 100, abs=1e-12)


def test_a_filter_that_keeps_its_distance_is_stable():
    table = random_table(images=30, filters=3, parts=3, background=0)
    positions = table.part_locations.nan_to_num(0) + torch.tensor([3.0, 4.0])
    table = table._replace(positions=positions)
    deviations = landmark_deviations(table, 1.0, (0, 1, 2))
    torch.testing.assert_close(deviations.diagonal(), torch.zeros(3).double(), atol=1e-5, rtol=0)


def test_a_dead_filter_counts_as_a_constant():
    table = random_table(images=50)
    table.values[:, 3] = 0
    table.positions[:, 3] = FRAME.positions_of(torch.tensor(0)).float()
    result = location_instability(table, FRAME.diagonal(), parts=(0,), top=None)
    assert result.best_category.isfinite().all()
    deviation = slow_instability(table, 3, 0, 0, 1000)
    assert float(result.best_category[3]) == pytest.approx(deviation)


def test_landmarks_in_one_image_are_left_out_for_all_filters():
    table = random_table(images=30, background=0)
    table.part_locations[1:, 1] = torch.nan
    both = location_instability(table, FRAME.diagonal(), parts=(0, 1))
    one = location_instability(table, FRAME.diagonal(), parts=(0,))
    assert torch.equal(both.best_category, one.best_category)
    table.part_locations[:] = torch.nan
    with pytest.raises(ValueError, match="`table` must show a landmark in at least two images"):
        location_instability(table, FRAME.diagonal(), parts=(0, 1))
    with pytest.raises(ValueError, match="`top` must be at least 2"):
        location_instability(table, FRAME.diagonal(), parts=(0,), top=1)


def test_metric_stands_beside_its_baselines():
    metric = LocationInstabilityMetric(GEOMETRY, info(classes=2))
    for activations, batch in random_batches(images=200, classes=2, size=50, filters=40):
        metric.update(activations, batch)
    numbers = metric.compute()
    names = ["", "_constant", "_random", "_object_centre", "_mean_landmark", "_oracle"]
    assert set(numbers) == {
        f"location_instability{middle}{name}" for name in names for middle in ("", "_own_category")
    }
    for middle in ("", "_own_category"):
        # The maps are noise, so their filters are as bad as random positions.
        chance = float(numbers[f"location_instability{middle}_random"])
        assert float(numbers[f"location_instability{middle}"]) == pytest.approx(chance, rel=0.1)
        assert numbers[f"location_instability{middle}_constant"] < 0.8 * chance
    assert torch.equal(metric.result.by_category.amin(0), metric.result.best_category)


def test_what_is_missing():
    metric = LocationInstabilityMetric(GEOMETRY, info())
    (activations, batch), *_ = random_batches(size=5)
    metric.update(activations, batch._replace(labels=torch.full((5,), BACKGROUND)))
    assert metric.compute() == {}
    assert metric.missing == "images with a category"
    metric.reset()
    metric.update(activations, batch._replace(part_locations=batch.part_locations * torch.nan))
    assert metric.compute() == {}
    assert metric.missing == "part_locations"
    metric.reset()
    lonely = torch.full_like(batch.part_locations, torch.nan)
    lonely[0] = 3.0
    labels = torch.zeros(5, dtype=torch.long)
    metric.update(activations, batch._replace(part_locations=lonely, labels=labels))
    assert metric.compute() == {}
    assert metric.missing == "landmarks that are annotated in at least two images"
