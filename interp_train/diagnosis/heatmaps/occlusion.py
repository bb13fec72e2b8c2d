"""Occlusion: how far the score falls when a patch of the image is covered.

A patch slides over the image. The attribution of a pixel is the mean fall of the score over the
patches that cover it; its positive part is the heatmap.

Reference: M. D. Zeiler, R. Fergus, "Visualizing and Understanding Convolutional Networks", ECCV
2014.

Deviates from the paper in what is shown: the mean fall per pixel instead of the score per position
of the patch, so that strides above one pixel give heatmaps of the image's size. The patch is a
constant of the network's input; 0 is the data's mean colour where images are normalised, the paper
takes grey. The last patches may hang over the right and lower edges.
"""

from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor, nn

from interp_train.checks import check_range, check_shape
from interp_train.structures import Target
from interp_train.target_scores import scores_of_target


def covered(pixels: int, patch_size: int, stride: int) -> Tensor:
    """Which pixels of one axis each position of the patch covers.

    The last position is the first whose patch reaches the last pixel.

    Args:
        pixels: length of the axis.
        patch_size: in pixels.
        stride: between positions, in pixels.

    Returns:
        Bool ``(positions, pixels)``.

    Raises:
        ValueError: if the patch is longer than the axis, or leaves gaps.
    """
    check_range("patch_size", patch_size, 1, pixels)
    check_range("stride", stride, 1, patch_size)
    starts = torch.arange(0, pixels - patch_size + stride, stride)[:, None]
    pixel = torch.arange(pixels)
    return (pixel >= starts) & (pixel < starts + patch_size)


def mean_falls(falls: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Mean fall of the score over the patches that cover a pixel.

    Args:
        falls: per position of the patch, ``(N, R, C)``.
        rows: pixels that a row of positions covers, bool ``(R, H)``.
        columns: pixels that a column of positions covers, bool ``(C, W)``.

    Returns:
        Signed, ``(N, 1, H, W)``.
    """
    check_shape("falls", falls, ("N", len(rows), len(columns)))
    high, wide = rows.to(falls.dtype), columns.to(falls.dtype)
    counts = high.sum(0)[:, None] * wide.sum(0)
    return ((high.T @ falls @ wide) / counts)[:, None]


@final
@dataclass(frozen=True)
class Occlusion:
    """Occlusion as a heatmap method.

    Attributes:
        patch_size: side of the patch, in pixels.
        stride: between its positions, in pixels; at most `patch_size`.
        fill: value of the patch, in units of the network's input.
        batch_size: covered images in one forward pass, at most.
    """

    patch_size: int = 16
    stride: int = 8
    fill: float = 0.0
    batch_size: int = 32

    shows = "fall of the category's score when covered, in logits"

    def __post_init__(self) -> None:
        """Check the ranges."""
        check_range("patch_size", self.patch_size, 1)
        check_range("stride", self.stride, 1, self.patch_size)
        check_range("batch_size", self.batch_size, 1)

    def __call__(self, network: nn.Module, images: Tensor, target: Target) -> Tensor:
        """Heatmap ``(N, 1, H, W)`` >= 0 in units of the score, not rescaled per image.

        Args:
            network: puts out logits ``(N, C)``.
            images: network input, ``(N, channels, H, W)``.
            target: the unit of each image.

        Raises:
            ValueError: if the target does not exist, or the patch is larger than the images.
        """
        return self.attributions(network, images, target).relu().to(torch.float32)

    def attributions(self, network: nn.Module, images: Tensor, target: Target) -> Tensor:
        """Signed mean falls of the score, ``(N, 1, H, W)``.

        Args:
            network: see `__call__`.
            images: see `__call__`.
            target: see `__call__`.

        Raises:
            ValueError: as `__call__`.
        """
        check_shape("images", images, ("N", "channels", "H", "W"))
        rows, columns = (
            covered(pixels, self.patch_size, self.stride).to(images.device)
            for pixels in images.shape[-2:]
        )
        with scores_of_target(network, images, target) as scores, torch.no_grad():
            values = scores.images
            patches = (rows[:, None, :, None] & columns[None, :, None, :]).flatten(0, 1)[:, None]

            def occluded(chosen: slice, positions: slice) -> Tensor:
                return torch.where(patches[positions], self.fill, values[chosen, None])

            found = scores.of_variants(occluded, len(patches), self.batch_size)
            falls = (scores()[:, None] - found).view(-1, len(rows), len(columns))
            return mean_falls(falls, rows, columns)
