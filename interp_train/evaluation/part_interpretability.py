"""Part interpretability: how often a filter's strongest region coincides with a part.

Q. Zhang, Y. N. Wu, S.-C. Zhu: Interpretable Convolutional Neural Networks, CVPR 2018, sec. 4.3,
after D. Bau et al.: Network Dissection, CVPR 2017.

For filter f, T_f is the threshold that 0.5 % of its activations exceed, over all positions and
images of the filter's category (the one with the largest mean sum of activations). In an image,
the filter's region is the union of disks around the cells above T_f, and it stands for part k if
their IoU exceeds 0.2. P_{f,k} is the share of the images that contain k where it does,
P_f = max_k P_{f,k}; the measure is the mean over filters. An image without a cell above T_f counts
as IoU 0, and so does every image of a dead filter.

The paper does not state the radius of the disks; ours is 1.5 strides, 24 px for a VGG at 224 px:
one disk must be able to reach an IoU of 0.2 with parts of 60 px. Compare only equal radii.

Deviation: maps are kept in half precision, and by default at most 500 images are used, chosen by
their `sample_id`.
"""

import math
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from interp_train.checks import check_range
from interp_train.evaluation.disk_overlap import (
    Words,
    box_masks,
    disks,
    packed,
    region_overlaps,
)
from interp_train.evaluation.part_scheme import (
    as_one_category,
    largest_mean_peak,
    num_categories,
)
from interp_train.evaluation.peak_table import (
    MapFrame,
    PeakMetric,
    PeakTable,
    first_rows,
    joined,
)
from interp_train.evaluation.position_baselines import (
    measured_followers,
    position_baselines,
    scrambled,
)
from interp_train.structures import Batch, DataInfo, LayerGeometry, PartBatch

_LARGEST_HALF = 65504.0
_LARGEST_KEY = 2**62


class PartInterpretabilityResult(NamedTuple):
    """Part interpretability of each filter.

    Attributes:
        by_part: P_{f,k}, ``(K, P)``; NaN where no image of its category contains the part.
        categories: category of each filter, long ``(K,)``.
    """

    by_part: Tensor
    categories: Tensor


class ValidCells(NamedTuple):
    """The strongly active cells of all filters; parallel tensors, long ``(V,)``.

    Attributes:
        images: row of the image.
        filters: index of the filter.
        cells: flat index of the cell.
    """

    images: Tensor
    filters: Tensor
    cells: Tensor


def thresholds(maps: Tensor, share: float) -> Tensor:
    """T_f: the value that at most `share` of each filter's activations exceed.

    Args:
        maps: ``(N, K, h, w)``.
        share: in (0, 1).

    Returns:
        ``(K,)``, a value of the maps; exactly ``floor(share * N * h * w)`` activations exceed
        it unless some equal it.
    """
    values = maps.transpose(0, 1).flatten(1).float()
    above = math.floor(share * values.shape[1])
    return values.topk(min(above + 1, values.shape[1]), dim=1).values[:, -1]


def valid_cells(maps: Tensor, labels: Tensor, categories: Tensor, share: float) -> ValidCells:
    """Cells above the threshold, per filter among the images of its category.

    Args:
        maps: ``(N, K, h, w)``.
        labels: category of each image, long ``(N,)``.
        categories: category of each filter, long ``(K,)``.
        share: of the activations that exceed the threshold.
    """
    found = []
    for category in torch.unique(categories):
        rows = (labels == category).nonzero()[:, 0]
        filters = (categories == category).nonzero()[:, 0]
        chosen = maps[rows][:, filters]
        above = chosen.float() > thresholds(chosen, share)[:, None, None]
        image, unit, cell = above.flatten(2).nonzero().unbind(1)
        found.append(torch.stack((rows[image], filters[unit], cell)))
    return ValidCells(*torch.cat(found, 1).unbind(0))


