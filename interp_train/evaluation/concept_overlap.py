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

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from interp_train.checks import check_name, check_range
from interp_train.evaluation.active_pixels import ActivePixels

UNIONS = ("paper", "all", "lite")


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
    pieces: Iterable[ActivePixels],
    labellings: Sequence[Tensor],
    levels: Tensor,
    scheme: ConceptScheme,
    union: str = "paper",
) -> list[OverlapCounts]:
    """Count the active pixels of a batch against each of several labellings of it.

    Args:
        pieces: pixels above the lowest level of each unit.
        labellings: each label maps of any integer type, ``(N, maps, H, W)``, category by category.
        levels: of each unit, descending, ``(K, Q)``.
        scheme: the concepts.
        union: see `UNIONS`.

    Returns:
        One count per labelling.
    """
    tallies = [_Tally(labels, levels, scheme, union) for labels in labellings]
    num_levels = levels.shape[1]
    for images, units, pixels, values in pieces:
        # Index of the first level that the pixel exceeds.
        rank = (values[:, None] <= levels[units, : num_levels - 1]).sum(1)
        units = units * num_levels + rank
        for tally in tallies:
            tally.add(images, units, pixels)
    return [tally.counts() for tally in tallies]


class _Tally:
    """Histograms over (unit, level, label) of one labelling; each pixel stands at one level."""

    def __init__(self, labels: Tensor, levels: Tensor, scheme: ConceptScheme, union: str) -> None:
        self.flat, self.scheme, self.union = labels.flatten(2), scheme, union
        self.num_units, self.num_levels = levels.shape
        self.bins = self.num_units * self.num_levels
        self.width = len(scheme.names) + len(scheme.sizes)  # each category has a "none"
        categories = len(scheme.sizes) if union == "lite" else 0
        self.found = levels.new_zeros(self.bins * self.width).long()
        self.area = levels.new_zeros(len(labels) * self.bins).long()
        self.labelled = levels.new_zeros(categories, len(labels) * self.bins).long()

    def add(self, images: Tensor, units: Tensor, pixels: Tensor) -> None:
        """Add pixels; `units` counts units and levels through."""
        places = images * self.bins + units
        self.area += torch.bincount(places, minlength=len(self.area))
        num_maps, size = self.flat.shape[1:]
        place, keys = images * (num_maps * size) + pixels, units * self.width
        for category, length in enumerate(self.scheme.sizes):
            for _ in range(self.scheme.layers[category]):
                labels = self.flat.take(place).long()
                self.found += torch.bincount(keys + labels, minlength=len(self.found))
                place = place + size
                if self.union == "lite":
                    there = places[labels > 0]
                    self.labelled[category] += torch.bincount(there, minlength=len(self.area))
            keys = keys + (length + 1)

    def counts(self) -> OverlapCounts:
        """The sums; a pixel above a level is above all lower ones."""
        shape = (self.num_units, self.num_levels)
        widths = [size + 1 for size in self.scheme.sizes]
        found = torch.split(self.found.view(*shape, self.width), widths, 2)
        intersection = torch.cat([part[..., 1:] for part in found], 2).cumsum(1)
        area = self.area.view(-1, *shape).cumsum(2)
        num_maps = len(self.scheme.sizes)
        if self.union == "all":
            active = area.sum(0)[..., None].expand(*shape, num_maps).clone()
        else:
            active = torch.stack([(area * self._counting(m)).sum(0) for m in range(num_maps)], 2)
        return OverlapCounts(intersection, active, area.sum(0))

    def _counting(self, category: int) -> Tensor:
        """Which images count, ``(N, 1, 1)`` or ``(N, K, Q)``."""
        if self.union == "paper":
            maps = self.scheme.per_category(self.flat)[category]
            return (maps.amax((1, 2)) > 0)[:, None, None]
        met = self.labelled[category].view(-1, self.num_units, self.num_levels)
        counts: Tensor = met.cumsum(2) > 0
        return counts


def dataset_iou(counts: OverlapCounts, labels: LabelCounts, scheme: ConceptScheme) -> Tensor:
    """IoU in [0, 1] of units and concepts, float64 ``(K, Q, C)``; 0 where both are empty."""
    category_of = torch.tensor(scheme.category_of, device=counts.active.device)
    union = counts.active[..., category_of] + labels.pixels - counts.intersection
    return counts.intersection.double() / union.clamp(min=1)
