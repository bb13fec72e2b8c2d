"""The generator, and what stands on the discriminator's features."""

from collections.abc import Sequence
from typing import final

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from interp_train.backbones.gan_trunk import initialised, strided_convolutions
from interp_train.batch_normalisation import WholeBatchNorm
from interp_train.checks import check_range
from interp_train.data.photo_data import machine_memory


@final
class Generator(nn.Module):
    """Linear layers, a small map, and 4x4 up-convolutions that double it until it is the image.

    Puts out images in the values of the data's normalisation: tanh for images in [-1, 1], else a
    sigmoid that is normalised as the data are.

    Args:
        inputs: entries of the input.
        image_shape: channels, height and width.
        mean: of the data's normalisation, per channel.
        std: of the data's normalisation, per channel.
        hidden: units of linear layers before the map.
        widths: units of the maps, from the smallest on; each of them is doubled once.

    Raises:
        ValueError: if the images cannot be halved so often, or the first layer does not fit into
            memory.
    """

    def __init__(
        self,
        inputs: int,
        image_shape: tuple[int, int, int],
        mean: Sequence[float],
        std: Sequence[float],
        *,
        hidden: Sequence[int] = (1024,),
        widths: Sequence[int] = (128, 64),
    ) -> None:
        super().__init__()
        channels, side, _ = image_shape
        start = first_side(side, widths)
        check_memory(inputs, [*hidden, widths[0] * start**2][0])
        steps: list[nn.Module] = []
        for units in (*hidden, widths[0] * start**2):
            steps += [nn.Linear(inputs, units), WholeBatchNorm(units), nn.ReLU()]
            inputs = units
        steps.append(nn.Unflatten(1, (widths[0], start, start)))
        for width, following in zip(widths, (*widths[1:], channels), strict=True):
            steps.append(nn.ConvTranspose2d(width, following, 4, stride=2, padding=1))
            steps += [WholeBatchNorm(following), nn.ReLU()]
        self.body = initialised(nn.Sequential(*steps[:-2]))
        self.symmetric = all(m == 0.5 for m in mean) and all(s == 0.5 for s in std)
        for name, values in (("mean", mean), ("std", std)):
            self.register_buffer(name, torch.tensor(values)[:, None, None], persistent=False)

    mean: Tensor
    std: Tensor

    def forward(self, latents: Tensor) -> Tensor:
        """Images ``(N, C, H, W)`` of latents ``(N, inputs)``."""
        drawn: Tensor = self.body(latents.to(self.mean.dtype)).to(self.mean.dtype)
        return drawn.tanh() if self.symmetric else (drawn.sigmoid() - self.mean) / self.std


def first_side(image_size: int, widths: Sequence[int]) -> int:
    """Side of the generator's smallest map.

    Raises:
        ValueError: if `image_size` is no multiple of the doublings.
    """
    check_range("len(widths)", len(widths), 1)
    times = 1 << len(widths)
    if image_size % times:
        raise ValueError(
            f"`widths` must have so many entries that the image's side is a multiple of 2 to that "
            f"power, but got {len(widths)} entries for {image_size} pixels. Use fewer widths, or "
            f"data.image_size={-(-image_size // times) * times}."
        )
    return image_size // times


def check_memory(inputs: int, units: int) -> None:
    """Raise ValueError if a linear layer and its training take more than this machine's memory."""
    needed, there = 4 * 4 * inputs * units, machine_memory()  # weights, gradients, Adam's moments
    if needed > there:
        raise ValueError(
            f"`codes` and `hidden` must give a first layer that fits into memory, but {inputs} x "
            f"{units} weights take {needed / 1e9:.0f} GB in training, of {there / 1e9:.0f}. Use "
            f"smaller categorical codes."
        )


@final
class Scores(nn.Module):
    """One linear layer: features -> logit of being real, ``(N,)``.

    Args:
        features: of the trunk.
        spectral_norm: as the trunk's.
    """

    def __init__(self, features: int, *, spectral_norm: bool) -> None:
        super().__init__()
        linear = initialised(nn.Linear(features, 1))
        self.linear = parametrizations.spectral_norm(linear) if spectral_norm else linear

    def forward(self, features: Tensor) -> Tensor:
        """Scores ``(N,)`` of features ``(N, F)``."""
        scores: Tensor = self.linear(features)[:, 0]
        return scores if scores.dtype == torch.float64 else scores.float()


@final
class CodeHead(nn.Module):
    """Q: features -> what the codes were; never spectrally normalised, which would bound it.

    Args:
        features: of the trunk.
        outputs: of Q, over all codes.
        units: of the hidden layer.
        slope: of its leaky ReLU.
        batch_norm: whether the hidden layer is normalised.
    """

    def __init__(
        self, features: int, outputs: int, *, units: int, slope: float, batch_norm: bool
    ) -> None:
        super().__init__()
        norm = [WholeBatchNorm(units)] if batch_norm else []
        steps = [nn.Linear(features, units), *norm, nn.LeakyReLU(slope), nn.Linear(units, outputs)]
        self.body = initialised(nn.Sequential(*steps))

    def forward(self, features: Tensor) -> Tensor:
        """Q's output ``(N, outputs)`` for features ``(N, F)``."""
        said: Tensor = self.body(features)
        return said if said.dtype == torch.float64 else said.float()


@final
class PairHead(nn.Module):
    """Which code do the two images of a pair share? A network of its own, without normalisation.

    Lin, Thekumparampil, Fanti & Oh, "InfoGAN-CR and ModelCentrality", ICML 2020.

    Args:
        image_shape: channels, height and width.
        codes: number of answers.
        widths: units of the convolutions.
        units: of the hidden layer.
        slope: of the leaky ReLUs.
    """

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        codes: int,
        *,
        widths: Sequence[int] = (64, 128),
        units: int,
        slope: float,
    ) -> None:
        super().__init__()
        channels, side, _ = image_shape
        layers = strided_convolutions(
            widths, 2 * channels, slope=slope, normalisation="none", spectral=True
        )
        linear = nn.Linear(widths[-1] * (side >> len(widths)) ** 2, units)
        self.body = nn.Sequential(
            *layers.values(),
            nn.Flatten(1),
            parametrizations.spectral_norm(initialised(linear)),
            nn.LeakyReLU(slope),
            initialised(nn.Linear(units, codes)),
        )

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        """Logits ``(N, codes)`` of pairs of images ``(N, C, H, W)``."""
        logits: Tensor = self.body(torch.cat([first, second], 1))
        return logits if logits.dtype == torch.float64 else logits.float()
