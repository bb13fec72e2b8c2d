"""Grad-CAM: which places of a layer's maps speak for a unit.

Each map of the layer is weighted by the mean gradient of the unit's score with respect to it; the
positive part of the weighted sum is the heatmap.

Reference: R. R. Selvaraju, M. Cogswell, A. Das, R. Vedantam, D. Parikh, D. Batra, "Grad-CAM: Visual
Explanations from Deep Networks via Gradient-based Localization", ICCV 2017.

Deviates from the paper in the upsampling: values are anchored at the centres of the receptive
fields, because resizing the map shifts it by up to half a cell.
"""

from dataclasses import dataclass
from typing import final

from torch import Tensor, nn

from interp_train.checks import check_shape
from interp_train.diagnosis.heatmaps.layer_evidence import combined_maps
from interp_train.structures import Target


def grad_cam(activations: Tensor, gradients: Tensor) -> Tensor:
    """Positive part of the maps' sum, weighted by their mean gradients.

    Args:
        activations: A, ``(N, K, h, w)``.
        gradients: derivative of each image's score with respect to A, same shape.

    Returns:
        ``(N, 1, h, w)`` >= 0, in units of the score.
    """
    check_shape("gradients", gradients, tuple(activations.shape))
    weights = gradients.mean((-2, -1), keepdim=True)
    return (weights * activations).sum(1, keepdim=True).relu()


@final
@dataclass(frozen=True)
class GradCam:
    """Grad-CAM as a heatmap method.

    Attributes:
        layer: dotted name or tap alias of the maps to weight; None takes the network's last
            tap ("last", else "top").
    """

    layer: str | None = None

    shows = "evidence for the category, in logits"

    def __call__(self, network: nn.Module, images: Tensor, target: Target) -> Tensor:
        """Heatmap ``(N, 1, H, W)`` >= 0 in units of the score, not rescaled per image.

        The score is the unit's logit, or its highest activation if the target is a layer with
        maps. The forward pass runs in evaluation mode.

        Args:
            network: puts out logits ``(N, C)``.
            images: network input, ``(N, channels, H, W)``.
            target: the unit of each image.

        Raises:
            ValueError: if a layer or unit does not exist, or the score does not depend on
                the layer.
        """
        return combined_maps(network, images, self.layer, target, grad_cam)
