"""The gate matrix of Liang et al. 2020 and what is made of it, as functions of tensors.

See `interp_train.learning.filter_objectives.class_gates.module` for the paper. Symbols: N images,
K filters, C categories; a matrix has one column per category and, where the background is a class
of its own, one more at the end.
"""

import torch
from torch import Tensor

_TINY = 1e-6  # a row whose largest entry is below has lost its scale


def normalised_gates(gates: Tensor) -> Tensor:
    """The matrix with entries in [0, 1] whose largest in each row is 1.

    Each row is divided by its largest entry and cut to [0, 1]. Without the division, the penalty
    on the density would lower all gates together, down to 0, as the weights behind them can grow.
    A row that has fallen to 0 or below keeps the gate of its largest entry (the first of equals)
    alone: to divide by it would turn its order around.

    Args:
        gates: ``(K, columns)``.
    """
    largest, place = gates.max(1, keepdim=True)
    scaled = (gates / largest.clamp(min=_TINY)).clamp(0, 1)
    alone = torch.zeros_like(gates).scatter(1, place, 1.0)
    return torch.where(largest > _TINY, scaled, alone)


def gates_of_images(gates: Tensor, labels: Tensor, background: bool) -> Tensor:
    """The gate of each filter for the category of each image, ``(N, K)``.

    Args:
        gates: ``(K, columns)``.
        labels: category index or `BACKGROUND`, ``(N,)``.
        background: whether the last column is that of the background; else nothing is gated in
            its images (all 1).
    """
    columns = gates if background else torch.cat([gates, torch.ones_like(gates[:, :1])], dim=1)
    last = columns.shape[1] - 1
    return columns.T[torch.where(labels < 0, last, labels)]


def gated(activations: Tensor, image_gates: Tensor) -> Tensor:
    """Maps ``(N, K, h, w)`` times the gates of their images ``(N, K)``, in the maps' dtype."""
    return activations * image_gates.to(activations.dtype)[:, :, None, None]


def density(gates: Tensor) -> Tensor:
    """L1-density: the mean of the absolute entries."""
    return gates.abs().mean()


def density_excess(gates: Tensor, bound: float) -> Tensor:
    """How far the L1 norm lies above that of density `bound`: ``relu(|G|_1 - bound * entries)``."""
    return (gates.abs().sum() - bound * gates.numel()).relu()
