"""How stable and how true the parts are that a detector unfolds.

Layout consistency: an image and its mirror image should be taken apart in the same way, up to
left and right. Part recovery: where true parts are known, leaves should coincide with them. Both
stand beside trees drawn at random, since a partition with few large leaves agrees with any other
one by its size alone, and many leaves meet any part.
"""

import random
from collections.abc import Sequence
from typing import final

import torch
from torch import Tensor
from torchvision.ops import box_iou

from interp_train.and_or_graph import AndOrGraph, ParseTree, Rectangle
from interp_train.checks import check_range
from interp_train.evaluation.heatmap_means import HeatmapMeans

_POOL = 500  # random trees among which those of a number of leaves are looked for


def layout_agreement(first: Sequence[Rectangle], second: Sequence[Rectangle]) -> float:
    """Mean over the cells of a grid of the IoU of the two leaves that hold the cell.

    Args:
        first: leaves that divide the grid.
        second: leaves that divide it, too.

    Returns:
        In (0, 1]; 1 if and only if both divide it alike.
    """
    total = 0.0
    for one in first:
        for other in second:
            shared = _shared(one, other)
            total += shared * shared / (one.area + other.area - shared)
    return total / sum(leaf.area for leaf in first)


def _shared(one: Rectangle, other: Rectangle) -> int:
    """Number of cells that two rectangles share."""
    right = min(one.left + one.width, other.left + other.width)
    bottom = min(one.top + one.height, other.top + other.height)
    wide, high = right - max(one.left, other.left), bottom - max(one.top, other.top)
    return max(wide, 0) * max(high, 0)


def mirrored_leaves(tree: ParseTree, width: int) -> list[Rectangle]:
    """Leaves of a tree with left and right of a grid of `width` columns exchanged."""
    return [leaf._replace(left=width - leaf.left - leaf.width) for leaf in tree.leaves()]


@final
class RandomTrees:
    """Parse trees drawn at random, with a wanted number of leaves as far as the graph has them.

    Args:
        graph: whose trees are drawn, all alike.
        seed: of the drawing.
    """

    def __init__(self, graph: AndOrGraph, seed: int = 0) -> None:
        source = random.Random(seed)
        self._by_leaves: dict[int, list[ParseTree]] = {}
        for _ in range(_POOL):
            tree = graph.random_parse_tree(source)
            self._by_leaves.setdefault(len(tree.leaves()), []).append(tree)
        self._by_leaves.setdefault(1, [ParseTree(graph.root)])  # rare, but always possible

    def like(self, tree: ParseTree, source: random.Random) -> ParseTree:
        """A random tree with as many leaves as `tree`, or with the nearest number there is."""
        wanted = len(tree.leaves())
        number = min(self._by_leaves, key=lambda leaves: (abs(leaves - wanted), leaves))
        return source.choice(self._by_leaves[number])


@final
class LayoutConsistency(HeatmapMeans):
    """Agreement of the leaves of a box and of the same box in the mirrored image.

    ``layout_consistency``; ``layout_consistency_random``: of two random trees with as many leaves;
    ``layout_consistency_exchanged``: with the tree of the category's next box, which tells how
    much of the agreement is one layout for the whole category. A detector whose boxes all stay
    whole reaches 1, so read it beside the share of unfolded boxes.

    Args:
        graph: of the detector's head.
    """

    def __init__(self, graph: AndOrGraph) -> None:
        names = ("layout_consistency", "layout_consistency_random", "layout_consistency_exchanged")
        super().__init__(names)
        self.width = graph.width
        self.random_trees = RandomTrees(graph)

    def update(
        self,
        trees: Sequence[ParseTree],
        mirrored: Sequence[ParseTree],
        labels: Sequence[int],
        sample_id: int,
    ) -> None:
        """Add the boxes of one image.

        Args:
            trees: of the boxes.
            mirrored: of the same boxes in the mirrored image.
            labels: category of each box.
            sample_id: source of the random trees.
        """
        source = random.Random(sample_id)
        back = [mirrored_leaves(tree, self.width) for tree in mirrored]
        own, by_chance, exchanged = [], [], []
        for index, tree in enumerate(trees):
            own.append(layout_agreement(tree.leaves(), back[index]))
            pair = [self.random_trees.like(t, source).leaves() for t in (tree, mirrored[index])]
            by_chance.append(layout_agreement(*pair))
            others = [i for i, label in enumerate(labels) if label == labels[index] and i != index]
            after = next((i for i in others if i > index), others[0] if others else None)
            alike = torch.nan if after is None else layout_agreement(tree.leaves(), back[after])
            exchanged.append(alike)
        values = zip(self.names, (own, by_chance, exchanged), strict=True)
        self.add({name: torch.tensor(found, dtype=torch.float64) for name, found in values})


