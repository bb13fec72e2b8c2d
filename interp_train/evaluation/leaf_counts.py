"""How far the parse trees of detections unfold: leaves per box, and boxes that stay whole.

A graph whose trees all are the root alone explains nothing, so these numbers stand beside the
precision of the detector.
"""

from collections.abc import Sequence
from typing import final

import torch
from torch import Tensor
from torchmetrics import Metric

from interp_train.checks import check_range
from interp_train.structures import Detections


@final
class LeafCounts(Metric):
    """Counts of leaves over the boxes with at least a score.

    Args:
        num_categories: C.
        least_score: boxes with a lower score are left out.
        most: highest number of leaves that is told apart; more count as this number.
    """

    full_state_update = False
    histogram: Tensor
    depths: Tensor

    def __init__(self, num_categories: int, least_score: float = 0.5, most: int = 64) -> None:
        super().__init__()
        check_range("num_categories", num_categories, 1)
        check_range("least_score", least_score, 0.0, 1.0)
        check_range("most", most, 2)
        self.least_score = least_score
        self.add_state("histogram", torch.zeros(num_categories, most + 1, dtype=torch.long), "sum")
        self.add_state("depths", torch.zeros((), dtype=torch.long), "sum")

    def update(self, detections: Sequence[Detections]) -> None:
        """Add the boxes of some images."""
        most = self.histogram.shape[1] - 1
        for found in detections:
            if not found.trees:
                continue
            scores, labels = found.scores.tolist(), found.labels.tolist()
            for tree, score, label in zip(found.trees, scores, labels, strict=True):
                if score >= self.least_score:
                    self.histogram[label, min(len(tree.leaves()), most)] += 1
                    self.depths += tree.depth()

    def compute(self) -> dict[str, Tensor]:
        """``unfolded_share``, ``unfolded_share_category_mean``, ``leaves_per_box``, ``tree_depth``.

        A box is unfolded if it has two leaves or more. The mean over the categories that were
        found shows one that stays whole behind another with more boxes. Nothing where no box has
        a tree.
        """
        boxes = self.histogram.sum(1)
        number = boxes.sum()
        if not int(number):
            return {}
        unfolded = self.histogram[:, 2:].sum(1)
        counts = torch.arange(self.histogram.shape[1], device=self.histogram.device)
        return {
            "unfolded_share": unfolded.sum() / number,
            "unfolded_share_category_mean": (unfolded / boxes)[boxes > 0].mean(),
            "leaves_per_box": (counts * self.histogram).sum() / number,
            "tree_depth": self.depths / number,
        }
