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
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from interp_train.checks import check_name, check_range
from interp_train.evaluation.active_pixels import ActiveRows

UNIONS = ("paper", "all", "lite")

_JOINT = 256  # values of joined label maps; more would make histograms slow to clear


class ConceptScheme(NamedTuple):
    """The concepts of a probe set, numbered through over the categories.

    Attributes:
        names: of the concepts, C.
        categories: of the concepts, e.g. object, part, colour; M.
        category_of: index of each concept's category, C.
        sizes: number of concepts of each category, M.
        layers: number of label maps of each category, M.
    """

    names: tuple[str, ...]
    categories: tuple[str, ...]
    category_of: tuple[int, ...]
    sizes: tuple[int, ...]
    layers: tuple[int, ...]

    @property
    def label_type(self) -> torch.dtype:
        """The smallest integer type that holds every label."""
        return torch.uint8 if max(self.sizes) < 2**8 else torch.int16

    def per_category(self, labels: Tensor, axis: int = 1) -> tuple[Tensor, ...]:
        """The label maps of each category, of maps that lie along an axis."""
        return torch.split(labels, list(self.layers), axis)


def concept_scheme(
    names: Mapping[str, Sequence[str]], layers: Mapping[str, int] | None = None
) -> ConceptScheme:
    """The scheme of a mapping category -> names; label v > 0 of its maps stands for name v - 1.

    Args:
        names: of the concepts of each category.
        layers: how many label maps a category has, where one pixel may show several of its
            concepts; 1 where it is not named.

    Raises:
        ValueError: if there is no concept, or a category has none or too many, or `layers` does not
            fit.
    """
    for category, number in (layers or {}).items():
        check_name("concept_layers", category, names, "a category of `concept_names`")
        check_range(f"concept_layers[{category!r}]", number, 1)
    sizes = tuple(len(members) for members in names.values())
    if not sizes or not all(0 < size < 2**15 for size in sizes):
        raise ValueError(
            f"`concept_names` must give at least one and less than 32768 names to each category, "
            f"but got {dict(zip(names, sizes, strict=True))}. Leave empty categories out."
        )
    return ConceptScheme(
        names=tuple(name for members in names.values() for name in members),
        categories=tuple(names),
        category_of=tuple(m for m, size in enumerate(sizes) for _ in range(size)),
        sizes=sizes,
        layers=tuple((layers or {}).get(category, 1) for category in names),
    )


class LabelCounts(NamedTuple):
    """How often the concepts occur.

    Attributes:
        pixels: of each concept, int64 ``(C,)``.
        images: with a pixel of each concept, int64 ``(C,)``.
        seen: number of pixels, labelled or not, int64 scalar.
    """

    pixels: Tensor
    images: Tensor
    seen: Tensor


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


def label_counts(labels: Tensor, scheme: ConceptScheme) -> LabelCounts:
    """Occurrence of the concepts in label maps ``(N, maps, H, W)`` of any integer type.

    Raises:
        ValueError: if a label has no name, maps are missing, or two maps of a category have the
            same label at a pixel.
    """
    if labels.dim() != 4 or labels.shape[1] != sum(scheme.layers):
        raise ValueError(
            f"`concept_maps` must have shape (N, {sum(scheme.layers)}, H, W), {_maps(scheme)}, but "
            f"got {tuple(labels.shape)}."
        )
    counted = []
    images = torch.arange(len(labels), device=labels.device)[:, None, None]
    for category, maps in enumerate(scheme.per_category(labels.flatten(2))):
        size, found = scheme.sizes[category], maps.long()
        largest = int(found.max()) if found.numel() else 0
        if largest > size:
            raise ValueError(
                f"`concept_maps` must hold labels 0 .. {size} for the category "
                f"{scheme.categories[category]!r}, but got {largest}. Name it in `concept_names`."
            )
        _check_repeats(maps, scheme.categories[category])
        keys = (images * (size + 1) + found).flatten()
        counts = torch.bincount(keys, minlength=len(labels) * (size + 1))
        counted.append(counts.view(-1, size + 1)[:, 1:])
    per_image = torch.cat(counted, 1)
    seen = torch.tensor(len(labels) * labels.shape[2:].numel(), device=labels.device)
    return LabelCounts(per_image.sum(0), (per_image > 0).sum(0), seen)


