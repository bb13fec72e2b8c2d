"""Pictures of parse trees: boxes with their leaves, a tree of crops, the graph with a chosen path.

Knows no logger and no trainer. Boxes are in pixels of the image, from edge to edge, as detectors
give them.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle as Patch
from matplotlib.patheffects import withStroke
from torch import Tensor

from interp_train.and_or_graph import AndOrGraph, ParseTree, Rectangle
from interp_train.figures import HAIRLINE, INK, MUTED, category_style, new_figure, picture_axes

_FAINT = "#e9ecef"

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
    height, width = image.shape[-2:]
    wide = 6.4
    foot = 0.3
    tall = wide * height / width + foot
    figure = new_figure(wide, tall)
    # Paler, so that lines and captions stand out on any photo.
    axes = picture_axes(figure, (0, foot / tall, 1, 1 - foot / tall), image * 0.85 + 0.15)
    axes.set(xlim=(-0.5, width - 0.5), ylim=(height - 0.5, -0.5))
    for drawn in reversed(boxes):
        _draw_box(axes, drawn, grid)
    shown = sorted({drawn.label for drawn in boxes})
    for label in shown:
        axes.plot([], [], "s", color=category_style(label)[0], markersize=6, label=names[label])
    if shown:
        figure.legend(
            loc="lower left", ncols=max(len(shown), 1), frameon=False, fontsize=8,
            labelcolor=INK, handletextpad=0.1, columnspacing=1.2, borderpad=0.2,
        )  # fmt: skip
    else:
        figure.text(0.008, 0.08 / tall, "nothing found", fontsize=8, color=MUTED)
    return figure


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


_GAP, _DROP, _ROOT = 0.1, 0.22, 1.25


def crop_tree_figure(image: Tensor, drawn: DrawnBox, grid: tuple[int, int]) -> Figure:
    """The parse tree of a box as a tree of crops, all at one scale; leaves have a frame.

    Args:
        image: pixels in [0, 1], ``(3, H, W)``.
        drawn: the box, with its tree.
        grid: height and width of the grid, in cells.

    Raises:
        ValueError: if the box has no tree.
    """
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
    width, height = _span(drawn.tree, cell), ends[-1] - _DROP
    margin = 0.05
    figure = new_figure(width + 2 * margin, height + 2 * margin)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(-margin, width + margin), ylim=(height + margin, -margin))
    axes.set_axis_off()
    _draw_crops(axes, root, (image, drawn, grid), scale)
    return figure


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


# -- the And-Or graph ----------------------------------------------------------------------


def graph_figure(graph: AndOrGraph, tree: ParseTree, colour: str) -> Figure:
    """The whole And-Or graph in grey, and the nodes and edges of one parse tree in colour.

    An Or node is a square, the grid, with its rectangle filled; an And node is a dot between two
    rows. Coloured rectangles are the leaves; Or nodes that are taken apart have a coloured frame.

    Args:
        graph: what could be chosen.
        tree: what was.
        colour: of the tree.
    """
    places = _graph_places(graph)
    on_path, leaves = _path(tree)
    wide = max(x for x, _ in places.values()) + 1
    tall = max(y for _, y in places.values()) + 1
    unit = 7.6 / wide
    figure = new_figure(7.6, max(unit * tall, 2.0))
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(-0.5, wide - 0.5), ylim=(tall - 0.4, -0.6))
    axes.set_axis_off()
    _draw_edges(axes, graph, places, (tree, colour))
    for rectangle, place in places.items():
        chosen = rectangle in on_path
        fill = colour if rectangle in leaves else ("#b7bfc8" if not chosen else "#5c6670")
        _draw_glyph(axes, graph, rectangle, place, (fill, colour if chosen else HAIRLINE))
    return figure


def _graph_places(graph: AndOrGraph) -> dict[Rectangle, tuple[float, float]]:
    """Where each Or node stands: rows of equal area, the largest on top."""
    by_area: dict[int, list[Rectangle]] = {}
    for rectangle in graph.rectangles:
        by_area.setdefault(rectangle.area, []).append(rectangle)
    widest = max(map(len, by_area.values()))
    places = {}
    row = 0.0
    for area in sorted(by_area, reverse=True):
        members = sorted(by_area[area], key=lambda r: (r.width, r.top, r.left))
        step = min(2.0, widest / len(members))
        first = (widest - step * (len(members) - 1) - 1) / 2
        places.update({r: (first + step * i, row) for i, r in enumerate(members)})
        row += 1.9
    return places


def _path(tree: ParseTree) -> tuple[set[Rectangle], set[Rectangle]]:
    """Rectangles of a parse tree, and those of its leaves."""
    inner: set[Rectangle] = {tree.rectangle}
    for part in tree.parts:
        inner |= _path(part)[0]
    return inner, set(tree.leaves())


def productions(tree: ParseTree) -> list[tuple[Rectangle, tuple[Rectangle, ...]]]:
    """The choices of a parse tree: each rectangle and its parts, none for a leaf."""
    found = [(tree.rectangle, tuple(part.rectangle for part in tree.parts))]
    return found + [choice for part in tree.parts for choice in productions(part)]


def _draw_edges(
    axes: Axes,
    graph: AndOrGraph,
    places: dict[Rectangle, tuple[float, float]],
    chosen: tuple[ParseTree, str],
) -> None:
    """Edges from Or nodes over And nodes to their parts; those of the tree on top."""
    tree, colour = chosen
    taken = set(productions(tree))
    faint, strong, dots = [], [], []
    for rectangle, nodes in zip(graph.rectangles, graph.and_nodes, strict=True):
        x, y = places[rectangle]
        for index, node in enumerate(nodes):
            dot = (x + (index + 1) / (len(nodes) + 1) - 0.5, y + 0.95)
            edges = [((x, y + 0.42), dot)]
            edges += [(dot, (places[part][0], places[part][1] - 0.42)) for part in node.parts]
            if (rectangle, node.parts) in taken:
                strong += edges
                dots.append(dot)
            else:
                faint += edges
    axes.add_collection(LineCollection(faint, colors=_FAINT, linewidths=0.3, zorder=0))
    axes.add_collection(LineCollection(strong, colors=colour, linewidths=1.3, zorder=3))
    if dots:
        axes.scatter(
            [x for x, _ in dots], [y for _, y in dots], s=9, color=colour, zorder=4, linewidths=0
        )


def _draw_glyph(
    axes: Axes,
    graph: AndOrGraph,
    rectangle: Rectangle,
    place: tuple[float, float],
    colours: tuple[str, str],
) -> None:
    """A grid as a small square with a rectangle in it; colours are of the filling and the frame."""
    fill, edge = colours
    side = 0.84
    left, top = place[0] - side / 2, place[1] - side / 2
    cell = (side / graph.width, side / graph.height)
    strong = edge != HAIRLINE
    axes.add_patch(Patch(
        (left, top), side, side, facecolor="white", edgecolor=edge,
        linewidth=1.2 if strong else 0.5, zorder=5 if strong else 2,
    ))  # fmt: skip
    axes.add_patch(Patch(
        (left + rectangle.left * cell[0], top + rectangle.top * cell[1]),
        rectangle.width * cell[0], rectangle.height * cell[1], facecolor=fill, linewidth=0,
        zorder=6 if strong else 2,
    ))  # fmt: skip


def as_drawn(box: Tensor, label: int, caption: str, tree: ParseTree | None) -> DrawnBox:
    """A `DrawnBox` from tensors."""
    left, top, right, bottom = torch.as_tensor(box).tolist()
    return DrawnBox((left, top, right, bottom), label, caption, tree)
