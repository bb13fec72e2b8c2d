"""Random shifts, turns and sizes of pictures, so that what is found does not hang on one pixel.

Reference: C. Olah, A. Mordvintsev, L. Schubert, "Feature Visualization", Distill 2017, sec.
"Transformation Robustness".

Deviates from the article in doing all at once, with one interpolation, in shares of the image's
side instead of pixels, and in keeping the image's size, which some networks need.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional


class View(NamedTuple):
    """How a picture is looked at.

    Attributes:
        shift: to the right and down, in shares of the sides.
        size: of the picture, 1 as it is.
        degrees: of a turn, clockwise.
    """

    shift: tuple[float, float]
    size: float
    degrees: float


def random_view(generator: torch.Generator, *, jitter: float, zoom: float, degrees: float) -> View:
    """A view with uniform shifts, sizes and turns.

    Args:
        generator: of the CPU.
        jitter: largest shift, in shares of the sides.
        zoom: largest change of the size.
        degrees: largest turn.
    """
    x, y, size, turn = (2 * torch.rand(4, generator=generator) - 1).tolist()
    return View((jitter * x, jitter * y), 1 + zoom * size, degrees * turn)


def seen(pictures: Tensor, view: View, outside: Tensor) -> Tensor:
    """Pictures as a view shows them, at their size.

    Args:
        pictures: ``(n, C, H, W)``.
        view: how to look.
        outside: colour around the pictures, ``(C,)``.

    Returns:
        ``(n, C, H, W)``.
    """
    height, width = pictures.shape[-2:]
    cosine = math.cos(math.radians(view.degrees)) / view.size
    sine = math.sin(math.radians(view.degrees)) / view.size
    x, y = (2 * share for share in view.shift)
    aspect = height / width
    # From the places of the view back to those of the picture, in half sides.
    rows = [[cosine, sine * aspect, 0.0], [-sine / aspect, cosine, 0.0]]
    for row in rows:
        row[2] = -(row[0] * x + row[1] * y)
    matrix = torch.tensor([rows]).to(pictures).expand(len(pictures), -1, -1)
    grid = functional.affine_grid(matrix, list(pictures.shape), align_corners=False)
    outside = outside[:, None, None]
    return functional.grid_sample(pictures - outside, grid, align_corners=False) + outside
