"""Picture of an And-Or graph with the path of one parse tree through it."""

from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle as Patch

from interp_train.and_or_graph import AndOrGraph, ParseTree, Rectangle
from interp_train.figures import HAIRLINE, new_figure
from interp_train.parse_drawings import productions

_FAINT = "#e9ecef"


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
