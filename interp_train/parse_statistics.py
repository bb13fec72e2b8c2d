"""How a detector takes its categories apart: sizes of leaves, and the most frequent choices."""

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle as Patch

from interp_train.and_or_graph import ParseTree, Rectangle
from interp_train.figures import INK, MUTED, category_style, new_figure, quiet_axes
from interp_train.parse_drawings import productions

_WIDTH = 7.6


class Rule(NamedTuple):
    """A choice of a rectangle and how often it is made.

    Attributes:
        whole: the rectangle.
        parts: what it is taken apart into; none if it stays whole.
        share: of the category's parse trees that make this choice.
    """

    whole: Rectangle
    parts: tuple[Rectangle, ...]
    share: float


def leaf_size_shares(trees: Sequence[ParseTree]) -> dict[int, float]:
    """Size of leaves in cells -> share of the boxes' area that leaves of this size cover."""
    covered: Counter[int] = Counter()
    for tree in trees:
        for leaf in tree.leaves():
            covered[leaf.area] += leaf.area
    total = sum(covered.values())
    return {size: area / total for size, area in sorted(covered.items())}


def production_rules(trees: Sequence[ParseTree]) -> list[Rule]:
    """The choices that trees make, the most frequent first."""
    counts = Counter(choice for tree in trees for choice in set(productions(tree)))
    order = sorted(counts, key=lambda choice: (-counts[choice], -choice[0].area, choice))
    return [Rule(*choice, counts[choice] / len(trees)) for choice in order]


def frequent_rules(trees: Sequence[ParseTree], number: int) -> list[Rule]:
    """The choices that most trees make, ordered from the largest rectangle to the smallest."""
    return sorted(production_rules(trees)[:number], key=lambda rule: -rule.whole.area)


def leaf_size_figure(
    trees: Sequence[Sequence[ParseTree]], names: Sequence[str], cells: int
) -> Figure:
    """One panel per category: share of the boxes' area over the size of the leaves covering it.

    Args:
        trees: of each category; those without trees are left out.
        names: of the categories.
        cells: of the whole box, where a bar means that boxes stay whole.
    """
    shown = [(index, listed) for index, listed in enumerate(trees) if listed]
    tall = 0.5 + 1.1 * len(shown)
    figure = new_figure(_WIDTH, tall)
    for row, (index, listed) in enumerate(shown):
        bottom = (0.5 + 1.1 * (len(shown) - 1 - row)) / tall
        axes = figure.add_axes((0.095, bottom, 0.895, 0.72 / tall))
        _draw_sizes(axes, leaf_size_shares(listed), category_style(index)[0], cells)
        number = f"{len(listed)} boxes" if len(listed) > 1 else "1 box"
        axes.set_title(
            f"{names[index].replace('_', ' ')}, {number}", fontsize=8.5, color=INK, loc="left",
            pad=3,
        )  # fmt: skip
        if row == len(shown) - 1:
            axes.set_xlabel("size of a leaf, in cells")
        else:
            axes.set_xticklabels([])
    return figure


def _draw_sizes(axes: Axes, shares: dict[int, float], colour: str, cells: int) -> None:
    quiet_axes(axes)
    axes.set_ylabel("share of area", fontsize=7.5)
    axes.bar(list(shares), list(shares.values()), width=0.8, color=colour)
    axes.set(xlim=(0, cells + 1), ylim=(0, max(0.3, 1.15 * max(shares.values()))))
    if shares.get(cells, 0) > 0:
        axes.text(
            cells, shares[cells], "whole box", fontsize=7, color=MUTED, ha="right", va="bottom"
        )
    axes.locator_params(axis="y", nbins=3)


def rules_figure(
    trees: Sequence[Sequence[ParseTree]],
    names: Sequence[str],
    grid: tuple[int, int],
    number: int = 8,
) -> Figure:
    """The most frequent choices of each category, as grids with the parts filled in.

    Args:
        trees: of each category; those without trees are left out.
        names: of the categories.
        grid: height and width of the grid, in cells.
        number: choices per category.
    """
    shown = [(index, listed) for index, listed in enumerate(trees) if listed]
    caption, side, step = 1.05, 0.62, (_WIDTH - 1.05) / number
    row_height = 1.02
    tall = row_height * len(shown) + 0.05
    figure = new_figure(_WIDTH, tall)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(0, _WIDTH), ylim=(tall, 0))
    axes.set_axis_off()
    for row, (index, listed) in enumerate(shown):
        top = 0.1 + row * row_height
        axes.text(
            0.04, top + side / 2, names[index].replace("_", " "), fontsize=8.5, color=INK,
            va="center",
        )  # fmt: skip
        for column, rule in enumerate(frequent_rules(listed, number)):
            left = caption + column * step
            _draw_rule(axes, rule, (left, top, side), (grid, category_style(index)[0]))
            axes.text(
                left + side / 2, top + side + 0.06, f"{100 * rule.share:.0f} %", fontsize=7.5,
                color=MUTED, ha="center", va="top",
            )  # fmt: skip
    return figure


def _draw_rule(
    axes: Axes,
    rule: Rule,
    place: tuple[float, float, float],
    style: tuple[tuple[int, int], str],
) -> None:
    """A grid with a rectangle; its parts in two shades, or one where it stays whole."""
    (height, width), colour = style
    left, top, side = place
    cell = (side / width, side / height)

    def patch(rectangle: Rectangle, **options: object) -> None:
        corner = (left + rectangle.left * cell[0], top + rectangle.top * cell[1])
        size = (rectangle.width * cell[0], rectangle.height * cell[1])
        axes.add_patch(Patch(corner, *size, **options))  # type: ignore[arg-type]

    patch(Rectangle(0, 0, width, height), facecolor="#f1f3f5", linewidth=0)
    if not rule.parts:
        patch(rule.whole, facecolor=colour, linewidth=0)
        return
    for index, part in enumerate(rule.parts):
        patch(part, facecolor=colour, alpha=(0.45, 0.2, 0.32)[index % 3], linewidth=0)
        patch(part, fill=False, edgecolor=colour, linewidth=0.9)
