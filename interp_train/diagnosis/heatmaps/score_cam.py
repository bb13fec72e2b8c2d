"""Score-CAM: maps weighted by the score of the image seen through each of them, without gradients.

Each map, at image resolution and stretched to [0, 1], is laid over the image as a mask. The softmax
over the maps of the masked images' scores weights the maps; the positive part of the weighted sum
is the heatmap. It costs one forward pass per map of the layer.

Reference: H. Wang, Z. Wang, M. Du, F. Yang, Z. Zhang, S. Ding, P. Mardziel, X. Hu, "Score-CAM:
Score-Weighted Visual Explanations for Convolutional Neural Networks", CVPR Workshops 2020.

Deviates from the paper in the upsampling, as `interp_train.diagnosis.heatmaps.grad_cam` does, and
in what the paper leaves open: a constant map masks everything. The score of the blank image, which
the paper subtracts from all scores alike, is left out because the softmax cancels it.
"""

from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor, nn

from interp_train.checks import check_range, check_shape
from interp_train.diagnosis.heatmaps.layer_evidence import layer_maps
from interp_train.structures import Target
from interp_train.target_scores import scores_of_target


def stretched(maps: Tensor) -> Tensor:
    """Each map from 0 at its lowest to 1 at its highest value; 0 where it is constant.

    Args:
        maps: ``(N, K, H, W)``.
    """
    low, high = maps.amin((-2, -1), keepdim=True), maps.amax((-2, -1), keepdim=True)
    return (maps - low) / torch.where(high > low, high - low, 1)


def score_cam(activations: Tensor, scores: Tensor) -> Tensor:
    """Positive part of the maps' sum, weighted by the softmax of their scores.

    Args:
        activations: A, ``(N, K, h, w)``.
        scores: of the image seen through each map, ``(N, K)``.

    Returns:
        ``(N, 1, h, w)`` >= 0, in units of the activations.
    """
    check_shape("scores", scores, tuple(activations.shape[:2]))
    weights = scores.softmax(1)[..., None, None]
    return (weights * activations).sum(1, keepdim=True).relu()


@final
@dataclass(frozen=True)
class ScoreCam:
    """Score-CAM as a heatmap method.

    Attributes:
        layer: dotted name or tap alias of the maps; None takes the network's last tap ("last",
            else "top").
        batch_size: masked images in one forward pass, at most.
    """

    layer: str | None = None
    batch_size: int = 32

    shows = "activations, weighted by the category's score behind each map"

    def __post_init__(self) -> None:
        """Check the ranges."""
        check_range("batch_size", self.batch_size, 1)

    def __call__(self, network: nn.Module, images: Tensor, target: Target) -> Tensor:
        """Heatmap ``(N, 1, H, W)`` >= 0 in units of the activations, not rescaled per image.

        Args:
            network: puts out logits ``(N, C)``.
            images: network input, ``(N, channels, H, W)``.
            target: the unit of each image.

        Raises:
            ValueError: if a layer or unit does not exist, or the layer has no maps.
        """
        with scores_of_target(network, images, target) as scores:
            evidence = layer_maps(scores, self.layer)
            maps, values = evidence.activations, scores.images

            def masked(rows: slice, units: slice) -> Tensor:
                masks = stretched(evidence.at_image_resolution(maps[rows, units]))
                return values[rows, None] * masks.to(values.dtype)[:, :, None]

            found = scores.of_variants(masked, maps.shape[1], self.batch_size)
            return evidence.at_image_resolution(score_cam(maps, found))
