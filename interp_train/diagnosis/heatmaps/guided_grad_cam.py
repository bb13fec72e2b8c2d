"""Guided Grad-CAM: the fine lines of guided backpropagation where Grad-CAM sees evidence.

The heatmap is the product of Grad-CAM at image resolution and guided backpropagation, the largest
absolute value over the colour channels of a pixel.

Reference: R. R. Selvaraju, M. Cogswell, A. Das, R. Vedantam, D. Parikh, D. Batra, "Grad-CAM: Visual
Explanations from Deep Networks via Gradient-based Localization", ICCV 2017.

Deviates from the paper as `interp_train.diagnosis.heatmaps.grad_cam` does. What
`interp_train.diagnosis.heatmaps.guided_backprop` warns of holds here as well.
"""

from dataclasses import dataclass
from typing import final

from torch import Tensor, nn

from interp_train.diagnosis.heatmaps.grad_cam import GradCam
from interp_train.diagnosis.heatmaps.guided_backprop import GuidedBackprop
from interp_train.structures import Target


@final
@dataclass(frozen=True)
class GuidedGradCam:
    """Guided Grad-CAM as a heatmap method.

    Attributes:
        layer: of Grad-CAM: dotted name or tap alias; None takes the network's last tap.
    """

    layer: str | None = None

    shows = "Grad-CAM times guided gradient of the category's score"

    def __call__(self, network: nn.Module, images: Tensor, target: Target) -> Tensor:
        """Heatmap ``(N, 1, H, W)`` >= 0.

        Args:
            network: puts out logits ``(N, C)``; its ReLUs are modules.
            images: network input, ``(N, channels, H, W)``.
            target: the unit of each image.

        Raises:
            ValueError: as `GradCam` and `GuidedBackprop`.
        """
        # Grad-CAM is >= 0 and the same for all channels: the largest channel may be taken before.
        fine = GuidedBackprop()(network, images, target)
        return fine * GradCam(self.layer)(network, images, target)