def part_interpretability(
    valid: ValidCells,
    parts: Words,
    categories: Tensor,
    shown: Tensor,
    *,
    disk_words: Words,
    least_iou: float = 0.2,
) -> Tensor:
    """P_{f,k}: share of the images with part k in which filter f stands for it.

    Args:
        valid: cells above the thresholds, in images of the filter's category.
        parts: packed part masks, ``(N, P, words)``.
        categories: of the filters, long ``(K,)``.
        shown: images of each category that contain each part, long ``(C, P)``.
        disk_words: packed disks, one per cell.
        least_iou: IoU above which a region stands for a part.

    Returns:
        Float64 ``(K, P)``; NaN where no image of the filter's category contains the part.
    """
    num_filters = len(categories)
    keys, order = torch.sort(valid.images * num_filters + valid.filters, stable=True)
    regions, region_of = torch.unique_consecutive(keys, return_inverse=True)
    images = torch.div(regions, num_filters, rounding_mode="floor")
    overlaps = region_overlaps(valid.cells[order], region_of, images, disk_words, parts)
    hits = torch.zeros(num_filters, parts.shape[1], dtype=torch.long)
    hits.index_add_(0, regions % num_filters, (overlaps > least_iou).long())
    images_with_part = shown[categories]
    return torch.where(images_with_part > 0, hits.double() / images_with_part, torch.nan)


def best_part(by_part: Tensor) -> Tensor:
    """P_f = max_k P_{f,k}, ``(K, P)`` -> ``(K,)``."""
    return by_part.nan_to_num(-1.0).amax(1)


def baseline_interpretability(
    name: str,
    baseline: PeakTable,
    parts: Words,
    shown: Tensor,
    *,
    frame: MapFrame,
    disk_words: Words,
    least_iou: float = 0.2,
) -> Tensor:
    """Mean P_f of the pseudo-filters of a position baseline, each with one valid cell per image.

    Args:
        name: of the baseline.
        baseline: its positions.
        parts: see `part_interpretability`.
        shown: see `part_interpretability`.
        frame: grid of the layer.
        disk_words: see `part_interpretability`.
        least_iou: see `part_interpretability`.
    """
    cells, count = frame.cells_of(baseline.positions), baseline.values.shape[1]
    kept = measured_followers(name, baseline, len(shown))
    scores = []
    for category in shown.any(1).nonzero()[:, 0].tolist():
        rows = (baseline.labels == category).nonzero()[:, 0]
        valid = ValidCells(
            rows.repeat_interleave(count),
            torch.arange(count).repeat(len(rows)),
            cells[rows].flatten(),
        )
        by_part = part_interpretability(
            valid,
            parts,
            torch.full((count,), category),
            shown,
            disk_words=disk_words,
            least_iou=least_iou,
        )
        scores.append(best_part(by_part)[kept[category]])
    return torch.cat(scores).mean()


def part_bits(batch: Batch) -> Tensor:
    """Packed regions of the parts, int64 ``(N, P, words)`` on the CPU.

    Masks where there are masks, else boxes; P = 0 where there is neither.
    """
    height, width = batch.images.shape[-2:]
    if not isinstance(batch, PartBatch):
        return torch.zeros(len(batch.labels), 0, 0, dtype=torch.long)
    if batch.part_masks.shape[1]:
        masks = batch.part_masks.cpu()
    elif batch.part_boxes.isfinite().any():
        masks = box_masks(batch.part_boxes.cpu(), height, width)
    else:
        masks = torch.zeros(*batch.part_boxes.shape[:2], height, width, dtype=torch.bool)
    return torch.from_numpy(packed(masks).view(np.int64))


def rows_of(batch: Batch, rows: Tensor) -> Batch:
    """The images `rows` of `batch`."""
    return type(batch)(*(field[rows] for field in batch))


