"""Against a dissection written with loops; planted detectors; cache, second pass, processes."""

import functools
import math
from fractions import Fraction

import numpy as np
import pytest
import torch
import torch.distributed

from interp_train.evaluation.concept_overlap import UNIONS
from interp_train.evaluation.dissection import DissectionMetric
from interp_train.evaluation.unit_basis import random_rotation, rotated
from interp_train.structures import ConceptBatch, LayerGeometry
from interp_train.testing import check_metric_merges

NAMES = {"object": ("dog", "cat", "car"), "colour": ("red", "blue")}
GEOMETRY = LayerGeometry(8.0, 2.0, 20.0)
SIZE, LABELS, CELLS, UNITS = 40, 20, 5, 6


def batch_of(labels, first_id=0):
    labels = torch.as_tensor(labels)
    count = len(labels)
    ids = (torch.arange(count) + first_id) * 7 + 3
    return ConceptBatch(torch.zeros(count, 3, SIZE, SIZE), torch.zeros(count).long(), ids, labels)


def random_probe(images=14, seed=0):
    """Maps and label maps in blocks; some images lack a category; unit 5 is dead."""
    generator = torch.Generator().manual_seed(seed)
    maps = torch.randn(images, UNITS, CELLS, CELLS, generator=generator)
    maps[:, 1] = maps[:, 1].clamp(min=1.0)  # many equal values
    maps[:, 5] = 0
    coarse = (
        torch.rand(images, 2, 5, 5, generator=generator) * torch.tensor([4.0, 3.0])[:, None, None]
    )
    labels = coarse.long().repeat_interleave(4, 2).repeat_interleave(4, 3)
    labels[0, 0] = labels[1, 1] = 0
    labels[2:4, :, :10] = 0
    return maps, labels


def slow_upsampled(plane):
    """One map on the grid of the label maps, in single precision."""
    found = np.zeros((LABELS, LABELS), dtype=np.float32)
    for y in range(LABELS):
        for x in range(LABELS):
            cells = [
                min(max(((p + 0.5) * 2 - 0.5 - GEOMETRY.offset) / GEOMETRY.stride, 0), CELLS - 1)
                for p in (y, x)
            ]
            (top, left), (s, t) = zip(
                *((int(c), np.float32(c - int(c))) for c in cells), strict=True
            )
            bottom, right = min(top + 1, CELLS - 1), min(left + 1, CELLS - 1)
            first = plane[top, left] + s * (plane[bottom, left] - plane[top, left])
            second = plane[top, right] + s * (plane[bottom, right] - plane[top, right])
            found[y, x] = first + t * (second - first)
    return found


def slow_threshold(values, share):
    """The level that at most `share` of the values exceed."""
    allowed = math.floor(Fraction(str(share)) * len(values))
    return sorted(values, reverse=True)[allowed]


def slow_dissection(maps, labels, share, threshold_on, union, least_images=1):
    """IoU ``(K, C)``, thresholds and active pixels of each unit, mask by mask, in whole numbers."""
    dense = np.stack([[slow_upsampled(plane) for plane in image] for image in maps.numpy()])
    labels = labels.numpy()
    iou, thresholds, areas = np.zeros((UNITS, 5)), [], []
    for unit in range(UNITS):
        values = maps[:, unit].numpy() if threshold_on == "feature" else dense[:, unit]
        thresholds.append(slow_threshold(values.flatten().tolist(), share))
        masks = dense[:, unit] > np.float32(thresholds[-1])
        areas.append(int(masks.sum()))
        for concept, (category, label) in enumerate([(0, 1), (0, 2), (0, 3), (1, 1), (1, 2)]):
            inner = outer = images = 0
            for mask, image in zip(masks, labels[:, category], strict=True):
                truth = image == label
                annotated = {
                    "paper": (image > 0).any(), "all": True, "lite": (mask & (image > 0)).any()
                }[union]  # fmt: skip
                inner += int((mask & truth).sum())
                outer += int((mask | truth).sum() if annotated else truth.sum())
                images += int(truth.any())
            iou[unit, concept] = inner / outer if inner and images >= least_images else 0
    return iou, thresholds, areas


