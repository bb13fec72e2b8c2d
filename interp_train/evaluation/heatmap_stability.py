"""Max-sensitivity: how far a heatmap can change when the image hardly does.

Small uniform noise is added to the image several times. The largest distance of the new heatmaps
from the first one, in lengths of the first one, is the score; low is good, 0 the lowest.

Reference: C.-K. Yeh, C.-Y. Hsieh, A. S. Suggala, D. I. Inouye, P. Ravikumar, "On the (In)fidelity
and Sensitivity of Explanations", NeurIPS 2019.

Deviation: a heatmap that is zero everywhere has no length and does not count; its share is
``zero_heatmaps``.

Baselines: ``random``, heatmaps that are drawn anew each time; ``oracle``, the mask of the object,
which no small noise moves: 0. What it cannot show: that a heatmap is right. One that ignores the
network does not change either.
"""

import torch
from torch import Tensor, nn

from interp_train.activations import gradients_enabled
from interp_train.checks import check_range, check_shape
from interp_train.evaluation.heatmap_means import HeatmapMeans
from interp_train.protocols import HeatmapMethod
from interp_train.structures import Target


def relative_distance(changed: Tensor, original: Tensor) -> Tensor:
    """Distance of heatmaps in lengths of the original ones.

    Args:
        changed: ``(N, 1, H, W)``.
        original: same shape.

    Returns:
        ``(N,)``; NaN where the original is zero.
    """
    check_shape("changed", changed, tuple(original.shape))
    length = original.double().flatten(1).norm(dim=1)
    distance = (changed.double() - original.double()).flatten(1).norm(dim=1)
    return torch.where(length > 0, distance / length, torch.nan)


class MaxSensitivityMetric(HeatmapMeans):
    """Max-sensitivity of a heatmap method, beside its baselines.

    Args:
        radius: largest change of a value of the input, as a share of the image's range of values.
        num_samples: noisy copies of each image.
        seed: of the noise and of random heatmaps.
    """

    def __init__(self, radius: float = 0.02, *, num_samples: int = 10, seed: int = 0) -> None:
        check_range("radius", radius, 0)
        check_range("num_samples", num_samples, 1)
        names = [f"max_sensitivity{suffix}" for suffix in ("", "_random", "_oracle")]
        super().__init__([*names, "zero_heatmaps"])
        self.radius, self.num_samples, self.seed = radius, num_samples, seed

    def update(
        self, method: HeatmapMethod, network: nn.Module, images: Tensor, target: Target
    ) -> None:
        """Add a batch: one heatmap of the images, and one per noisy copy.

        Args:
            method: what is checked.
            network: left as it is.
            images: network input, ``(N, channels, H, W)``.
            target: the unit of each image.
        """
        generator = torch.Generator(images.device).manual_seed(self.seed)
        with gradients_enabled():
            images = images.detach().clone()
            dims = (1, 2, 3)
            reach = self.radius * (images.amax(dims) - images.amin(dims))[:, None, None, None]
            original = method(network, images, target)
            drawn = torch.empty_like(original).uniform_(generator=generator)
            found, random = [], []
            for _ in range(self.num_samples):
                noise = torch.empty_like(images[0]).uniform_(-1, 1, generator=generator)
                changed = method(network, images + reach * noise, target)
                found.append(relative_distance(changed, original))
                again = torch.empty_like(original).uniform_(generator=generator)
                random.append(relative_distance(again, drawn))
        largest = torch.stack(found).amax(0)
        self.add(
            {
                "max_sensitivity": largest,
                "max_sensitivity_random": torch.stack(random).amax(0),
                "max_sensitivity_oracle": torch.zeros_like(largest),
                "zero_heatmaps": largest.isnan().double(),
            }
        )
