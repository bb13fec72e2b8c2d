"""Accuracy with the filters of one cluster alone, and without them.

W. Guo, J. Yang, H. Yin, Q. Chen, W. Ye, "PICNN: A Pathway towards Interpretable Convolutional
Neural Networks", AAAI 2024: ACC1 with all filters, ACC2 with those of the class that the network
names, ACC3 with all but those of the true class. Where filters belong to classes, ACC2 stays near
ACC1 and ACC3 falls.

Deviation: a filter belongs to the class that it is assigned to, instead of to one drawn at random.
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torchmetrics import Metric

from interp_train.checks import check_shape


def cluster_predictions(
    activations: Tensor,
    filter_categories: Tensor,
    labels: Tensor,
    predict: Callable[[Tensor], Tensor],
) -> Tensor:
    """What is named with all filters, with those of that class only, without those of the label.

    Args:
        activations: ``(N, K, h, w)``.
        filter_categories: category of each filter, or `BACKGROUND`, ``(K,)``.
        labels: true, category index or `BACKGROUND`, ``(N,)``.
        predict: from activations of that shape to a label of each image, ``(N,)``.

    Returns:
        ``(3, N)``.

    Raises:
        ValueError: if the shapes differ.
    """
    check_shape("filter_categories", filter_categories, (activations.shape[1],))
    check_shape("labels", labels, (len(activations),))
    everything = predict(activations)
    own = filter_categories == everything[:, None]
    others = filter_categories != labels[:, None]
    masked = [predict(activations * mask[:, :, None, None]) for mask in (own, others)]
    return torch.stack([everything, *masked])


class ClusterAccuracyMetric(Metric):
    """ACC1, ACC2 and ACC3 over all images; the background is a class like others."""

    full_state_update = False
    right: Tensor
    total: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.missing = ""
        self.add_state("right", torch.zeros(3, dtype=torch.long), "sum")
        self.add_state("total", torch.zeros((), dtype=torch.long), "sum")

    def update(self, predictions: Tensor, labels: Tensor) -> None:
        """Count images: predictions ``(3, N)`` of `cluster_predictions`, labels ``(N,)``."""
        self.right += (predictions == labels).sum(1)
        self.total += len(labels)

    def compute(self) -> dict[str, Tensor]:
        """``cluster_accuracy_all``, ``..._own`` and ``..._others``, in [0, 1]."""
        shares = self.right / self.total.clamp(min=1)
        names = ("all", "own", "others")
        pairs = zip(names, shares, strict=True)
        return {f"cluster_accuracy_{name}": share for name, share in pairs}
