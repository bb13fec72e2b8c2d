"""Part tracking: how much of a part's motion in the object's frame a filter follows.

A measure of this package. Location instability cannot tell a filter that follows a part from one
that sits in the centre; this one can. In the frame of the object's box (position relative to the
box, divided by its width and height), with l the landmark of part k and e = (position of filter
f) - l,

    R2(f, k) = 1 - sum |e - mean e|^2 / sum |l - mean l|^2

over the images where k is visible (several categories: images of the filter's category). 1 is a
perfect tracker, 0 a position that is constant in the box frame, negative worse than that; a
constant offset from the part costs nothing. A filter's part is the one with the largest R2 on the
even ranks of the category's sorted sample ids; its score is that part's R2 on the odd ranks. A
filter that is active (peak > 0) on less than 1 % of those images scores 0.

Categories may share filters that follow the same part in all of them; `in_every_category` measures
each filter in each category, whichever filters are whose.

What R2 cannot show: whether the filter fires *on* the part (a constant offset is free; see
`tracked_offsets` and `peaks_inside`), or whether it stays silent where the part is hidden.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from interp_train.evaluation.part_scheme import (
    PartScheme,
    as_one_category,
    boxed,
    largest_mean_peak,
    part_measures_missing,
    part_scheme,
)
from interp_train.evaluation.peak_table import MapFrame, PeakMetric, PeakTable
from interp_train.evaluation.position_baselines import measured_followers, position_baselines
from interp_train.evaluation.tracking_r2 import centred, in_box_frame, tracking_r2
from interp_train.structures import DataInfo, LayerGeometry

TRACKING_BOUND = 0.25  # R2 above which a filter counts as tracking its part
ACTIVE_SHARE = 0.01  # share of images below which a filter counts as dead

REPEATED = 3  # filters that must track a part for it to count as repeated

_CHUNK = 256  # filters at a time, which bounds the memory


class PartTrackingResult(NamedTuple):
    """Part tracking of each filter.

    Attributes:
        scores: R2 of the filter's part on the scored half, ``(K,)``; 0 for a dead filter, NaN
            where the filter's category has no landmarks.
        parts: the filter's part, long ``(K,)``; -1 where it has none.
        categories: the filter's category, long ``(K,)``.
        active: share of the category's images with a peak > 0, ``(K,)``.
        choice_r2: R2 with every part on the half that chooses, ``(K, P)``; NaN where the part
            does not move or is visible in fewer than two images of either half.
        score_r2: the same on the half that scores.
    """

    scores: Tensor
    parts: Tensor
    categories: Tensor
    active: Tensor
    choice_r2: Tensor
    score_r2: Tensor


def part_tracking(
    table: PeakTable, *, num_categories: int = 1, categories: Tensor | None = None
) -> PartTrackingResult:
    """Part and score of each filter.

    Args:
        table: peaks, landmarks and boxes; images without a box and of the background do not
            count.
        num_categories: C.
        categories: category of each filter, long ``(K,)``; None = the one with the largest
            mean peak among those with landmarks.

    Raises:
        ValueError: if no category has a part that can be measured on both halves.
    """
    return _tracking(table, _images_of(table, num_categories), categories)


class _Images(NamedTuple):
    """The images that count for each category.

    Attributes:
        rows: of each category, long; even ranks choose, odd ranks score.
        measurable: parts that move on both halves, bool ``(C, P)``.
    """

    rows: list[Tensor]
    measurable: Tensor


def _images_of(table: PeakTable, num_categories: int) -> _Images:
    counted = boxed(table)
    rows_of = [
        (counted & (table.labels == category)).nonzero()[:, 0] for category in range(num_categories)
    ]
    moves = [
        [centred(_landmarks(table, rows[start::2])).moves for start in (0, 1)] for rows in rows_of
    ]
    return _Images(rows_of, torch.stack([even & odd for even, odd in moves]))


def _tracking(table: PeakTable, images: _Images, categories: Tensor | None) -> PartTrackingResult:
    measurable = images.measurable
    if not measurable.any():
        raise ValueError(
            "`table` must show a moving part in at least two even and two odd images of one "
            "category, but it does not. Add images with part annotations and boxes."
        )
    if categories is None:
        categories = largest_mean_peak(table, measurable.any(1))
    num_filters, num_parts = table.values.shape[1], table.part_locations.shape[1]
    choice, score = torch.full((2, num_filters, num_parts), torch.nan, dtype=torch.float64)
    active = torch.zeros(num_filters, dtype=torch.float64)
    for category, rows in enumerate(images.rows):
        filters = (categories == category).nonzero()[:, 0]
        if len(filters) and measurable[category].any():
            choice[filters] = _r2_on(table, rows[0::2], filters)
            score[filters] = _r2_on(table, rows[1::2], filters)
            active[filters] = (table.values[rows[:, None], filters] > 0).double().mean(0)
    return _chosen(choice, score, categories, active)


def _landmarks(table: PeakTable, rows: Tensor) -> Tensor:
    """In the box frame, ``(N, P, 2)``."""
    return in_box_frame(table.part_locations[rows], table.boxes[rows])


def _r2_on(table: PeakTable, rows: Tensor, filters: Tensor) -> Tensor:
    boxes, locations = table.boxes[rows], _landmarks(table, rows)
    return torch.cat(
        [
            tracking_r2(in_box_frame(table.positions[rows[:, None], some], boxes), locations)
            for some in torch.split(filters, _CHUNK)
        ]
    )


def _chosen(
    choice: Tensor, score: Tensor, categories: Tensor, active: Tensor
) -> PartTrackingResult:
    both = choice.isfinite() & score.isfinite()
    choice, score = (torch.where(both, r2, torch.nan) for r2 in (choice, score))
    parts = choice.nan_to_num(-torch.inf).argmax(1)
    measured = both.any(1)
    scores = score.gather(1, parts[:, None])[:, 0]
    scores = torch.where(measured & (active < ACTIVE_SHARE), 0, scores)
    parts = torch.where(measured, parts, -1)
    return PartTrackingResult(scores, parts, categories, active, choice, score)


def best_filters(result: PartTrackingResult) -> tuple[Tensor, Tensor]:
    """The live filter that follows each part best, and its score.

    Returns:
        Filter long ``(P,)`` (-1 where no live filter is measured with the part), chosen on one
        half; its R2 on the other ``(P,)``, NaN where there is none.
    """
    live = result.active >= ACTIVE_SHARE
    ranking = torch.where(live[:, None], result.choice_r2, torch.nan).nan_to_num(-torch.inf)
    best = ranking.argmax(0)
    found = ranking.amax(0) > -torch.inf
    scores = result.score_r2.gather(0, best[None])[0]
    return torch.where(found, best, -1), torch.where(found, scores, torch.nan)


def tracking_filters(result: PartTrackingResult) -> Tensor:
    """Filters whose score exceeds the bound of .25, bool ``(K,)``."""
    return result.scores > TRACKING_BOUND


def summary(result: PartTrackingResult, scheme: PartScheme, seed: int = 0) -> dict[str, Tensor]:
    """The numbers of a layer.

    Args:
        result: of the layer.
        scheme: names of parts and groups.
        seed: of the half of the filters.

    Returns:
        ``mean_r2``, ``share`` (of measured filters that track a part), ``coverage`` (share of
        the measurable part groups that some filter tracks), ``covered_groups`` (their number),
        ``distinct_parts`` (that some filter tracks), ``repeated_parts`` (that at least three
        track), ``dead_share``, ``best_<part>`` (R2 of the best filter per part); and ``mean_r2``
        where the halves of the images change places (``swapped_mean_r2``) and of a random half
        of the filters (``half_mean_r2``). Of several categories, a part of each counts.
    """
    measured = result.scores.isfinite()
    tracking = tracking_filters(result)
    dead = (result.active < ACTIVE_SHARE) & measured
    numbers = {
        "mean_r2": result.scores[measured].mean(),
        "share": tracking[measured].double().mean(),
        **_spread(result, scheme, tracking),
        "dead_share": dead[measured].double().mean(),
        **_repetitions(result, seed),
    }
    for name, score in zip(scheme.part_names, best_filters(result)[1], strict=True):
        if score.isfinite():
            numbers[f"best_{name.replace(' ', '_')}"] = score
    return numbers


def _spread(result: PartTrackingResult, scheme: PartScheme, tracking: Tensor) -> dict[str, Tensor]:
    """How many parts the tracking filters are spread over, each category for itself."""
    counts = torch.zeros(scheme.num_categories, result.score_r2.shape[1])
    counts.index_put_(
        (result.categories[tracking], result.parts[tracking]), torch.tensor(1.0), accumulate=True
    )
    measured = result.score_r2.isfinite()
    groups = covered = 0
    for category in range(scheme.num_categories):
        # A category without filters follows nothing; what could be followed, others tell.
        own = result.categories == category
        seen = measured[own if own.any() else ...].any(0)
        for parts in scheme.part_groups.values():
            groups += int(seen[list(parts)].any())
            covered += int((counts[category, list(parts)] > 0).any())
    return {
        "coverage": torch.tensor(covered / max(groups, 1)).double(),
        "covered_groups": torch.tensor(float(covered)),
        "distinct_parts": (counts > 0).sum().double(),
        "repeated_parts": (counts >= REPEATED).sum().double(),
    }


def in_every_category(table: PeakTable, scheme: PartScheme) -> dict[str, Tensor]:
    """The numbers of a layer if each filter counts once in each category.

    Args:
        table: see `part_tracking`.
        scheme: names of parts and groups.

    Returns:
        ``every_category_<number>`` for ``mean_r2``, ``share`` and those that say how many parts
        are followed (see `summary`), over pairs of a filter and a category.
    """
    images, number = _images_of(table, scheme.num_categories), table.values.shape[1]
    results = [
        _tracking(table, images, torch.full((number,), category))
        for category in images.measurable.any(1).nonzero()[:, 0].tolist()
    ]
    pairs = PartTrackingResult(*map(torch.cat, zip(*results, strict=True)))
    tracking = tracking_filters(pairs)
    numbers = {
        "mean_r2": pairs.scores.mean(),
        "share": tracking.double().mean(),
        **_spread(pairs, scheme, tracking),
    }
    return {f"every_category_{quantity}": number for quantity, number in numbers.items()}


def _repetitions(result: PartTrackingResult, seed: int) -> dict[str, Tensor]:
    """The mean score where halves of images change places, and of a random half of filters."""
    swapped = _chosen(result.score_r2, result.choice_r2, result.categories, result.active).scores
    scores = result.scores[result.scores.isfinite()]
    source = torch.Generator().manual_seed(seed)
    half = torch.randperm(len(scores), generator=source)[: (len(scores) + 1) // 2]
    return {
        "swapped_mean_r2": swapped[swapped.isfinite()].mean(),
        "half_mean_r2": scores[half.to(scores.device)].mean(),
    }


def tracked_offsets(table: PeakTable, result: PartTrackingResult, side: tuple[int, int]) -> Tensor:
    """How far each filter is from its part on average, which R2 does not see.

    The length of the mean displacement, so that errors in all directions cancel; over the images
    of the half that scores in which the part is visible.

    Args:
        table: from which `result` was computed.
        result: names the part of each filter.
        side: width and height of the images, in pixels.

    Returns:
        As a share of the image's sides, float64 ``(K,)``; NaN for a filter without a part.
    """
    offsets = torch.full(result.parts.shape, torch.nan, dtype=torch.float64)
    for category in torch.unique(result.categories).tolist():
        rows = (boxed(table) & (table.labels == category)).nonzero()[1::2, 0]
        filters = ((result.categories == category) & (result.parts >= 0)).nonzero()[:, 0]
        landmarks = table.part_locations[rows][:, result.parts[filters]]
        apart = (table.positions[rows[:, None], filters] - landmarks) / torch.tensor(side)
        offsets[filters] = apart.double().nanmean(0).norm(dim=-1)
    return offsets


def peaks_inside(table: PeakTable, categories: Tensor) -> Tensor:
    """Share of each filter's peaks > 0 that lie in the object's box, float64 ``(K,)``.

    Args:
        table: peaks and boxes.
        categories: of each filter, ``(K,)``; images of other categories do not count.

    Returns:
        NaN for a filter without a peak.
    """
    counted = (table.values > 0) & (table.labels[:, None] == categories) & boxed(table)[:, None]
    low, high = table.boxes[:, None, :2], table.boxes[:, None, 2:]
    inside = ((table.positions >= low) & (table.positions <= high)).all(-1) & counted
    return inside.sum(0) / counted.sum(0).double()


def placement(table: PeakTable, result: PartTrackingResult, frame: MapFrame) -> dict[str, Tensor]:
    """Whether filters sit on what they follow.

    Returns:
        ``offset`` (mean of `tracked_offsets`) and ``inside`` (mean of `peaks_inside`), over live
        filters; empty where there is none.
    """
    live = (result.active >= ACTIVE_SHARE) & (result.parts >= 0)
    if not live.any():
        return {}
    offsets = tracked_offsets(table, result, (frame.image_width, frame.image_height))
    inside = peaks_inside(table, result.categories)
    return {"offset": offsets[live].mean(), "inside": inside[live].mean()}


def baseline_scores(name: str, baseline: PeakTable, num_categories: int) -> dict[str, Tensor]:
    """``mean_r2`` and ``share`` of a position baseline, over pseudo-filters and categories."""
    kept = measured_followers(name, baseline, num_categories)
    images, number = _images_of(baseline, num_categories), baseline.values.shape[1]
    scores = torch.cat(
        [
            _tracking(baseline, images, torch.full((number,), category)).scores[kept[category]]
            for category in range(num_categories)
        ]
    )
    scores = scores[scores.isfinite()]
    return {"mean_r2": scores.mean(), "share": (scores > TRACKING_BOUND).double().mean()}


class PartTrackingMetric(PeakMetric):
    """Part tracking of a layer's filters, beside its baselines.

    Args:
        geometry: receptive fields of the layer; None lets the cells tile the image evenly.
        info: part names, groups and categories.
        by_category: False treats all categories as one.
        seed: of the random baseline, and of the half of the filters.
    """

    def __init__(
        self,
        geometry: LayerGeometry | None = None,
        info: DataInfo | None = None,
        *,
        by_category: bool = True,
        seed: int = 0,
    ) -> None:
        super().__init__(geometry)
        self.info, self.by_category, self.seed = info, by_category, seed
        self.categories: Tensor | None = None  # of each filter, where an objective assigns them
        self.result: PartTrackingResult | None = None
        self.latest: PeakTable | None = None

    def compute(self) -> dict[str, Tensor]:
        """The numbers of `summary` as ``part_tracking_<number>``, and of the baselines.

        Of several categories, also those of `in_every_category`.

        Empty (see `missing`) without landmarks or boxes.
        """
        self.latest = table = self.table()
        self.result, self.missing = None, part_measures_missing(table, boxes=True)
        if self.missing:
            return {}
        scheme = part_scheme(table, self.info, self.by_category)
        count = scheme.num_categories
        table = table if count > 1 else as_one_category(table)
        if not can_track(table, count):
            self.missing = "a part that moves and is visible in two even and two odd images"
            return {}
        categories = self.categories if count > 1 else None
        self.result = part_tracking(table, num_categories=count, categories=categories)
        numbers = summary(self.result, scheme, self.seed) | placement(
            table, self.result, self.frame()
        )
        if count > 1:
            numbers |= in_every_category(table, scheme)
        for name, baseline in position_baselines(table, self.frame(), self.seed).items():
            for quantity, score in baseline_scores(name, baseline, count).items():
                numbers[f"{quantity}_{name}"] = score
        return {f"part_tracking_{quantity}": number for quantity, number in numbers.items()}


def can_track(table: PeakTable, num_categories: int) -> bool:
    """Whether some category has a part that can be measured on both halves."""
    return bool(_images_of(table, num_categories).measurable.any())
