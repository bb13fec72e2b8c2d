"""Compositional labels of a dissected layer, beside those by the masks of other images."""

import functools
from collections.abc import Mapping
from typing import NamedTuple, final

from torch import Tensor

from interp_train.evaluation.compositional_labels import CompositionalLabels
from interp_train.evaluation.dissection import DissectionMetric
from interp_train.structures import ConceptBatch


class FormulaRow(NamedTuple):
    """What a unit is labelled with.

    Attributes:
        unit: its index.
        formula: in words; empty where no concept overlaps.
        iou: of the formula.
        concept: the best single concept.
        concept_iou: of that.
    """

    unit: int
    formula: str
    iou: float
    concept: str
    concept_iou: float


class LayerFormulas(NamedTuple):
    """Compositional labels of a layer.

    Attributes:
        rows: one per unit.
        numbers: see `CompositionalLabels.compute`.
        shuffled_masks: the same numbers where each image has the masks of another.
    """

    rows: list[FormulaRow]
    numbers: Mapping[str, float]
    shuffled_masks: Mapping[str, float]


@final
class FormulaLabels:
    """Labels the units of a dissected layer with formulas, and by exchanged masks as the null.

    Masks are exchanged within a batch: longer formulas fit better by chance, and this says how
    well. A batch of one image counts in no null.

    Args:
        dissected: the layer, after `compute`; gives thresholds and concepts.
        max_length: of a formula, in concepts.
    """

    def __init__(self, dissected: DissectionMetric, max_length: int) -> None:
        assert dissected.result is not None
        assert dissected.scheme is not None
        scheme = dissected.scheme
        of_category: dict[str, list[str]] = {name: [] for name in scheme.categories}
        for name, category in zip(scheme.names, scheme.category_of, strict=True):
            of_category[scheme.categories[category]].append(name)
        new = functools.partial(
            CompositionalLabels,
            dissected.result.thresholds[:, 0],
            dissected.geometry,
            of_category,
            concept_layers=dict(zip(scheme.categories, scheme.layers, strict=True)),
            max_length=max_length,
            least_iou=dissected.least_iou,
            least_images=dissected.least_images,
            half_precision=dissected.rules.half_precision,
        )
        self.own, self.null = new(), new()

    def update(self, maps: Tensor, batch: ConceptBatch) -> None:
        """Show the layer's maps ``(N, K, h, w)`` of a batch."""
        self.own.update(maps, batch)
        if len(maps) > 1:
            self.null.update(maps, batch._replace(concept_maps=batch.concept_maps.roll(1, 0)))

    def compute(self) -> LayerFormulas:
        """The formulas and their numbers."""
        numbers = {name: float(value) for name, value in self.own.compute().items()}
        null = {name: float(value) for name, value in self.null.compute().items()}
        result = self.own.result
        assert result is not None
        pairs = zip(result.formulas, result.concepts, strict=True)
        rows = [
            FormulaRow(
                unit,
                formula.formula.text(result.names) if formula else "",
                formula.iou if formula else 0.0,
                concept.formula.text(result.names) if concept else "",
                concept.iou if concept else 0.0,
            )
            for unit, (formula, concept) in enumerate(pairs)
        ]
        return LayerFormulas(rows, numbers, null)