class PartInterpretabilityMetric(PeakMetric):
    """Part interpretability of a layer's filters, beside its baselines.

    Keeps the maps of at most `max_images` labelled images in half precision (500 images of 512
    maps of 14 x 14 cells: 100 MB).

    Args:
        geometry: receptive fields of the layer; None lets the cells tile the image evenly.
        info: categories.
        share: of the activations that exceed a filter's threshold (paper: 0.005).
        least_iou: above which a region stands for a part (paper: 0.2).
        radius: of the disks, in pixels; None = 1.5 strides.
        max_images: None = all.
        by_category: False treats all categories as one.
        seed: of the random baseline and of the choice of images.
    """

    maps: list[Tensor]
    part_bits: list[Tensor]

    def __init__(
        self,
        geometry: LayerGeometry | None = None,
        info: DataInfo | None = None,
        *,
        share: float = 0.005,
        least_iou: float = 0.2,
        radius: float | None = None,
        max_images: int | None = 500,
        by_category: bool = True,
        seed: int = 0,
    ) -> None:
        check_range("share", share, 0.0, 1.0)
        check_range("least_iou", least_iou, 0.0, 1.0)
        super().__init__(geometry)
        self.add_state("maps", [], "cat")
        self.add_state("part_bits", [], "cat")
        self.info, self.share, self.least_iou, self.radius = info, share, least_iou, radius
        self.max_images, self.by_category, self.seed = max_images, by_category, seed
        self._bound = _LARGEST_KEY
        self.result: PartInterpretabilityResult | None = None
        self.latest: PeakTable | None = None

    def update(self, activations: Tensor, batch: Batch) -> None:
        """Keep the maps and part regions of the labelled images of one batch."""
        promising = (batch.labels >= 0) & (scrambled(batch.sample_ids, self.seed) <= self._bound)
        chosen = promising.nonzero()[:, 0]
        batch = rows_of(batch, chosen)
        activations = activations.detach()[chosen]
        super().update(activations, batch)
        half = activations.half().clamp(-_LARGEST_HALF, _LARGEST_HALF)
        self.maps.append(half)
        self.part_bits.append(part_bits(batch).to(half.device))
        if self.max_images is not None and self._kept() > 2 * self.max_images:
            self._prune()

    def values_of(self, activations: Tensor, peaks: Tensor) -> Tensor:
        """Mean of each map: the paper's criterion for the category of a filter."""
        return activations.float().mean((-2, -1))

    def kept_rows(self, sample_ids: Tensor) -> Tensor:
        """The chosen images, once each: those with the smallest scrambled id."""
        rows = first_rows(sample_ids)
        if self.max_images is None:
            return rows
        order = scrambled(sample_ids[rows], self.seed).argsort(stable=True)
        return rows[order[: self.max_images].sort().values]

    def reset(self) -> None:
        """Forget all images."""
        super().reset()
        self._bound = _LARGEST_KEY

    def _kept(self) -> int:
        return sum(len(ids) for ids in self.sample_ids)

    def _prune(self) -> None:
        rows = self.kept_rows(torch.cat(self.sample_ids))
        self._bound = int(scrambled(torch.cat(self.sample_ids)[rows], self.seed).max())
        for name in self._defaults:
            state = getattr(self, name)
            if isinstance(state, list):
                setattr(self, name, [torch.cat(state)[rows]])

    def compute(self) -> dict[str, Tensor]:
        """``part_interpretability``, mean over filters of P_f, and its baselines.

        Empty (see `missing`) without part masks or part boxes.
        """
        self.latest = table = self.table()
        rows = self.kept_rows(joined(self.sample_ids))
        maps, words = joined(self.maps)[rows], joined(self.part_bits)[rows].numpy().view(np.uint64)
        self.result, self.missing = None, _missing(table, words)
        if self.missing:
            return {}
        count = num_categories(table.labels, self.info) if self.by_category else 1
        table = table if count > 1 else as_one_category(table)
        contains = torch.from_numpy(words.any(-1))
        shown = torch.stack([contains[table.labels == c].sum(0) for c in range(count)])
        categories = largest_mean_peak(table, shown.any(1))
        frame = self.frame()
        radius = self.radius if self.radius is not None else 1.5 * frame.geometry.stride
        disk: Any = {"disk_words": disks(frame, radius), "least_iou": self.least_iou}
        valid = valid_cells(maps, table.labels, categories, self.share)
        by_part = part_interpretability(valid, words, categories, shown, **disk)
        self.result = PartInterpretabilityResult(by_part, categories)
        scores = {"part_interpretability": best_part(by_part).mean()}
        for name, baseline in position_baselines(table, frame, self.seed).items():
            scores[f"part_interpretability_{name}"] = baseline_interpretability(
                name, baseline, words, shown, frame=frame, **disk
            )
        return scores


def _missing(table: PeakTable, words: Words) -> str:
    if not len(table.labels):
        return "images with a category"
    return "" if words.any() else "part_masks or part_boxes"
