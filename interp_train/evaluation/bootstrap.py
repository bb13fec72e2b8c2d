"""Paired bootstrap over images: how certain is the difference between two networks?

B. Efron, R. J. Tibshirani: An Introduction to the Bootstrap, 1993, ch. 13 (percentile intervals).

Both networks are scored on the same resampled images, so what the images have in common cancels.
What was selected on data stays as it was: the part of a filter (chosen on the other half of the
images), its category, and the images with its highest peaks. Several tables of one network (seeds)
are scored on the same images and averaged; the interval then speaks of images, not of seeds.

Scores are functions of sums over images, so a resample is a row of image counts and all resamples
are one matrix product.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from interp_train.evaluation.location_instability import highest_rows
from interp_train.evaluation.part_scheme import as_one_category, boxed, visible_parts
from interp_train.evaluation.part_tracking import (
    ACTIVE_SHARE,
    TRACKING_BOUND,
    PartTrackingResult,
    part_tracking,
)
from interp_train.evaluation.peak_table import PeakTable
from interp_train.evaluation.tracking_r2 import in_box_frame

_CHUNK = 256  # filters at a time, which bounds the memory

Scores = dict[str, Tensor]


class PairedDifference(NamedTuple):
    """Second minus first network.

    Attributes:
        first: score of the first network on all images.
        second: score of the second.
        difference: second - first.
        low: lower end of the interval of the difference.
        high: upper end.
    """

    first: float
    second: float
    difference: float
    low: float
    high: float


def resample_counts(num_images: int, resamples: int = 1000, seed: int = 0) -> Tensor:
    """How often each image was drawn in each resample, float64 ``(1 + resamples, N)``.

    Row 0 holds each image once: the scores without resampling.
    """
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randint(num_images, (resamples, num_images), generator=generator)
    counts = torch.zeros(resamples, num_images, dtype=torch.float64)
    counts.scatter_add_(1, drawn, torch.ones_like(counts))
    return torch.cat((torch.ones(1, num_images, dtype=torch.float64), counts))


def paired_differences(
    first: Scores, second: Scores, level: float = 0.95
) -> dict[str, PairedDifference]:
    """Percentile intervals of second - first, by name.

    Args:
        first: name -> scores of the resamples, row 0 without resampling, ``(1 + B,)``.
        second: the same names, from the same resamples.
        level: of the interval.
    """
    tails = torch.tensor([(1 - level) / 2, (1 + level) / 2], dtype=torch.float64)
    result = {}
    for name, scores in first.items():
        differences = second[name] - scores
        low, high = differences[1:].nanquantile(tails).tolist()
        whole = float(scores[0]), float(second[name][0]), float(differences[0])
        result[name] = PairedDifference(*whole, low, high)
    return result


def bootstrap_part_tracking(
    first: PeakTable | Sequence[PeakTable],
    second: PeakTable | Sequence[PeakTable],
    *,
    num_categories: int = 1,
    resamples: int = 1000,
    seed: int = 0,
    level: float = 0.95,
) -> dict[str, PairedDifference]:
    """Difference in ``mean_r2`` and ``share``, with intervals.

    Args:
        first: peaks of the first network, or one table per seed.
        second: of the second, on the same images.
        num_categories: C; 1 treats all labelled images as one category.
        resamples: B.
        seed: of the resamples.
        level: of the interval.

    Raises:
        ValueError: if the tables do not show the same images.
    """

    def scores(table: PeakTable, counts: Tensor) -> Scores:
        table = as_one_category(table) if num_categories == 1 else table
        return tracking_scores(table, part_tracking(table, num_categories=num_categories), counts)

    return _paired(scores, first, second, (resamples, seed, level))


def bootstrap_location_instability(
    first: PeakTable | Sequence[PeakTable],
    second: PeakTable | Sequence[PeakTable],
    *,
    diagonal: float,
    parts: tuple[int, ...],
    categories: tuple[Tensor | None, Tensor | None] = (None, None),
    top: int = 100,
    resamples: int = 1000,
    seed: int = 0,
    level: float = 0.95,
) -> dict[str, PairedDifference]:
    """Difference in ``location_instability``, with an interval.

    Args:
        first: peaks of the first network, or one table per seed.
        second: of the second, on the same images.
        diagonal: of the network's input, in pixels.
        parts: indices of the landmarks.
        categories: category of each filter of the first and of the second network, ``(K,)``;
            None = all labelled images, for one category.
        top: images per filter and landmark.
        resamples: B.
        seed: of the resamples.
        level: of the interval.

    Raises:
        ValueError: if the tables do not show the same images.
    """
    tables = {
        id(table): index for index, side in enumerate((first, second)) for table in _listed(side)
    }

    def scores(table: PeakTable, counts: Tensor) -> Scores:
        assigned = categories[tables[id(table)]]
        return instability_scores(
            table, counts, diagonal, parts=parts, categories=assigned, top=top
        )

    return _paired(scores, first, second, (resamples, seed, level))


def bootstrap_accuracy(
    first: Tensor | Sequence[Tensor],
    second: Tensor | Sequence[Tensor],
    *,
    resamples: int = 1000,
    seed: int = 0,
    level: float = 0.95,
) -> dict[str, PairedDifference]:
    """Difference in ``accuracy``, with an interval.

    Args:
        first: whether the first network was right, per image, bool ``(N,)``, or one per seed.
        second: the same for the second, images in the same order.
        resamples: B.
        seed: of the resamples.
        level: of the interval.

    Raises:
        ValueError: if the numbers of images differ.
    """
    sides = [[first] if isinstance(first, Tensor) else [*first]]
    sides.append([second] if isinstance(second, Tensor) else [*second])
    lengths = {len(correct) for side in sides for correct in side}
    if len(lengths) != 1:
        raise ValueError(
            f"`first` and `second` must hold the same images, but have {sorted(lengths)} entries."
        )
    counts = resample_counts(lengths.pop(), resamples, seed)
    scores = [
        counts @ torch.stack([c.double() for c in side]).mean(0) / counts.sum(1) for side in sides
    ]
    return paired_differences({"accuracy": scores[0]}, {"accuracy": scores[1]}, level)


def tracking_scores(table: PeakTable, result: PartTrackingResult, counts: Tensor) -> Scores:
    """``mean_r2`` and ``share`` of every resample, ``(B,)`` each.

    Args:
        table: peaks, landmarks and boxes.
        result: what `part_tracking` found in `table`.
        counts: of the images of `table`, ``(B, N)``; only the scored half is read.
    """
    per_filter = torch.full((len(counts), len(result.scores)), torch.nan, dtype=torch.float64)
    for category in torch.unique(result.categories):
        rows = (boxed(table) & (table.labels == category)).nonzero()[1::2, 0]
        members = (result.categories == category) & (result.parts >= 0)
        for filters in torch.split(members.nonzero()[:, 0], _CHUNK):
            per_filter[:, filters] = _resampled_r2(
                table, rows, filters, result.parts[filters], counts[:, rows]
            )
    dead = (result.active < ACTIVE_SHARE) & (result.parts >= 0)
    per_filter[:, dead] = 0
    tracking = (per_filter > TRACKING_BOUND).double()
    measured = per_filter.isfinite()
    share = (tracking * measured).sum(1) / measured.sum(1)
    return {"mean_r2": per_filter.nanmean(1), "share": share}


def _resampled_r2(
    table: PeakTable, rows: Tensor, filters: Tensor, parts: Tensor, counts: Tensor
) -> Tensor:
    boxes = table.boxes[rows]
    positions = in_box_frame(table.positions[rows[:, None], filters], boxes)
    landmarks = in_box_frame(table.part_locations[rows], boxes)
    visible = landmarks.isfinite().all(-1, keepdim=True)
    # Centred, so that the difference of large sums below loses no digits.
    centre = torch.where(visible, landmarks, 0).sum(0) / visible.sum(0)
    landmarks = torch.where(visible, landmarks - centre, 0)
    errors = torch.where(visible[:, parts], positions - positions[:1] - landmarks[:, parts], 0)
    seen = counts @ visible[..., 0].double()
    spread = _variation(landmarks, counts, seen)
    # NaN, not infinity, where a resample shows the part less than twice.
    spread = torch.where(spread > 1e-9 * seen, spread, torch.nan)
    return 1 - _variation(errors, counts, seen[:, parts]) / spread[:, parts]


def _variation(vectors: Tensor, counts: Tensor, total: Tensor) -> Tensor:
    """Weighted sum of |v - mean v|^2 of vectors ``(N, K, 2)``, ``(B, K)``."""
    square = counts @ vectors.square().sum(-1)
    sums = torch.stack([counts @ vectors[..., axis] for axis in (0, 1)], -1)
    return square - sums.square().sum(-1) / total.clamp(min=1)


def instability_scores(
    table: PeakTable,
    counts: Tensor,
    diagonal: float,
    *,
    parts: tuple[int, ...],
    categories: Tensor | None = None,
    top: int = 100,
) -> Scores:
    """``location_instability`` of every resample, ``(B,)``.

    Args:
        table: peaks and landmarks.
        counts: of the images of `table`, ``(B, N)``.
        diagonal: of the network's input, in pixels.
        parts: indices of the landmarks; those seen in fewer than two images are left out.
        categories: of each filter, ``(K,)``; None = all labelled images.
        top: images per filter and landmark.
    """
    num_filters = table.values.shape[1]
    assigned = torch.zeros(num_filters, dtype=torch.long) if categories is None else categories
    labels = table.labels.clamp(max=0) if categories is None else table.labels
    total, seen = torch.zeros(2, len(counts), num_filters, dtype=torch.float64)
    for category in torch.unique(assigned):
        filters = (assigned == category).nonzero()[:, 0]
        for part in parts:
            rows = ((labels == category) & visible_parts(table)[:, part]).nonzero()[:, 0]
            if len(rows) >= 2:
                deviation = _resampled_deviation(
                    table, rows, filters, part, counts[:, rows], top=top
                )
                total[:, filters] += deviation.nan_to_num(0)
                seen[:, filters] += deviation.isfinite()
    return {"location_instability": (total / seen).nanmean(1) / diagonal}


def _resampled_deviation(
    table: PeakTable, rows: Tensor, filters: Tensor, part: int, counts: Tensor, *, top: int
) -> Tensor:
    """Standard deviation of the distance to a landmark, ``(B, len(filters))``."""
    values = table.values[rows[:, None], filters]
    chosen = torch.zeros(values.shape, dtype=torch.float64)
    chosen.scatter_(0, highest_rows(values, min(top, len(values))), 1)
    landmark = table.part_locations[rows, part].double()
    apart = table.positions[rows[:, None], filters].double() - landmark[:, None]
    distances = torch.linalg.vector_norm(apart, dim=-1)
    centred = (distances - (distances * chosen).sum(0) / chosen.sum(0)) * chosen
    total = counts @ chosen
    squares = counts @ centred.square() - (counts @ centred).square() / total.clamp(min=1)
    deviation = (squares.clamp(min=0) / (total - 1).clamp(min=1)).sqrt()
    return torch.where(total >= 2, deviation, torch.nan)


def _paired(
    scores: Callable[[PeakTable, Tensor], Scores],
    first: PeakTable | Sequence[PeakTable],
    second: PeakTable | Sequence[PeakTable],
    sampling: tuple[int, int, float],
) -> dict[str, PairedDifference]:
    tables = (_listed(first), _listed(second))
    reference = tables[0][0].sample_ids
    for table in (*tables[0], *tables[1]):
        if not torch.equal(table.sample_ids, reference):
            raise ValueError(
                f"`first` and `second` must show the same images, but one table has "
                f"{len(reference)} and another {len(table.sample_ids)} images or other sample ids."
            )
    resamples, seed, level = sampling
    counts = resample_counts(len(reference), resamples, seed)
    sides = [[scores(table, counts) for table in side] for side in tables]
    means = [
        {name: torch.stack([run[name] for run in side]).mean(0) for name in side[0]}
        for side in sides
    ]
    return paired_differences(means[0], means[1], level)


def _listed(tables: PeakTable | Sequence[PeakTable]) -> list[PeakTable]:
    # A table is itself a tuple.
    return [tables] if isinstance(tables, PeakTable) else [*tables]
