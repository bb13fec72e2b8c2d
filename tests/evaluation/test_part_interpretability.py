import math

import pytest
import torch
import torch.distributed

from interp_train.evaluation.part_interpretability import (
    PartInterpretabilityMetric,
    thresholds,
)
from interp_train.structures import ImageBatch
from tests.evaluation.tables import FRAME, GEOMETRY, info, random_batches


def slow_threshold(values, share):
    """The value that exactly ``floor(share * n)`` of distinct values exceed."""
    return sorted(values, reverse=True)[math.floor(share * len(values))]


def slow_interpretability(maps, batch, unit, rows, share, radius):
    """P_f of one filter by pixel masks, over the images `rows`."""
    values = [float(v) for row in rows for v in maps[row, unit].flatten()]
    bound = slow_threshold(values, share)
    y, x = torch.arange(96)[:, None], torch.arange(96)
    best = 0.0
    for part in range(batch.part_masks.shape[1]):
        hits = shown = 0
        for row in rows:
            mask = batch.part_masks[row, part]
            if not mask.any():
                continue
            shown += 1
            region = torch.zeros(96, 96, dtype=torch.bool)
            for cell, value in enumerate(maps[row, unit].flatten().tolist()):
                if value > bound:
                    cx, cy = FRAME.positions_of(torch.tensor(cell)).tolist()
                    region |= (x - cx) ** 2 + (y - cy) ** 2 <= radius**2
            hits += int((region & mask).sum()) / int((region | mask).sum()) > 0.2
        best = max(best, hits / shown)
    return best


@pytest.mark.parametrize("classes", [1, 2])
def test_agrees_with_pixel_masks(classes):
    ((maps, batch),) = random_batches(images=30, classes=classes, size=30)
    maps = maps.half().float()
    metric = PartInterpretabilityMetric(GEOMETRY, info(classes=classes), share=0.02)
    metric.update(maps, batch)
    numbers = metric.compute()
    scores = []
    for unit in range(5):
        rows_of = [(batch.labels == c).nonzero()[:, 0].tolist() for c in range(classes)]
        means = [float(maps[rows, unit].double().mean()) for rows in rows_of]
        rows = rows_of[means.index(max(means))]
        scores.append(slow_interpretability(maps, batch, unit, rows, 0.02, 24.0))
    expected = sum(scores) / 5
    assert float(numbers["part_interpretability"]) == pytest.approx(expected, abs=1e-12)
    assert max(scores) > 0  # else the test shows nothing


def test_threshold_by_hand():
    maps = torch.arange(200.0).view(2, 1, 10, 10)
    assert thresholds(maps, 0.01).tolist() == [197.0]  # 198 and 199 exceed it
    assert thresholds(maps, 0.001).tolist() == [199.0]  # nothing exceeds it


def test_an_oracle_that_fires_on_the_part_alone():
    """One strong cell at each landmark: the disk must cover a fifth of the part's square."""
    ((maps, batch),) = random_batches(images=40, size=40)
    maps = torch.zeros_like(maps)
    cells = FRAME.cells_of(batch.part_locations.nan_to_num(0))
    for image in range(40):
        for part in range(3):
            if batch.part_locations[image, part].isfinite().all():
                maps[image, part].view(-1)[cells[image, part]] = 1 + image / 100
    metric = PartInterpretabilityMetric(GEOMETRY, info(), share=0.03, radius=16.0)
    metric.update(maps, batch)
    numbers = metric.compute()
    by_part = metric.result.by_part
    assert by_part.diagonal().min() > 0.9
    assert by_part[3:].max() == 0  # filters that never fire count as 0
    expected = by_part.amax(1).mean()
    assert float(numbers["part_interpretability"]) == pytest.approx(float(expected))
    assert float(numbers["part_interpretability_oracle"]) > 0.9
    assert numbers["part_interpretability_constant"] < 0.5


def test_boxes_stand_in_for_masks():
    ((maps, batch),) = random_batches(images=30, size=30)
    boxes = torch.full((30, 3, 4), torch.nan)
    for image in range(30):
        for part in range(3):
            if batch.part_masks[image, part].any():
                y, x = batch.part_masks[image, part].nonzero().unbind(1)
                boxes[image, part] = torch.stack((x.min(), y.min(), x.max(), y.max())).float()
    first, second = (PartInterpretabilityMetric(GEOMETRY, info(), share=0.02) for _ in range(2))
    first.update(maps, batch)
    second.update(
        maps, batch._replace(part_boxes=boxes, part_masks=torch.zeros(30, 0, 0, 0).bool())
    )
    assert first.compute() == second.compute()


def test_a_subset_of_the_images_does_not_depend_on_batches():
    results = []
    for size in (1, 3, 40):
        metric = PartInterpretabilityMetric(GEOMETRY, info(), max_images=7, share=0.02)
        for maps, batch in random_batches(images=40, size=size):
            metric.update(maps, batch)
        results.append(metric.compute())
        assert len(metric.latest.labels) == 7
    assert results[0] == results[1] == results[2]


def test_large_activations_stay_finite():
    ((maps, batch),) = random_batches(images=10, size=10)
    metric = PartInterpretabilityMetric(GEOMETRY, info())
    metric.update(maps * 1e6, batch)
    assert metric.maps[0].isfinite().all()


def test_what_is_missing():
    ((maps, batch),) = random_batches(images=10, size=10, masks=False)
    metric = PartInterpretabilityMetric(GEOMETRY, info())
    metric.update(maps, batch)
    assert metric.compute() == {}
    assert metric.missing == "part_masks or part_boxes"
    metric.reset()
    metric.update(maps, ImageBatch(*batch[:5]))
    assert metric.compute() == {}
    metric.reset()
    metric.update(maps, batch._replace(labels=torch.full((10,), -1)))
    assert metric.compute() == {}
    assert metric.missing == "images with a category"
    with pytest.raises(ValueError, match="`share` must be >= 0.0 and <= 1.0, but got 2"):
        PartInterpretabilityMetric(share=2)


def interpretability_of(shards, max_images):
    metric = PartInterpretabilityMetric(GEOMETRY, info(), share=0.02, max_images=max_images)
    for maps, batch in shards[torch.distributed.get_rank()]:
        metric.update(maps, batch)
    numbers = metric.compute()
    return numbers, metric.result.by_part


@pytest.mark.parametrize("max_images", [None, 9])
def test_two_processes_are_equal(two_processes, max_images):
    batches = random_batches(images=23)
    alone = PartInterpretabilityMetric(GEOMETRY, info(), share=0.02, max_images=max_images)
    for maps, batch in batches:
        alone.update(maps, batch)
    expected = alone.compute()
    for numbers, by_part in two_processes(
        interpretability_of, (batches[:8], batches[7:]), max_images
    ):
        assert numbers == expected
        assert torch.equal(by_part, alone.result.by_part)
