"""Statistics of a study: means over seeds, and paired differences with bootstrap intervals."""

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from interp_train.evaluation.bootstrap import (
    PairedDifference,
    Scores,
    instability_scores,
    paired_differences,
    resample_counts,
    tracking_scores,
)
from interp_train.evaluation.location_instability import InstabilityResult, location_instability
from interp_train.evaluation.part_scheme import part_measures_missing
from interp_train.evaluation.part_tracking import can_track, part_tracking
from interp_train.report.records import LayerData, RunData, StudyData

RESAMPLES = 1000


class Cell(NamedTuple):
    """Values of one quantity over the seeds of a row.

    Attributes:
        mean: NaN without values.
        deviation: standard deviation (n - 1); NaN with fewer than two values.
        values: by seed.
    """

    mean: float
    deviation: float
    values: tuple[float, ...]


def cell_of(runs: Sequence[RunData], name: str) -> Cell:
    """Final values of the quantity `name`; runs without it, or where it is NaN, do not count."""
    found = (run.result.get(name, math.nan) for run in runs)
    values = tuple(float(value) for value in found if math.isfinite(value))
    mean = statistics.fmean(values) if values else math.nan
    deviation = statistics.stdev(values) if len(values) > 1 else math.nan
    return Cell(mean, deviation, values)


Pair = tuple[RunData, RunData]
Scored = Callable[[RunData, Tensor], Scores]


def paired_with_ordinary(
    study: StudyData, data: str, row: str, resamples: int = RESAMPLES
) -> dict[str, PairedDifference]:
    """`row` minus the ordinary row, measure by measure, with 95 % intervals over images.

    Both are scored on the same resampled images, seed by seed, and averaged over seeds. Measures
    that were not recorded on the same images in both rows are left out.

    Returns:
        Name of the measure (as in `interp_train.report.measures`) -> difference.
    """
    if study.ordinary is None or row == study.ordinary:
        return {}
    ordinary = {run.seed: run for run in study.of(study.ordinary, data)}
    pairs = [(ordinary[run.seed], run) for run in study.of(row, data) if run.seed in ordinary]
    found = dict(_accuracy_differences(pairs, resamples))
    for layer in shared_layers(pairs):
        found |= _layer_differences(pairs, layer, resamples)
    return found


def shared_layers(pairs: Sequence[Pair]) -> list[str]:
    """The deepest layer that every run recorded, as a list of one; empty if there is none."""
    names = [set(run.layers) for pair in pairs for run in pair]
    shared = set.intersection(*names) if names else set()
    return [name for name in pairs[0][0].layers if name in shared][-1:] if pairs else []


def _accuracy_differences(pairs: Sequence[Pair], resamples: int) -> Mapping[str, PairedDifference]:
    recorded = [pair for pair in pairs if all("predictions" in run.predictions for run in pair)]
    same = [
        pair
        for pair in recorded
        if torch.equal(*(torch.as_tensor(run.predictions["sample_ids"]) for run in pair))
    ]

    def scores(run: RunData, counts: Tensor) -> Scores:
        right = torch.as_tensor(run.predictions["predictions"] == run.predictions["labels"])
        return {"top1": counts @ right.double() / counts.sum(1)}

    ids = [torch.as_tensor(pair[0].predictions["sample_ids"]) for pair in same]
    return _differences(same, ids, scores, resamples)


def _layer_differences(
    pairs: Sequence[Pair], layer: str, resamples: int
) -> dict[str, PairedDifference]:
    same = [
        (first, second)
        for first, second in pairs
        if torch.equal(first.layers[layer].table.sample_ids, second.layers[layer].table.sample_ids)
    ]
    ids = [first.layers[layer].table.sample_ids for first, _ in same]
    found: dict[str, PairedDifference] = {}
    for scores in (_tracking, _instability):
        if all(_can_score(scores, run.layers[layer]) for pair in same for run in pair):
            found |= _differences(same, ids, _of_layer(scores, layer), resamples)
    return found


def _of_layer(scores: Callable[[LayerData, Tensor], Scores], layer: str) -> Scored:
    return lambda run, counts: scores(run.layers[layer], counts)


def _can_score(scores: object, layer: LayerData) -> bool:
    table = layer.measured_table()
    if scores is _tracking:
        lacking = part_measures_missing(table, boxes=True)
        return not lacking and can_track(table, layer.num_categories)
    return not part_measures_missing(table, boxes=False) and bool(layer.instability_parts)


def _tracking(layer: LayerData, counts: Tensor) -> Scores:
    table = layer.measured_table()
    recorded = layer.arrays.get("part_tracking_categories")  # an objective may have assigned them
    assigned = layer.num_categories > 1 and recorded is not None
    result = part_tracking(
        table,
        num_categories=layer.num_categories,
        categories=torch.as_tensor(recorded) if assigned else None,
    )
    scores = tracking_scores(table, result, counts)
    return {f"part_tracking_{name}": score for name, score in scores.items()}


def _instability(layer: LayerData, counts: Tensor) -> Scores:
    categories = None
    if layer.num_categories > 1:
        by_category = instability_of(layer).by_category
        categories = by_category.nan_to_num(math.inf).argmin(0)
    return instability_scores(
        layer.measured_table(),
        counts,
        layer.frame.diagonal(),
        parts=layer.instability_parts,
        categories=categories,
    )


def instability_of(layer: LayerData) -> InstabilityResult:
    """Location instability of every filter of a recorded layer."""
    return location_instability(
        layer.measured_table(),
        layer.frame.diagonal(),
        parts=layer.instability_parts,
        num_categories=layer.num_categories,
    )


def _differences(
    pairs: Sequence[Pair], sample_ids: Sequence[Tensor], scores: Scored, resamples: int
) -> dict[str, PairedDifference]:
    """Differences averaged over pairs; pairs on the same images share their resamples."""
    if not pairs:
        return {}
    sides: tuple[list[Scores], list[Scores]] = ([], [])
    for index, (pair, ids) in enumerate(zip(pairs, sample_ids, strict=True)):
        # Other images (another fold) are resampled independently.
        seed = next(i for i in range(index + 1) if torch.equal(sample_ids[i], ids))
        counts = resample_counts(len(ids), resamples, seed)
        for side, run in zip(sides, pair, strict=True):
            side.append(scores(run, counts))
    first, second = (
        {name: torch.stack([run[name] for run in side]).mean(0) for name in side[0]}
        for side in sides
    )
    return paired_differences(first, second)


def verdict(difference: PairedDifference, higher: bool) -> str:
    """``better``, ``worse``, or ``no clear difference`` if the interval holds 0."""
    if difference.low <= 0 <= difference.high:
        return "no clear difference"
    return "better" if (difference.difference > 0) == higher else "worse"
