"""LayerCAM: which cells of any layer, also an early one, speak for a unit.

Each activation is weighted by the positive part of its own gradient; the heatmap is the positive
part of the sum over maps. Early layers give fine maps, where Grad-CAM's mean gradients are noise.

Reference: P.-T. Jiang, C.-B. Zhang, Q. Hou, M.-M. Cheng, Y. Wei, "LayerCAM: Exploring Hierarchical
Class Activation Maps for Localization", IEEE Transactions on Image Processing 30, 2021.

Deviates from the paper in the upsampling, as `interp_train.diagnosis.heatmaps.grad_cam` does;
maps of several layers are not rescaled and fused, because one layer is asked.
"""

from dataclasses import dataclass
from typing import final

from torch import Tensor, nn

from interp_train.checks import check_shape
from interp_train.diagnosis.heatmaps.layer_evidence import combined_maps
from interp_train.structures import Target


def layer_cam(activations: Tensor, gradients: Tensor) -> Tensor:
    """Positive part of the sum over maps of activation times positive gradient.

    Args:
        activations: A, ``(N, K, h, w)``.
        gradients: derivative of each image's score with respect to A, same shape.

    Returns:
        ``(N, 1, h, w)`` >= 0, in units of the score.
    """
    check_shape("gradients", gradients, tuple(activations.shape))
    return (gradients.relu() * activations).sum(1, keepdim=True).relu()


@final
@dataclass(frozen=True)
class LayerCam:
    """LayerCAM as a heatmap method.

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
        return combined_maps(network, images, self.layer, target, layer_cam)
