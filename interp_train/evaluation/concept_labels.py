"""Label maps of concepts: their names, checks, and the combinations of labels that pixels show.

A pixel has one label in each of several maps, e.g. an object, a part and a colour. All that is
counted of a pixel can be counted of its combination of labels first, and there are few different
combinations in a batch: one table replaces many maps.
"""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from interp_train.checks import check_name, check_range

_MOST = 1024  # combinations; more would make a histogram over them and units slow to clear
_SPREAD = 2**20  # numbers that are united through a table; more of them are sorted


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


class JointLabels(NamedTuple):
    """Some of the label maps of a batch as one: which combination of their labels a pixel shows.

    Attributes:
        combination: number of each pixel's, image by image, int32 ``(N * H * W,)``.
        labels: of the combinations, long ``(S, maps)``.
        categories: of the maps.
    """

    combination: Tensor
    labels: Tensor
    categories: tuple[int, ...]

    def concepts(self, scheme: ConceptScheme) -> Tensor:
        """How often each combination shows each concept, 0 or 1, float64 ``(S, C)``."""
        shown = self.labels.new_zeros(len(self.labels), len(scheme.names) + 1)
        for category, labels in zip(self.categories, self.labels.unbind(1), strict=True):
            first = sum(scheme.sizes[:category])
            places = torch.where(labels > 0, labels + first, 0)  # the first column is for none
            shown.scatter_(1, places[:, None], 1)
        return shown[:, 1:].double()

    def labelled(self, category: int) -> Tensor:
        """Whether each combination has a label of a category, bool ``(S,)``."""
        return (self.labels[:, [own == category for own in self.categories]] > 0).any(1)


class LabelledBatch(NamedTuple):
    """What is known of the label maps of N images.

    Attributes:
        scheme: the concepts.
        joint: their label maps, joined.
        per_image: pixels of each concept, int64 ``(N, C)``.
        size: pixels of an image.
    """

    scheme: ConceptScheme
    joint: tuple[JointLabels, ...]
    per_image: Tensor
    size: int

    @property
    def counts(self) -> LabelCounts:
        """Occurrence of the concepts."""
        seen = torch.tensor(len(self.per_image) * self.size, device=self.per_image.device)
        return LabelCounts(self.per_image.sum(0), (self.per_image > 0).sum(0), seen)

    @property
    def annotated(self) -> Tensor:
        """Whether an image has a label of each category, bool ``(N, M)``."""
        groups = torch.split(self.per_image, list(self.scheme.sizes), 1)
        return torch.stack([own.any(1) for own in groups], 1)


def labelled_batch(
    labels: Tensor, scheme: ConceptScheme, most: int | None = _MOST
) -> LabelledBatch:
    """Join and count label maps.

    Args:
        labels: of any integer type, ``(N, maps, H, W)``, category by category.
        scheme: the concepts.
        most: see `joint_labels`.

    Raises:
        ValueError: if a label has no name, maps are missing, or two maps of a category have the
            same label at a pixel.
    """
    _check_labels(labels, scheme)
    joint = tuple(joint_labels(labels, scheme, most))
    per_image = labels.new_zeros(len(labels), len(scheme.names), dtype=torch.float64)
    size = labels.shape[2:].numel()
    images = torch.arange(len(labels), dtype=torch.int32, device=labels.device)[:, None]
    for maps in joint:
        number = len(maps.labels)
        keys = maps.combination.view(len(labels), size) + images * number
        counts = torch.bincount(keys.flatten(), minlength=len(labels) * number)
        per_image += counts.view(len(labels), number).double() @ maps.concepts(scheme)
    return LabelledBatch(scheme, joint, per_image.long(), size)


def joint_labels(
    labels: Tensor, scheme: ConceptScheme, most: int | None = _MOST
) -> list[JointLabels]:
    """Join label maps whose labels are in range, as long as they show few combinations.

    Args:
        labels: of any integer type, ``(N, maps, H, W)``.
        scheme: the concepts.
        most: combinations of several maps; None joins all maps.
    """
    categories = [m for m, number in enumerate(scheme.layers) for _ in range(number)]
    every = [
        _single(maps, scheme.sizes[category], category)
        for maps, category in zip(labels.unbind(1), categories, strict=True)
    ]
    if math.prod(len(maps.labels) for maps in every) <= _SPREAD:  # at once is faster
        whole = _joined(every)
        if most is None or len(whole.labels) <= most:
            return [whole]
    found = [_joined(every[:1])]
    for own in every[1:]:
        joined = _joined([found[-1], own])
        if most is not None and len(joined.labels) > most:
            found.append(_joined([own]))
        else:
            found[-1] = joined
    return found


def _single(labels: Tensor, size: int, category: int) -> JointLabels:
    every = torch.arange(size + 1, device=labels.device)[:, None]
    return JointLabels(labels.flatten().int(), every, (category,))


def _joined(maps: Sequence[JointLabels]) -> JointLabels:
    """All as one, with only the combinations that occur."""
    span = math.prod(len(own.labels) for own in maps)
    combination = maps[0].combination if span < 2**31 else maps[0].combination.long()
    for own in maps[1:]:
        combination = torch.add(own.combination, combination, alpha=len(own.labels))
    kinds, combination = _distinct(combination, span)
    labels: list[Tensor] = []
    for own in reversed(maps):
        labels.insert(0, own.labels[kinds % len(own.labels)])
        kinds = kinds // len(own.labels)
    categories = tuple(category for own in maps for category in own.categories)
    return JointLabels(combination, torch.cat(labels, 1), categories)


def _distinct(index: Tensor, span: int) -> tuple[Tensor, Tensor]:
    """The numbers below `span` that occur, ascending, and which one each place has, int32."""
    if span > _SPREAD:
        kinds, places = torch.unique(index, return_inverse=True)
        return kinds.long(), places.int()
    occurs = torch.bincount(index, minlength=span) > 0
    number = occurs.cumsum(0, dtype=torch.int32) - 1
    return occurs.nonzero()[:, 0], number.index_select(0, index)


def _check_labels(labels: Tensor, scheme: ConceptScheme) -> None:
    if labels.dim() != 4 or labels.shape[1] != sum(scheme.layers):
        raise ValueError(
            f"`concept_maps` must have shape (N, {sum(scheme.layers)}, H, W), {_maps(scheme)}, but "
            f"got {tuple(labels.shape)}."
        )
    groups = zip(scheme.categories, scheme.sizes, scheme.per_category(labels), strict=True)
    for category, size, maps in groups:
        if maps.numel():
            _check_range(maps, category, size)
            _check_repeats(maps, category)


def _check_range(maps: Tensor, category: str, size: int) -> None:
    least, largest = (int(label) for label in maps.aminmax())
    if least < 0 or largest > size:
        raise ValueError(
            f"`concept_maps` must hold labels 0 .. {size} for the category {category!r}, but got "
            f"{largest if largest > size else least}. Name it in `concept_names`."
        )


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
