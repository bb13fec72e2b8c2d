"""And-Or graphs over a grid: every way to take a rectangle apart by cuts, with shared parts.

A terminal node is a part: a rectangle of cells. An And node is one decomposition of a rectangle
into smaller ones. An Or node is a rectangle, and a choice among its own terminal node and the And
nodes that take it apart. Equal rectangles share their nodes, so the graph is directed and acyclic;
it holds all parse trees at once. Structure after Wu et al., "Towards Interpretable R-CNN by
Unfolding Latent Structures" (arXiv 1711.05226), built from its description. The values of the nodes
are computed by `interp_train.and_or_parsing`.
"""

import itertools
import math
import random
from collections.abc import Iterator, Sequence
from typing import Any, Literal, NamedTuple, final

from interp_train.checks import check_choice, check_range

MAX_AND_NODES = 200_000

Pruning = Literal["none", "first", "last"]


class Rectangle(NamedTuple):
    """Cells ``left <= x < left + width``, ``top <= y < top + height``."""

    left: int
    top: int
    width: int
    height: int

    @property
    def area(self) -> int:
        """Number of cells."""
        return self.width * self.height


class AndNode(NamedTuple):
    """A rectangle and the rectangles it is taken apart into, from left to right, top to bottom."""

    whole: Rectangle
    parts: tuple[Rectangle, ...]


class ParseTree(NamedTuple):
    """One decomposition of a rectangle.

    Attributes:
        rectangle: the whole.
        parts: parse trees of the parts; empty for a terminal node.
    """

    rectangle: Rectangle
    parts: tuple["ParseTree", ...] = ()

    def leaves(self) -> list[Rectangle]:
        """Rectangles of the terminal nodes."""
        if not self.parts:
            return [self.rectangle]
        return [leaf for part in self.parts for leaf in part.leaves()]

    def depth(self) -> int:
        """Number of And nodes on the longest way to a leaf; 0 for a terminal node."""
        return 1 + max(part.depth() for part in self.parts) if self.parts else 0

    def as_plain(self) -> list[Any]:
        """Its rectangle and its parts, as nested lists for JSON."""
        return [list(self.rectangle), [part.as_plain() for part in self.parts]]

    @classmethod
    def from_plain(cls, plain: Sequence[Any]) -> "ParseTree":
        """The tree of what `as_plain` gave."""
        rectangle, parts = plain
        return cls(Rectangle(*rectangle), tuple(map(cls.from_plain, parts)))


