import pytest
import torch

from interp_train import receptive_field
from interp_train.receptive_field import (
    cell_centres,
    cells_to_pixels,
    nearest_cells,
    receptive_field_boxes,
    round_receptive_fields,
    upsampled,
    upsampled_masks,
)
from interp_train.structures import LayerGeometry


def slow_upsampled(values, size, geometry):
    """Bilinear interpolation by its definition, one pixel at a time; ``(h, w)`` -> ``(*size)``."""
    height, width = values.shape
    result = torch.zeros(size, dtype=values.dtype)
    for row in range(size[0]):
        for column in range(size[1]):
            y = min(max((row - geometry.offset) / geometry.stride, 0.0), height - 1.0)
            x = min(max((column - geometry.offset) / geometry.stride, 0.0), width - 1.0)
            top, left = min(int(y), max(height - 2, 0)), min(int(x), max(width - 2, 0))
            for i in {top, min(top + 1, height - 1)}:
                for j in {left, min(left + 1, width - 1)}:
                    share = max(0.0, 1 - abs(y - i)) * max(0.0, 1 - abs(x - j))
                    result[row, column] += share * values[i, j]
    return result


@pytest.mark.parametrize(
    ("cells", "geometry"),
    [((3, 4), (8.0, 0.0)), ((3, 3), (8.0, 3.5)), ((1, 1), (32.0, 16.0)), ((1, 5), (4.0, -2.0))],
)
def test_agrees_with_the_definition(cells, geometry):
    maps = torch.rand(2, 3, *cells, dtype=torch.float64)
    found = upsampled(maps, (17, 24), LayerGeometry(*geometry, size=1.0))
    for n in range(2):
        for k in range(3):
            expected = slow_upsampled(maps[n, k], (17, 24), LayerGeometry(*geometry, size=1.0))
            torch.testing.assert_close(found[n, k], expected)


def test_the_value_of_a_cell_stands_at_the_centre_of_its_receptive_field():
    maps = torch.zeros(1, 1, 7, 7)
    maps[0, 0, 2, 5] = 1.0
    found = upsampled(maps, (224, 224), LayerGeometry(32.0, 0.0, 435.0))
    assert (found == found.max()).nonzero().tolist() == [[0, 0, 64, 160]]


def test_maps_must_be_four_dimensional():
    with pytest.raises(ValueError, match=r"`maps` must have shape \(N, K, h, w\)"):
        upsampled(torch.zeros(3, 3), (8, 8), LayerGeometry(1.0, 0.0, 1.0))


GEOMETRY = LayerGeometry(stride=4.0, offset=1.5, size=9.0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_reduced_precision_keeps_the_places(dtype):
    maps = torch.rand(1, 1, 5, 6).to(dtype)
    found = upsampled(maps, (20, 24), GEOMETRY)
    assert found.dtype == dtype
    torch.testing.assert_close(found, upsampled(maps.float(), (20, 24), GEOMETRY).to(dtype))


def test_positions_of_cells_by_hand():
    cells = torch.tensor([[0, 0], [2, 1]])
    expected = torch.tensor([[1.5, 1.5], [9.5, 5.5]])
    torch.testing.assert_close(cells_to_pixels(cells, GEOMETRY), expected)
    torch.testing.assert_close(cell_centres(GEOMETRY, 3), torch.tensor([1.5, 5.5, 9.5]))
    boxes = receptive_field_boxes(expected, GEOMETRY)
    assert boxes.tolist() == [[-2.5, -2.5, 5.5, 5.5], [5.5, 1.5, 13.5, 9.5]]


def test_every_cell_is_nearest_to_its_own_centre():
    rows, columns = torch.meshgrid(torch.arange(5), torch.arange(7), indexing="ij")
    cells = torch.stack([columns, rows], -1)
    assert torch.equal(nearest_cells(cells_to_pixels(cells, GEOMETRY), GEOMETRY, (5, 7)), cells)


def test_nearest_cells_agree_with_a_search_over_all_cells():
    positions = torch.rand(50, 2) * 40 - 8
    centres = cell_centres(GEOMETRY, 7)
    found = nearest_cells(positions, GEOMETRY, (5, 7))
    for (x, y), cell in zip(positions, found, strict=True):
        expected = [int((centres - x).abs().argmin()), int((centres[:5] - y).abs().argmin())]
        assert cell.tolist() == expected


def test_a_missing_position_has_no_cell_and_half_way_goes_up():
    positions = torch.tensor([[float("nan"), 3.0], [3.5, 1.0], [1e9, -1e9]])
    assert nearest_cells(positions, GEOMETRY, (5, 7)).tolist() == [[-1, -1], [1, 0], [6, 0]]


def test_masks_go_to_the_nearest_cell():
    masks = torch.rand(2, 3, 5, 7) > 0.5
    found = upsampled_masks(masks, (22, 30), GEOMETRY)
    assert found.dtype == torch.bool
    for y in range(22):
        for x in range(30):
            column, row = nearest_cells(torch.tensor([float(x), float(y)]), GEOMETRY, (5, 7))
            assert torch.equal(found[:, :, y, x], masks[:, :, row, column])


@pytest.mark.parametrize("radius", [None, 0.0, 3.0, 100.0])
def test_disks_agree_with_a_loop_over_pixels(radius):
    masks = torch.rand(2, 3, 5, 7) > 0.9
    masks[0, 0] = False
    found = round_receptive_fields(masks, (22, 30), GEOMETRY, radius)
    reach = 4.5 if radius is None else radius
    expected = torch.zeros(2, 3, 22, 30, dtype=torch.bool)
    for n, k, row, column in masks.nonzero().tolist():
        for y in range(22):
            for x in range(30):
                away = (x - 1.5 - 4 * column) ** 2 + (y - 1.5 - 4 * row) ** 2
                expected[n, k, y, x] |= away <= reach**2
    assert torch.equal(found, expected)
    assert not found[0, 0].any()


def test_disks_are_the_same_in_chunks(monkeypatch):
    masks = torch.rand(2, 5, 5, 7) > 0.8
    whole = round_receptive_fields(masks, (22, 30), GEOMETRY)
    monkeypatch.setattr(receptive_field, "_CHUNK", 1)
    assert torch.equal(round_receptive_fields(masks, (22, 30), GEOMETRY), whole)


def test_masks_and_radius_are_checked():
    with pytest.raises(ValueError, match=r"`masks` must have shape \(N, K, h, w\)"):
        round_receptive_fields(torch.ones(3, 3) > 0, (8, 8), GEOMETRY)
    with pytest.raises(ValueError, match=r"`masks` must have shape"):
        upsampled_masks(torch.ones(3, 3) > 0, (8, 8), GEOMETRY)
    with pytest.raises(ValueError, match=r"`radius` must be >= 0, but got -1"):
        round_receptive_fields(torch.ones(1, 1, 3, 3) > 0, (8, 8), GEOMETRY, -1)
