"""Class selectivity: how much more a filter answers to its favourite class than to the others.

A. S. Morcos, D. G. T. Barrett, N. C. Rabinowitz, M. Botvinick: On the importance of single
directions for generalization, ICLR 2018, sec. 2.4: (mu_max - mu_rest) / (mu_max + mu_rest), with mu
the class-conditional mean activation over images and positions, and mu_rest the mean over all
other classes. 0 = answers to all classes alike, 1 = to one class only; needs no part annotations.

Deviations: negative activations (layers without ReLU) count as 0, which keeps the quotient within
[0, 1]; a filter that never fires scores 0; the background, where there is one, is a class.
"""

from typing import Literal

import torch
from torch import Tensor

from interp_train.checks import check_choice
from interp_train.evaluation.peak_table import PeakMetric, PeakTable
from interp_train.evaluation.position_baselines import scrambled
from interp_train.structures import LayerGeometry

Statistic = Literal["mean", "peak"]


def class_means(values: Tensor, labels: Tensor) -> Tensor:
    """Mean of `values` ``(N, K)`` in each class that occurs, in the order of labels ``(C, K)``."""
    classes = torch.unique(labels)
    members = (labels[:, None] == classes).double()
    means: Tensor = members.T @ values.double() / members.sum(0)[:, None]
    return means


def class_selectivity(means: Tensor) -> Tensor:
    """Selectivity of each filter, in [0, 1].

    Args:
        means: class-conditional mean activation, >= 0, ``(C, K)``, C >= 2.

    Returns:
        ``(K,)``; 0 for a filter that never fires.

    Raises:
        ValueError: with fewer than two classes.
    """
    if len(means) < 2:
        raise ValueError(f"`means` must hold at least two classes, but got {len(means)}.")
    highest = means.amax(0)
    rest = (means.sum(0) - highest) / (len(means) - 1)
    total = highest + rest
    return torch.where(total > 0, (highest - rest) / total.clamp(min=1e-300), 0)


class ClassSelectivityMetric(PeakMetric):
    """Class selectivity of a layer's filters, beside that of shuffled labels.

    Args:
        geometry: receptive fields of the layer, kept in the table; the measure needs none.
        statistic: ``"mean"`` over positions (Morcos et al.), or ``"peak"``.
        seed: of the shuffled labels.
    """

    def __init__(
        self,
        geometry: LayerGeometry | None = None,
        *,
        statistic: Statistic = "mean",
        seed: int = 0,
    ) -> None:
        check_choice("statistic", statistic, ("mean", "peak"))
        super().__init__(geometry)
        self.statistic, self.seed = statistic, seed
        self.result: Tensor | None = None
        self.latest: PeakTable | None = None

    def values_of(self, activations: Tensor, peaks: Tensor) -> Tensor:
        """Mean or peak of each map, negative activations as 0."""
        if self.statistic == "peak":
            return peaks.clamp(min=0)
        return activations.detach().float().clamp(min=0).mean((-2, -1))

    def compute(self) -> dict[str, Tensor]:
        """``class_selectivity`` and ``class_selectivity_shuffled_labels``, means over filters.

        Empty (see `missing`) if all images are of one class.
        """
        self.latest = table = self.table()
        self.result, self.missing = None, ""
        if len(torch.unique(table.labels)) < 2:
            self.missing = "images of at least two classes"
            return {}
        self.result = class_selectivity(class_means(table.values, table.labels))
        shuffled = table.labels[scrambled(table.sample_ids, self.seed).argsort(stable=True)]
        chance = class_selectivity(class_means(table.values, shuffled))
        return {
            "class_selectivity": self.result.mean(),
            "class_selectivity_shuffled_labels": chance.mean(),
        }
