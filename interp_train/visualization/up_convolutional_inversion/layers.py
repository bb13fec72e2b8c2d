"""The up-convolutional decoder: from a layer's maps, or a vector, to an image."""

import itertools
from typing import final

import torch
from torch import Tensor, nn
from torch.nn import functional

from interp_train.checks import check_range
from interp_train.visualization.up_convolutional_inversion.functional import (
    decoder_widths,
    doublings,
)

SLOPE = 0.3  # of the leaky ReLUs, as in the paper
_VECTOR_CELLS = 4  # a vector becomes a map of 4 x 4 cells, as in the paper


@final
class UpConvolutionalDecoder(nn.Module):
    """3x3 convolutions, then blocks that double the map by an up-convolution of 5x5.

    Maps are standardised per unit first, by the statistics of the batches (batch normalisation
    without weights), because their sizes differ by orders between layers.

    Args:
        shape: of what is decoded: ``(K, h, w)``, or ``(K,)`` for a vector.
        image_shape: channels, height and width of the images.
        convolutions: 3x3, before the first doubling.
        widest: units of the first convolution, at most.
        narrowest: units of the last block, at least.

    Raises:
        ValueError: if the shape is neither, or a number is out of range.
    """

    def __init__(
        self,
        shape: tuple[int, ...],
        image_shape: tuple[int, int, int],
        *,
        convolutions: int = 2,
        widest: int = 256,
        narrowest: int = 16,
    ) -> None:
        super().__init__()
        check_range("convolutions", convolutions, 1)
        check_range("narrowest", narrowest, 1)
        check_range("widest", widest, narrowest)
        if len(shape) not in (1, 3):
            raise ValueError(
                f"`shape` must be (K, h, w) or (K,), but got {shape}. Name a layer that puts out "
                f"maps or a vector."
            )
        channels, *image_size = image_shape
        self.image_size = (image_size[0], image_size[1])
        self.start: nn.Module = nn.Identity()
        if len(shape) == 1:
            unflatten = nn.Unflatten(1, (widest, _VECTOR_CELLS, _VECTOR_CELLS))
            linear = nn.Linear(shape[0], widest * _VECTOR_CELLS**2)
            self.start = nn.Sequential(linear, nn.LeakyReLU(SLOPE), unflatten)
            shape = (widest, _VECTOR_CELLS, _VECTOR_CELLS)
        count = doublings((shape[1], shape[2]), self.image_size)
        widths = decoder_widths(shape[0], count, widest=widest, narrowest=narrowest)
        steps: list[nn.Module] = [nn.BatchNorm2d(shape[0], affine=False)]
        for inputs in (shape[0], *[widths[0]] * (convolutions - 1)):
            steps += [nn.Conv2d(inputs, widths[0], 3, padding=1), nn.LeakyReLU(SLOPE)]
        for inputs, outputs in itertools.pairwise(widths):
            up = nn.ConvTranspose2d(inputs, outputs, 5, stride=2, padding=2, output_padding=1)
            steps += [up, nn.LeakyReLU(SLOPE)]
        self.body = nn.Sequential(*steps, nn.Conv2d(widths[-1], channels, 3, padding=1))

    def forward(self, activations: Tensor) -> Tensor:
        """Reconstructions ``(N, channels, H, W)`` of activations ``(N, *shape)``."""
        drawn: Tensor = self.body(self.start(activations))
        if drawn.shape[-2:] != torch.Size(self.image_size):
            drawn = functional.interpolate(drawn, self.image_size, mode="bilinear")
        return drawn
