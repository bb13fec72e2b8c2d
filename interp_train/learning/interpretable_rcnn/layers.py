"""The And-Or head of a detector, in the places of torchvision's ``box_head`` and ``box_predictor``.

The features of a box are pooled to a grid of cells. Every part of the And-Or graph over the grid
has its own linear score of the mean feature in its rectangle. Parsing selects the best
configuration of parts, which the box's score includes, and the box's features are the means over
its parts. Wu et al., "Towards Interpretable R-CNN by Unfolding Latent Structures" (arXiv
1711.05226), built from its description. Ours: features are projected before they are pooled to
parts; scores of parts differ by weights, since with equal ones all configurations of a box would
score alike (the mean of means, weighted by areas, is the mean).

Evidence for a category alone does not say where a part ends. With ``homogeneity`` a part pays for
the colours that differ inside it, so that cuts fall where the image changes, and with ``leaf_cost``
each leaf pays, so that parts which look alike stay together.
"""

from typing import final

import torch
from torch import Tensor, nn

from interp_train.and_or_graph import AndOrGraph
from interp_train.checks import check_range
from interp_train.learning.interpretable_rcnn.box_colours import NUM_COLOURS, whitened
from interp_train.learning.interpretable_rcnn.part_head import PartHead
from interp_train.precision import at_least_float32


@final
class AndOrHead(PartHead):
    """Features and part-configuration scores of boxes; goes into ``box_head``.

    Its output is read by `AndOrPredictor`, which must stand in ``box_predictor``.

    Args:
        in_channels: of the pooled features.
        num_classes: categories, with the background as number 0.
        graph: And-Or graph over the cells that features are pooled to.
        class_aware: whether each category scores parts, and so has its own parse, or all share
            one.
        projection_size: channels that parts are scored from.
        representation_size: units of the two linear layers.
        pooling: ``"leaves"``: each cell has the mean over its leaf; ``"cells"``: cells keep their
            features, and the parse acts through its score alone.
        homogeneity: what a box pays for the share of the variance of its `whitened` colours that
            lies inside its parts. If it is not 0, boxes must be pooled by a `ColourRoIAlign`, and
            the input has three channels more.
        leaf_cost: what it pays for each part of its parse.

    Attributes:
        sharpness: of the Or nodes: 0 = folding, infinity = unfolding; see `AndOrParsing`.

    Raises:
        ValueError: if an argument is out of range.
    """

    def __init__(
        self,
        in_channels: int,
        num_classes: int,
        graph: AndOrGraph,
        *,
        class_aware: bool = True,
        projection_size: int = 64,
        representation_size: int = 1024,
        pooling: str = "leaves",
        homogeneity: float = 0.0,
        leaf_cost: float = 0.0,
    ) -> None:
        super().__init__(
            graph, num_classes, class_aware=class_aware, pooling=pooling, first_scored=1
        )
        check_range("homogeneity", homogeneity, 0.0)
        check_range("leaf_cost", leaf_cost, 0.0)
        self.representation_size = representation_size
        self.in_channels, self.homogeneity, self.leaf_cost = in_channels, homogeneity, leaf_cost
        num_scores = self.num_foreground if class_aware else 1
        self.projection = nn.Conv2d(in_channels, projection_size, 1)
        self.part_weights = nn.Parameter(
            torch.randn(graph.num_terminal, projection_size, num_scores) / projection_size**0.5
        )
        self.part_biases = nn.Parameter(torch.zeros(graph.num_terminal, 1, num_scores))
        self.fc6 = nn.Linear(in_channels * graph.height * graph.width, representation_size)
        self.fc7 = nn.Linear(representation_size, representation_size)

    def forward(self, features: Tensor) -> Tensor:
        """Representation of each box, with the score of its best parts behind it.

        Args:
            features: ``(N, in_channels, height, width)`` of the graph's grid, with `homogeneity`
                three more channels for the colours; N may be 0.

        Returns:
            ``(N, representation_size + num_classes - 1)``.
        """
        scores = self.part_scores(features)
        roots = self.parsing(scores, self.sharpness)
        features = self.pooled_as_parsed(
            features[:, : self.in_channels], scores, roots.argmax(dim=1) + 1
        )
        hidden = self.fc6(features.flatten(1)).relu()
        hidden = self.fc7(hidden).relu()
        roots = roots.expand(-1, self.num_foreground).to(hidden.dtype)
        return torch.cat([hidden, roots], dim=1)

    def part_scores(self, features: Tensor) -> Tensor:
        """Score of each part in each box, ``(T, N, categories of the foreground, or 1)``.

        Raises:
            ValueError: if the number of channels is not what `forward` says.
        """
        features, colours = self._split(features)
        projected = self.projection(features).relu()
        means = at_least_float32(self.parsing.terminal_means(projected))
        with torch.autocast(features.device.type, enabled=False):
            scores = torch.baddbmm(self.part_biases, means, self.part_weights)
            if self.homogeneity or self.leaf_cost:
                scores = scores - self._costs(colours)[..., None]
            return scores

    def _split(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Features and colours of boxes."""
        expected = self.in_channels + (NUM_COLOURS if self.homogeneity else 0)
        if features.shape[1] != expected:
            raise ValueError(
                f"`features` must have {expected} channels for in_channels={self.in_channels} and "
                f"homogeneity={self.homogeneity}, but got {features.shape[1]}. With homogeneity, "
                f"pool boxes by a ColourRoIAlign; without it, by torchvision's."
            )
        return features[:, : self.in_channels], features[:, self.in_channels :]

    def _costs(self, colours: Tensor) -> Tensor:
        """What each part costs, so that the mean over a parse's cells is what the parse costs.

        Args:
            colours: ``(N, 3, height, width)``; not read without `homogeneity`.

        Returns:
            ``(T, N)``, or ``(T, 1)``.
        """
        areas = (self.parsing.cell_shares() > 0).sum(1, keepdim=True)
        costs = self.leaf_cost * self.graph.root.area / areas
        if self.homogeneity:
            colours = whitened(at_least_float32(colours.detach()))
            squares = self.parsing.terminal_means(colours.square().sum(1, keepdim=True))[..., 0]
            within = squares - self.parsing.terminal_means(colours).square().sum(2)
            whole = colours.square().sum(1).mean((1, 2))
            shares = within.clamp(min=0) / whole.clamp(min=torch.finfo(whole.dtype).tiny)
            costs = costs + self.homogeneity * shares
        return costs


@final
class AndOrPredictor(nn.Module):
    """Logits and box offsets from the output of an `AndOrHead`; goes into ``box_predictor``.

    Args:
        head: whose output it reads.

    Attributes:
        scale: weight of the part-configuration score in the logits, learned.
    """

    def __init__(self, head: AndOrHead) -> None:
        super().__init__()
        self.representation_size = head.representation_size
        num_classes = head.num_foreground + 1
        self.cls_score = nn.Linear(self.representation_size, num_classes)
        self.bbox_pred = nn.Linear(self.representation_size, 4 * num_classes)
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, representation: Tensor) -> tuple[Tensor, Tensor]:
        """Logits ``(N, num_classes)``, background first, and offsets ``(N, 4 * num_classes)``."""
        hidden, roots = representation.tensor_split([self.representation_size], dim=1)
        logits = self.cls_score(hidden)
        foreground = logits[:, 1:] + self.scale * roots
        return torch.cat([logits[:, :1], foreground], dim=1), self.bbox_pred(hidden)
