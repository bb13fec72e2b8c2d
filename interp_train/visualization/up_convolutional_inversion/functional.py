"""Sizes of an up-convolutional decoder, and how far a reconstruction is from its image."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from interp_train.checks import check_range, check_shape
from interp_train.figures import image_grid


def doublings(map_size: tuple[int, int], image_size: tuple[int, int]) -> int:
    """How often a map must double until it covers the image; 0 if it does already.

    Args:
        map_size: height and width, in cells.
        image_size: height and width, in pixels.
    """
    check_range("map_size", min(map_size), 1)
    ratio = max(pixels / cells for pixels, cells in zip(image_size, map_size, strict=True))
    return max(0, math.ceil(math.log2(ratio)))


def decoder_widths(channels: int, count: int, *, widest: int, narrowest: int) -> list[int]:
    """Units before each of `count` doublings and after the last: halved each time.

    Args:
        channels: of the map that is decoded.
        count: of doublings.
        widest: upper bound of the first.
        narrowest: lower bound of all.
    """
    first = max(narrowest, min(channels, widest))
    return [max(narrowest, first // 2**step) for step in range(count + 1)]


def squared_errors(reconstructions: Tensor, images: Tensor) -> Tensor:
    """Mean squared difference of the pixels of each image, ``(N,)``.

    Args:
        reconstructions: ``(N, channels, H, W)``.
        images: same shape.
    """
    check_shape("reconstructions", reconstructions, tuple(images.shape))
    return (reconstructions - images).float().square().flatten(1).mean(1)


def side_by_side(images: Tensor, reconstructions: Sequence[Tensor]) -> Tensor:
    """One row per image: the image, then what each layer gives back.

    Args:
        images: in [0, 1], ``(N, 3, H, W)``.
        reconstructions: one of the same shape per layer.

    Returns:
        ``(3, height, width)``.
    """
    for found in reconstructions:
        check_shape("reconstructions", found, tuple(images.shape))
    columns = torch.stack([images, *reconstructions], 1)
    return image_grid(columns.flatten(0, 1), columns.shape[1])
