"""Location instability: how much a filter's distance to a landmark varies over images.

Q. Zhang, Y. N. Wu, S.-C. Zhu: Interpretable Convolutional Neural Networks, CVPR 2018, sec. 4.4.

For filter f and landmark k, d_I is the distance between the filter's position in image I and the
landmark, divided by the diagonal of the network's input; D_{f,k} is the unbiased standard
deviation of d_I over the 100 images with the highest peak among those where k is annotated;
instability is the mean of D over landmarks, then over filters. Low is stable.

With several categories the paper takes, for each filter, the category with the smallest mean over
landmarks (``location_instability``); the released programme takes the category with the largest
mean peak (``location_instability_own_category``).

What it cannot show: a filter that fires at one fixed place scores better than most trackers of a
part, so the baselines stand beside it.

Deviates from the released programme, which drops a filter with fewer than two valid images: every
filter counts. A filter that never fires has its position at the first cell, like a constant. A
landmark annotated in fewer than two images is left out for all filters alike.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from interp_train.evaluation.part_scheme import (
    PartScheme,
    as_one_category,
    largest_mean_peak,
    part_measures_missing,
    part_scheme,
    visible_parts,
)
from interp_train.evaluation.peak_table import PeakMetric, PeakTable
from interp_train.evaluation.position_baselines import measured_followers, position_baselines
from interp_train.structures import DataInfo, LayerGeometry

_CHUNK = 256  # filters at a time, which bounds the memory


class InstabilityResult(NamedTuple):
    """Location instability of each filter.

    Attributes:
        by_category: of each category, ``(C, K)``; NaN where it has no landmark in two images.
        best_category: smallest over categories (the only one with one category), ``(K,)``.
        own_category: of the category with the largest mean peak, ``(K,)``.
        categories: that category, long ``(K,)``.
    """

    by_category: Tensor
    best_category: Tensor
    own_category: Tensor
    categories: Tensor


def highest_rows(values: Tensor, count: int) -> Tensor:
    """Rows of the `count` highest of each column of `values` ``(N, K)``; of equals the first.

    Returns:
        Ascending row indices, long ``(count, K)``.
    """
    columns = values.T.contiguous()
    highest, rows = columns.topk(count, dim=1)
    # `topk` takes any of equals; dead filters have nothing but equals.
    tied = (columns >= highest[:, -1:]).sum(1) > count
    rows[tied] = columns[tied].sort(dim=1, descending=True, stable=True).indices[:, :count]
    return rows.T.sort(0).values


def landmark_deviations(
    table: PeakTable, diagonal: float, parts: tuple[int, ...], top: int | None = 100
) -> Tensor:
    """D_{f,k}: unbiased standard deviation of the distance of filter f to landmark k.

    Args:
        table: peaks; every row counts, whatever its label.
        diagonal: of the network's input, in pixels.
        parts: indices of the landmarks.
        top: images with the highest peak that count, per filter and landmark; None = all.

    Returns:
        Float64 ``(K, len(parts))``; NaN for a landmark annotated in fewer than two images.
    """
    deviations = []
    for part in parts:
        rows = visible_parts(table)[:, part]
        landmark = table.part_locations[rows, part].double()
        deviations.append(
            torch.cat(
                [
                    _deviation(positions, values, landmark, top)
                    for positions, values in zip(
                        torch.split(table.positions[rows], _CHUNK, 1),
                        torch.split(table.values[rows], _CHUNK, 1),
                        strict=True,
                    )
                ]
            )
        )
    return torch.stack(deviations, 1) / diagonal


def _deviation(positions: Tensor, values: Tensor, landmark: Tensor, top: int | None) -> Tensor:
    if len(values) < 2:
        return torch.full((values.shape[1],), torch.nan, dtype=torch.float64)
    rows = highest_rows(values, min(top or len(values), len(values)))
    chosen = positions.gather(0, rows[..., None].expand(-1, -1, 2)).double()
    distances: Tensor = torch.linalg.vector_norm(chosen - landmark[rows], dim=-1)
    return distances.std(0)


def instability_by_category(
    table: PeakTable,
    diagonal: float,
    parts: tuple[int, ...],
    num_categories: int,
    top: int | None,
) -> Tensor:
    """Mean over landmarks of D_{f,k} in each category, ``(C, K)``.

    NaN where a category shows no landmark in two images; see `location_instability`.
    """
    return torch.stack(
        [
            landmark_deviations(_rows(table, category), diagonal, parts, top).nanmean(1)
            for category in range(num_categories)
        ]
    )


def baseline_instability(
    name: str, baseline: PeakTable, diagonal: float, parts: tuple[int, ...], num_categories: int
) -> Tensor:
    """Instability of the pseudo-filters of a position baseline, ``(C, K)``; NaN as above.

    All images count, because pseudo-filters have no peaks that rank them; but an oracle counts
    only where its own part is visible, as a filter that tracks the part would fire only there.
    """
    if name != "oracle":
        by_category = instability_by_category(baseline, diagonal, parts, num_categories, None)
    else:
        columns = []
        for part in range(baseline.values.shape[1]):
            seen = visible_parts(baseline)[:, part, None, None]
            own = baseline._replace(
                part_locations=torch.where(seen, baseline.part_locations, torch.nan),
                positions=baseline.positions[:, part : part + 1],
                values=baseline.values[:, part : part + 1],
            )
            columns.append(instability_by_category(own, diagonal, parts, num_categories, None))
        by_category = torch.cat(columns, 1)
    kept = measured_followers(name, baseline, num_categories)
    by_category = torch.where(kept, by_category, torch.nan)
    return by_category[:, by_category.isfinite().any(0)]


def location_instability(
    table: PeakTable,
    diagonal: float,
    *,
    parts: tuple[int, ...],
    num_categories: int = 1,
    top: int | None = 100,
    categories: Tensor | None = None,
) -> InstabilityResult:
    """Location instability of each filter of `table`.

    Args:
        table: peaks and landmarks; images of the background do not count.
        diagonal: of the network's input, in pixels.
        parts: indices of the landmarks.
        num_categories: C.
        top: images per filter and landmark; None = all.
        categories: category of each filter, long ``(K,)``; None = the one with the largest
            mean peak.

    Raises:
        ValueError: if `top` is below 2, or no landmark is annotated in two images.
    """
    if top is not None and top < 2:
        raise ValueError(f"`top` must be at least 2 (a deviation needs two images), but got {top}.")
    by_category = instability_by_category(table, diagonal, parts, num_categories, top)
    measurable = by_category.isfinite().all(1)
    if not measurable.any():
        raise ValueError(
            "`table` must show a landmark in at least two images of one category, but it does not."
            " Add images with part annotations."
        )
    if categories is None:
        categories = largest_mean_peak(table, measurable)
    best = torch.where(measurable[:, None], by_category, torch.inf).amin(0)
    own = by_category.gather(0, categories[None])[0]
    return InstabilityResult(by_category, best, own, categories)


def _rows(table: PeakTable, category: int) -> PeakTable:
    rows = table.labels == category
    return PeakTable(*(field[rows] for field in table))


class LocationInstabilityMetric(PeakMetric):
    """Location instability of a layer's filters, beside its baselines.

    Args:
        geometry: receptive fields of the layer; None lets the cells tile the image evenly.
        info: part names, landmarks to use (all if it names none) and categories.
        top: images per filter and landmark (paper: 100). The position baselines use all
            images, because their peaks do not rank any.
        by_category: False treats all categories as one.
        seed: of the random baseline.
    """

    def __init__(
        self,
        geometry: LayerGeometry | None = None,
        info: DataInfo | None = None,
        *,
        top: int = 100,
        by_category: bool = True,
        seed: int = 0,
    ) -> None:
        super().__init__(geometry)
        self.info, self.top, self.by_category, self.seed = info, top, by_category, seed
        self.result: InstabilityResult | None = None
        self.latest: PeakTable | None = None

    def compute(self) -> dict[str, Tensor]:
        """Mean over filters, by name; empty (see `missing`) without landmarks."""
        self.latest = table = self.table()
        self.missing = part_measures_missing(table, boxes=False)
        self.result = None
        if self.missing:
            return {}
        scheme = part_scheme(table, self.info, self.by_category)
        table = table if scheme.num_categories > 1 else as_one_category(table)
        if not _measurable(table, scheme):
            self.missing = "landmarks that are annotated in at least two images"
            return {}
        diagonal, parts = self.frame().diagonal(), scheme.instability_parts
        count = scheme.num_categories
        self.result = location_instability(
            table, diagonal, parts=parts, num_categories=count, top=self.top
        )
        scores = _named_means(self.result.best_category, self.result.own_category, "", count)
        for name, baseline in position_baselines(table, self.frame(), self.seed).items():
            by_category = baseline_instability(name, baseline, diagonal, parts, count)
            best = by_category.nan_to_num(torch.inf).amin(0)
            own = by_category.nanmean(0)  # no peaks of its own choose a category
            scores.update(_named_means(best, own, f"_{name}", count))
        return scores


def _measurable(table: PeakTable, scheme: PartScheme) -> bool:
    visible = visible_parts(table)[:, list(scheme.instability_parts)]
    counts = [visible[table.labels == c].sum(0) for c in range(scheme.num_categories)]
    return bool((torch.stack(counts) >= 2).any())


def _named_means(best: Tensor, own: Tensor, suffix: str, categories: int) -> dict[str, Tensor]:
    named = {f"location_instability{suffix}": best.mean()}
    if categories > 1:
        named[f"location_instability_own_category{suffix}"] = own.mean()
    return named
