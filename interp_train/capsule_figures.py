"""Drawings of capsules: what is drawn from them, what each atom changes, and who votes for them.

Knows no logger and no trainer.
"""

from collections.abc import Sequence

import torch
from matplotlib.figure import Figure
from torch import Tensor

from interp_train.checks import check_shape
from interp_train.figures import INK, MUTED, heatmap_figure, image_grid, new_figure, picture_axes
from interp_train.latent_figures import grid_figure

_SCALE = "routing coefficient × length of primary capsules, summed over types; one scale for all"


def reconstruction_figure(images: Tensor, drawn: Tensor, titles: Sequence[str]) -> Figure:
    """Images in the first row; below each what was drawn from its capsules, one row per capsule.

    Args:
        images: pixels in [0, 1], ``(N, 3, H, W)``.
        drawn: ``(N, M, 3, H, W)``.
        titles: one per image.
    """
    check_shape("drawn", drawn, (images.shape[0], "M", *images.shape[1:]))
    rows = torch.cat([images[:, None], drawn], 1).transpose(0, 1)
    grid = image_grid(rows.flatten(0, 1), len(images), gap=2)
    wide = max(1.0 * len(images), 3.2)
    left, top, tall = 0.55, 0.36, wide * grid.shape[1] / grid.shape[2]
    width, height = left + wide + 0.05, top + tall + 0.05
    figure = new_figure(width, height)
    axes = picture_axes(figure, (left / width, 0.05 / height, wide / width, tall / height), grid)
    for column, title in enumerate(titles):
        x = column * (images.shape[3] + 2) + images.shape[3] / 2
        lines = title.replace(" → ", "\n→ ")
        axes.text(x, -2, lines, ha="center", va="bottom", fontsize=7.5, color=INK)
    for row in range(len(rows)):
        y = row * (images.shape[2] + 2) + images.shape[2] / 2
        name = "image" if row == 0 else "drawn"
        axes.text(-2, y, name, ha="right", va="center", fontsize=7.5, color=MUTED)
    return figure


def sweep_figure(swept: Tensor, offsets: Sequence[float], *, title: str) -> Figure:
    """One atom of a capsule varied along each row, as fig. 4 of Sabour et al., NIPS 2017.

    Args:
        swept: pixels in [0, 1], ``(atoms, offsets, 3, H, W)``.
        offsets: what is added to the atom in each column.
        title: whose capsule it is.
    """
    check_shape("swept", swept, ("O", len(offsets), 3, "H", "W"))
    atoms = [f"atom {index}" for index in range(len(swept))]
    rounded = [round(offset, 2) + 0.0 for offset in offsets]  # no minus before a zero
    columns = [f"{offset:+.2f}".replace("-", "−") for offset in rounded]
    return grid_figure(swept, atoms, columns, title=title)


def vote_figure(images: Tensor, votes: Tensor, titles: Sequence[str]) -> Figure:
    """Where the primary capsules lie that vote for a category.

    Args:
        images: pixels in [0, 1], ``(N, 3, H, W)``.
        votes: at image resolution, ``(N, 1, H, W)`` >= 0.
        titles: one per image.
    """
    return heatmap_figure(images, votes, titles, scale_label=_SCALE)
