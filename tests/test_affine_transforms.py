"""Affine transforms of images: points go where the matrix says."""

import math

import pytest
import torch

from interp_train.affine_transforms import (
    AffineRanges,
    checked_ranges,
    drawn_transforms,
    transformed,
)

RANGES = AffineRanges(20.0, 0.2, (0.8, 1.2), 3.0)


def blob(side, x, y):
    """A smooth spot at a point, in pixels from the centre of the image."""
    places = torch.arange(side) - (side - 1) / 2
    squared = (places[None, :] - x) ** 2 + (places[:, None] - y) ** 2
    return torch.exp(-squared / 4.5)[None, None]


def centre_of(image):
    places = torch.arange(image.shape[-1]) - (image.shape[-1] - 1) / 2
    mass = image.sum()
    x = (image.sum((0, 1, 2)) * places).sum() / mass
    y = (image.sum((0, 1, 3)) * places).sum() / mass
    return torch.stack([x, y])


@pytest.mark.parametrize("point", [(0.0, 0.0), (5.0, -3.0), (-6.0, 2.0)])
def test_a_spot_goes_where_the_matrix_sends_it(point):
    transforms = drawn_transforms(torch.arange(8), RANGES, 1)
    images = blob(41, *point).expand(8, -1, -1, -1)
    wanted = transforms @ torch.tensor([*point, 1.0])
    for image, place in zip(transformed(images, transforms), wanted, strict=True):
        torch.testing.assert_close(centre_of(image[None]), place, rtol=0, atol=0.05)


def test_a_quarter_turn_is_exact():
    image = torch.arange(16.0).view(1, 1, 4, 4)
    turn = torch.tensor([[[0.0, -1.0, 0.0], [1.0, 0.0, 0.0]]])  # right goes down: clockwise
    torch.testing.assert_close(transformed(image, turn), image.rot90(-1, (2, 3)))
    shift = torch.tensor([[[1.0, 0.0, 1.0], [0.0, 1.0, 0.0]]])
    expected = torch.nn.functional.pad(image[..., :-1], (1, 0))
    torch.testing.assert_close(transformed(image, shift), expected)


def test_transforms_are_composed_of_scales_a_shear_a_turn_and_a_shift():
    transforms = drawn_transforms(torch.arange(2000), RANGES, 3).double()
    linear, shift = transforms[:, :, :2], transforms[:, :, 2]
    assert shift.abs().max() <= 3.0
    assert shift.abs().max() > 2.9
    # The first column is the turned x axis, scaled.
    angle = torch.atan2(linear[:, 1, 0], linear[:, 0, 0]) * 180 / math.pi
    scale = linear[:, :, 0].norm(dim=1)
    assert angle.abs().max() <= 20.0
    assert angle.abs().max() > 19.5
    assert 0.8 <= scale.min() < 0.81
    assert 1.19 < scale.max() <= 1.2
    other = torch.linalg.det(linear) / scale
    assert 0.8 - 1e-6 <= other.min() < 0.81
    along = (linear[:, :, 0] * linear[:, :, 1]).sum(1) / scale / other
    assert 0.19 < along.max() <= 0.2 + 1e-6


def test_ranges_are_checked():
    with pytest.raises(ValueError, match=r"`scale` must be the least and the largest factor"):
        checked_ranges(1, 0, (1.2, 0.8), 0)
    with pytest.raises(ValueError, match="`rotation` must be >= 0.0 and <= 180.0, but got 200"):
        checked_ranges(200, 0, (1, 1), 0)
