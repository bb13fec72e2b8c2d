"""Top patches: what the images show where a unit fires most strongly.

The picture of a unit is a grid of the k patches with its highest responses, one from each image,
from the highest on. A patch is the square around the receptive field of the peak.

Reference: R. Girshick, J. Donahue, T. Darrell, J. Malik, "Rich Feature Hierarchies for Accurate
Object Detection and Semantic Segmentation", CVPR 2014; M. D. Zeiler, R. Fergus,
"Visualizing and Understanding Convolutional Networks", ECCV 2014.

Deviates from the papers in taking one patch per image at most, in moving patches that would stick
out of the image into it, and in `field_share`: late layers see the whole image, but respond to a
fraction of it (37 % of the side for the last pooling layer of AlexNet; Zhou et al., "Object
Detectors Emerge in Deep Scene CNNs", ICLR 2015, table 1).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor, nn

from interp_train.checks import check_range
from interp_train.data.photo_data import IMAGENET_MEAN, IMAGENET_STD
from interp_train.figures import unnormalised
from interp_train.layer_responses import responses_of_layer
from interp_train.structures import LayerGeometry, Target
from interp_train.visualization.unit_peaks import (
    UnitPeaks,
    field_side,
    grids,
    resized,
    squares,
    strongest_peaks,
)


def peak_patches(pixels: Tensor, peaks: UnitPeaks, side: int) -> Tensor:
    """The square around each peak; NaN where the unit does not answer.

    Args:
        pixels: the images, ``(N, channels, H, W)``.
        peaks: of U units.
        side: of the squares, in pixels.

    Returns:
        ``(U, k, channels, side, side)``.
    """
    found = squares(pixels[peaks.rows.flatten()], peaks.positions.flatten(0, 1), side)
    patches = found.view(*peaks.rows.shape, *found.shape[1:])
    return torch.where(peaks.active[..., None, None, None], patches, torch.nan)


@final
@dataclass(frozen=True)
class TopPatches:
    """Top patches as a unit visualizer.

    Attributes:
        num_patches: k, per unit; fewer if the sample has fewer images.
        field_share: side of a patch over that of the theoretical receptive field.
        patch_size: side of a drawn patch, in pixels.
        batch_size: images in one forward pass, at most.
        mean: per channel, that normalisation subtracts.
        std: per channel, that normalisation divides by.
    """

    num_patches: int = 9
    field_share: float = 1.0
    patch_size: int = 64
    batch_size: int = 32
    mean: Sequence[float] = IMAGENET_MEAN
    std: Sequence[float] = IMAGENET_STD

    def __post_init__(self) -> None:
        """Check the ranges."""
        check_range("num_patches", self.num_patches, 1)
        check_range("field_share", self.field_share, 0)
        check_range("patch_size", self.patch_size, 1)
        check_range("batch_size", self.batch_size, 1)

    def __call__(self, network: nn.Module, target: Target, images: Tensor) -> Tensor:
        """One grid of patches per unit, in [0, 1], ``(U, 3, height, width)``.

        White stands where a unit does not answer (a response of exactly 0).

        Args:
            network: puts out logits ``(N, C)``.
            target: the layer and its units, ``(U,)``.
            images: the sample to choose from, network input, ``(N, channels, H, W)``.

        Raises:
            ValueError: if the layer or a unit does not exist, or there are no images.
        """
        patches, _ = self.patches(network, target, images)
        units, number = patches.shape[:2]
        drawn = resized(patches.flatten(0, 1), self.patch_size)
        return grids(drawn.view(units, number, *drawn.shape[1:]))

    def patches(
        self, network: nn.Module, target: Target, images: Tensor
    ) -> tuple[Tensor, UnitPeaks]:
        """The patches in [0, 1], ``(U, k, 3, side, side)``, and the peaks they surround.

        Args:
            network: see `__call__`.
            target: see `__call__`.
            images: see `__call__`.

        Raises:
            ValueError: as `__call__`.
        """
        with responses_of_layer(network, target, images) as responses, torch.no_grad():
            maps = responses.of_units(self.batch_size)
            geometry: LayerGeometry = responses.geometry(maps)
            peaks = strongest_peaks(maps, self.num_patches, geometry)
            height, width = images.shape[-2:]
            side = field_side(geometry, self.field_share, (height, width))
            pixels = unnormalised(responses.images, self.mean, self.std)
            return peak_patches(pixels, peaks, side), peaks
