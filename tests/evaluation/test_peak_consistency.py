import pytest
import torch
import torch.distributed

from interp_train.evaluation.peak_consistency import (
    ImageMotion,
    PeakConsistencyMetric,
    chance_of,
    expected_peaks,
    moved_images,
    moved_points,
    standard_motions,
    within_one_cell,
)
from interp_train.structures import ImageBatch, LayerGeometry
from tests.evaluation.tables import FRAME, GEOMETRY


def spots(points, size=96):
    """One image per point with a bright Gaussian there."""
    y, x = torch.arange(size)[:, None].float(), torch.arange(size).float()
    return torch.stack([torch.exp(-((x - a) ** 2 + (y - b) ** 2) / 18) for a, b in points])[:, None]


@pytest.mark.parametrize("motion", standard_motions(shift=0.1, scale=1.25))
def test_images_and_points_move_alike(motion):
    points = torch.tensor([[40.0, 30.0], [30.0, 61.0], [55.0, 50.0]])
    moved = moved_images(spots(points), motion)
    expected = moved_points(points, motion, 96, 96)
    for image, point in zip(moved[:, 0], expected, strict=True):
        peak = image.flatten().argmax()
        found = torch.tensor([float(peak % 96), float(peak // 96)])
        assert (found - point).abs().max() <= 1.0


def test_points_by_hand():
    point = torch.tensor([10.0, 20.0])
    flip = ImageMotion("flip", scale_x=-1.0)
    assert moved_points(point, flip, 96, 96).tolist() == [85.0, 20.0]
    shift = ImageMotion("shift", shift_x=0.25, shift_y=-0.125)
    assert moved_points(point, shift, 80, 40).tolist() == [20.0, 10.0]
    double = ImageMotion("scale", scale_x=2.0, scale_y=2.0)
    assert moved_points(torch.tensor([49.5, 40.5]), double, 96, 96).tolist() == [51.5, 33.5]


def test_the_border_is_continued():
    images = torch.rand(1, 2, 16, 16)
    moved = moved_images(images, ImageMotion("shift", shift_x=0.25))
    torch.testing.assert_close(moved[..., 4:], images[..., :12])
    torch.testing.assert_close(moved[..., :4], images[..., :1].expand(-1, -1, -1, 4))


def test_chance_is_the_share_of_near_cells():
    motion = ImageMotion("shift", shift_x=0.1)
    before = torch.tensor([[0, 14, 35]])
    expected, _ = expected_peaks(before, motion, FRAME)
    for unit in range(3):
        near = 0
        for cell in range(36):
            a, b = FRAME.positions_of(torch.tensor(cell)).tolist()
            u, v = expected[0, unit].tolist()
            near += abs(a - u) <= 16.001 and abs(b - v) <= 16.001
        assert float(chance_of(expected, FRAME)[0, unit]) == pytest.approx(near / 36)
    assert within_one_cell(expected, before, FRAME).tolist() == [[True] * 3]


def batch_of(images, ids):
    empty = torch.zeros(len(images), 0, 0, 0)
    return ImageBatch(
        images, torch.zeros(len(images)).long(), ids, torch.zeros(len(images), 4), empty
    )


def maps_of(images):
    """Brightness per cell; a filter at a fixed cell; a dead filter."""
    cells = torch.nn.functional.avg_pool2d(images, 16)
    fixed = torch.zeros_like(cells)
    fixed[:, :, 1, 4] = 1
    return torch.cat((cells, fixed, torch.zeros_like(cells)), 1)


def updated(metric, images, ids):
    for index, motion in enumerate(metric.motions):
        metric.update(
            maps_of(images), maps_of(moved_images(images, motion)), batch_of(images, ids), index
        )
    return metric


POINTS = torch.rand(21, 2, generator=torch.Generator().manual_seed(0)) * 60 + 18


def test_a_follower_of_content_is_consistent_and_a_constant_is_not():
    metric = updated(PeakConsistencyMetric(GEOMETRY), spots(POINTS), torch.arange(21))
    numbers = metric.compute()
    follower, constant, dead = metric.result.tolist()
    assert follower == pytest.approx(1, abs=0.02)
    # The fixed cell (x = 71.5, y = 23.5) is left by 14.4 pixels under shifts, which one cell
    # forgives, and by 48 under the mirror; scales move it by less than a cell.
    assert constant == pytest.approx(2 / 3)
    assert dead == 0
    assert float(numbers["peak_consistency"]) == pytest.approx((follower + 2 / 3) / 3)
    assert 0.1 < numbers["peak_consistency_random"] < 0.25
    assert numbers["peak_consistency_shuffled_images"] < numbers["peak_consistency"]


def test_larger_shifts_catch_a_constant():
    motions = standard_motions(shift=0.25)
    metric = updated(PeakConsistencyMetric(GEOMETRY, motions), spots(POINTS), torch.arange(21))
    numbers = metric.compute()
    assert metric.result[1] == pytest.approx(1 / 3)  # the scales only
    assert set(numbers) == {
        f"peak_consistency{name}"
        for name in ("", "_shift", "_flip", "_scale", "_random", "_shuffled_images")
    }


def test_trials_that_leave_the_image_do_not_count():
    images = spots(torch.tensor([[88.0, 48.0], [47.0, 48.0]]))
    motions = (ImageMotion("shift", shift_x=0.2),)
    metric = updated(PeakConsistencyMetric(GEOMETRY, motions), images, torch.arange(2))
    metric.compute()
    assert float(metric.result[0]) == 1  # the first image has no trial


def test_bad_input_is_named():
    metric = PeakConsistencyMetric(GEOMETRY)
    images = spots(POINTS[:2])
    with pytest.raises(ValueError, match="`moved_activations` must have the shape of"):
        metric.update(maps_of(images), maps_of(images)[:1], batch_of(images, torch.arange(2)), 0)
    assert metric.missing == ""
    with pytest.raises(ValueError, match="`shift` must be >= 0.01 and <= 0.9, but got 0"):
        standard_motions(shift=0)
    with pytest.raises(ValueError, match="`scale` must be"):
        standard_motions(scale=1.0)


def consistency_of(shards):
    metric = PeakConsistencyMetric(LayerGeometry(16.0, 7.5, 100.0))
    images, ids = shards[torch.distributed.get_rank()]
    if len(ids):
        updated(metric, images, ids)
    return metric.compute()


@pytest.mark.parametrize("cut", [10, 21])
def test_two_processes_are_equal(two_processes, cut):
    images, ids = spots(POINTS), torch.arange(21)
    expected = updated(PeakConsistencyMetric(GEOMETRY), images, ids).compute()
    shards = ((images[:cut], ids[:cut]), (images[cut:], ids[cut:]))
    assert two_processes(consistency_of, shards) == [expected, expected]