@pytest.mark.parametrize("union", UNIONS)
@pytest.mark.parametrize("threshold_on", ["feature", "upsampled"])
def test_agrees_with_loops(threshold_on, union):
    """To the bit: the same whole numbers, divided once."""
    maps, labels = random_probe()
    maps = maps.half().float()
    quantiles = (0.01, 0.1, 0.3)
    metric = DissectionMetric(
        GEOMETRY, NAMES, quantiles=quantiles, threshold_on=threshold_on, union=union, least_images=1
    )
    for rows in torch.arange(14).split(5):
        metric.update(maps[rows], batch_of(labels)._replace(
            images=torch.zeros(len(rows), 3, SIZE, SIZE), labels=rows, sample_ids=rows,
            concept_maps=labels[rows],
        ))  # fmt: skip
    numbers = metric.compute()
    for index, share in enumerate(quantiles):
        iou, thresholds, areas = slow_dissection(maps, labels, share, threshold_on, union)
        assert metric.result.thresholds[:, index].tolist() == thresholds
        np.testing.assert_array_equal(metric.result.iou[:, index].numpy(), iou)
        pixels = len(labels) * LABELS**2
        assert metric.result.area[:, index].tolist() == [area / pixels for area in areas]
        ending = f"_at_{share:g}" if index else ""
        assert float(numbers[f"mean_best_iou{ending}"]) == pytest.approx(iou.max(1).mean())
        assert int(numbers[f"detectors{ending}"]) == (iou.max(1) > 0.04).sum()
        assert iou.max() > 0
    assert float(numbers["dead_share"]) >= 1 / UNITS


def test_the_rotated_basis_is_dissected_by_the_same_rule():
    maps, labels = random_probe()
    metric = DissectionMetric(GEOMETRY, NAMES, quantiles=(0.1,), least_images=1, seed=3)
    metric.update(maps, batch_of(labels))
    metric.compute()
    rotation = random_rotation(UNITS, 3).numpy()
    np.testing.assert_allclose(rotation @ rotation.T, np.eye(UNITS), atol=1e-12)
    turned = rotated(maps.half(), torch.from_numpy(rotation))
    expected = np.einsum("uk,nkhw->nuhw", rotation, maps.half().double().numpy())
    np.testing.assert_allclose(turned.numpy(), expected, rtol=0, atol=1e-5)
    iou, _, _ = slow_dissection(turned.half().float(), labels, 0.1, "feature", "paper")
    np.testing.assert_array_equal(metric.result.rotated_iou[:, 0].numpy(), iou)
    assert torch.equal(rotated(maps, torch.eye(UNITS).double()), maps)


def test_rotated_maps_of_an_image_do_not_depend_on_its_batch():
    generator = torch.Generator().manual_seed(0)
    for units, height, width in ((5, 1, 1), (7, 3, 3), (96, 7, 7), (512, 13, 13)):
        maps = torch.rand(9, units, height, width, generator=generator).half()
        whole = rotated(maps, random_rotation(units, 1))
        parts = [rotated(part, random_rotation(units, 1)) for part in maps.split((1, 2, 6))]
        assert torch.equal(torch.cat(parts), whole)


def test_masks_are_exchanged_between_images():
    """Three images, so that the partner of each is one of two; all six IoUs are possible sums."""
    maps, labels = random_probe(3)
    labels[:] = random_probe(9, seed=5)[1][6:]
    metric = DissectionMetric(GEOMETRY, NAMES, quantiles=(0.1,), least_images=1)
    metric.update(maps, batch_of(labels))
    numbers = metric.compute()
    half = maps.half().float()
    cycles = [slow_dissection(half, labels[list(order)], 0.1, "feature", "paper")[0]
              for order in ((1, 2, 0), (2, 0, 1))]  # fmt: skip
    found = metric.result.shuffled_iou[:, 0].numpy()
    assert any(np.array_equal(found, expected) for expected in cycles)
    assert float(numbers["null_p95"]) == pytest.approx(np.quantile(found, 0.95, axis=0).mean())


def planted_probe(images=100, units=40):
    """Unit 2 sees cats: 1 in the cells that they fill, 0 elsewhere; the others see noise."""
    cats = torch.zeros(images, 5, 5, dtype=torch.bool)
    for image in range(images):
        cats[image, image % 5, (3 * image) % 5] = True
    labels = torch.zeros(images, 2, 20, 20, dtype=torch.long)
    labels[:, 0] = 2 * cats.repeat_interleave(4, 1).repeat_interleave(4, 2)
    labels[:, 1] = 1
    maps = torch.rand(images, units, CELLS, CELLS)
    maps[:, 2] = cats * (1 + torch.rand(images, 5, 5))
    return maps, labels


