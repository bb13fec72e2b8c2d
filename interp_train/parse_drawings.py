"""Pictures of parse trees: boxes with their leaves, and a tree of crops, alone and side by side.

Knows no logger and no trainer. Boxes are in pixels of the image, from edge to edge, as detectors
give them.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle as Patch
from matplotlib.patheffects import withStroke
from torch import Tensor

from interp_train.and_or_graph import ParseTree, Rectangle
from interp_train.figures import INK, MUTED, category_style, new_figure, picture_axes

Box = tuple[float, float, float, float]


class DrawnBox(NamedTuple):
    """A detection to draw.

    Attributes:
        box: x_min, y_min, x_max, y_max.
        label: category index, which decides its colour.
        caption: short text, such as its score.
        tree: its parse tree; None without one.
    """

    box: Box
    label: int
    caption: str
    tree: ParseTree | None


def placed(rectangle: Rectangle, box: Box, grid: tuple[int, int]) -> Box:
    """A rectangle of cells inside a box, in pixels.

    Args:
        rectangle: of cells.
        box: of the whole grid.
        grid: height and width of the grid, in cells.
    """
    wide, high = (box[2] - box[0]) / grid[1], (box[3] - box[1]) / grid[0]
    left, top = box[0] + rectangle.left * wide, box[1] + rectangle.top * high
    return left, top, left + rectangle.width * wide, top + rectangle.height * high


def scene_figure(
    image: Tensor, boxes: Sequence[DrawnBox], names: Sequence[str], grid: tuple[int, int]
) -> Figure:
    """An image with its boxes, and inside each the leaves of its parse tree in thin lines.

    Args:
        image: pixels in [0, 1], ``(3, H, W)``.
        boxes: what is drawn; the first lies on top.
        names: of the categories.
        grid: height and width of the parse trees' grid, in cells.
    """
    wide, foot = 6.4, 0.3
    tall = wide * image.shape[-2] / image.shape[-1] + foot
    figure = new_figure(wide, tall)
    _draw_scene(figure, (0, foot / tall, 1, 1 - foot / tall), image, boxes, grid)
    _name_categories(figure, boxes, names)
    return figure


def scene_with_tree_figure(
    image: Tensor,
    boxes: Sequence[DrawnBox],
    chosen: int,
    names: Sequence[str],
    grid: tuple[int, int],
) -> Figure:
    """An image with its boxes, and beside it the parse tree of one of them as a tree of crops.

    Args:
        image: pixels in [0, 1], ``(3, H, W)``.
        boxes: what is drawn; the first lies on top.
        chosen: index of the box whose tree is shown; it has the thickest frame.
        names: of the categories.
        grid: height and width of the parse trees' grid, in cells.

    Raises:
        ValueError: if the chosen box has no tree.
    """
    drawn = boxes[chosen]
    layout = _laid_out(drawn, grid)
    wide, foot, head, gap = 4.8, 0.3, 0.28, 0.15
    scene = wide * image.shape[-2] / image.shape[-1]
    tall = max(foot + scene, layout.height + 2 * _MARGIN + head)
    total = wide + gap + max(layout.width + 2 * _MARGIN, 1.6)
    figure = new_figure(total, tall)
    place = (0, 1 - scene / tall, wide / total, scene / tall)
    axes = _draw_scene(figure, place, image, boxes, grid)
    _outline(axes, drawn.box, category_style(drawn.label)[0], 3.0)
    corner = (wide + gap, tall - head - layout.height - 2 * _MARGIN)
    _draw_tree(figure, corner, layout, (image, drawn, grid))
    leaves = len(drawn.tree.leaves()) if drawn.tree and drawn.tree.parts else 0
    title = f"{names[drawn.label].replace('_', ' ')} {drawn.caption}"
    figure.text(
        (wide + gap + _MARGIN) / total, 1 - 0.06 / tall,
        f"{title}: {f'{leaves} leaves' if leaves else 'stays whole'}", fontsize=8.5, color=INK,
        va="top",
    )  # fmt: skip
    _name_categories(figure, boxes, names)
    return figure


def _draw_scene(
    figure: Figure,
    place: tuple[float, float, float, float],
    image: Tensor,
    boxes: Sequence[DrawnBox],
    grid: tuple[int, int],
) -> Axes:
    """The image on axes at `place` (shares of the figure), with its boxes."""
    height, width = image.shape[-2:]
    # Paler, so that lines and captions stand out on any photo.
    axes = picture_axes(figure, place, image * 0.85 + 0.15)
    axes.set(xlim=(-0.5, width - 0.5), ylim=(height - 0.5, -0.5))
    for drawn in reversed(boxes):
        _draw_box(axes, drawn, grid)
    return axes


def _name_categories(figure: Figure, boxes: Sequence[DrawnBox], names: Sequence[str]) -> None:
    """A legend at the foot, or that there is nothing to name."""
    shown = sorted({drawn.label for drawn in boxes})
    if not shown:
        foot = 0.08 / figure.get_figheight()
        figure.text(0.008, foot, "nothing found", fontsize=8, color=MUTED)
        return
    marks = [
        Line2D([], [], linestyle="", marker="s", markersize=6, color=category_style(label)[0])
        for label in shown
    ]
    figure.legend(
        marks, [names[label] for label in shown], loc="lower left", ncols=len(shown),
        frameon=False, fontsize=8, labelcolor=INK, handletextpad=0.1, columnspacing=1.2,
        borderpad=0.2,
    )  # fmt: skip


def _draw_box(axes: Axes, drawn: DrawnBox, grid: tuple[int, int]) -> None:
    colour = category_style(drawn.label)[0]
    for leaf in drawn.tree.leaves() if drawn.tree and drawn.tree.parts else ():
        _outline(axes, placed(leaf, drawn.box, grid), colour, 0.7)
    _outline(axes, drawn.box, colour, 1.7)
    text = axes.text(
        drawn.box[0] + 1, drawn.box[1] - 0.5, drawn.caption, fontsize=6.5, color=colour,
        va="bottom", ha="left", weight="bold", clip_on=False,
    )  # fmt: skip
    text.set_path_effects([withStroke(linewidth=2, foreground="white")])
    if drawn.box[1] < 12:  # no room above
        text.set(y=drawn.box[1] + 2, va="top", x=drawn.box[0] + 4)


def _outline(axes: Axes, box: Box, colour: str, width: float) -> None:
    """A rectangle in a colour, on a wider white one; pixel centres are at integers."""
    corner, size = (box[0] - 0.5, box[1] - 0.5), (box[2] - box[0], box[3] - box[1])
    for edge, line in (("white", width + 1.0), (colour, width)):
        patch = Patch(corner, *size, fill=False, edgecolor=edge, linewidth=line, joinstyle="miter")
        patch.set_alpha(0.75 if edge == "white" else 1.0)
        axes.add_patch(patch)


# -- the tree of crops ---------------------------------------------------------------------


class _Node(NamedTuple):
    """A part in the drawing: where its crop stands, in inches from the upper left corner."""

    tree: ParseTree
    left: float
    top: float
    children: list["_Node"]


class _Layout(NamedTuple):
    """The drawing of a tree: its root, inches per pixel of the image, size in inches."""

    root: _Node
    scale: float
    width: float
    height: float


_GAP, _DROP, _ROOT, _MARGIN = 0.1, 0.22, 1.25, 0.05  # inches


def crop_tree_figure(image: Tensor, drawn: DrawnBox, grid: tuple[int, int]) -> Figure:
    """The parse tree of a box as a tree of crops, all at one scale; leaves have a frame.

    Args:
        image: pixels in [0, 1], ``(3, H, W)``.
        drawn: the box, with its tree.
        grid: height and width of the grid, in cells.

    Raises:
        ValueError: if the box has no tree.
    """
    layout = _laid_out(drawn, grid)
    figure = new_figure(layout.width + 2 * _MARGIN, layout.height + 2 * _MARGIN)
    _draw_tree(figure, (0, 0), layout, (image, drawn, grid))
    return figure


def _laid_out(drawn: DrawnBox, grid: tuple[int, int]) -> _Layout:
    if drawn.tree is None:
        raise ValueError("`drawn` must have a parse tree, but has none. Use the And-Or head.")
    box = drawn.box
    scale = _ROOT / max(box[2] - box[0], box[3] - box[1])  # inches per pixel
    tops: list[float] = []
    _level_heights(drawn.tree, 0, tops, scale * (box[3] - box[1]) / grid[0])
    ends = [0.0]
    for tall in tops:
        ends.append(ends[-1] + tall + _DROP)
    cell = scale * (box[2] - box[0]) / grid[1]
    root = _arranged(drawn.tree, 0.0, 0, ends, cell)
    return _Layout(root, scale, _span(drawn.tree, cell), ends[-1] - _DROP)


def _draw_tree(
    figure: Figure,
    corner: tuple[float, float],
    layout: _Layout,
    source: tuple[Tensor, DrawnBox, tuple[int, int]],
) -> None:
    """The tree on axes of its own, whose lower left corner is given in inches."""
    total, tall = figure.get_size_inches()
    wide, high = layout.width + 2 * _MARGIN, layout.height + 2 * _MARGIN
    axes = figure.add_axes((corner[0] / total, corner[1] / tall, wide / total, high / tall))
    axes.set(xlim=(-_MARGIN, wide - _MARGIN), ylim=(high - _MARGIN, -_MARGIN))
    axes.set_axis_off()
    _draw_crops(axes, layout.root, source, layout.scale)


def _span(tree: ParseTree, cell: float) -> float:
    """Width that a part and everything below it take, in inches."""
    below = sum(_span(part, cell) for part in tree.parts) + _GAP * max(len(tree.parts) - 1, 0)
    return max(tree.rectangle.width * cell, below)


def _level_heights(tree: ParseTree, depth: int, tops: list[float], cell: float) -> None:
    """Height of the tallest crop at each depth."""
    if len(tops) <= depth:
        tops.append(0.0)
    tops[depth] = max(tops[depth], tree.rectangle.height * cell)
    for part in tree.parts:
        _level_heights(part, depth + 1, tops, cell)


def _arranged(
    tree: ParseTree, left: float, depth: int, tops: Sequence[float], cell: float
) -> _Node:
    """The drawing of a part whose span starts at `left`; crops stand centred in their span."""
    span, below = _span(tree, cell), [_span(part, cell) for part in tree.parts]
    start = left + (span - sum(below) - _GAP * max(len(below) - 1, 0)) / 2
    children = []
    for part, wide in zip(tree.parts, below, strict=True):
        children.append(_arranged(part, start, depth + 1, tops, cell))
        start += wide + _GAP
    return _Node(tree, left + (span - tree.rectangle.width * cell) / 2, tops[depth], children)


def _draw_crops(
    axes: Axes, node: _Node, source: tuple[Tensor, DrawnBox, tuple[int, int]], scale: float
) -> None:
    image, drawn, grid = source
    part = placed(node.tree.rectangle, drawn.box, grid)
    wide, tall = (part[2] - part[0]) * scale, (part[3] - part[1]) * scale
    extent = (node.left, node.left + wide, node.top + tall, node.top)
    axes.imshow(
        crop_of(image, part).permute(1, 2, 0).numpy(), extent=extent,
        interpolation="antialiased", aspect="auto", zorder=2,
    )  # fmt: skip
    if not node.children:
        colour = category_style(drawn.label)[0]
        frame = Patch((node.left, node.top), wide, tall, fill=False, edgecolor=colour, zorder=3)
        axes.add_patch(frame)
    foot = (node.left + wide / 2, node.top + tall)
    for child in node.children:
        child_wide = child.tree.rectangle.width * scale * (drawn.box[2] - drawn.box[0]) / grid[1]
        head = (child.left + child_wide / 2, child.top)
        axes.plot(*zip(foot, head, strict=True), color=MUTED, linewidth=0.7, zorder=1)
        _draw_crops(axes, child, source, scale)


def crop_of(image: Tensor, box: Box) -> Tensor:
    """The pixels of a box, at least one, ``(3, h, w)`` in [0, 1].

    Args:
        image: ``(3, H, W)``.
        box: may reach beyond the image, where it is cut.
    """
    height, width = image.shape[-2:]
    left, top = min(max(round(box[0]), 0), width - 1), min(max(round(box[1]), 0), height - 1)
    right, bottom = max(round(box[2]), left + 1), max(round(box[3]), top + 1)
    return image[:, top:bottom, left:right].clamp(0, 1).cpu()


def productions(tree: ParseTree) -> list[tuple[Rectangle, tuple[Rectangle, ...]]]:
    """The choices of a parse tree: each rectangle and its parts, none for a leaf."""
    found = [(tree.rectangle, tuple(part.rectangle for part in tree.parts))]
    return found + [choice for part in tree.parts for choice in productions(part)]


def as_drawn(box: Tensor, label: int, caption: str, tree: ParseTree | None) -> DrawnBox:
    """A `DrawnBox` from tensors."""
    left, top, right, bottom = torch.as_tensor(box).tolist()
    return DrawnBox((left, top, right, bottom), label, caption, tree)
