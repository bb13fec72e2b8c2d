"""From the cells of a feature map to the pixels of the image.

A cell's value belongs at the centre of its receptive field, as in Bau et al., "Network Dissection",
CVPR 2017. Resizing a map to the image instead shifts it: by 15.5 pixels in the last block of a
ResNet at 224 pixels.
"""

import torch
from torch import Tensor
from torch.nn import functional

from interp_train.checks import check_shape
from interp_train.structures import LayerGeometry


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
    places = []
    for pixels, cells in zip(size, maps.shape[-2:], strict=True):
        pixel = torch.arange(pixels, device=maps.device, dtype=maps.dtype)
        cell = (pixel - geometry.offset) / geometry.stride
        places.append(2 * cell / max(cells - 1, 1) - 1)  # the convention of `grid_sample`
    rows, columns = torch.meshgrid(*places, indexing="ij")
    grid = torch.stack([columns, rows], -1).expand(len(maps), -1, -1, -1)
    return functional.grid_sample(maps, grid, padding_mode="border", align_corners=True)
