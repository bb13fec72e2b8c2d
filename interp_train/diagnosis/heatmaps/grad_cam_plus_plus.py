"""Grad-CAM++: Grad-CAM with weights that see several and small objects.

Each map is weighted by the sum of its positive gradients, each times a share alpha that makes a
location count by how much it contributes; the positive part of the weighted sum is the heatmap.

Reference: A. Chattopadhay, A. Sarkar, P. Howlader, V. N. Balasubramanian, "Grad-CAM++: Generalized
Gradient-based Visual Explanations for Deep Convolutional Networks", WACV 2018.

Deviates from the paper in the upsampling, as `interp_train.diagnosis.heatmaps.grad_cam` does,
and in a factor per image: the paper differentiates exp(S) of the score S, which multiplies a
heatmap by exp(S); it is left out, so that heatmaps of different images can be compared.
"""

from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor, nn

from interp_train.checks import check_shape
from interp_train.diagnosis.heatmaps.layer_evidence import combined_maps
from interp_train.structures import Target


def grad_cam_plus_plus(activations: Tensor, gradients: Tensor) -> Tensor:
    """Positive part of the maps' sum, each weighted by its positive gradients times alpha.

    Args:
        activations: A, ``(N, K, h, w)``.
        gradients: derivative of each image's score with respect to A, same shape.

    Returns:
        ``(N, 1, h, w)`` >= 0, in units of the score times cells.
    """
    check_shape("gradients", gradients, tuple(activations.shape))
    # alpha = g^2 / (2 g^2 + (sum A) g^3) is 1 / (2 + (sum A) g) where g is not 0: the
    # squares and cubes of small gradients would be rounded to 0.
    denominator = 2 + activations.sum((-2, -1), keepdim=True) * gradients
    alpha = torch.where(denominator == 0, 0, 1 / denominator)
    weights = (alpha * gradients.relu()).sum((-2, -1), keepdim=True)
    return (weights * activations).sum(1, keepdim=True).relu()


@final
@dataclass(frozen=True)
class GradCamPlusPlus:
    """Grad-CAM++ as a heatmap method.

    Attributes:
        layer: dotted name or tap alias of the maps to weight; None takes the network's last
            tap ("last", else "top").
    """

    layer: str | None = None

    shows = "evidence for the category, in logits times cells"

    def __call__(self, network: nn.Module, images: Tensor, target: Target) -> Tensor:
        """Heatmap ``(N, 1, H, W)`` >= 0 in units of the score times cells, not rescaled per image.

        Args:
            network: puts out logits ``(N, C)``.
            images: network input, ``(N, channels, H, W)``.
            target: the unit of each image.

        Raises:
            ValueError: if a layer or unit does not exist, or the score does not depend on
                the layer.
        """
        return combined_maps(network, images, self.layer, target, grad_cam_plus_plus)
