"""Integrated gradients: the score's rise from a blank image to this one, shared among its pixels.

The attribution of a value is its distance from the blank image times its mean derivative on the
straight way there; all attributions sum to the difference of the two scores (completeness). The
heatmap is the positive part of a pixel's sum over the colour channels: what speaks for the unit.

Reference: M. Sundararajan, A. Taly, Q. Yan, "Axiomatic Attribution for Deep Networks", ICML 2017.

Deviates from the paper in the points: the middle of each step instead of its end, because
the error falls with the square of the number of steps. The blank image is a constant of the
network's input; 0 is the data's mean colour where images are normalised, the paper takes black.
"""

from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor, nn

from interp_train.checks import check_range
from interp_train.structures import Target
from interp_train.target_scores import scores_of_target


def points_on_the_way(images: Tensor, blank: float, shares: Tensor) -> Tensor:
    """Images on the straight way from a blank image.

    Args:
        images: ``(N, channels, H, W)``.
        blank: value of the blank image.
        shares: of the way, in [0, 1], ``(V,)``.

    Returns:
        ``(N, V, channels, H, W)``.
    """
    return blank + shares.view(-1, 1, 1, 1) * (images[:, None] - blank)


def positive_evidence(attributions: Tensor) -> Tensor:
    """Positive part of the sum over channels, float32 ``(N, 1, H, W)``."""
    return attributions.sum(1, keepdim=True).relu().to(torch.float32)


@final
@dataclass(frozen=True)
class IntegratedGradients:
    """Integrated gradients as a heatmap method.

    Attributes:
        num_steps: points on the way.
        blank: value of the image where the way starts, in units of the network's input.
        batch_size: points in one forward and backward pass, at most.
    """

    num_steps: int = 32
    blank: float = 0.0
    batch_size: int = 32

    shows = "evidence for the category, in logits; a map sums to what speaks for it"

    def __post_init__(self) -> None:
        """Check the ranges."""
        check_range("num_steps", self.num_steps, 1)
        check_range("batch_size", self.batch_size, 1)

    def __call__(self, network: nn.Module, images: Tensor, target: Target) -> Tensor:
        """Heatmap ``(N, 1, H, W)`` >= 0 in units of the score, not rescaled per image.

        Args:
            network: puts out logits ``(N, C)``.
            images: network input, ``(N, channels, H, W)``.
            target: the unit of each image.

        Raises:
            ValueError: if the target does not exist, or does not depend on the images.
        """
        return positive_evidence(self.attributions(network, images, target))

    def attributions(self, network: nn.Module, images: Tensor, target: Target) -> Tensor:
        """Signed attributions ``(N, channels, H, W)``.

        Args:
            network: see `__call__`.
            images: see `__call__`.
            target: see `__call__`.

        Raises:
            ValueError: as `__call__`.
        """
        with scores_of_target(network, images, target) as scores:
            values = scores.images
            steps = torch.arange(self.num_steps, device=values.device, dtype=values.dtype)
            shares = (steps + 0.5) / self.num_steps

            def points(rows: slice, chosen: slice) -> Tensor:
                return points_on_the_way(values[rows], self.blank, shares[chosen])

            gradients = scores.mean_gradients(points, self.num_steps, self.batch_size)
            return (values - self.blank) * gradients
