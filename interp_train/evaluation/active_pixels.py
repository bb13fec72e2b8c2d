"""Where in the image units exceed a level: thresholded bilinear upsampling without the upsampling.

Maps are interpolated between the centres of the receptive fields, and pixels beyond the outermost
centres take the value of the nearest cell, as in D. Bau et al., "Network Dissection", CVPR 2017.
Interpolation cannot exceed the largest of the surrounding cells, so only the windows between
cells of which one exceeds the level are interpolated. The result is exact.

The value of a pixel that lies at fractions (s, t) between the cells a, b in one row and c, d in
the next is ``left + t (right - left)`` with ``left = a + s (c - a)``, ``right = b + s (d - b)``,
rounded to single precision after each operation; it equals a cell at the cell's centre.
"""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from interp_train.checks import check_shape
from interp_train.structures import LayerGeometry

_CHUNK = 2**21  # interpolated values at a time, 8 MB


class ActivePixels(NamedTuple):
    """Pixels in which units exceed their level; parallel tensors ``(V,)``.

    Attributes:
        images: row of the image, long.
        units: index of the unit, long.
        pixels: flat index of the pixel, row by row, long.
        values: what the upsampled map has there, float32.
    """

    images: Tensor
    units: Tensor
    pixels: Tensor
    values: Tensor


class ActiveRows(NamedTuple):
    """Short rows of pixels, of which at least one may exceed the unit's level; R of them.

    Attributes:
        images: row of the image, long ``(R,)``.
        units: index of the unit, long ``(R,)``.
        first: flat index of the first pixel, row by row, long ``(R,)``.
        values: what the upsampled map has there, float32 ``(R, longest)``; NaN beyond the end.
    """

    images: Tensor
    units: Tensor
    first: Tensor
    values: Tensor


class Axis(NamedTuple):
    """Pixels along one axis, in runs that lie between the same two cells.

    Attributes:
        lower: cell at or before the run, long ``(R,)``.
        upper: cell after it, long ``(R,)``; `lower` itself beyond the outermost cells.
        first: first pixel of the run, long ``(R,)``.
        fractions: how far each pixel of the run is from `lower` to `upper`, in [0, 1), float32
            ``(R, longest)``; NaN after the end of the run.
        runs_at: the run before each cell and the run behind it, long ``(cells, 2)``; -1 for none.
    """

    lower: Tensor
    upper: Tensor
    first: Tensor
    fractions: Tensor
    runs_at: Tensor


class PixelGrid(NamedTuple):
    """How the cells of maps lie among the pixels of label maps.

    Attributes:
        rows: the vertical axis.
        columns: the horizontal axis.
        height: of a label map, in pixels.
        width: of a label map, in pixels.
    """

    rows: Axis
    columns: Axis
    height: int
    width: int


def pixel_grid(
    cells: tuple[int, int],
    pixels: tuple[int, int],
    image_size: tuple[int, int],
    geometry: LayerGeometry,
    device: torch.device | None = None,
) -> PixelGrid:
    """The grid of label maps that show the same view as the image, at any resolution.

    Deviates from the released program of Bau et al., which takes the label pixel i of a map at
    half the size for the image pixel 2i: here it is the middle of the pixels 2i and 2i + 1.

    Args:
        cells: height and width of the maps.
        pixels: height and width of the label maps.
        image_size: height and width of the network's input.
        geometry: where the cells lie in the input.
        device: of the grid; None is the CPU.
    """
    axes = []
    for count, length, extent in zip(cells, pixels, image_size, strict=True):
        scale = length / extent
        offset = (geometry.offset + 0.5) * scale - 0.5
        axes.append(_axis(count, length, geometry.stride * scale, offset))
    rows, columns = (Axis(*(field.to(device) for field in axis)) for axis in axes)
    return PixelGrid(rows, columns, *pixels)


def _axis(cells: int, pixels: int, stride: float, offset: float) -> Axis:
    places = (torch.arange(pixels, dtype=torch.float64) - offset) / stride
    run_of = places.floor().clamp(-1, cells - 1)  # -1: before the first cell
    inside = places.clamp(0, cells - 1)
    runs, lengths = torch.unique_consecutive(run_of.long(), return_counts=True)
    first = lengths.cumsum(0) - lengths
    lower = runs.clamp(min=0)
    upper = torch.where(runs < 0, 0, (runs + 1).clamp(max=cells - 1))
    within = torch.arange(int(lengths.max()))
    places_of = (first[:, None] + within).clamp(max=pixels - 1)
    fractions = (inside[places_of] - lower[:, None]).float()
    fractions = fractions.masked_fill(within >= lengths[:, None], torch.nan)
    number_of = torch.full((cells + 1,), -1)
    number_of[runs + 1] = torch.arange(len(runs))
    return Axis(lower, upper, first, fractions, torch.stack([number_of[:-1], number_of[1:]], 1))


