"""Tables of pictures: a row per unit or layer, a column per way to picture it."""

import textwrap
from collections.abc import Sequence

from matplotlib.figure import Figure
from torch import Tensor

from interp_train.checks import check_shape
from interp_train.figures import INK, MUTED, image_grid, new_figure, picture_axes

_CAPTION, _SIDE = 1.55, 1.5  # inches: room for a caption, side of a picture
_TITLE_LINE = 0.17  # inches
_TITLE_WIDTH = 20  # characters above a column


def gallery_figure(
    pictures: Tensor, captions: Sequence[str], titles: Sequence[str], *, note: str = ""
) -> Figure:
    """Pictures in rows and columns with captions at the left and titles above.

    Args:
        pictures: in [0, 1], ``(R, C, 3, height, width)``; white where NaN.
        captions: R, may have several lines.
        titles: C.
        note: a line below.

    Raises:
        ValueError: if the numbers of captions, titles and pictures differ.
    """
    check_shape("pictures", pictures, (len(captions), len(titles), 3, "height", "width"))
    rows, columns = pictures.shape[:2]
    side = pictures.shape[-1]
    grid = image_grid(pictures.flatten(0, 1), columns, gap=max(2, side // 24))
    heads = [textwrap.fill(title, _TITLE_WIDTH) for title in titles]
    head = 0.1 + _TITLE_LINE * max(1 + text.count("\n") for text in heads)
    foot = 0.32 if note else 0.05
    width = _CAPTION + _SIDE * columns
    drawn = (width - _CAPTION) * grid.shape[1] / grid.shape[2]
    height = head + drawn + foot
    figure = new_figure(width, height)
    place = (_CAPTION / width, foot / height, 1 - _CAPTION / width, drawn / height)
    axes = picture_axes(figure, place, grid)
    down, along = grid.shape[1] / rows, grid.shape[2] / columns
    for row, caption in enumerate(captions):
        y = (row + 0.5) * down
        axes.text(-0.05 * side, y, caption, ha="right", va="center", fontsize=8, color=INK)
    for column, text in enumerate(heads):
        x = (column + 0.5) * along
        axes.text(x, -0.04 * side, text, ha="center", va="bottom", fontsize=8, color=INK)
    if note:
        figure.text(_CAPTION / width, 0.1 / height, note, fontsize=7.5, color=MUTED)
    return figure
