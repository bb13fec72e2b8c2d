"""Where the maps that a head takes change from cell to cell.

Even surfaces of an object look alike wherever they are; eyes, beaks and feet do not.
"""

import torch
from torch import Tensor, nn

_ENOUGH = 1.5  # times the object's mean contrast, from which on a cell is distinct
_TINY = 1e-12


@torch.no_grad()
def around(maps: Tensor) -> Tensor:
    """Mean of the 3x3 cells around each cell of ``(N, units, h, w)`` that lie on the map.

    By shifted sums: the kernel of a pooling without its border takes ten times as long on a CPU.
    """
    counts = maps.new_ones(())
    for axis in (2, 3):
        size = maps.shape[axis]
        sums, number = maps.clone(), maps.new_full((size,), 3.0)
        sums.narrow(axis, 1, size - 1).add_(maps.narrow(axis, 0, size - 1))
        sums.narrow(axis, 0, size - 1).add_(maps.narrow(axis, 1, size - 1))
        number[0] -= 1
        number[-1] -= 1
        maps, counts = sums, counts * (number[:, None] if axis == 2 else number)
    return maps.div_(counts)


@torch.no_grad()
def local_contrast(maps: Tensor, means: Tensor) -> Tensor:
    """Mean over units of the squared difference from the mean of 3x3 cells, ``(N, h, w)``.

    Args:
        maps: ``(N, units, h, w)``.
        means: from `around`.
    """
    return (maps - means).square_().mean(1)


def at_cells(contrast: Tensor, size: tuple[int, int]) -> Tensor:
    """Contrast ``(N, ., .)`` at cells of another map of `size`, ``(N, h * w)``."""
    if contrast.shape[1:] != size:
        contrast = nn.functional.interpolate(contrast[:, None], size, mode="bilinear")[:, 0]
    return contrast.flatten(1)


def distinct_cells(attention: Tensor, contrast: Tensor) -> Tensor:
    """Attention to cells by how much they stand out of their object, in [0, 1].

    Cells with one and a half times the object's mean contrast have all their attention.

    Args:
        attention: to the image's object, ``(N, h * w)``.
        contrast: from `local_contrast`, ``(N, h * w)``.
    """
    mean = (attention * contrast).sum(1) / attention.sum(1).clamp(min=_TINY)
    return attention * (contrast / (_ENOUGH * mean.clamp(min=_TINY))[:, None]).clamp(max=1)
