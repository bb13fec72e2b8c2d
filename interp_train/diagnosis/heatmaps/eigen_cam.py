"""Eigen-CAM: what a layer's maps have in common, whatever the unit.

The heatmap is the projection of the activations of each cell on their first right singular vector.
It does not look at the score: it shows what the layer answers to, not what speaks for a unit.

Reference: M. B. Muhammad, M. Yeasin, "Eigen-CAM: Class Activation Map using Principal Components",
IJCNN 2020.

Deviates from the paper in the sign, which a singular vector leaves open: the projections have a
positive sum, and their negative part is cut off; and in the upsampling, as
`interp_train.diagnosis.heatmaps.grad_cam` does. Activations are not centred, as in the paper.
"""

from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor, nn

from interp_train.checks import check_shape
from interp_train.diagnosis.heatmaps.layer_evidence import layer_maps
from interp_train.structures import Target
from interp_train.target_scores import scores_of_target

_SQUARINGS = 24  # as many as 2^24 steps of the power method


def first_singular_vector(rows: Tensor) -> Tensor:
    """First right singular vector of each matrix.

    By squaring the Gram matrix again and again: unlike a decomposition, this does not make the
    device wait.

    Args:
        rows: ``(N, R, K)``.

    Returns:
        Of length 1, ``(N, K)``, of either sign; 0 where the matrix is 0.
    """
    largest = rows.abs().amax((-2, -1), keepdim=True)
    scaled = rows / torch.where(largest > 0, largest, 1)
    power = scaled.transpose(-2, -1) @ scaled
    for _ in range(_SQUARINGS):
        trace = power.diagonal(dim1=-2, dim2=-1).sum(-1)[:, None, None]
        power = power / torch.where(trace > 0, trace, 1)
        power = power @ power
    # All columns are multiples of the vector; the one of its largest entry is the most precise.
    best = power.diagonal(dim1=-2, dim2=-1).argmax(-1)
    column = power.gather(-1, best[:, None, None].expand(-1, power.shape[1], 1))[..., 0]
    return torch.nn.functional.normalize(column, dim=-1, eps=1e-30)


def eigen_cam(activations: Tensor) -> Tensor:
    """Positive part of each cell's projection on the first right singular vector.

    Args:
        activations: A, ``(N, K, h, w)``.

    Returns:
        ``(N, 1, h, w)`` >= 0, in units of the activations.
    """
    check_shape("activations", activations, ("N", "K", "h", "w"))
    cells = activations.flatten(2).transpose(1, 2)
    projections = (cells @ first_singular_vector(cells)[..., None])[..., 0]
    total = projections.sum(1, keepdim=True)
    signed = torch.where(total < 0, -projections, projections)
    return signed.relu().view(len(activations), 1, *activations.shape[-2:])


@final
@dataclass(frozen=True)
class EigenCam:
    """Eigen-CAM as a heatmap method.

    Attributes:
        layer: dotted name or tap alias of the maps; None takes the network's last tap ("last",
            else "top").
    """

    layer: str | None = None

    shows = "what the layer answers to, in activations; the same for every category"

    def __call__(self, network: nn.Module, images: Tensor, target: Target) -> Tensor:
        """Heatmap ``(N, 1, H, W)`` >= 0 in units of the activations, not rescaled per image.

        Args:
            network: puts out logits ``(N, C)``.
            images: network input, ``(N, channels, H, W)``.
            target: the unit of each image; it must exist, but changes nothing.

        Raises:
            ValueError: if a layer or unit does not exist.
        """
        with scores_of_target(network, images, target) as scores:
            evidence = layer_maps(scores, self.layer)
            return evidence.at_image_resolution(eigen_cam(evidence.activations))
