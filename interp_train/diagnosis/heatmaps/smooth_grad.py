"""SmoothGrad: the gradient, averaged over noisy copies of the image.

The heatmap is the largest absolute value, over the colour channels of a pixel, of the mean
derivative of the score at the image plus Gaussian noise. The noise is a share of the image's range
of values.

Reference: D. Smilkov, N. Thorat, B. Kim, F. Viégas, M. Wattenberg, "SmoothGrad: removing noise by
adding noise", ICML Workshop on Visualization for Deep Learning 2017.

Deviates from the paper in the noise: all images of a batch see the same draws (each scaled to its
own range), so that a heatmap does not depend on which images stand beside it.
"""

from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor, nn

from interp_train.checks import check_range
from interp_train.diagnosis.heatmaps.saliency import strongest_channel
from interp_train.structures import Target
from interp_train.target_scores import scores_of_target


def standard_noise(like: Tensor, seeds: range) -> Tensor:
    """Standard normal noise, one draw per seed, on the device of `like`.

    Args:
        like: gives shape, type and device of a draw.
        seeds: each draw has its own, so that it does not depend on the draws before it.

    Returns:
        ``(len(seeds), *like.shape)``.
    """
    generator = torch.Generator(like.device)
    draws = torch.empty(len(seeds), *like.shape, dtype=like.dtype, device=like.device)
    for draw, seed in zip(draws, seeds, strict=True):
        draw.normal_(generator=generator.manual_seed(seed))
    return draws


@final
@dataclass(frozen=True)
class SmoothGrad:
    """SmoothGrad as a heatmap method.

    Attributes:
        num_samples: noisy copies of each image.
        noise_level: standard deviation of the noise, as a share of the image's range of values.
        batch_size: copies in one forward and backward pass, at most.
        seed: of the noise.
    """

    num_samples: int = 50
    noise_level: float = 0.15
    batch_size: int = 32
    seed: int = 0

    shows = "effect on the score of the category, in logits per unit of the input"

    def __post_init__(self) -> None:
        """Check the ranges."""
        check_range("num_samples", self.num_samples, 1)
        check_range("noise_level", self.noise_level, 0)
        check_range("batch_size", self.batch_size, 1)
        check_range("seed", self.seed, 0)

    def __call__(self, network: nn.Module, images: Tensor, target: Target) -> Tensor:
        """Heatmap ``(N, 1, H, W)`` >= 0 in units of the score per unit of the network's input.

        Args:
            network: puts out logits ``(N, C)``.
            images: network input, ``(N, channels, H, W)``.
            target: the unit of each image.

        Raises:
            ValueError: if the target does not exist, or does not depend on the images.
        """
        with scores_of_target(network, images, target) as scores:
            values = scores.images
            dims = (1, 2, 3)
            sigma = self.noise_level * (values.amax(dims) - values.amin(dims))[:, None, None, None]
            first = self.seed * self.num_samples  # other seeds share no draw

            def noisy(rows: slice, draws: slice) -> Tensor:
                seeds = range(first + draws.start, first + draws.stop)
                noise = standard_noise(values[0], seeds)
                return values[rows, None] + sigma[rows, None] * noise

            gradients = scores.mean_gradients(noisy, self.num_samples, self.batch_size)
            return strongest_channel(gradients)
