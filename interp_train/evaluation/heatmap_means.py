"""Means over images of scores of heatmaps, the same over any number of processes."""

from abc import ABC
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torchmetrics import Metric


def correlation(first: Tensor, second: Tensor) -> Tensor:
    """Pearson correlation of each row, 0 where a row is constant.

    Args:
        first: ``(N, V)``.
        second: ``(N, V)``.

    Returns:
        In [-1, 1], ``(N,)``.
    """
    first, second = first.double(), second.double()
    product = torch.ones_like(first)
    varies = torch.ones_like(first[:, 0], dtype=torch.bool)
    for values in (first, second):
        # Asked of the values: their distances from a rounded mean are never quite 0.
        varies = varies & (values.amax(1) > values.amin(1))
        centred = values - values.mean(1, keepdim=True)
        product = product * torch.nn.functional.normalize(centred, dim=1, eps=1e-300)
    return torch.where(varies, product.sum(1), 0)


class HeatmapMeans(Metric, ABC):
    """Sums and counts of named scores per image; a subclass says in `update` what they are.

    Args:
        names: of the scores.
    """

    full_state_update = False
    totals: Tensor
    counts: Tensor

    def __init__(self, names: Sequence[str]) -> None:
        super().__init__()
        self.names = tuple(names)
        self.add_state("totals", torch.zeros(len(names), dtype=torch.float64), "sum")
        self.add_state("counts", torch.zeros(len(names), dtype=torch.long), "sum")

    def add(self, scores: Mapping[str, Tensor]) -> None:
        """Add the scores of one batch; NaN marks an image where a score is not defined.

        Args:
            scores: name -> ``(N,)``; names may be left out.
        """
        for name, values in scores.items():
            index = self.names.index(name)
            defined = ~values.isnan()
            self.totals[index] += torch.where(defined, values, 0).double().sum()
            self.counts[index] += defined.sum()

    def compute(self) -> dict[str, Tensor]:
        """Mean of each score over the images where it is defined; names without any left out."""
        means = self.totals / self.counts
        return {
            name: mean
            for name, mean, count in zip(self.names, means, self.counts.tolist(), strict=True)
            if count
        }
