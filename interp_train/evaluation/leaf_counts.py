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
        least_score: boxes with a lower score are left out.
        most: highest number of leaves that is told apart; more count as this number.
    """

    full_state_update = False
    histogram: Tensor
    depths: Tensor

    def __init__(self, least_score: float = 0.5, most: int = 64) -> None:
        super().__init__()
        check_range("least_score", least_score, 0.0, 1.0)
        check_range("most", most, 2)
        self.least_score = least_score
        self.add_state("histogram", torch.zeros(most + 1, dtype=torch.long), "sum")
        self.add_state("depths", torch.zeros((), dtype=torch.long), "sum")

    def update(self, detections: Sequence[Detections]) -> None:
        """Add the boxes of some images."""
        most = len(self.histogram) - 1
        for found in detections:
            if not found.trees:
                continue
            for tree, score in zip(found.trees, found.scores.tolist(), strict=True):
                if score >= self.least_score:
                    self.histogram[min(len(tree.leaves()), most)] += 1
                    self.depths += tree.depth()

    def compute(self) -> dict[str, Tensor]:
        """``unfolded_share`` (at least two leaves), ``leaves_per_box``, ``tree_depth``; or nothing.

        Nothing where no box has a tree.
        """
        number = self.histogram.sum()
        if not int(number):
            return {}
        counts = torch.arange(len(self.histogram), device=self.histogram.device)
        return {
            "unfolded_share": self.histogram[2:].sum() / number,
            "leaves_per_box": (counts * self.histogram).sum() / number,
            "tree_depth": self.depths / number,
        }
