"""Drawings of generated images: a labelled grid, and an animation."""

import io
from collections.abc import Sequence

import numpy as np
import torch
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

from interp_train.checks import check_range, check_shape
from interp_train.figures import INK, MUTED, image_grid, new_figure, picture_axes

_GAP = 2  # pixels between images


def grid_figure(
    images: Tensor, row_labels: Sequence[str], column_labels: Sequence[str], *, title: str = ""
) -> Figure:
    """Images in a grid, with a label at the left of each row and above each column.

    Args:
        images: in [0, 1], ``(rows, columns, 3, H, W)``.
        row_labels: one per row, or none.
        column_labels: one per column, or none.
        title: above all.
    """
    check_shape("images", images, ("R", "C", 3, "H", "W"))
    columns, (height, width) = images.shape[1], images.shape[3:]
    grid = image_grid(images.flatten(0, 1), columns, gap=_GAP)
    inches = max(3.2, 0.42 * columns)
    left, top = (
        (0.75 if row_labels else 0.05),
        0.12 + 0.2 * bool(column_labels) + 0.22 * bool(title),
    )
    tall = inches * grid.shape[1] / grid.shape[2]
    total_width, total = left + inches + 0.05, tall + top + 0.05
    figure = new_figure(total_width, total)
    place = (left / total_width, 0.05 / total, inches / total_width, tall / total)
    axes = picture_axes(figure, place, grid)
    for row, label in enumerate(row_labels):
        y = row * (height + _GAP) + height / 2
        axes.text(-2, y, label, ha="right", va="center", fontsize=7.5, color=MUTED)
    for column, label in enumerate(column_labels):
        x = column * (width + _GAP) + width / 2
        axes.text(x, -2, label, ha="center", va="bottom", fontsize=7.5, color=MUTED)
    if title:
        figure.text(left / total_width, 1 - 0.06 / total, title, va="top", fontsize=9, color=INK)
    return figure


def animation_frames(images: Tensor, columns: int) -> Tensor:
    """Frames of an animation that goes through the steps and back, without a jump.

    Args:
        images: in [0, 1], what each frame shows side by side, ``(steps, N, 3, H, W)``.
        columns: images per row of a frame.

    Returns:
        uint8 ``(2 steps - 2, 3, height, width)``.
    """
    check_shape("images", images, ("T", "N", 3, "H", "W"))
    check_range("steps", len(images), 2)
    frames = torch.stack([image_grid(step, columns, gap=_GAP) for step in images])
    there_and_back = torch.cat([frames, frames[1:-1].flip(0)])
    return (there_and_back.clamp(0, 1) * 255).round().to(torch.uint8)


def gif(frames: Tensor, *, seconds: float = 2.0, scale: int = 1) -> bytes:
    """An endless GIF.

    Args:
        frames: uint8 ``(frames, 3, height, width)``.
        seconds: for all frames.
        scale: side of a pixel.
    """
    check_range("scale", scale, 1)
    pictures = []
    for frame in frames.permute(0, 2, 3, 1).numpy():
        large = np.repeat(np.repeat(frame, scale, 0), scale, 1)
        pictures.append(Image.fromarray(np.ascontiguousarray(large)).quantize(128))
    buffer = io.BytesIO()
    duration = max(20, round(1000 * seconds / len(pictures)))  # milliseconds
    pictures[0].save(
        buffer, "GIF", save_all=True, append_images=pictures[1:], duration=duration, loop=0
    )
    return buffer.getvalue()
