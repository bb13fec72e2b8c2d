"""Feature inversion: the smoothest natural image that a layer cannot tell from the given one.

What the picture shows as the image did, the layer still knows; what comes out otherwise, in
colour, place or detail, it has forgotten.

Reference: A. Mahendran, A. Vedaldi, "Understanding Deep Image Representations by Inverting Them",
CVPR 2015, eqs. 1 to 5.

Deviates from the paper in the optimiser (Adam instead of momentum, whose step would have to be set
for each network), and in the units of the two regularisers, whose weights are therefore others:
each is 1 for an image whose pixels, or their steps, all have a stated size.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, final

import torch
from torch import Tensor, nn

from interp_train.checks import check_range, check_shape
from interp_train.data.photo_data import IMAGENET_MEAN, IMAGENET_STD
from interp_train.figures import unnormalised
from interp_train.layer_responses import LayerResponses, responses_of_layer
from interp_train.structures import Target

NATURAL_SIZE = 80 / 255  # of a pixel around the mean colour, in [0, 1]
NATURAL_STEP = 12 / 255  # between neighbours


def relative_errors(maps: Tensor, wanted: Tensor) -> Tensor:
    """Squared distance of each image's maps from what is wanted, over the latter's square.

    Args:
        maps: ``(N, K, h, w)``.
        wanted: same shape.

    Returns:
        ``(N,)``; not divided where nothing but 0 is wanted.
    """
    check_shape("maps", maps, tuple(wanted.shape))
    norms = wanted.square().flatten(1).sum(1)
    return (maps - wanted).square().flatten(1).sum(1) / torch.where(norms > 0, norms, 1)


def alpha_norm(pixels: Tensor, alpha: float) -> Tensor:
    """Mean of the pixels' sizes over the natural one, to the power of alpha.

    Args:
        pixels: around the mean colour, in [0, 1] - mean, ``(N, channels, H, W)``.
        alpha: 6 in the paper.

    Returns:
        ``(N,)``; 1 if all pixels have the natural size in all channels.
    """
    return ((pixels.abs() / NATURAL_SIZE) ** alpha).flatten(1).mean(1)


def total_variation(pixels: Tensor, beta: float) -> Tensor:
    """Mean of the steps to the right and lower neighbour, over the natural one, to the power beta.

    Args:
        pixels: ``(N, channels, H, W)``.
        beta: of the total variation; 2 is smooth, 1 keeps edges.

    Returns:
        ``(N,)``; 1 if every step, the root of the two squares' sum, is natural.
    """
    down = pixels[..., 1:, :-1] - pixels[..., :-1, :-1]
    right = pixels[..., :-1, 1:] - pixels[..., :-1, :-1]
    squares = (down.square() + right.square()) / NATURAL_STEP**2
    # The root has no derivative at 0.
    return ((squares + 1e-8) ** (beta / 2)).flatten(1).mean(1)


@final
@dataclass(frozen=True)
class FeatureInversion:
    """Feature inversion as a unit visualizer of whole layers: one picture per image.

    Attributes:
        steps: of Adam.
        learning_rate: of Adam at the start, in units of pixels in [0, 1]; falls to 0 as a cosine.
        alpha: exponent of the pixels' sizes.
        alpha_weight: of `alpha_norm`, beside the relative error.
        beta: exponent of the steps between neighbours.
        beta_weight: of `total_variation`; late layers, which leave more open, may want more.
        jitter: largest random shift, in pixels; against patterns of the strides.
        batch_size: images at once, at most.
        seed: of starts and shifts.
        mean: per channel, that normalisation subtracts.
        std: per channel, that normalisation divides by.
    """

    steps: int = 300
    learning_rate: float = 0.05
    alpha: float = 6.0
    alpha_weight: float = 1e-3
    beta: float = 2.0
    beta_weight: float = 0.1
    jitter: int = 2
    batch_size: int = 8
    seed: int = 0
    mean: Sequence[float] = IMAGENET_MEAN
    std: Sequence[float] = IMAGENET_STD

    of_images: ClassVar[bool] = True  # one picture per image, of no unit

    def __post_init__(self) -> None:
        """Check the ranges."""
        check_range("batch_size", self.batch_size, 1)
        for name in ("alpha", "beta"):
            check_range(name, getattr(self, name), 1)
        for name in ("steps", "learning_rate", "alpha_weight", "beta_weight", "jitter", "seed"):
            check_range(name, getattr(self, name), 0)

    def __call__(self, network: nn.Module, target: Target, images: Tensor) -> Tensor:
        """One reconstruction per image, in [0, 1], ``(N, 3, H, W)``.

        Args:
            network: puts out logits ``(N, C)``.
            target: the layer; its units are not read beyond a check that they exist.
            images: what is inverted, network input, ``(N, channels, H, W)``.

        Raises:
            ValueError: if the layer does not exist, or there are no images.
        """
        with responses_of_layer(network, target, images) as responses:
            parts = torch.split(responses.images, self.batch_size)
            inverted = torch.cat([self._inverted(responses, part) for part in parts])
            return unnormalised(inverted, self.mean, self.std)

    def _inverted(self, responses: LayerResponses, images: Tensor) -> Tensor:
        """Network input whose maps are those of `images`."""
        with torch.no_grad():
            wanted = responses(images)
        std = torch.as_tensor(self.std).to(images).view(-1, 1, 1)
        mean = torch.as_tensor(self.mean).to(images).view(-1, 1, 1)
        generator = torch.Generator().manual_seed(self.seed)
        start = 0.01 * torch.randn(images.shape[1:], generator=generator)
        pixels = start.to(images).repeat(len(images), 1, 1, 1).requires_grad_()  # around the mean
        optimizer = torch.optim.Adam([pixels], lr=self.learning_rate)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, max(1, self.steps))
        for _ in range(self.steps):
            span = (-self.jitter, self.jitter + 1)
            shifts = torch.randint(*span, (2,), generator=generator).tolist()
            maps = responses(pixels.roll(shifts, (-2, -1)) / std)
            loss = relative_errors(maps, wanted) + self._regularisers(pixels)
            # autograd.grad: `backward` would add to the gradients of the weights.
            (pixels.grad,) = torch.autograd.grad(loss.sum(), pixels)
            optimizer.step()
            schedule.step()
            with torch.no_grad():
                pixels.copy_((pixels + mean).clamp(0, 1) - mean)
        return pixels.detach() / std

    def _regularisers(self, pixels: Tensor) -> Tensor:
        sizes = self.alpha_weight * alpha_norm(pixels, self.alpha)
        return sizes + self.beta_weight * total_variation(pixels, self.beta)
