"""Overlap of units' active pixels with labelled concepts, counted over a data set.

D. Bau, B. Zhou, A. Khosla, A. Oliva, A. Torralba: Network Dissection: Quantifying Interpretability
of Deep Visual Representations, CVPR 2017, eq. 1: with M the active pixels of unit u and L the
pixels of concept c, both summed over the whole data set before the division,

    IoU(u, c) = sum |M & L| / sum |M | L|.

Which images the union runs over is told in three ways (`UNIONS`):

* ``"paper"``: those that are annotated for the category of c (its map has a concept somewhere);
* ``"all"``: every image;
* ``"lite"``: those in which M itself meets a label of the category, as the authors' second
  program (NetDissect-Lite) counts; it forgives a unit every image in which it is active on
  unlabelled ground only, so this IoU is never smaller than the paper's.

Counts are 64-bit integers: single precision stops counting at 16.7 million pixels.
"""

import functools
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from interp_train.evaluation.active_pixels import ActiveRows
from interp_train.evaluation.concept_labels import ConceptScheme, LabelCounts, LabelledBatch

UNIONS = ("paper", "all", "lite")


class OverlapCounts(NamedTuple):
    """Active pixels of units and their overlap with concepts, for each of Q levels.

    Attributes:
        intersection: sum of |M & L|, int64 ``(K, Q, C)``.
        active: sum of |M| over the images that count for a category, int64 ``(K, Q, M)``.
        area: sum of |M| over all images, int64 ``(K, Q)``.
    """

    intersection: Tensor
    active: Tensor
    area: Tensor


def overlap_counts(
    pieces: Iterable[ActiveRows],
    labellings: Sequence[LabelledBatch],
    levels: Tensor,
    union: str = "paper",
) -> list[OverlapCounts]:
    """Count the active pixels of a batch against each of several labellings of it.

    Args:
        pieces: rows with all pixels above the lowest level of each unit, each pixel once.
        labellings: of the same images, by one scheme.
        levels: of each unit, descending, ``(K, Q)``.
        union: see `UNIONS`.

    Returns:
        One count per labelling.
    """
    counter = _Counter(labellings, levels, union)
    for rows in pieces:
        counter.add(rows)
    return counter.counts()


class _Counter:
    """Histograms over (unit, level, labels) of labellings; each pixel stands at one level.

    What does not depend on the labelling is counted once. Whole rows are looked up, and pixels
    that are not active fall into a bin of their own: that is faster than listing the active ones.
    """

    def __init__(self, labellings: Sequence[LabelledBatch], levels: Tensor, union: str) -> None:
        self.labellings, self.levels, self.union = labellings, levels, union
        self.num_units, self.num_levels = levels.shape
        self.bins = self.num_units * self.num_levels
        self.num_images, self.size = len(labellings[0].per_image), labellings[0].size
        new = functools.partial(levels.new_zeros, dtype=torch.long)
        rows = self.bins + 1  # the last is for pixels that are not active
        self.found = [[new(rows * len(j.labels)) for j in each.joint] for each in labellings]
        self.area = new(self.num_levels, self.num_images * self.num_units)
        categories = len(labellings[0].scheme.sizes) if union == "lite" else 0
        self.met = [new(categories, *self.area.shape) for _ in labellings]

    def add(self, rows: ActiveRows) -> None:
        """Add the pixels that exceed the lowest level of their unit."""
        levels, units = self.levels[rows.units], rows.units.int()
        above = [rows.values > levels[:, level, None] for level in range(self.num_levels)]
        places = rows.images * self.num_units + rows.units
        for area, here in zip(self.area, above, strict=True):
            area.index_add_(0, places, here.sum(1))
        bins = units[:, None] * self.num_levels
        for here in above[:-1]:  # a pixel stands at the first level that it exceeds
            bins = bins + ~here
        bins = torch.where(above[-1], bins, self.bins)
        first = rows.images * self.size + rows.first
        for labelling, found, met in zip(self.labellings, self.found, self.met, strict=True):
            for labels, counts in zip(labelling.joint, found, strict=True):
                there = _rows_of(labels.combination, first, bins.shape[1])
                keys = torch.add(there, bins, alpha=len(labels.labels))
                counts += torch.bincount(keys.view(-1), minlength=len(counts))
                if self.union == "lite":
                    for category in set(labels.categories):
                        labelled = labels.labelled(category)[there]
                        for level, here in enumerate(above):
                            hits = (here & labelled).sum(1)
                            met[category, level].index_add_(0, places, hits)

    def counts(self) -> list[OverlapCounts]:
        """The sums per labelling; a pixel above a level is above all lower ones."""
        area = self._per_image(self.area)
        return [
            OverlapCounts(self._intersection(number), self._active(number, area), area.sum(0))
            for number in range(len(self.labellings))
        ]

    def _per_image(self, area: Tensor) -> Tensor:
        """Pixels per level and place as ``(N, K, Q)``."""
        return area.view(self.num_levels, -1, self.num_units).permute(1, 2, 0)

    def _intersection(self, number: int) -> Tensor:
        """Pixels of each concept, of the joint histograms of a labelling, ``(K, Q, C)``."""
        labelling = self.labellings[number]
        found = self.levels.new_zeros(
            self.bins, labelling.per_image.shape[1], dtype=torch.float64
        )  # whole numbers: exact below 2^53
        for labels, counts in zip(labelling.joint, self.found[number], strict=True):
            table = counts.view(self.bins + 1, -1)[:-1]
            found += table.double() @ labels.concepts(labelling.scheme)
        return found.long().view(self.num_units, self.num_levels, -1).cumsum(1)

    def _active(self, number: int, area: Tensor) -> Tensor:
        """Active pixels over the images that count for a category, ``(K, Q, M)``."""
        labelling = self.labellings[number]
        if self.union == "all":
            num_categories = len(labelling.scheme.sizes)
            return area.sum(0)[..., None].expand(*area.shape[1:], num_categories).clone()
        if self.union == "lite":
            met = [self._per_image(own) > 0 for own in self.met[number]]
            return torch.stack([(area * here).sum(0) for here in met], 2)
        annotated = labelling.annotated.T[..., None, None]
        return torch.stack([(area * here).sum(0) for here in annotated], 2)


def _rows_of(values: Tensor, first: Tensor, length: int) -> Tensor:
    """`length` values from each place of a flat tensor on, ``(R, length)``; 0 beyond its end."""
    padded = torch.cat([values, values.new_zeros(length)])
    return padded.unfold(0, length, 1).index_select(0, first)


def dataset_iou(counts: OverlapCounts, labels: LabelCounts, scheme: ConceptScheme) -> Tensor:
    """IoU in [0, 1] of units and concepts, float64 ``(K, Q, C)``; 0 where both are empty."""
    category_of = torch.tensor(scheme.category_of, device=counts.active.device)
    union = counts.active[..., category_of] + labels.pixels - counts.intersection
    return counts.intersection.double() / union.clamp(min=1)
