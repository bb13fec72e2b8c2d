"""Pictures as decorrelated Fourier coefficients, in the colours of a data set.

A step along a coefficient changes all pixels of a picture, and low frequencies more than high ones,
as they vary in photos; a step along a colour axis changes the channels as they vary together in the
data. Gradient ascent in these coordinates finds other optima than in pixels, without the noise.

Reference: C. Olah, A. Mordvintsev, L. Schubert, "Feature Visualization", Distill 2017, sec.
"Preconditioning and Parameterization".

Deviates from the article in the colours, which are measured from the data instead of ImageNet's;
in their mean, at which pictures start; and in the frequencies' scale, which is divided by its norm,
so that a step means the same at 32 and at 224 pixels.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from interp_train.checks import check_shape

_DARKEST = 0.02  # a mean of 0 or 1 has no logit


class Colours(NamedTuple):
    """How the colours of a data set vary, behind a sigmoid.

    Attributes:
        mean: logit of the mean colour, ``(C,)``.
        axes: columns are uncorrelated directions of logits, the longest of length 1, ``(C, C)``.
    """

    mean: Tensor
    axes: Tensor


def colour_covariance(pixels: Tensor) -> tuple[Tensor, Tensor]:
    """Mean ``(C,)`` and covariance ``(C, C)`` of the colours of all pixels ``(N, C, H, W)``."""
    check_shape("pixels", pixels, ("N", "C", "H", "W"))
    colours = pixels.transpose(0, 1).flatten(1)
    mean = colours.mean(1)
    centred = colours - mean[:, None]
    return mean, centred @ centred.T / colours.shape[1]


def colours_of(mean: Tensor, covariance: Tensor) -> Colours:
    """Axes along which a data set's colours vary, in logits.

    The covariance is carried over by the slope of the logit at the mean. Where all pixels have one
    colour, the channels are taken as independent.

    Args:
        mean: in [0, 1], ``(C,)``.
        covariance: ``(C, C)``.
    """
    check_shape("covariance", covariance, (len(mean), len(mean)))
    mean = mean.clamp(_DARKEST, 1 - _DARKEST)
    slopes = 1 / (mean * (1 - mean))
    values, vectors = torch.linalg.eigh(slopes[:, None] * covariance * slopes)
    axes = vectors * values.clamp(min=0).sqrt()
    length = axes.norm(dim=0).amax()
    one_colour = length < 1e-4
    axes = torch.where(one_colour, torch.eye(len(mean)).to(axes), axes / length.clamp(min=1e-4))
    return Colours(mean.logit(), axes)


def frequency_scale(height: int, width: int, decay: float) -> Tensor:
    """Weight of each coefficient: 1 / frequency ** decay, of mean square 1 over the plane.

    The lowest frequency, and the mean, count as one wave per image.

    Args:
        height: of the pictures, in pixels.
        width: in pixels.
        decay: 1 for photos, whose amplitudes fall so; 0 weights all frequencies alike.

    Returns:
        ``(height, width // 2 + 1)``, the half plane of `torch.fft.rfft2`.
    """
    rows = torch.fft.fftfreq(height)[:, None]
    plane = (rows**2 + torch.fft.fftfreq(width) ** 2).sqrt()
    weights: Tensor = plane.clamp(min=1 / max(height, width)) ** -decay
    weights = weights / weights.square().mean().sqrt()
    return weights[:, : width // 2 + 1]


def initial_coefficients(channels: int, size: tuple[int, int], seed: int) -> Tensor:
    """Small random coefficients of one picture, ``(channels, H, W // 2 + 1, 2)``, on the CPU."""
    height, width = size
    generator = torch.Generator().manual_seed(seed)
    draws = torch.randn(channels, height, width // 2 + 1, 2, generator=generator)
    return draws * 0.01


def pictures_of(coefficients: Tensor, scale: Tensor, colours: Colours, width: int) -> Tensor:
    """Pictures in (0, 1) of coefficients; 0 is the mean colour everywhere.

    Args:
        coefficients: real and imaginary part, ``(n, C, H, W // 2 + 1, 2)``.
        scale: see `frequency_scale`.
        colours: of the data.
        width: W, in pixels.

    Returns:
        ``(n, C, H, W)``.
    """
    spectrum = torch.view_as_complex(coefficients) * scale
    size = (spectrum.shape[-2], width)
    planes = torch.fft.irfft2(spectrum, s=size, norm="ortho")
    logits = torch.einsum("ij,njhw->nihw", colours.axes, planes)
    return (logits + colours.mean[:, None, None]).sigmoid()
