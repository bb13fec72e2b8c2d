"""Guided backpropagation from a unit: which pixels raised its strongest peaks.

The gradient of a unit's peak with respect to the image, through ReLUs that let only positive
gradients back. The heatmap of the same name answers for a category in given images; this picture
answers for a unit in the images of a sample that excite it most.

What `deconvnet` beside this file warns of holds here as well.

Reference: J. T. Springenberg, A. Dosovitskiy, T. Brox, M. Riedmiller, "Striving for Simplicity: The
All Convolutional Net", ICLR Workshop 2015.

Deviates from the paper in ReLU6 modules, which are guided as well, and in one peak per image at
most.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

from torch import Tensor, nn

from interp_train.checks import check_range
from interp_train.data.photo_data import IMAGENET_STD
from interp_train.structures import Target
from interp_train.visualization.backprojection import (
    Backprojections,
    backprojected_grids,
    backprojections,
)


@final
@dataclass(frozen=True)
class GuidedBackprop:
    """Guided backpropagation as a unit visualizer.

    Attributes:
        num_patches: peaks per unit, each from another image.
        field_share: side of a patch over that of the theoretical receptive field.
        patch_size: side of a drawn patch, in pixels.
        batch_size: images in one pass, at most.
        std: per channel, that normalisation divides by.
    """

    num_patches: int = 9
    field_share: float = 1.0
    patch_size: int = 64
    batch_size: int = 32
    std: Sequence[float] = IMAGENET_STD

    def __post_init__(self) -> None:
        """Check the ranges."""
        check_range("num_patches", self.num_patches, 1)
        check_range("field_share", self.field_share, 0)
        check_range("patch_size", self.patch_size, 1)
        check_range("batch_size", self.batch_size, 1)

    def __call__(self, network: nn.Module, target: Target, images: Tensor) -> Tensor:
        """One grid per unit, beside the same peaks of `TopPatches`, in [0, 1], ``(U, 3, h, w)``.

        Grey stands for 0; each patch has its own scale.

        Args:
            network: puts out logits ``(N, C)``; its ReLUs are modules.
            target: the layer and its units, ``(U,)``.
            images: the sample to choose from, network input, ``(N, channels, H, W)``.

        Raises:
            ValueError: if a ReLU is no module, the layer or a unit does not exist, or there are
                no images.
        """
        found = self.backprojections(network, target, images)
        return backprojected_grids(found, patch_size=self.patch_size, std=self.std)

    def backprojections(
        self, network: nn.Module, target: Target, images: Tensor
    ) -> Backprojections:
        """The signed pictures at image resolution, and the peaks they start from.

        Args:
            network: see `__call__`.
            target: see `__call__`.
            images: see `__call__`.

        Raises:
            ValueError: as `__call__`.
        """
        return backprojections(
            network,
            target,
            images,
            rule="guided",
            name="guided backpropagation",
            num_patches=self.num_patches,
            field_share=self.field_share,
            batch_size=self.batch_size,
        )