def thinned(labels: Tensor, least: int | None) -> Tensor:
    """Label maps ``(N, maps, H, W)`` with every n-th pixel of every n-th row.

    n divides both sides and leaves at least `least` pixels; None, or maps that are smaller or
    have no such divisor, stay as they are.
    """
    if least is None:
        return labels
    height, width = labels.shape[-2:]
    step = max(1, min(height, width) // least)
    while height % step or width % step:
        step -= 1
    return labels[..., step // 2 :: step, step // 2 :: step]


def _maps(scheme: ConceptScheme) -> str:
    """Which maps are wanted, for a message."""
    if set(scheme.layers) == {1}:
        return f"one map for each of {', '.join(scheme.categories)}"
    pairs = zip(scheme.layers, scheme.categories, strict=True)
    return " and ".join(f"{number} for {category}" for number, category in pairs)


def _check_repeats(maps: Tensor, category: str) -> None:
    """A pixel counts once for a concept."""
    for layer in range(1, maps.shape[1]):
        same = (maps[:, :layer] == maps[:, layer, None]) & (maps[:, layer, None] > 0)
        if same.any():
            raise ValueError(
                f"`concept_maps` of the category {category!r} must have each label once per pixel, "
                f"but two of its maps share one. Set it to 0 in the later map."
            )


def overlap_counts(
    pieces: Iterable[ActiveRows],
    labellings: Sequence[Tensor],
    levels: Tensor,
    scheme: ConceptScheme,
    union: str = "paper",
) -> list[OverlapCounts]:
    """Count the active pixels of a batch against each of several labellings of it.

    Args:
        pieces: rows with all pixels above the lowest level of each unit, each pixel once.
        labellings: each label maps of any integer type, ``(N, maps, H, W)``, category by category.
        levels: of each unit, descending, ``(K, Q)``.
        scheme: the concepts.
        union: see `UNIONS`.

    Returns:
        One count per labelling.
    """
    counter = _Counter(labellings, levels, scheme, union)
    for rows in pieces:
        counter.add(rows)
    return counter.counts()


class _JointLabels(NamedTuple):
    """Label maps of several categories as one: what a pixel has in each of them, in one number.

    Attributes:
        maps: the number of each pixel, flat, int32 ``(N * H * W,)``.
        sizes: values that a label of each map takes, "none" included.
        categories: of the maps.
    """

    maps: Tensor
    sizes: tuple[int, ...]
    categories: tuple[int, ...]


def _joint_labels(labels: Tensor, scheme: ConceptScheme) -> list[_JointLabels]:
    """Label maps, joined while their numbers stay small: fewer maps to look into."""
    found: list[_JointLabels] = []
    number = 0
    for category, maps in enumerate(scheme.layers):
        for _ in range(maps):
            size = scheme.sizes[category] + 1
            own = labels[:, number].flatten().int()
            number += 1
            last = found[-1] if found else None
            if last is not None and math.prod(last.sizes) * size <= _JOINT:
                joint = last.maps * size + own
                found[-1] = _JointLabels(joint, (*last.sizes, size), (*last.categories, category))
            else:
                found.append(_JointLabels(own, (size,), (category,)))
    return found


class _Counter:
    """Histograms over (unit, level, label) of labellings; each pixel stands at one level.

    Counting a pixel costs the same for one map of labels or several, so maps are joined, and what
    does not depend on the labelling is counted once. Whole rows are looked up, and pixels that are
    not active fall into a bin of their own: that is faster than listing the active ones.
    """

    def __init__(
        self, labellings: Sequence[Tensor], levels: Tensor, scheme: ConceptScheme, union: str
    ) -> None:
        self.labellings, self.levels, self.scheme, self.union = labellings, levels, scheme, union
        self.num_units, self.num_levels = levels.shape
        self.bins = self.num_units * self.num_levels
        self.num_images, self.size = len(labellings[0]), labellings[0].shape[2:].numel()
        self.joint = [_joint_labels(labels, scheme) for labels in labellings]
        new = functools.partial(levels.new_zeros, dtype=torch.long)
        rows = self.bins + 1  # the last is for pixels that are not active
        self.found = [[new(rows * math.prod(j.sizes)) for j in each] for each in self.joint]
        self.area = new(self.num_levels, self.num_images * self.num_units)
        categories = len(scheme.sizes) if union == "lite" else 0
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
        for joint, found, met in zip(self.joint, self.found, self.met, strict=True):
            for labels, counts in zip(joint, found, strict=True):
                there = _rows_of(labels.maps, first, bins.shape[1])
                keys = torch.add(there, bins, alpha=math.prod(labels.sizes))
                counts += torch.bincount(keys.view(-1), minlength=len(counts))
                if self.union == "lite":
                    self._meet(labels, there, places, above, met)

    def _meet(
        self, labels: _JointLabels, there: Tensor, places: Tensor, above: list[Tensor], met: Tensor
    ) -> None:
        for size, category in zip(reversed(labels.sizes), reversed(labels.categories), strict=True):
            labelled = there % size > 0
            for level, here in enumerate(above):
                met[category, level].index_add_(0, places, (here & labelled).sum(1))
            there = there // size

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
        shape, sizes = (self.num_units, self.num_levels), self.scheme.sizes
        found = [self.area.new_zeros(*shape, size) for size in sizes]
        for labels, counts in zip(self.joint[number], self.found[number], strict=True):
            table = counts.view(self.bins + 1, *labels.sizes)[:-1]
            for place, category in enumerate(labels.categories):
                others = [axis for axis in range(1, table.dim()) if axis != place + 1]
                single = table.sum(others) if others else table
                found[category] += single[:, 1:].view(*shape, -1)
        return torch.cat(found, 2).cumsum(1)

    def _active(self, number: int, area: Tensor) -> Tensor:
        """Active pixels over the images that count for a category, ``(K, Q, M)``."""
        num_categories = len(self.scheme.sizes)
        if self.union == "all":
            return area.sum(0)[..., None].expand(*area.shape[1:], num_categories).clone()
        if self.union == "lite":
            met = [self._per_image(own) > 0 for own in self.met[number]]
            return torch.stack([(area * here).sum(0) for here in met], 2)
        maps = self.scheme.per_category(self.labellings[number].flatten(2))
        annotated = [(own.amax((1, 2)) > 0)[:, None, None] for own in maps]
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
