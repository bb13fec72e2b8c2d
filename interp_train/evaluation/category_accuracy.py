"""Accuracy over all images and as the mean over categories, exact over processes."""

import torch
from torch import Tensor
from torchmetrics import Metric

from interp_train.structures import BACKGROUND


class CategoryAccuracy(Metric):
    """Share of images whose predicted label is right; the background is a category like others.

    Args:
        num_categories: C.
    """

    full_state_update = False
    correct: Tensor
    total: Tensor

    def __init__(self, num_categories: int) -> None:
        super().__init__()
        zeros = torch.zeros(num_categories + 1, dtype=torch.long)  # the background last
        self.add_state("correct", zeros, "sum")
        self.add_state("total", zeros.clone(), "sum")

    def update(self, predicted: Tensor, labels: Tensor) -> None:
        """Count images: predicted and true label, category index or `BACKGROUND`, ``(N,)``."""
        last = self.total.shape[0] - 1
        index = torch.where(labels == BACKGROUND, last, labels)
        hits = (predicted == labels).to(self.total.dtype)
        self.correct = self.correct.index_add(0, index, hits)
        self.total = self.total.index_add(0, index, torch.ones_like(hits))

    def compute(self) -> dict[str, Tensor]:
        """``top1``, and ``per_category_mean`` over the categories that occur; in [0, 1]."""
        occurs = self.total > 0
        shares = self.correct / self.total.clamp(min=1)
        return {
            "top1": self.correct.sum() / self.total.sum().clamp(min=1),
            "per_category_mean": shares.sum() / occurs.sum().clamp(min=1),
        }
