"""Which units of a layer speak for an answer: each unit's share in the score of one image.

A unit contributes the sum over its cells of gradient times activation. Where only pooling and a
linear layer lie between the layer and the score, this is exactly the weight times the pooled
activation, and all contributions and the bias add up to the score. Elsewhere it is the first-order
estimate of what the score would lose without the unit.

References: B. Zhou, A. Khosla, A. Lapedriza, A. Oliva, A. Torralba, "Learning Deep Features for
Discriminative Localization", CVPR 2016 (weight times pooled activation); A. Shrikumar,
P. Greenside, A. Kundaje, "Learning Important Features Through Propagating Activation Differences",
ICML 2017 (gradient times input).

Which of the two it is, is asked of the network itself: its gradient at the activations, at zero
and at the activations of other cells must be the same.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from interp_train.checks import check_shape
from interp_train.structures import Target
from interp_train.target_scores import (
    TargetScores,
    gradient_of,
    resolved_layer,
    scores_of_target,
)

EXACT = "weight × activation over all cells, exact because what follows the layer is linear"
ESTIMATE = "gradient × activation, an estimate because what follows the layer is not linear"
_TOLERANCE = 1e-4  # relative to the largest gradient; rounding of float32 is far below
_WAY_OUT = "Name a layer below the output and above any part that runs without gradients."


class UnitContributions(NamedTuple):
    """What each unit of a layer adds to the score of each image.

    Attributes:
        layer: dotted name.
        activations: of the layer, before a template mask, ``(N, K, h, w)``.
        contributions: in units of the score, ``(N, K)``.
        scores: that were explained, ``(N,)``.
        remainders: scores minus the sum of the contributions, ``(N,)``: the bias where the
            contributions are exact.
        exact: whether what follows the layer is linear, bool ``(N,)``.
    """

    layer: str
    activations: Tensor
    contributions: Tensor
    scores: Tensor
    remainders: Tensor
    exact: Tensor


def summed_contributions(activations: Tensor, gradients: Tensor) -> Tensor:
    """Gradient times activation, summed over the cells of each unit.

    Args:
        activations: ``(N, K, h, w)``.
        gradients: derivative of each image's score with respect to them, same shape.

    Returns:
        ``(N, K)``, in units of the score.
    """
    check_shape("activations", activations, ("N", "K", "h", "w"))
    check_shape("gradients", gradients, tuple(activations.shape))
    return (activations * gradients).sum((-2, -1))


def unit_contributions(
    network: nn.Module, images: Tensor, target: Target, layer: str | None = None
) -> UnitContributions:
    """What the units of a layer add to the scores that a target names.

    The forward passes run in evaluation mode and leave no trace on the network.

    Args:
        network: puts out logits ``(N, C)``.
        images: network input, ``(N, channels, H, W)``.
        target: the unit of each image that is explained.
        layer: dotted name or tap alias; None is the network's last tap.

    Returns:
        Everything on the device of the images, without gradients.

    Raises:
        ValueError: if the layer does not exist, has no maps, or the score does not depend on it.
    """
    with scores_of_target(network, images, target) as scores:
        dotted = resolved_layer(scores.network, layer)
        leaf, found = scores.above(dotted)
        if leaf.dim() != 4:
            raise ValueError(
                f"`layer` must put out maps (N, K, h, w), but {dotted!r} put out "
                f"{tuple(leaf.shape)}. Name a convolution or its ReLU."
            )
        gradients = gradient_of(found, leaf, dotted, _WAY_OUT)
        exact = _is_linear(scores, dotted, gradients)
        activations, found = leaf.detach(), found.detach()
        contributions = summed_contributions(activations.double(), gradients.double())
        remainders = found.double() - contributions.sum(1)
    kept = (contributions.to(found.dtype), found, remainders.to(found.dtype), exact)
    return UnitContributions(dotted, activations, *kept)


def _is_linear(scores: TargetScores, layer: str, gradients: Tensor) -> Tensor:
    """Whether the gradient of each image stays the same elsewhere, bool ``(N,)``."""
    same = torch.ones(len(gradients), dtype=torch.bool, device=gradients.device)
    largest = gradients.abs().flatten(1).amax(1)
    elsewhere: tuple[Callable[[Tensor], Tensor], ...] = (torch.zeros_like, _other_cells)
    for change in elsewhere:
        leaf, found = scores.above(layer, change)
        other = gradient_of(found, leaf, layer, _WAY_OUT)
        differences = (other - gradients).abs().flatten(1).amax(1)
        same &= differences <= _TOLERANCE * largest
    return same


def _other_cells(activations: Tensor) -> Tensor:
    """The same activations at other cells of other units."""
    return activations.flatten(1).flip(1).view_as(activations)
