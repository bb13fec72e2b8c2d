"""From a dissection to what `interp_train.dissection_figures` draws of it."""

from collections.abc import Mapping, Sequence

import torch

from interp_train.dissection_figures import BASELINE_LABELS, LayerBars
from interp_train.evaluation.layer_dissection import LayerDissection


def layer_bars(found: LayerDissection) -> LayerBars:
    """What `detectors_figure` draws of a layer."""
    counts, scheme = found.counts(), found.scheme
    labels = found.result.labels()
    detecting = labels.concepts[labels.scores > found.least_iou]
    units = torch.bincount(detecting, minlength=len(scheme.names)).tolist()
    return LayerBars(
        layer=found.layer,
        num_units=len(labels.scores),
        least_iou=found.least_iou,
        categories=scheme.categories,
        detectors=_of_categories(counts, "detectors", scheme.categories),
        unique=_of_categories(counts, "unique", scheme.categories),
        baselines={
            name: _of_categories(found.baselines[name], "detectors", scheme.categories)
            for name in BASELINE_LABELS
            if name in found.baselines
        },
        concepts=[
            (name, category, number)
            for name, category, number in zip(scheme.names, scheme.category_of, units, strict=True)
            if number
        ],
    )


def _of_categories(
    counts: Mapping[str, float], quantity: str, categories: Sequence[str]
) -> list[float]:
    return [counts[f"{quantity}_{name.replace(' ', '_')}"] for name in categories]
