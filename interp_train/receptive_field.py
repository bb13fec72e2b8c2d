"""From the cells of a feature map to the pixels of the image, and back.

A cell's value belongs at the centre of its receptive field, as in Bau et al., "Network Dissection",
CVPR 2017. Resizing a map to the image instead shifts it: by 15.5 pixels in the last block of a
ResNet at 224 pixels.

Where the cells lie is found in `interp_train.layer_geometry`. Receptive fields are taken as round
disks where Zhang, Wu & Zhu, "Interpretable Convolutional Neural Networks", CVPR 2018, sec. 5.1,
do so for part interpretability.
"""

import torch
from torch import Tensor
from torch.nn import functional

from interp_train.checks import check_range, check_shape
from interp_train.structures import LayerGeometry

_CHUNK = 2**24  # pixels of disks worked on at a time, about 64 MB in float32


def cell_centres(geometry: LayerGeometry, cells: int) -> Tensor:
    """Pixel coordinate of the centre of each cell along one axis, ``(cells,)``."""
    return geometry.offset + geometry.stride * torch.arange(cells, dtype=torch.float32)


def cells_to_pixels(cells: Tensor, geometry: LayerGeometry) -> Tensor:
    """Image positions of cells.

    Args:
        cells: column and row, 0-based, ``(..., 2)``; fractions (a centroid) are allowed.
        geometry: where the cells lie.

    Returns:
        ``(x, y)`` in pixels, float ``(..., 2)``.
    """
    positions = cells if cells.is_floating_point() else cells.float()
    return geometry.offset + geometry.stride * positions


def nearest_cells(positions: Tensor, geometry: LayerGeometry, grid: tuple[int, int]) -> Tensor:
    """The cells whose centres are nearest to image positions; the inverse of `cells_to_pixels`.

    Half-way positions go to the cell of higher index.

    Args:
        positions: ``(x, y)`` in pixels, ``(..., 2)``; NaN where missing.
        geometry: where the cells lie.
        grid: height and width of the map.

    Returns:
        Column and row inside the map, long ``(..., 2)``; -1 where the position is missing.
    """
    limits = torch.tensor([grid[1] - 1, grid[0] - 1], device=positions.device)
    cells = ((positions - geometry.offset) / geometry.stride + 0.5).floor()
    missing = positions.isnan().any(-1, keepdim=True)
    cells = cells.nan_to_num(0).clamp(min=0)
    return torch.where(missing, -1, cells.minimum(limits.to(cells.dtype)).long())


def receptive_field_boxes(positions: Tensor, geometry: LayerGeometry) -> Tensor:
    """Square receptive fields around cell centres, not clipped to the image.

    Args:
        positions: centres ``(x, y)`` in pixels, ``(..., 2)``.
        geometry: where the cells lie.

    Returns:
        First and last pixel seen, ``(x_min, y_min, x_max, y_max)``, ``(..., 4)``.
    """
    reach = (geometry.size - 1) / 2
    return torch.cat([positions - reach, positions + reach], dim=-1)


def upsampled(maps: Tensor, size: tuple[int, int], geometry: LayerGeometry) -> Tensor:
    """Maps at image resolution, bilinear between the centres of the receptive fields.

    Pixels outside the outermost centres take the value of the nearest cell.

    Args:
        maps: ``(N, K, h, w)``.
        size: height and width of the image, in pixels.
        geometry: where the cells lie.

    Returns:
        ``(N, K, *size)``, in the dtype of `maps`.
    """
    check_shape("maps", maps, ("N", "K", "h", "w"))
    exact = maps if maps.dtype == torch.float64 else maps.float()  # half numbers of pixels blur
    places = []
    for pixels, cells in zip(size, maps.shape[-2:], strict=True):
        pixel = torch.arange(pixels, device=exact.device, dtype=exact.dtype)
        cell = (pixel - geometry.offset) / geometry.stride
        places.append(2 * cell / max(cells - 1, 1) - 1)  # the convention of `grid_sample`
    rows, columns = torch.meshgrid(*places, indexing="ij")
    grid = torch.stack([columns, rows], -1).expand(len(maps), -1, -1, -1)
    with torch.autocast(maps.device.type, enabled=False):
        sampled = functional.grid_sample(exact, grid, padding_mode="border", align_corners=True)
    return sampled.to(maps.dtype)


def upsampled_masks(masks: Tensor, size: tuple[int, int], geometry: LayerGeometry) -> Tensor:
    """Masks at image resolution: each pixel belongs to the cell with the nearest centre.

    Args:
        masks: of any dtype, ``(N, K, h, w)``.
        size: height and width of the image, in pixels.
        geometry: where the cells lie.

    Returns:
        ``(N, K, *size)``, in the dtype of `masks`.
    """
    check_shape("masks", masks, ("N", "K", "h", "w"))
    rows, columns = (
        _nearest_along(pixels, cells, geometry).to(masks.device)
        for pixels, cells in zip(size, masks.shape[-2:], strict=True)
    )
    return masks[..., rows[:, None], columns]


def round_receptive_fields(
    masks: Tensor,
    size: tuple[int, int],
    geometry: LayerGeometry,
    radius: float | None = None,
) -> Tensor:
    """Union of disks around the centres of the marked cells.

    Args:
        masks: marked cells, bool ``(N, K, h, w)``.
        size: height and width of the image, in pixels.
        geometry: where the cells lie.
        radius: of a disk, in pixels, its edge included; None is half the receptive field.

    Returns:
        Bool ``(N, K, *size)``; all False where no cell is marked.

    Raises:
        ValueError: if `masks` has another shape or the radius is negative.
    """
    check_shape("masks", masks, ("N", "K", "h", "w"))
    radius = geometry.size / 2 if radius is None else radius
    check_range("radius", radius, low=0)
    flat = masks.flatten(0, 1).flatten(1)
    covered = torch.zeros(len(flat), size[0] * size[1], dtype=torch.bool, device=masks.device)
    disks = _disks(masks.shape[-2:], size, geometry, radius).to(masks.device)
    active = flat.any(1).nonzero().flatten()
    for chunk in torch.split(active, max(1, _CHUNK // (size[0] * size[1]))):
        covered[chunk] = flat[chunk].float() @ disks > 0
    return covered.view(*masks.shape[:2], *size)


def _disks(
    grid: torch.Size, size: tuple[int, int], geometry: LayerGeometry, radius: float
) -> Tensor:
    """1 inside the disk of each cell, ``(h * w, H * W)``."""
    vertical, horizontal = (
        (torch.arange(pixels) - cell_centres(geometry, cells)[:, None]) ** 2
        for pixels, cells in zip(size, grid, strict=True)
    )
    distance = vertical[:, None, :, None] + horizontal[None, :, None, :]
    return (distance <= radius**2).flatten(0, 1).flatten(1).float()


def _nearest_along(pixels: int, cells: int, geometry: LayerGeometry) -> Tensor:
    cell = (torch.arange(pixels) - geometry.offset) / geometry.stride
    return (cell + 0.5).floor().clamp(0, cells - 1).long()
