"""Images under random affine transforms, drawn from ranges by the ids of the images."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from interp_train.checks import check_range
from interp_train.counter_random import uniform_numbers


class AffineRanges(NamedTuple):
    """Ranges that transforms are drawn from, uniformly.

    Attributes:
        rotation: largest angle, in degrees, either way.
        shear: largest shear, in pixels per pixel, either way.
        scale: least and largest factor; one is drawn for each axis.
        shift: largest displacement along each axis, in pixels, either way.
    """

    rotation: float
    shear: float
    scale: tuple[float, float]
    shift: float


def checked_ranges(
    rotation: float, shear: float, scale: Sequence[float], shift: float
) -> AffineRanges:
    """The ranges, if they are ranges.

    Raises:
        ValueError: naming what is not.
    """
    check_range("rotation", rotation, 0.0, 180.0)
    check_range("shear", shear, 0.0)
    check_range("shift", shift, 0.0)
    if len(scale) != 2 or not 0 < scale[0] <= scale[1]:
        raise ValueError(
            f"`scale` must be the least and the largest factor, both positive, but got "
            f"{list(scale)}. For example scale=[0.8,1.2]."
        )
    return AffineRanges(rotation, shear, (scale[0], scale[1]), shift)


def drawn_transforms(ids: Tensor, ranges: AffineRanges, *key: int) -> Tensor:
    """Matrices that take a point (x, y, 1), in pixels from the centre, ``(N, 2, 3)``.

    A point is scaled, then sheared along x, then turned (clockwise in the image), then moved.

    Args:
        ids: one per image, long ``(N,)``.
        ranges: to draw from.
        key: further whole numbers, such as a seed.
    """
    drawn = uniform_numbers(ids, 6, *key)
    either_way = 2 * drawn - 1
    angle = either_way[:, 0] * (ranges.rotation * math.pi / 180)
    shear = either_way[:, 1] * ranges.shear
    low, high = ranges.scale
    scale = low + (high - low) * drawn[:, 2:4]
    one, zero = torch.ones_like(angle), torch.zeros_like(angle)
    turns = _matrices(angle.cos(), -angle.sin(), angle.sin(), angle.cos())
    shears = _matrices(one, shear, zero, one)
    linear = turns @ shears @ torch.diag_embed(scale)
    return torch.cat([linear, either_way[:, 4:, None] * ranges.shift], 2)


def _matrices(*entries: Tensor) -> Tensor:
    return torch.stack(entries, 1).view(-1, 2, 2)


def transformed(images: Tensor, transforms: Tensor) -> Tensor:
    """Images under affine transforms, bilinear; 0 where nothing was.

    Args:
        images: square, ``(N, C, H, H)``.
        transforms: from where a point is to where it goes, as `drawn_transforms` gives them.
    """
    half = images.shape[-1] / 2
    # Sampling asks where a point comes from; unlike `inv`, no GPU is waited for.
    back = torch.linalg.inv_ex(transforms[:, :, :2]).inverse
    offset = -back @ transforms[:, :, 2:] / half
    theta = torch.cat([back, offset], 2).to(images.dtype)
    grid = functional.affine_grid(theta, list(images.shape), align_corners=False)
    return functional.grid_sample(images, grid, align_corners=False)
