"""Which units detect a concept: from IoUs to labels, and the counts that are reported.

D. Bau, B. Zhou, A. Khosla, A. Oliva, A. Torralba: Network Dissection, CVPR 2017, sec. 2.4. A
unit is a detector of the concept with which its IoU is largest, if that exceeds 0.04. Two rules
for the number of different concepts are in circulation, which differ by a fifth; both are given:

* ``unique_best``: a unit has one label, its best concept of all (the authors' second program);
* ``unique_per_category``: a unit may be a detector in several categories, of its best concept in
  each (the figures of the paper); ``detectors_<category>`` and ``unique_<category>`` follow it.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from interp_train.evaluation.concept_labels import ConceptScheme

HEADLINES = ("detectors", "unique_best", "unique_per_category", "mean_best_iou")


class UnitLabels(NamedTuple):
    """The best concept of each unit.

    Attributes:
        concepts: index of the concept, long ``(K,)``; -1 where no IoU is positive.
        scores: its IoU, float64 ``(K,)``.
    """

    concepts: Tensor
    scores: Tensor


def unit_labels(iou: Tensor) -> UnitLabels:
    """The concept of largest IoU, the first of equals.

    Args:
        iou: ``(K, C)``.
    """
    scores, concepts = iou.max(1)
    return UnitLabels(torch.where(scores > 0, concepts, -1), scores)


def detector_numbers(
    iou: Tensor, scheme: ConceptScheme, least_iou: float = 0.04
) -> dict[str, Tensor]:
    """The counts of a layer.

    Args:
        iou: of units and concepts, ``(K, C)``.
        scheme: the concepts.
        least_iou: above which a unit is a detector (paper: 0.04).

    Returns:
        ``detectors``, ``detector_share``, ``unique_best``, ``unique_per_category``,
        ``mean_best_iou`` (over units, dead ones as 0), and for each category ``detectors_<name>``
        and ``unique_<name>``; float64 scalars.
    """
    labels = unit_labels(iou)
    detects = labels.scores > least_iou
    by_category: dict[str, int] = {}
    different = 0
    for name, part in zip(scheme.categories, torch.split(iou, list(scheme.sizes), 1), strict=True):
        inner = unit_labels(part)
        found = inner.concepts[inner.scores > least_iou]
        written = name.replace(" ", "_")
        by_category[f"detectors_{written}"] = len(found)
        by_category[f"unique_{written}"] = _different(found)
        different += _different(found)
    numbers = {
        "detectors": detects.sum(),
        "detector_share": detects.double().mean(),
        "unique_best": _different(labels.concepts[detects]),
        "unique_per_category": different,
        "mean_best_iou": labels.scores.mean(),
        **by_category,
    }
    return {name: torch.as_tensor(number).double() for name, number in numbers.items()}


def _different(concepts: Tensor) -> int:
    return len(torch.unique(concepts))


def headline_numbers(iou: Tensor, scheme: ConceptScheme, least_iou: float) -> dict[str, Tensor]:
    """Those of `detector_numbers` that baselines are compared in."""
    numbers = detector_numbers(iou, scheme, least_iou)
    return {name: numbers[name] for name in HEADLINES}


def null_numbers(iou: Tensor, shuffled: Tensor, least_iou: float = 0.04) -> dict[str, Tensor]:
    """What remains when chance is taken off: IoUs with the masks of other images.

    A concept that is rare or large gives a high IoU by chance, so each has a threshold of its own:
    the IoU that 5 % of the units exceed when the masks are exchanged between images.

    Args:
        iou: of units and concepts, ``(K, C)``.
        shuffled: the same with exchanged masks, ``(K, C)``.
        least_iou: see `detector_numbers`.

    Returns:
        ``null_p95``, the mean over concepts of that threshold; ``detectors_above_null``, units
        whose label exceeds both it and `least_iou`.
    """
    null = shuffled.quantile(0.95, 0)
    labels = unit_labels(iou)
    bounds = null[labels.concepts.clamp(min=0)].clamp(min=least_iou)
    return {
        "null_p95": null.mean(),
        "detectors_above_null": (labels.scores > bounds).sum().double(),
    }
