"""Where units fire most strongly, and the squares of images around those places."""

import math
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from interp_train.checks import check_shape
from interp_train.figures import image_grid
from interp_train.receptive_field import cells_to_pixels
from interp_train.structures import LayerGeometry


class UnitPeaks(NamedTuple):
    """The strongest peaks of U units, at most one per image, in descending order.

    Attributes:
        values: the responses, ``(U, k)``.
        rows: which image, long ``(U, k)``.
        cells: column and row of the peak, long ``(U, k, 2)``.
        positions: centre of the cell's receptive field, (x, y) in pixels, ``(U, k, 2)``.
        active: whether the unit answers at all: its peak is not exactly 0, as a closed ReLU's
            is, bool ``(U, k)``.
    """

    values: Tensor
    rows: Tensor
    cells: Tensor
    positions: Tensor
    active: Tensor


def strongest_peaks(maps: Tensor, number: int, geometry: LayerGeometry) -> UnitPeaks:
    """The images in which each unit peaks highest, and where.

    Of equal peaks the image of lower index and the first cell, row by row, come first.

    Args:
        maps: of the units, ``(N, U, h, w)``.
        number: peaks per unit; fewer if there are fewer images.
        geometry: where the cells lie.
    """
    check_shape("maps", maps, ("N", "U", "h", "w"))
    peaks, cells = maps.flatten(2).max(-1)
    values, rows = peaks.T.sort(dim=1, descending=True, stable=True)
    values, rows = values[:, :number], rows[:, :number]
    chosen = cells.T.gather(1, rows)
    width = maps.shape[-1]
    places = torch.stack([chosen % width, torch.div(chosen, width, rounding_mode="floor")], -1)
    return UnitPeaks(values, rows, places, cells_to_pixels(places, geometry), values != 0)


def field_side(geometry: LayerGeometry, share: float, image_size: tuple[int, int]) -> int:
    """Side of the square that shows a share of a receptive field, in pixels, inside the image."""
    return max(1, min(math.ceil(share * geometry.size), *image_size))


def squares(images: Tensor, centres: Tensor, side: int) -> Tensor:
    """Squares around centres, moved into the image where they would stick out.

    Args:
        images: ``(n, channels, H, W)``.
        centres: (x, y) in pixels, one per image, ``(n, 2)``.
        side: of the squares, at most that of the images.

    Returns:
        ``(n, channels, side, side)``.
    """
    check_shape("centres", centres, (len(images), 2))
    height, width = images.shape[-2:]
    first = (centres - (side - 1) / 2 + 0.5).floor().long()  # halves to the right and below
    left = first[:, 0].clamp(0, width - side)
    top = first[:, 1].clamp(0, height - side)
    along = torch.arange(side, device=images.device)
    number = torch.arange(len(images), device=images.device)[:, None, None]
    rows, columns = (top[:, None] + along)[:, :, None], (left[:, None] + along)[:, None]
    return images[number, :, rows, columns].permute(0, 3, 1, 2)


def resized(images: Tensor, side: int) -> Tensor:
    """Squares at another size: smoothed if smaller, interpolated if larger."""
    found = functional.interpolate(images, (side, side), mode="bilinear", antialias=True)
    return found.clamp(0, 1)


def grids(pictures: Tensor, columns: int | None = None) -> Tensor:
    """One picture per unit: its k pictures in a grid as square as can be.

    Args:
        pictures: in [0, 1], ``(U, k, 3, height, width)``; white where NaN.
        columns: of the grid; None is the root of k, rounded up.

    Returns:
        ``(U, 3, grid height, grid width)``.
    """
    columns = columns or math.ceil(math.sqrt(pictures.shape[1]))
    gap = max(1, pictures.shape[-1] // 24)
    return torch.stack([image_grid(unit, columns, gap=gap) for unit in pictures])