def active_pixels(maps: Tensor, levels: Tensor, grid: PixelGrid) -> Iterator[ActivePixels]:
    """All pixels in which a unit's upsampled map exceeds its level, in pieces.

    The arguments and errors of `active_rows`.
    """
    for images, units, first, values in active_rows(maps, levels, grid):
        row, column = (values > levels.float()[units, None]).nonzero().unbind(1)
        yield ActivePixels(images[row], units[row], first[row] + column, values[row, column])


def active_rows(maps: Tensor, levels: Tensor, grid: PixelGrid) -> Iterator[ActiveRows]:
    """Rows of pixels with all those in which a unit's upsampled map exceeds its level, in pieces.

    Reads sizes from the device, which waits for it.

    Args:
        maps: of any floating-point type, ``(N, K, h, w)``; finite.
        levels: of each unit, ``(K,)``.
        grid: of the label maps.

    Raises:
        ValueError: if `levels` does not fit the maps.
    """
    check_shape("levels", levels, (maps.shape[1],))
    levels = levels.float()
    windows = _windows(maps.float() > levels[:, None, None], grid)
    size = grid.rows.fractions.shape[1] * grid.columns.fractions.shape[1]
    for some in torch.split(windows, max(1, _CHUNK // size), 1):
        if some.shape[1]:
            yield _within_windows(maps, levels, grid, some)


def _windows(above: Tensor, grid: PixelGrid) -> Tensor:
    """Windows with a corner above the level, in order, ``(3, W)``: see `_within_windows`.

    Few cells are above: from these to the windows is shorter than over all windows.

    Args:
        above: whether cells exceed the level, bool ``(N, K, h, w)``.
        grid: of the pixels.
    """
    height, width = above.shape[2:]
    cell = above.flatten().nonzero()[:, 0]  # of one axis: several are slower than the divisions
    place, row, column = cell // (height * width), cell // width % height, cell % width
    row_run, column_run = grid.rows.runs_at[row][:, :, None], grid.columns.runs_at[column][:, None]
    rows, columns = len(grid.rows.first), len(grid.columns.first)
    keys = (place[:, None, None] * rows + row_run) * columns + column_run
    keys = torch.unique(keys[(row_run >= 0) & (column_run >= 0)])
    return torch.stack([keys // (rows * columns), keys // columns % rows, keys % columns])


def _within_windows(maps: Tensor, levels: Tensor, grid: PixelGrid, windows: Tensor) -> ActiveRows:
    """Interpolate windows ``(3, W)``: image and unit in one number, run of rows, run of columns.

    Edges first: the rows of a window in which neither edge exceeds the level hold no pixel.
    """
    rows, columns, units = grid.rows, grid.columns, maps.shape[1]
    place, row_run, column_run = windows
    unit = place % units
    left = _edge(maps, windows, columns.lower[column_run], rows)
    right = _edge(maps, windows, columns.upper[column_run], rows)
    inside = (left.maximum(right) > levels[unit, None]).flatten().nonzero()[:, 0]
    window, row = inside // left.shape[1], inside % left.shape[1]
    left = left.view(-1).index_select(0, inside)[:, None]
    right = right.view(-1).index_select(0, inside)[:, None]
    run = column_run[window]
    values = columns.fractions.index_select(0, run).mul_(right - left).add_(left)
    first = (rows.first[row_run[window]] + row) * grid.width + columns.first[run]
    return ActiveRows((place // units)[window], unit[window], first, values)


def _edge(maps: Tensor, windows: Tensor, cells: Tensor, rows: Axis) -> Tensor:
    """Values along the vertical edge of each window, ``(W, longest)``; NaN beyond its end."""
    place, run, _ = windows
    height, width = maps.shape[2:]
    flat, first = maps.reshape(-1), place * (height * width) + cells
    above, below = (
        flat.index_select(0, first + cell[run] * width).float()[:, None]
        for cell in (rows.lower, rows.upper)
    )
    return above + rows.fractions.index_select(0, run) * (below - above)
