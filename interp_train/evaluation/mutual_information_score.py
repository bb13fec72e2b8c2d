"""Mutual information score: what a filter tells of one class against the rest.

H. Liang, Z. Ouyang, Y. Zeng, H. Su, Z. He, S.-T. Xia, J. Zhu, B. Zhang, "Training Interpretable
Convolutional Neural Networks by Differentiating Class-Specific Filters", ECCV 2020: the mean over
filters of the largest, over classes, of the mutual information between the filter's activation,
averaged over positions, and whether the image is of the class.

Deviations: the authors' programme estimates the information with nearest neighbours, which are not
defined where many activations are equal (a filter that is silent in most images, as class-specific
ones are). Here activations are put into bins of equally many images, and equal ones into one bin,
so that the estimate is exact for them and the same in every run. Such an estimate is too large by
about (bins - 1) / (2 * images) nats, and grows with the number of classes over which the largest is
taken; the score of shuffled labels, beside it, tells by how much. Numbers of other estimators and
other numbers of images cannot be compared. The background, where there is one, is a class.
"""

import torch
from torch import Tensor

from interp_train.checks import check_range, check_shape
from interp_train.evaluation.peak_table import PeakMetric, PeakTable
from interp_train.evaluation.position_baselines import scrambled
from interp_train.structures import LayerGeometry


def equal_count_bins(values: Tensor, bins: int) -> Tensor:
    """The bin of each value within its column, long ``(N, K)``; equal values share a bin.

    A bin ends at every ``N / bins``-th value, counted from the lowest, and holds it.

    Args:
        values: ``(N, K)``.
        bins: at most so many; those whose end equals that of the bin before stay empty.
    """
    count = len(values)
    ends = [-(-count * number // bins) - 1 for number in range(1, bins)]
    ordered = values.T.contiguous().sort(1).values
    edges = ordered[:, ends].contiguous()
    return torch.searchsorted(edges, values.T.contiguous()).T


def class_information(bins: Tensor, labels: Tensor) -> Tensor:
    """Mutual information in nats of each filter's bin and of being in a class or not.

    Args:
        bins: whole numbers >= 0, ``(N, K)``.
        labels: ``(N,)``.

    Returns:
        float64 ``(K, C)``, one column per class that occurs, in the order of labels.

    Raises:
        ValueError: if the numbers of images differ.
    """
    check_shape("labels", labels, (len(bins),))
    classes = torch.unique(labels)
    members = (labels[:, None] == classes).double()
    found = torch.zeros(bins.shape[1], len(classes), dtype=torch.double)
    for number in range(int(bins.max()) + 1):
        inside = (bins == number).double()
        within = inside.T @ members  # images of the bin and the class, (K, C)
        size = inside.sum(0)[:, None]
        for together, in_class in (
            (within, members.sum(0)),
            (size - within, len(labels) - members.sum(0)),
        ):
            expected = size * in_class / len(labels)
            ratio = together / expected.clamp(min=1e-300)
            found += torch.special.xlogy(together, ratio) / len(labels)
    return found.clamp(min=0)


def class_entropies(labels: Tensor) -> Tensor:
    """Entropy in nats of being in a class or not, float64 ``(C,)``; nothing can tell more."""
    shares = torch.unique(labels, return_counts=True)[1].double() / len(labels)
    rest = 1 - shares
    entropies: Tensor = -torch.special.xlogy(shares, shares) - torch.special.xlogy(rest, rest)
    return entropies


class MutualInformationScoreMetric(PeakMetric):
    """Mutual information score of a layer's filters, beside its chance and its largest value.

    Args:
        geometry: receptive fields of the layer, kept in the table; the measure needs none.
        bins: see `equal_count_bins`.
        seed: of the shuffled labels.

    Raises:
        ValueError: for fewer than two bins.
    """

    def __init__(
        self, geometry: LayerGeometry | None = None, *, bins: int = 10, seed: int = 0
    ) -> None:
        check_range("bins", bins, 2)
        super().__init__(geometry)
        self.bins, self.seed = bins, seed
        self.information: Tensor | None = None
        self.latest: PeakTable | None = None

    def values_of(self, activations: Tensor, peaks: Tensor) -> Tensor:
        """Mean of each map."""
        return activations.detach().float().mean((-2, -1))

    def compute(self) -> dict[str, Tensor]:
        """``mutual_information_score``, ``..._shuffled_labels``, ``..._perfect_filter``, in nats.

        The perfect filter tells one class from the rest without error, that which
        holds most information. Empty (see `missing`) if all images are of one class.
        """
        self.latest = table = self.table()
        self.information, self.missing = None, ""
        if len(torch.unique(table.labels)) < 2:
            self.missing = "images of at least two classes"
            return {}
        bins = equal_count_bins(table.values, self.bins)
        self.information = class_information(bins, table.labels)
        shuffled = table.labels[scrambled(table.sample_ids, self.seed).argsort(stable=True)]
        chance = class_information(bins, shuffled)
        return {
            "mutual_information_score": self.information.amax(1).mean(),
            "mutual_information_score_shuffled_labels": chance.amax(1).mean(),
            "mutual_information_score_perfect_filter": class_entropies(table.labels).amax(),
        }
