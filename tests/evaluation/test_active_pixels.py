import numpy as np
import pytest
import torch

from interp_train.evaluation import active_pixels as module
from interp_train.evaluation.active_pixels import active_pixels, pixel_grid
from interp_train.receptive_field import upsampled
from interp_train.structures import LayerGeometry


def slow_upsampled(plane, size, image_size, geometry):
    """One map at label resolution, pixel by pixel, in single precision."""
    found = np.zeros(size, dtype=np.float32)
    for y in range(size[0]):
        for x in range(size[1]):
            ends, steps = [], []
            for pixel, length, extent, cells in zip(
                (y, x), size, image_size, plane.shape, strict=True
            ):
                position = (pixel + 0.5) * extent / length - 0.5  # in pixels of the image
                cell = min(max((position - geometry.offset) / geometry.stride, 0), cells - 1)
                ends.append((int(cell), min(int(cell) + 1, cells - 1)))
                steps.append(np.float32(cell - int(cell)))
            (top, bottom), (left, right) = ends
            s, t = steps
            first = plane[top, left] + s * (plane[bottom, left] - plane[top, left])
            second = plane[top, right] + s * (plane[bottom, right] - plane[top, right])
            found[y, x] = first + t * (second - first)
    return found


CASES = [
    ((7, 7), (112, 112), (224, 224), LayerGeometry(32.0, 0.0, 483.0)),  # ResNet, last block
    ((6, 6), (30, 30), (96, 96), LayerGeometry(16.0, 7.5, 16.0)),  # labels smaller, not by 2
    ((3, 5), (24, 40), (24, 40), LayerGeometry(7.0, 4.0, 9.0)),  # not square, not padded
    ((1, 1), (6, 6), (6, 6), LayerGeometry(6.0, 2.5, 6.0)),  # a single cell
    ((12, 12), (6, 6), (24, 24), LayerGeometry(2.0, 0.5, 2.0)),  # labels coarser than cells
    ((4, 4), (9, 9), (9, 9), LayerGeometry(2.0, -3.0, 5.0)),  # cells outside the image
]


@pytest.mark.parametrize(("cells", "size", "image_size", "geometry"), CASES)
def test_pixels_and_values_are_those_of_dense_upsampling(cells, size, image_size, geometry):
    maps = torch.randn(3, 4, *cells).half()
    maps[0, 0] = 0.25  # equal cells must give equal pixels
    levels = maps.float().transpose(0, 1).flatten(1).sort(1).values[:, -2]
    levels[3] = -9.0  # everything exceeds it
    found = torch.full((3, 4, *size), torch.nan).flatten(2)
    for image, unit, pixel, value in active_pixels(
        maps, levels, pixel_grid(cells, size, image_size, geometry)
    ):
        assert found[image, unit, pixel].isnan().all()  # no pixel comes twice
        found[image, unit, pixel] = value
    for image in range(3):
        for unit in range(4):
            plane = maps[image, unit].float().numpy()
            dense = slow_upsampled(plane, size, image_size, geometry)
            expected = np.where(dense > float(levels[unit]), dense, np.nan)
            np.testing.assert_array_equal(found[image, unit].view(size).numpy(), expected)
    assert found[:, :3].isnan().any()
    assert found[:, 3].isfinite().all()


def test_agrees_with_the_upsampling_that_pictures_use():
    geometry = LayerGeometry(8.0, 3.0, 20.0)
    maps = torch.randn(2, 3, 5, 5)
    grid = pixel_grid((5, 5), (40, 40), (40, 40), geometry)
    found = torch.zeros(2, 3, 1600)
    for image, unit, pixel, value in active_pixels(maps, torch.full((3,), -9.0), grid):
        found[image, unit, pixel] = value
    expected = upsampled(maps, (40, 40), geometry).flatten(2)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


def test_by_hand():
    """One cell of 1 among zeros, centres at pixels 0, 4, 8: a tent of half-width 4."""
    maps = torch.zeros(1, 1, 3, 3)
    maps[0, 0, 1, 1] = 1
    grid = pixel_grid((3, 3), (9, 9), (9, 9), LayerGeometry(4.0, 0.0, 9.0))
    (found,) = active_pixels(maps, torch.tensor([0.7]), grid)
    rows, columns = found.pixels // 9, found.pixels % 9
    # (1 - |x - 4| / 4) (1 - |y - 4| / 4) > 0.7: the centre and its four neighbours.
    assert sorted(zip(rows.tolist(), columns.tolist(), strict=True)) == [
        (3, 4), (4, 3), (4, 4), (4, 5), (5, 4),
    ]  # fmt: skip
    assert sorted(found.values.tolist()) == [0.75, 0.75, 0.75, 0.75, 1.0]


def test_anchors_of_a_resnet():
    """A cell of the last block belongs at its field's centre, not half a cell further."""
    maps = torch.zeros(1, 1, 7, 7)
    maps[0, 0, 3, 3] = 1
    grid = pixel_grid((7, 7), (224, 224), (224, 224), LayerGeometry(32.0, 0.0, 483.0))
    (found,) = active_pixels(maps, torch.tensor([0.999]), grid)
    assert found.pixels.tolist() == [96 * 224 + 96]


def test_pieces_make_the_whole(monkeypatch):
    maps = torch.randn(4, 5, 6, 6)
    levels = torch.full((5,), 0.5)
    grid = pixel_grid((6, 6), (24, 24), (24, 24), LayerGeometry(4.0, 1.5, 4.0))
    (whole,) = active_pixels(maps, levels, grid)
    monkeypatch.setattr(module, "_CHUNK", 100)
    pieces = list(active_pixels(maps, levels, grid))
    assert len(pieces) > 10
    for field, parts in zip(whole, zip(*pieces, strict=True), strict=True):
        assert torch.equal(field.sort().values, torch.cat(parts).sort().values)
    assert list(active_pixels(maps, levels + 99, grid)) == []


def test_levels_must_fit():
    grid = pixel_grid((2, 2), (4, 4), (4, 4), LayerGeometry(2.0, 0.5, 2.0))
    with pytest.raises(ValueError, match=r"`levels` must have shape \(3\), but got \(2,\)"):
        list(active_pixels(torch.zeros(1, 3, 2, 2), torch.zeros(2), grid))
