"""What dissection found out about one layer: the form that files, tables and figures share.

A record keeps it as arrays whose names begin with ``dissection_`` (`as_entries`,
`from_entries`); further measures of the layer may stand beside them in the same file.
"""

import json
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from interp_train.evaluation.concept_labels import ConceptScheme
from interp_train.evaluation.detectors import UnitLabels, detector_numbers, unit_labels
from interp_train.evaluation.dissection import DissectionMetric, DissectionResult

BASELINES = ("random_network", "rotated_basis", "shuffled_masks")
_PREFIX = "dissection_"


class UnitRow(NamedTuple):
    """One unit, as a line of a table.

    Attributes:
        unit: its index.
        label: the concept of largest IoU; empty for a unit without any overlap.
        category: of the label.
        iou: with the label.
        detector: whether the IoU exceeds that of a detector.
        threshold: level above which the unit is active.
        active_area: share of all pixels in which it is.
    """

    unit: int
    label: str
    category: str
    iou: float
    detector: bool
    threshold: float
    active_area: float


class LayerDissection(NamedTuple):
    """One layer.

    Attributes:
        layer: dotted name.
        scheme: the concepts.
        quantiles: shares of the values above a threshold, ascending.
        least_iou: above which a unit is a detector.
        result: IoUs, thresholds and areas of the units.
        numbers: quantity -> value, as it is logged.
        baselines: baseline -> counts by the same rule, at the first quantile.
    """

    layer: str
    scheme: ConceptScheme
    quantiles: tuple[float, ...]
    least_iou: float
    result: DissectionResult
    numbers: Mapping[str, float]
    baselines: Mapping[str, Mapping[str, float]]

    def counts(self, quantile: int = 0) -> dict[str, float]:
        """The counts of `detector_numbers` of the network's own units."""
        return counts_of(self.result.iou[:, quantile], self.scheme, self.least_iou)

    def unit_rows(self, quantile: int = 0) -> list[UnitRow]:
        """One line per unit, in their order."""
        labels = self.result.labels(quantile)
        return [self._row(unit, labels, quantile) for unit in range(len(labels.scores))]

    def _row(self, unit: int, labels: UnitLabels, quantile: int) -> UnitRow:
        concept, score = int(labels.concepts[unit]), float(labels.scores[unit])
        scheme = self.scheme
        return UnitRow(
            unit=unit,
            label=scheme.names[concept] if concept >= 0 else "",
            category=scheme.categories[scheme.category_of[concept]] if concept >= 0 else "",
            iou=score,
            detector=score > self.least_iou,
            threshold=float(self.result.thresholds[unit, quantile]),
            active_area=float(self.result.area[unit, quantile]),
        )

    def chosen_units(self, number: int, quantile: int = 0) -> list[int]:
        """The detectors to look at: the best of each concept, then the best of the rest.

        Args:
            number: at most so many.
            quantile: index of the quantile.

        Returns:
            Units; the one with the highest IoU where none is a detector, nothing where no unit
            overlaps with any concept.
        """
        labels = unit_labels(self.result.iou[:, quantile])
        order = labels.scores.argsort(descending=True, stable=True).tolist()
        scores, concepts = labels.scores.tolist(), labels.concepts.tolist()
        overlapping = [unit for unit in order if scores[unit] > 0]
        order = [unit for unit in overlapping if scores[unit] > self.least_iou]
        order = order or overlapping[:1]
        first: dict[int, int] = {}
        for unit in order:
            first.setdefault(concepts[unit], unit)
        best = set(first.values())
        chosen = [*first.values(), *(unit for unit in order if unit not in best)]
        return chosen[:number]


def layer_dissection(
    layer: str,
    metric: DissectionMetric,
    numbers: Mapping[str, Tensor | float],
    random_network: Mapping[str, float] | None = None,
) -> LayerDissection:
    """What a computed metric holds.

    Args:
        layer: dotted name.
        metric: after `compute`.
        numbers: what is logged of the layer.
        random_network: counts of the network with random weights; None if it was not measured.
    """
    result, scheme = metric.result, metric.scheme
    assert result is not None
    assert scheme is not None
    found = {"rotated_basis": result.rotated_iou, "shuffled_masks": result.shuffled_iou}
    baselines = {
        name: counts_of(iou[:, 0], scheme, metric.least_iou)
        for name, iou in found.items()
        if len(iou)
    }
    if random_network:
        baselines = {"random_network": dict(random_network), **baselines}
    return LayerDissection(
        layer=layer,
        scheme=scheme,
        quantiles=metric.rules.quantiles,
        least_iou=metric.least_iou,
        result=result,
        numbers={name: float(number) for name, number in numbers.items()},
        baselines=baselines,
    )


def counts_of(iou: Tensor, scheme: ConceptScheme, least_iou: float) -> dict[str, float]:
    """The counts of `detector_numbers` as plain numbers."""
    numbers = detector_numbers(iou, scheme, least_iou)
    return {name: float(number) for name, number in numbers.items()}


def as_entries(found: LayerDissection) -> dict[str, Any]:
    """A dissection as entries of a layer's record."""
    entries = {_PREFIX + name: value for name, value in found.result._asdict().items()}
    scheme = {f"{_PREFIX}concept_{name}": list(v) for name, v in found.scheme._asdict().items()}
    return {
        **entries,
        **scheme,
        f"{_PREFIX}quantiles": list(found.quantiles),
        f"{_PREFIX}least_iou": found.least_iou,
        f"{_PREFIX}baselines": json.dumps(found.baselines),
    }


def from_entries(arrays: Mapping[str, Any], layer: str = "") -> LayerDissection | None:
    """The inverse of `as_entries`; None if the record holds no dissection.

    Args:
        arrays: entries of a record.
        layer: name for a record that holds none.
    """
    if f"{_PREFIX}iou" not in arrays or f"{_PREFIX}least_iou" not in arrays:
        return None
    fields = {name: torch.as_tensor(arrays[_PREFIX + name]) for name in DissectionResult._fields}
    concepts = {name: arrays[f"{_PREFIX}concept_{name}"].tolist() for name in ConceptScheme._fields}
    return LayerDissection(
        layer=str(arrays.get("layer", layer)),
        scheme=ConceptScheme(**{name: tuple(values) for name, values in concepts.items()}),
        quantiles=tuple(arrays[f"{_PREFIX}quantiles"].tolist()),
        least_iou=float(arrays[f"{_PREFIX}least_iou"]),
        result=DissectionResult(**fields),
        numbers=json.loads(str(arrays[f"{_PREFIX}numbers"])),
        baselines=json.loads(str(arrays[f"{_PREFIX}baselines"])),
    )