def test_a_planted_detector_is_found_and_the_rotation_loses_it():
    maps, labels = planted_probe()
    fine = maps.repeat_interleave(4, 2).repeat_interleave(4, 3)
    metric = DissectionMetric(LayerGeometry(2.0, 0.5, 2.0), NAMES, quantiles=(0.039,))
    metric.update(fine, batch_of(labels))
    numbers = metric.compute()
    found = metric.result.labels()
    assert int(found.concepts[2]) == 1
    assert float(found.scores[2]) > 0.9
    assert float(metric.result.rotated_iou.max()) < 0.4  # spread over all units
    assert float(numbers["detectors_object"]) == 1
    assert float(numbers["detectors_above_null"]) == 1
    assert numbers["mean_best_iou_shuffled_masks"] < numbers["mean_best_iou"]


def test_by_hand():
    """Cells of 8 x 8 pixels are 4 x 4 label pixels; one cell of 25 is active, a dog fills two."""
    maps = torch.zeros(1, 1, 5, 5)
    maps[0, 0, 0, 0] = 1
    labels = torch.zeros(1, 2, 5, 5, dtype=torch.long)
    labels[0, 0, 0, :2] = 1
    metric = DissectionMetric(
        LayerGeometry(8.0, 3.5, 8.0), NAMES, quantiles=(0.04,), least_images=1
    )
    metric.update(maps, batch_of(labels))
    numbers = metric.compute()
    assert metric.result.thresholds.tolist() == [[0.0]]
    assert metric.result.iou[0, 0].tolist() == [0.5, 0, 0, 0, 0]
    assert float(numbers["active_area"]) == 1 / 25
    assert float(numbers["detectors"]) == float(numbers["unique_best"]) == 1


def test_dead_units_and_rare_concepts_count_as_nothing():
    maps, labels = random_probe()
    labels[labels == 3] = 0
    labels[3, 0, 10:] = 3  # one image with cars
    metric = DissectionMetric(GEOMETRY, NAMES, quantiles=(0.2,), least_images=2)
    metric.update(maps, batch_of(labels))
    numbers = metric.compute()
    assert metric.result.counted.tolist() == [True, True, False, True, True]
    assert metric.result.iou[:, :, 2].max() == 0
    assert metric.result.iou[5].max() == 0
    assert int(metric.result.labels().concepts[5]) == -1
    assert float(numbers["dead_share"]) == 1 / UNITS


@pytest.mark.parametrize("threshold_on", ["feature", "upsampled"])
def test_two_passes_count_what_one_counts(threshold_on):
    maps, labels = random_probe()
    options = {"quantiles": (0.02, 0.1), "threshold_on": threshold_on, "shuffled_masks": False}
    whole = DissectionMetric(GEOMETRY, NAMES, **options)
    small = DissectionMetric(GEOMETRY, NAMES, **options, cache_bytes=4000, num_images=20)
    assert not show(whole, maps, labels)
    assert show(small, maps, labels)
    assert small._passes._kept is None  # nothing is kept
    with pytest.raises(ValueError, match="the same 14 images after `start_second_pass`, but got 0"):
        small.compute()
    show(small, maps, labels)
    assert whole.compute() == small.compute()
    for first, second in zip(whole.result, small.result, strict=True):
        assert torch.equal(first, second)


def show(metric, maps, labels, pieces=4):
    start = 0
    for some, truth in zip(maps.split(pieces), labels.split(pieces), strict=True):
        metric.update(some, batch_of(truth, start))
        start += len(some)
    return metric.start_second_pass()


def test_autocast_changes_nothing():
    maps, labels = random_probe()
    results = []
    for enabled in (False, True):
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=enabled):
            metric = DissectionMetric(GEOMETRY, NAMES, quantiles=(0.1,))
            metric.update(maps, batch_of(labels))
            results.append(metric.compute())
    assert results[0] == results[1]


def test_inference_mode_and_later():
    maps, labels = random_probe()
    metric = DissectionMetric(GEOMETRY, NAMES)
    with torch.inference_mode():
        metric.update(maps * 1, batch_of(labels))
    numbers = metric.compute()
    metric.reset()
    metric.update(maps, batch_of(labels))
    assert metric.compute() == numbers


def test_without_concepts_nothing_is_measured():
    metric = DissectionMetric(GEOMETRY)
    maps, labels = random_probe()
    metric.update(maps, batch_of(labels))
    assert not metric.start_second_pass()
    assert metric.compute() == {}
    assert metric.missing == "concept maps with names"


