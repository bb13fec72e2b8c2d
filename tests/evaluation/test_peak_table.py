import pytest
import torch
import torch.distributed

from interp_train.evaluation.part_tracking import PartTrackingMetric
from interp_train.evaluation.peak_table import MapFrame, first_rows, map_frame, peaks_of
from interp_train.structures import ImageBatch, LayerGeometry
from tests.evaluation.tables import FRAME, GEOMETRY, info, random_batches


def slow_peak(one_map):
    """Double loop; the first of equal cells."""
    best, cell = -float("inf"), 0
    for row in range(one_map.shape[0]):
        for column in range(one_map.shape[1]):
            if one_map[row, column] > best:
                best, cell = float(one_map[row, column]), row * one_map.shape[1] + column
    return best, cell


def test_peaks_are_the_first_largest_cells():
    maps = torch.randint(0, 4, (9, 5, 4, 7)).float()  # many equals
    maps[0, 0] = 0
    values, cells = peaks_of(maps)
    for image in range(9):
        for unit in range(5):
            expected = slow_peak(maps[image, unit])
            assert (float(values[image, unit]), int(cells[image, unit])) == expected
    assert cells[0, 0] == 0


def test_positions_by_hand():
    # Row 2, column 1 of a grid of 4 columns: x = 7.5 + 16, y = 7.5 + 32.
    frame = MapFrame(3, 4, 48, 64, GEOMETRY)
    assert frame.positions_of(torch.tensor(9)).tolist() == [23.5, 39.5]
    assert frame.cells_of(torch.tensor([23.5, 39.5])) == 9
    assert frame.cells_of(torch.tensor([-50.0, 400.0])) == 8
    assert frame.snapped(torch.tensor([30.0, 30.0])).tolist() == [23.5, 23.5]
    assert frame.diagonal() == 80.0
    assert MapFrame.from_numbers(frame.as_numbers()) == frame


def test_cells_tile_the_image_without_a_geometry():
    frame = map_frame(torch.zeros(1, 2, 14, 14), torch.zeros(1, 3, 224, 224), None)
    assert frame.geometry == LayerGeometry(16.0, 7.5, 16.0)  # that of VGG-16, 0-based


def test_equal_ids_count_once():
    ids = torch.tensor([7, 3, 7, 1, 3])
    assert first_rows(ids).tolist() == [3, 1, 0]


def test_table_is_sorted_and_complete():
    metric = PartTrackingMetric(GEOMETRY)
    batches = random_batches(size=4)
    for activations, batch in [*batches, batches[0]]:  # the first batch comes twice
        metric.update(activations, batch)
    table = metric.table()
    assert len(table.sample_ids) == 23
    assert (table.sample_ids.diff() > 0).all()
    rows = {int(i): row for row, i in enumerate(table.sample_ids)}
    for activations, batch in batches:
        for image, sample_id in enumerate(batch.sample_ids):
            row = rows[int(sample_id)]
            assert table.labels[row] == batch.labels[image]
            for unit in range(5):
                value, cell = slow_peak(activations[image, unit])
                assert table.values[row, unit] == value
                assert (
                    table.positions[row, unit].tolist()
                    == FRAME.positions_of(torch.tensor(cell)).tolist()
                )


def test_half_precision_gives_the_same_cells():
    (activations, batch), *_ = random_batches(size=23)
    metric = PartTrackingMetric(GEOMETRY)
    metric.update(activations.bfloat16(), batch)
    table = metric.table()
    assert table.values.dtype == torch.float32
    assert table.values.isfinite().all()


def test_bad_input_is_named():
    (activations, batch), *_ = random_batches(size=5)
    metric = PartTrackingMetric(GEOMETRY)
    with pytest.raises(ValueError, match=r"`update` must be called .* before `compute`"):
        metric.table()
    with pytest.raises(ValueError, match=r"`activations` must have shape \(N, K, h, w\)"):
        metric.update(activations.flatten(1), batch)
    with pytest.raises(ValueError, match="one map per image of the batch, but got 3 for 5"):
        metric.update(activations[:3], batch)
    metric.update(activations, batch)
    with pytest.raises(ValueError, match=r"maps of one size, but got \(3, 3\)"):
        metric.update(activations[:, :, :3, :3], batch)
    metric.update(activations * float("nan"), batch._replace(sample_ids=batch.sample_ids + 5000))
    with pytest.raises(ValueError, match=r"`activations` must be finite, .* of 5 of 10 images"):
        metric.table()
    with pytest.raises(ValueError, match="`geometry` must be given where cells are not square"):
        PartTrackingMetric().update(activations[:, :, :, :3], batch)


def test_image_batches_have_no_landmarks():
    (activations, batch), *_ = random_batches(size=5)
    metric = PartTrackingMetric(GEOMETRY, info())
    metric.update(activations, ImageBatch(*batch[:5]))
    assert metric.compute() == {}
    assert metric.missing == "part_locations"


def tables_of_shards(shards):
    metric = PartTrackingMetric(GEOMETRY, info())
    for activations, batch in shards[torch.distributed.get_rank()]:
        metric.update(activations, batch)
    numbers = metric.compute()
    return metric.latest, numbers


@pytest.mark.parametrize("cut", [11, 0])
def test_two_processes_give_the_same_table(two_processes, cut):
    """An odd number of images, one of them on both processes; and a process without images."""
    batches = random_batches(size=1)
    alone = PartTrackingMetric(GEOMETRY, info())
    for activations, batch in batches:
        alone.update(activations, batch)
    expected = alone.compute()
    shards = (batches[cut:], batches[: cut + 1] if cut else [])
    for table, numbers in two_processes(tables_of_shards, shards):
        for name, field in table._asdict().items():
            assert torch.equal(field.nan_to_num(-1), getattr(alone.latest, name).nan_to_num(-1))
        assert numbers == expected  # floats too: the same sums in the same order