@final
class AndOrGraph:
    """The And-Or graph of a grid.

    Args:
        height: rows of the grid.
        width: columns.
        min_side: least height and width of a part, in cells.
        min_area: least number of cells of a part.
        max_parts: most parts of one And node; 2 allows single cuts alone.
        overlap: share of the first part by which the second may reach into it, in [0, 1). A cut
            behind k cells then comes with every overlap of 0, 1, ..., floor(k * overlap) cells.
        root_terminal: whether the whole grid may be a part.
        pruning: of two cuts of a rectangle that are mirror images, keep both (``"none"``), the
            first or the last.
        max_cuts: most cuts of one rectangle, evenly spaced among all; None keeps all.

    Attributes:
        rectangles: of the Or nodes, each behind the rectangles it contains in parse trees, so that
            the root is last.
        terminal: whether the Or node of that index has a terminal node.
        and_nodes: index of the Or node -> its And nodes.
        levels: indices of Or nodes that depend on earlier levels only.

    Raises:
        ValueError: if an argument is out of range, or nothing is left to choose.
    """

    def __init__(
        self,
        height: int,
        width: int,
        *,
        min_side: int = 1,
        min_area: int = 1,
        max_parts: int = 2,
        overlap: float = 0.0,
        root_terminal: bool = True,
        pruning: Pruning = "none",
        max_cuts: int | None = None,
    ) -> None:
        check_range("height", height, 1)
        check_range("width", width, 1)
        check_range("min_side", min_side, 1, min(height, width))
        check_range("min_area", min_area, 1, height * width)
        check_range("max_parts", max_parts, 2)
        check_range("overlap", overlap, 0)
        check_choice("pruning", pruning, ("none", "first", "last"))
        check_range("max_cuts", 1 if max_cuts is None else max_cuts, 1)
        if overlap >= 1:
            raise ValueError(f"`overlap` must be below 1, but got {overlap!r}.")
        self.height, self.width = height, width
        self.root = Rectangle(0, 0, width, height)
        self._least = (min_side, min_area)
        self._overlap, self._pruning, self._max_cuts = overlap, pruning, max_cuts
        cuts = self._all_cuts()
        if not root_terminal and not cuts[self.root]:
            raise ValueError(
                f"`root_terminal` must be true where no cut is allowed, but a grid of {height}x"
                f"{width} cells has none with min_side={min_side} and min_area={min_area}. "
                "Choose smaller parts."
            )
        self._arrange(_with_more_parts(cuts, max_parts), root_terminal)

    def __repr__(self) -> str:
        """Size of the grid and number of nodes."""
        terminals, ands, ors = self.num_terminal, self.num_and, len(self)
        return (
            f"AndOrGraph({self.height}x{self.width}: {terminals} terminal, {ands} And, {ors} Or "
            "nodes)"
        )

    def __len__(self) -> int:
        """Number of Or nodes."""
        return len(self.rectangles)

    @property
    def num_terminal(self) -> int:
        """Number of terminal nodes."""
        return sum(self.terminal)

    @property
    def num_and(self) -> int:
        """Number of And nodes."""
        return sum(map(len, self.and_nodes))

    def index(self, rectangle: Rectangle) -> int:
        """Index of the Or node of a rectangle.

        Raises:
            KeyError: if it is no part of any parse tree.
        """
        return self._indices[rectangle]

    def count_parse_trees(self) -> int:
        """Number of different parse trees of the whole grid."""
        return self._counts[-1]

    def parse_trees(self, rectangle: Rectangle | None = None) -> Iterator[ParseTree]:
        """All parse trees of a rectangle (None = the grid); many, on all but small grids."""
        index = self.index(rectangle or self.root)
        if self.terminal[index]:
            yield ParseTree(self.rectangles[index])
        for node in self.and_nodes[index]:
            for parts in itertools.product(*(list(self.parse_trees(part)) for part in node.parts)):
                yield ParseTree(node.whole, parts)

    def random_parse_tree(self, rng: random.Random) -> ParseTree:
        """A parse tree of the grid; all are equally likely."""
        choices = []
        for terminal, nodes in zip(self.terminal, self.and_nodes, strict=True):
            trees = [int(terminal), *map(self._count_trees, nodes)]
            drawn, choice = rng.randrange(sum(trees)), -1
            while drawn >= trees[choice + 1]:
                drawn -= trees[choice + 1]
                choice += 1
            choices.append(choice)
        return self.parse_tree(choices)

    def parse_tree(self, choices: Sequence[int]) -> ParseTree:
        """The parse tree of the grid that follows from a choice at every Or node.

        Args:
            choices: per Or node: -1 for its terminal node, or an index into its `and_nodes`.

        Raises:
            ValueError: if there is not one choice per Or node, or one chooses what is not there.
        """
        if len(choices) != len(self):
            raise ValueError(
                f"`choices` must have one entry per Or node ({len(self)}), but got {len(choices)}."
            )
        return self._unfolded(len(self) - 1, choices)

    def _count_trees(self, node: AndNode) -> int:
        return math.prod(self._counts[self._indices[part]] for part in node.parts)

    def _unfolded(self, index: int, choices: Sequence[int]) -> ParseTree:
        choice = int(choices[index])
        low = -1 if self.terminal[index] else 0
        check_range(f"choices[{index}]", choice, low, len(self.and_nodes[index]) - 1)
        rectangle = self.rectangles[index]
        if choice < 0:
            return ParseTree(rectangle)
        parts = self.and_nodes[index][choice].parts
        return ParseTree(
            rectangle, tuple(self._unfolded(self._indices[part], choices) for part in parts)
        )

    def _all_cuts(self) -> dict[Rectangle, list[AndNode]]:
        """Every rectangle that cuts lead to, from the root on, and its cuts into two."""
        found: dict[Rectangle, list[AndNode]] = {self.root: []}
        queue, total = [self.root], 0
        for whole in queue:
            found[whole] = self._cuts(whole)
            total += len(found[whole])
            check_and_nodes(total)
            for part in itertools.chain.from_iterable(node.parts for node in found[whole]):
                if part not in found:
                    found[part] = []
                    queue.append(part)
        return found

    def _cuts(self, whole: Rectangle) -> list[AndNode]:
        """Its cuts: those between rows first, each from the top or the left on."""
        by_axis = [self._cuts_between_rows(whole), self._cuts_between_columns(whole)]
        if self._pruning != "none":
            by_axis = [_without_mirror_images(cuts, self._pruning) for cuts in by_axis]
        cuts = [AndNode(whole, parts) for cuts in by_axis for parts in cuts]
        if self._max_cuts is None or len(cuts) <= self._max_cuts:
            return cuts
        spacing = len(cuts) / self._max_cuts
        return [cuts[int((index + 0.5) * spacing)] for index in range(self._max_cuts)]

    def _cuts_between_rows(self, whole: Rectangle) -> list[tuple[Rectangle, ...]]:
        x, y, width, height = whole
        pairs = [
            (Rectangle(x, y, width, end), Rectangle(x, y + start, width, height - start))
            for end, start in self._ends_and_starts(height)
        ]
        return [pair for pair in pairs if all(map(self._allowed, pair))]

    def _cuts_between_columns(self, whole: Rectangle) -> list[tuple[Rectangle, ...]]:
        x, y, width, height = whole
        pairs = [
            (Rectangle(x, y, end, height), Rectangle(x + start, y, width - start, height))
            for end, start in self._ends_and_starts(width)
        ]
        return [pair for pair in pairs if all(map(self._allowed, pair))]

    def _ends_and_starts(self, length: int) -> list[tuple[int, int]]:
        """End of the first part and start of the second, for each cut of a side."""
        return [
            (end, end - shared)
            for end in range(1, length)
            for shared in range(1 + math.floor(end * self._overlap))
        ]

    def _allowed(self, part: Rectangle) -> bool:
        min_side, min_area = self._least
        return min(part.width, part.height) >= min_side and part.area >= min_area

    def _arrange(self, nodes: dict[Rectangle, list[AndNode]], root_terminal: bool) -> None:
        """Order the Or nodes by the level they can be computed at."""
        level: dict[Rectangle, int] = {}
        for whole in sorted(nodes, key=lambda rectangle: rectangle.area):
            parts = (part for node in nodes[whole] for part in node.parts)
            level[whole] = 1 + max((level[part] for part in parts), default=-1)
        self.rectangles = sorted(level, key=lambda rectangle: (level[rectangle], rectangle))
        self._indices = {rectangle: index for index, rectangle in enumerate(self.rectangles)}
        self.and_nodes = [nodes[rectangle] for rectangle in self.rectangles]
        self.terminal = [root_terminal or rect != self.root for rect in self.rectangles]
        self.levels: list[list[int]] = [[] for _ in range(1 + max(level.values()))]
        self._counts: list[int] = []  # parse trees of each rectangle
        for index, rectangle in enumerate(self.rectangles):
            self.levels[level[rectangle]].append(index)
            trees = sum(map(self._count_trees, self.and_nodes[index]))
            self._counts.append(self.terminal[index] + trees)