def test_errors():
    maps, labels = random_probe()
    for options, message in [
        ({"quantiles": (0.1, 0.01)}, r"`quantiles` must be .* ascending, but got \[0.1, 0.01\]"),
        ({"quantiles": ()}, "`quantiles` must be shares"),
        ({"quantiles": (0.0,)}, "`quantiles` must be shares"),
        ({"threshold_on": "pixels"}, "`threshold_on` must be one of 'feature', 'upsampled'"),
        ({"union": "any"}, "`union` must be one of 'paper', 'all', 'lite', but got 'any'"),
        ({"least_iou": 2}, "`least_iou` must be >= 0.0 and <= 1.0, but got 2"),
        ({"cache_bytes": -1}, "`cache_bytes` must be >= 0, but got -1"),
    ]:
        with pytest.raises(ValueError, match=message):
            DissectionMetric(GEOMETRY, NAMES, **options)
    metric = DissectionMetric(GEOMETRY, NAMES, cache_bytes=100)
    with pytest.raises(ValueError, match="`num_images` must be given .* raise `cache_bytes`"):
        metric.update(maps, batch_of(labels))
    metric = DissectionMetric(GEOMETRY, NAMES, num_images=13)
    metric.update(maps, batch_of(labels))
    with pytest.raises(ValueError, match="`num_images` must be >= 14, but got 13"):
        metric.compute()
    metric = DissectionMetric(GEOMETRY, NAMES)
    with pytest.raises(ValueError, match="no process has seen an image"):
        metric.start_second_pass()
    metric.reset()
    with pytest.raises(ValueError, match="one map per image of the batch, but got 13 for 14"):
        metric.update(maps[:13], batch_of(labels))
    metric.update(maps, batch_of(labels))
    with pytest.raises(ValueError, match=r"must keep their size, but got \(6, 4, 4\)"):
        metric.update(maps[..., :4, :4], batch_of(labels))
    metric.reset()
    broken = maps.clone()
    broken[3, 2, 1, 1] = math.nan
    metric.update(broken, batch_of(labels))
    with pytest.raises(ValueError, match="must be finite, but some are not. The network has div"):
        metric.compute()


def test_large_activations_stay_finite():
    maps, labels = random_probe()
    metric = DissectionMetric(GEOMETRY, NAMES)
    metric.update(maps * 1e6, batch_of(labels))
    assert metric.compute()["mean_best_iou"].isfinite()


@pytest.mark.parametrize("threshold_on", ["feature", "upsampled"])
def test_the_metric_merges(process_pool, threshold_on):
    maps, labels = random_probe()
    updates = [(maps[i : i + 2], batch_of(labels[i : i + 2], i)) for i in range(0, 14, 2)]
    make = functools.partial(
        DissectionMetric, GEOMETRY, NAMES, quantiles=(0.02, 0.1), threshold_on=threshold_on
    )
    check_metric_merges(make, updates, tolerance=0.0, run_on_two=process_pool)


def result_of_share(maps, labels, shares, options):
    begin, end = shares[torch.distributed.get_rank()]
    metric = DissectionMetric(GEOMETRY, NAMES, quantiles=(0.02, 0.1), least_images=1, **options)
    for _ in range(2):
        for i in range(begin, end):
            metric.update(maps[i : i + 1], batch_of(labels[i : i + 1], i))
        if not metric.start_second_pass():
            break
    return metric.compute(), metric.result


@pytest.mark.parametrize("shares", [((0, 3), (3, 14)), ((0, 14), (14, 14)), ((0, 0), (0, 14))])
@pytest.mark.parametrize("cache_bytes", [2**30, 6000, 0])
def test_two_processes_are_equal_to_the_bit(two_processes, shares, cache_bytes):
    """Cached by both, by one, by none; with a process that has no image."""
    maps, labels = random_probe()
    labels = labels.to(torch.int16)
    options = {"cache_bytes": cache_bytes, "num_images": 14}
    alone = DissectionMetric(
        GEOMETRY, NAMES, quantiles=(0.02, 0.1), least_images=1, shuffled_masks=cache_bytes > 6000
    )
    for i in range(14):
        alone.update(maps[i : i + 1], batch_of(labels[i : i + 1], i))
    expected = alone.compute()
    for numbers, result in two_processes(result_of_share, maps, labels, shares, options):
        assert numbers == expected
        for found, value in zip(result, alone.result, strict=True):
            assert torch.equal(found, value)
