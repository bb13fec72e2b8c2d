"""Guided backpropagation: the gradient through ReLUs that only let positive gradients back.

A ReLU passes a gradient back where its input was positive, as always, and only if the gradient is
positive as well. The heatmap is the largest absolute value over the colour channels of a pixel.

Its maps are crisp but depend little on the weights of late layers: it comes close to showing the
edges of the image (Adebayo et al., "Sanity Checks for Saliency Maps", NeurIPS 2018). Judge it by
`interp_train.evaluation.weight_randomisation` before you believe it.

Reference: J. T. Springenberg, A. Dosovitskiy, T. Brox, M. Riedmiller, "Striving for Simplicity: The
All Convolutional Net", ICLR Workshop 2015.

Deviates from the paper in ReLU6 modules, which are guided as well.
"""

from dataclasses import dataclass
from typing import final

from torch import Tensor, nn

from interp_train.diagnosis.heatmaps.saliency import strongest_channel
from interp_train.relu_gradients import relu_rule
from interp_train.structures import Target
from interp_train.target_scores import TargetScores, scores_of_target


def guided_gradients(scores: TargetScores) -> Tensor:
    """Derivative of each score with respect to the image, by the rule of guided backpropagation.

    Args:
        scores: of the images.

    Returns:
        Signed, ``(N, channels, H, W)``.

    Raises:
        ValueError: if the network applies ReLUs as functions, or none at all.
    """
    with relu_rule(scores.network, "guided") as rule:
        gradients = scores.gradients()
    rule.check("guided backpropagation")
    return gradients


@final
@dataclass(frozen=True)
class GuidedBackprop:
    """Guided backpropagation as a heatmap method."""

    shows = "guided gradient of the category's score"

    def __call__(self, network: nn.Module, images: Tensor, target: Target) -> Tensor:
        """Heatmap ``(N, 1, H, W)`` >= 0.

        Args:
            network: puts out logits ``(N, C)``; its ReLUs are modules.
            images: network input, ``(N, channels, H, W)``.
            target: the unit of each image.

        Raises:
            ValueError: if a ReLU is not a module, the target does not exist, or it does not
                depend on the images.
        """
        with scores_of_target(network, images, target) as scores:
            return strongest_channel(guided_gradients(scores))
