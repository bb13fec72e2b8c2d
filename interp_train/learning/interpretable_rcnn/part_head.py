"""What all box heads share that score the parts of an And-Or graph: parses, and pooling to leaves.

Wu et al., "Towards Interpretable R-CNN by Unfolding Latent Structures" (arXiv 1711.05226), built
from its description.
"""

import math
from abc import ABC, abstractmethod
from typing import NamedTuple

import torch
from torch import Tensor, nn

from interp_train.and_or_graph import AndOrGraph, ParseTree
from interp_train.and_or_parsing import AndOrParsing
from interp_train.checks import check_choice, check_range
from interp_train.learning.interpretable_rcnn.functional import leaf_pooling


class BoxParse(NamedTuple):
    """The parse of one box for one category.

    Attributes:
        tree: rectangles in cells of the grid.
        score: value of the root.
    """

    tree: ParseTree
    score: float


class LeafScores(NamedTuple):
    """The parse of one box, and what its leaves add to its score.

    Attributes:
        tree: rectangles in cells of the grid.
        contributions: share of each leaf in the area times its score; they sum to the score of
            the root.
    """

    tree: ParseTree
    contributions: list[float]


class PartHead(nn.Module, ABC):
    """A box head that scores parts and parses boxes; a subclass says from what.

    Args:
        graph: And-Or graph over the cells that features are pooled to.
        num_classes: categories, with the background as number 0.
        class_aware: whether each category scores parts, and so has its own parse, or all share
            one.
        pooling: ``"leaves"``: each cell has the mean over its leaf; ``"cells"``: cells keep their
            features.
        first_scored: first category that scores parts: 0 if the background does, else 1.

    Attributes:
        sharpness: of the Or nodes: 0 = folding, infinity = unfolding; see `AndOrParsing`.

    Raises:
        ValueError: if an argument is out of range.
    """

    def __init__(
        self,
        graph: AndOrGraph,
        num_classes: int,
        *,
        class_aware: bool,
        pooling: str,
        first_scored: int,
    ) -> None:
        super().__init__()
        check_range("num_classes", num_classes, 2)
        check_choice("pooling", pooling, ("leaves", "cells"))
        self.parsing = AndOrParsing(graph)
        self.num_foreground, self.class_aware, self.pooling = num_classes - 1, class_aware, pooling
        self.first_scored = first_scored
        self.sharpness = math.inf

    @abstractmethod
    def part_scores(self, features: Tensor) -> Tensor:
        """Score of each part in each box, ``(T, N, scoring categories, or 1)``."""

    def get_extra_state(self) -> Tensor:
        """The sharpness, which travels with the weights that learned under it."""
        return torch.tensor(self.sharpness)

    def set_extra_state(self, state: Tensor) -> None:
        """Fold or unfold as the weights that are loaded did."""
        self.sharpness = float(state)

    @property
    def graph(self) -> AndOrGraph:
        """The And-Or graph over the grid of a box."""
        return self.parsing.graph

    @torch.no_grad()
    def parses(self, features: Tensor, labels: Tensor) -> list[BoxParse]:
        """Unfolded parse of each box for one category.

        Args:
            features: of the boxes' grids, ``(N, channels, height, width)``.
            labels: category of each box, 1 .. num_classes - 1, ``(N,)``.

        Returns:
            One per box.

        Raises:
            ValueError: if a label is the background or no category.
        """
        if len(labels):
            check_range("labels.min()", int(labels.min()), 1)
            check_range("labels.max()", int(labels.max()), high=self.num_foreground)
        scores = self._of_categories(self.part_scores(features), labels)
        roots = self.parsing(scores).tolist()
        choices = self.parsing.choices(scores).t().tolist()
        return [
            BoxParse(self.graph.parse_tree(choice), root)
            for choice, root in zip(choices, roots, strict=True)
        ]

    @torch.no_grad()
    def leaf_scores(self, features: Tensor, labels: Tensor) -> list[LeafScores]:
        """Unfolded parse of each box for one category, with what each leaf adds to its score.

        Args:
            features: see `parses`.
            labels: see `parses`.
        """
        scores = self._of_categories(self.part_scores(features), labels).t().tolist()
        rows = {leaf: row for row, leaf in enumerate(self.parsing.terminal_rectangles)}
        area = self.graph.root.area
        return [
            LeafScores(
                parse.tree, [leaf.area / area * own[rows[leaf]] for leaf in parse.tree.leaves()]
            )
            for parse, own in zip(self.parses(features, labels), scores, strict=True)
        ]

    def pooled_as_parsed(self, features: Tensor, scores: Tensor, labels: Tensor) -> Tensor:
        """Means over the parts that one category of each box chooses; cells where they are kept.

        Args:
            features: see `parses`.
            scores: from `part_scores`; no gradient goes into the choice.
            labels: category of each box, ``(N,)``; all the same where categories share a parse.
        """
        if self.pooling == "cells":
            return features
        chosen = self._of_categories(scores.detach(), labels)
        weights = self.parsing.leaf_weights(chosen, self.sharpness)
        shares = self.parsing.cell_shares().to(weights.dtype)
        with torch.autocast(features.device.type, enabled=False):
            return leaf_pooling(features.flatten(2), weights, shares).view_as(features)

    def _of_categories(self, scores: Tensor, labels: Tensor) -> Tensor:
        """Scores ``(T, N)`` of one category per box."""
        if not self.class_aware:
            return scores[:, :, 0]
        index = (labels - self.first_scored).view(1, -1, 1).expand(len(scores), -1, 1)
        return scores.gather(2, index)[:, :, 0]
