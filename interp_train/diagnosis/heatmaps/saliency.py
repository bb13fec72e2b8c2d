"""Saliency: how much a small change of each pixel would change the score.

The heatmap is the largest absolute derivative of the score over the colour channels of a pixel.

Reference: K. Simonyan, A. Vedaldi, A. Zisserman, "Deep Inside Convolutional Networks: Visualising
Image Classification Models and Saliency Maps", ICLR Workshop 2014.

No deviations. The derivative of a maximum that several positions share is split evenly.
"""

from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor, nn

from interp_train.checks import check_shape
from interp_train.structures import Target
from interp_train.target_scores import scores_of_target


def strongest_channel(attributions: Tensor) -> Tensor:
    """Largest absolute value over the channels, float32.

    Args:
        attributions: signed, ``(N, channels, H, W)``.

    Returns:
        ``(N, 1, H, W)`` >= 0.
    """
    check_shape("attributions", attributions, ("N", "channels", "H", "W"))
    return attributions.abs().amax(1, keepdim=True).to(torch.float32)


@final
@dataclass(frozen=True)
class Saliency:
    """Saliency as a heatmap method."""

    shows = "effect on the score of the category, in logits per unit of the input"

    def __call__(self, network: nn.Module, images: Tensor, target: Target) -> Tensor:
        """Heatmap ``(N, 1, H, W)`` >= 0 in units of the score per unit of the network's input.

        Args:
            network: puts out logits ``(N, C)``.
            images: network input, ``(N, channels, H, W)``.
            target: the unit of each image.

        Raises:
            ValueError: if the target does not exist, or does not depend on the images.
        """
        with scores_of_target(network, images, target) as scores:
            return strongest_channel(scores.gradients())
