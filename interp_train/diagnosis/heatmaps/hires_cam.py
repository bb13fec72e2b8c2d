"""HiResCAM: which cells of a layer speak for a unit, by the gradient in each of them.

The heatmap is the positive part of the sum over maps of activation times gradient, cell by cell.
Unlike Grad-CAM it does not average the gradients, so it shows exactly the cells that a linear head
sums up; behind global average pooling the two are equal.

Reference: R. L. Draelos, L. Carin, "Use HiResCAM instead of Grad-CAM for faithful explanations of
convolutional neural networks", arXiv:2011.08891, 2020.

Deviates from the paper in the upsampling, as `interp_train.diagnosis.heatmaps.grad_cam` does.
"""

from dataclasses import dataclass
from typing import final

from torch import Tensor, nn

from interp_train.checks import check_shape
from interp_train.diagnosis.heatmaps.layer_evidence import combined_maps
from interp_train.structures import Target


def hires_cam(activations: Tensor, gradients: Tensor) -> Tensor:
    """Positive part of the sum over maps of activation times gradient.

    Args:
        activations: A, ``(N, K, h, w)``.
        gradients: derivative of each image's score with respect to A, same shape.

    Returns:
        ``(N, 1, h, w)`` >= 0, in units of the score.
    """
    check_shape("gradients", gradients, tuple(activations.shape))
    return (gradients * activations).sum(1, keepdim=True).relu()


@final
@dataclass(frozen=True)
class HiResCam:
    """HiResCAM as a heatmap method.

    Attributes:
        layer: dotted name or tap alias of the maps to weight; None takes the network's last
            tap ("last", else "top").
    """

    layer: str | None = None

    shows = "evidence for the category, in logits"

    def __call__(self, network: nn.Module, images: Tensor, target: Target) -> Tensor:
        """Heatmap ``(N, 1, H, W)`` >= 0 in units of the score, not rescaled per image.

        Args:
            network: puts out logits ``(N, C)``.
            images: network input, ``(N, channels, H, W)``.
            target: the unit of each image.

        Raises:
            ValueError: if a layer or unit does not exist, or the score does not depend on
                the layer.
        """
        return combined_maps(network, images, self.layer, target, hires_cam)