def recovered(leaves: Tensor, parts: Tensor) -> float:
    """Mean over the parts of the IoU with the leaf that fits best.

    Args:
        leaves: boxes ``(L, 4)``.
        parts: boxes ``(P, 4)``; those with NaN are not visible. NaN without visible parts.
    """
    visible = parts[~parts.isnan().any(dim=1)]
    if not len(visible):
        return float("nan")
    return float(box_iou(visible.double(), leaves.double()).amax(dim=1).mean())


def leaf_boxes_of(leaves: Sequence[Rectangle], box: Tensor, grid: tuple[int, int]) -> Tensor:
    """Leaves in pixels, float64 ``(L, 4)``; grid is height and width in cells."""
    cells = torch.tensor(
        [(x, y, x + width, y + height) for x, y, width, height in leaves], dtype=torch.float64
    )
    corner, far = box[:2].double().cpu(), box[2:].double().cpu()
    cell = (far - corner) / torch.tensor([grid[1], grid[0]], dtype=torch.float64)
    return cells * cell.repeat(2) + corner.repeat(2)


def even_grid(number: int, box: Tensor) -> Tensor:
    """A box cut into even rows and columns, as near to `number` pieces as possible, ``(L, 4)``.

    Of equally near grids, the one whose numbers of rows and columns differ least.
    """
    shapes = [(rows, cols) for rows in range(1, number + 1) for cols in range(1, number + 1)]
    rows, cols = min(shapes, key=lambda s: (abs(s[0] * s[1] - number), abs(s[0] - s[1]), s))
    cells = [Rectangle(x, y, 1, 1) for y in range(rows) for x in range(cols)]
    return leaf_boxes_of(cells, box, (rows, cols))


@final
class PartRecovery(HeatmapMeans):
    """How well leaves coincide with true parts, a mean over objects; see `recovered`.

    ``part_recovery``; ``part_recovery_random`` of random trees with as many leaves;
    ``part_recovery_grid`` of an even grid with as many pieces; ``part_recovery_oracle`` where every
    part takes the best rectangle of the graph; ``part_recovery_normalised``: 0 like random trees,
    1 like the oracle.

    Args:
        graph: of the detector's head.
        num_random: random trees per object.
    """

    def __init__(self, graph: AndOrGraph, num_random: int = 5) -> None:
        check_range("num_random", num_random, 1)
        names = ("part_recovery", "part_recovery_random", "part_recovery_grid",
                 "part_recovery_oracle")  # fmt: skip
        super().__init__(names)
        self.graph, self.num_random = graph, num_random
        self.random_trees = RandomTrees(graph)

    def update(
        self, trees: Sequence[ParseTree], boxes: Tensor, part_boxes: Tensor, sample_id: int
    ) -> None:
        """Add the objects of one image.

        Args:
            trees: of each object's true box.
            boxes: of the objects, ``(M, 4)``.
            part_boxes: ``(M, P, 4)``; NaN where not visible.
            sample_id: source of the random trees.
        """
        source = random.Random(sample_id)
        grid = (self.graph.height, self.graph.width)
        found: dict[str, list[float]] = {name: [] for name in self.names}
        for tree, box, parts in zip(trees, boxes, part_boxes.cpu(), strict=True):
            leaves = tree.leaves()
            drawn = [self.random_trees.like(tree, source) for _ in range(self.num_random)]
            by_chance = [recovered(leaf_boxes_of(t.leaves(), box, grid), parts) for t in drawn]
            every = leaf_boxes_of(self.graph.rectangles, box, grid)
            found["part_recovery"].append(recovered(leaf_boxes_of(leaves, box, grid), parts))
            found["part_recovery_random"].append(sum(by_chance) / len(by_chance))
            found["part_recovery_grid"].append(recovered(even_grid(len(leaves), box), parts))
            found["part_recovery_oracle"].append(recovered(every, parts))
        self.add({name: torch.tensor(v, dtype=torch.float64) for name, v in found.items()})

    def compute(self) -> dict[str, Tensor]:
        """Means over the objects; nothing without objects with visible parts."""
        means = super().compute()
        if means:
            low, high = means["part_recovery_random"], means["part_recovery_oracle"]
            means["part_recovery_normalised"] = (means["part_recovery"] - low) / (high - low)
        return means
