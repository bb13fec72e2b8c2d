"""The position-sensitive form of the And-Or head, after R-FCN: no layer is run per box.

Every part of the And-Or graph has score maps of its own over the whole image, one per category and
the background, as every cell of the grid has in R-FCN. A box reads the score of a part from that
part's maps, inside the part's rectangle. Parsing selects the best configuration of parts, and its
value is the category's logit. J. Dai, Y. Li, K. He, J. Sun, "R-FCN: Object Detection via
Region-based Fully Convolutional Networks", NIPS 2016; with maps that are sensitive to terminal
nodes, after Wu et al., "Towards Interpretable R-CNN by Unfolding Latent Structures" (arXiv
1711.05226), built from its description.

Score maps are linear in the maps they are made of, and pooling is linear, too. So boxes are pooled
first and scored then: the same numbers without T x (C + 1) maps per image. Ours: all parts of a
category share one map, to which each part adds its own, so that a category is learned as fast as
with one map alone.
"""

from collections.abc import Mapping, Sequence
from typing import final

import torch
from torch import Tensor, nn
from torchvision.ops import MultiScaleRoIAlign

from interp_train.and_or_graph import AndOrGraph
from interp_train.checks import check_range
from interp_train.learning.interpretable_rcnn.part_head import PartHead
from interp_train.precision import at_least_float32


@final
class SensitiveRoIAlign(MultiScaleRoIAlign):  # type: ignore[misc]  # torchvision has no types
    """Pools boxes from the maps that score maps are made of; goes into ``box_roi_pool``.

    A 1x1 convolution and a ReLU make these maps of the pyramid's, once per image; they are the
    last non-linear layer.

    Args:
        names: of the pyramid's maps, finest first.
        grid: side of the grid of cells that a box is pooled to.
        in_channels: of the pyramid's maps.
        out_channels: of the maps that score maps are made of.
        like: a pooling whose assignment of boxes to maps is kept; None is torchvision's default.
    """

    def __init__(
        self,
        names: Sequence[str],
        grid: int,
        in_channels: int,
        out_channels: int,
        like: MultiScaleRoIAlign | None = None,
    ) -> None:
        check_range("out_channels", out_channels, 1)
        scale, level = (224, 4) if like is None else (like.canonical_scale, like.canonical_level)
        super().__init__(list(names), grid, 2, canonical_scale=scale, canonical_level=level)
        self.reduction = nn.Conv2d(in_channels, out_channels, 1)

    def forward(
        self,
        x: Mapping[str, Tensor],
        boxes: list[Tensor],
        image_shapes: list[tuple[int, int]],
    ) -> Tensor:
        """Features of boxes, ``(N, out_channels, grid, grid)``; see torchvision."""
        names = set(self.featmap_names)  # torchvision's builders name more than there are
        maps = {name: self.reduction(m).relu() for name, m in x.items() if name in names}
        pooled: Tensor = super().forward(maps, boxes, image_shapes)
        return pooled


@final
class PositionSensitiveHead(PartHead):
    """Values of the parse trees of boxes, from score maps of parts; goes into ``box_head``.

    Its output is read by `PositionSensitivePredictor`, which must stand in ``box_predictor``; its
    input must be pooled by `SensitiveRoIAlign`.

    Args:
        in_channels: of the maps that score maps are made of.
        num_classes: categories, with the background as number 0.
        graph: And-Or graph over the cells that features are pooled to.
        class_aware: whether each category and the background has score maps of parts, and so its
            own parse, whose value is its logit. Else all share one map per part and one parse,
            whose value is added to the logits of the foreground; categories are then told apart
            by R-FCN's maps, which are sensitive to cells.
        pooling: where maps that are sensitive to cells are read: ``"leaves"``: each in the mean
            over the cell's leaf; ``"cells"``: in the cell.

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
        pooling: str = "leaves",
    ) -> None:
        super().__init__(
            graph, num_classes, class_aware=class_aware, pooling=pooling, first_scored=0
        )
        self.in_channels = in_channels
        num_scores = num_classes if class_aware else 1
        self.shared = nn.Linear(in_channels, num_scores)
        nn.init.normal_(self.shared.weight, std=0.01)
        nn.init.zeros_(self.shared.bias)
        # Parts must differ from the first step on: equal ones make all configurations score alike.
        self.part_weights = nn.Parameter(
            torch.randn(graph.num_terminal, in_channels, num_scores) / in_channels**0.5
        )
        self.part_biases = nn.Parameter(torch.zeros(graph.num_terminal, 1, num_scores))

    def forward(self, features: Tensor) -> Tensor:
        """Pooled features of each box, with the values of its parse trees behind them.

        Args:
            features: ``(N, in_channels, height, width)`` of the graph's grid; N may be 0.

        Returns:
            ``(N, in_channels * height * width + num_classes)``, in at least single precision.
        """
        scores = self.part_scores(features)
        roots = self.parsing(scores, self.sharpness)
        if not self.class_aware:  # one value for the foreground, none for the background
            roots = nn.functional.pad(roots.expand(-1, self.num_foreground), (1, 0))
        best = roots[:, 1:].argmax(dim=1) + 1
        pooled = self.pooled_as_parsed(features, scores, best)
        return torch.cat([pooled.flatten(1).to(roots.dtype), roots], dim=1)

    def part_scores(self, features: Tensor) -> Tensor:
        """Score of each part in each box, ``(T, N, num_classes, or 1)``."""
        with torch.autocast(features.device.type, enabled=False):
            means = self.parsing.terminal_means(at_least_float32(features))
            weights = self.part_weights + self.shared.weight.t()
            return torch.baddbmm(self.part_biases + self.shared.bias, means, weights)


@final
class PositionSensitivePredictor(nn.Module):
    """Logits and box offsets from the output of a `PositionSensitiveHead`.

    Goes into ``box_predictor``. Offsets are those of R-FCN: the same for all categories, a vote of
    maps that are sensitive to cells. The vote of all cells is one linear layer of the grid.

    Args:
        head: whose output it reads.
    """

    def __init__(self, head: PositionSensitiveHead) -> None:
        super().__init__()
        size = head.in_channels * head.graph.height * head.graph.width
        self.num_classes = head.num_foreground + 1
        self.bbox_pred = nn.Linear(size, 4)
        # R. Girshick, "Fast R-CNN", ICCV 2015, section 2.3, for both.
        nn.init.normal_(self.bbox_pred.weight, std=0.001)
        nn.init.zeros_(self.bbox_pred.bias)
        self.cls_score = None if head.class_aware else nn.Linear(size, self.num_classes)
        if self.cls_score is not None:
            nn.init.normal_(self.cls_score.weight, std=0.01)
            nn.init.zeros_(self.cls_score.bias)

    def forward(self, representation: Tensor) -> tuple[Tensor, Tensor]:
        """Logits ``(N, num_classes)``, background first, and offsets ``(N, 4 * num_classes)``."""
        cells, logits = representation.tensor_split([self.bbox_pred.in_features], dim=1)
        if self.cls_score is not None:
            logits = logits + self.cls_score(cells)
        return logits, self.bbox_pred(cells).repeat(1, self.num_classes)