def check_and_nodes(number: int) -> None:
    """Raise ValueError if a graph becomes too large to be useful."""
    if number > MAX_AND_NODES:
        raise ValueError(
            f"The graph has more than {MAX_AND_NODES} And nodes. Choose a smaller grid, a larger "
            "`min_side`, fewer `max_parts`, or a limit `max_cuts`."
        )


def _without_mirror_images(
    cuts: list[tuple[Rectangle, ...]], pruning: Pruning
) -> list[tuple[Rectangle, ...]]:
    """Of the cuts along one axis, those whose sizes do not occur in the opposite order as well."""
    ordered = cuts if pruning == "first" else cuts[::-1]
    kept: dict[frozenset[tuple[int, int]], tuple[Rectangle, ...]] = {}
    for first, second in ordered:
        sizes = frozenset(((first.width, first.height), (second.width, second.height)))
        kept.setdefault(sizes, (first, second))
    return [cut for cut in cuts if cut in kept.values()]


def _with_more_parts(
    cuts: dict[Rectangle, list[AndNode]], max_parts: int
) -> dict[Rectangle, list[AndNode]]:
    """Add And nodes with three to `max_parts` parts: one part of a smaller one is cut in turn."""
    nodes = {whole: list(found) for whole, found in cuts.items()}
    for whole, found in nodes.items():
        known = {node.parts for node in found}
        latest = list(found)
        for _ in range(max_parts - 2):
            wider = {
                tuple(sorted((*node.parts[:at], *cut.parts, *node.parts[at + 1 :]), key=_reading))
                for node in latest
                for at, part in enumerate(node.parts)
                for cut in cuts[part]
            }
            latest = [AndNode(whole, parts) for parts in sorted(wider - known)]
            known |= wider
            found += latest
            check_and_nodes(len(found))
    return nodes


def _reading(rectangle: Rectangle) -> tuple[int, int]:
    return rectangle.top, rectangle.left
