import pytest
import torch

from interp_train.receptive_field import upsampled
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
