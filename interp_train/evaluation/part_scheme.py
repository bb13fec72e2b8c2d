"""What the part measures must know about a data set: names, groups, categories."""

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from interp_train.evaluation.peak_table import PeakTable
from interp_train.structures import DataInfo


class PartScheme(NamedTuple):
    """Names of parts and categories.

    Attributes:
        part_names: one per part.
        part_groups: group name -> indices of its parts; each part for itself without groups.
        instability_parts: indices of the landmarks that location instability uses.
        num_categories: 1 treats all labelled images as one object category.
    """

    part_names: tuple[str, ...]
    part_groups: Mapping[str, tuple[int, ...]]
    instability_parts: tuple[int, ...]
    num_categories: int


def part_scheme(table: PeakTable, info: DataInfo | None, by_category: bool = True) -> PartScheme:
    """The scheme of `table`, from `info` where there is one.

    Args:
        table: peaks and annotations.
        info: None names parts by their number and counts the categories in the table.
        by_category: False treats all categories as one (200 bird species, the same parts).

    Raises:
        ValueError: if `info` names another number of parts than the table holds.
    """
    num_parts = table.part_locations.shape[1]
    names = info.part_names if info is not None and info.part_names else ()
    if names and num_parts and len(names) != num_parts:
        raise ValueError(
            f"`info` must name every part of the batches, but it names {len(names)} parts and "
            f"`part_locations` has {num_parts}."
        )
    names = names or tuple(f"part_{index}" for index in range(num_parts))
    groups = dict(info.part_groups) if info is not None else {}
    chosen = info.instability_parts if info is not None else ()
    return PartScheme(
        names,
        groups or {name: (index,) for index, name in enumerate(names)},
        chosen or tuple(range(len(names))),
        num_categories(table.labels, info) if by_category else 1,
    )


def num_categories(labels: Tensor, info: DataInfo | None) -> int:
    """Number of categories, at least 1; the background is none."""
    seen = int(labels.max()) + 1 if labels.numel() else 1
    return max(seen, len(info.class_names) if info is not None else 1, 1)


def as_one_category(table: PeakTable) -> PeakTable:
    """`table` with every labelled image in category 0; the background stays."""
    return table._replace(labels=table.labels.clamp(max=0))


def part_measures_missing(table: PeakTable, boxes: bool) -> str:
    """What a measure on landmarks lacks in `table`, e.g. ``"part_locations and boxes"``.

    Args:
        table: peaks and annotations.
        boxes: whether the measure needs object boxes too.

    Returns:
        The empty string if nothing is missing.
    """
    objects = table.labels >= 0
    lacking = []
    if not objects.any():
        return "images with a category"
    if not table.part_locations[objects].isfinite().any():
        lacking.append("part_locations")
    if boxes and not boxed(table).any():
        lacking.append("boxes")
    return " and ".join(lacking)


def boxed(table: PeakTable) -> Tensor:
    """Which images show an object in a box with an area, bool ``(N,)``."""
    sides = table.boxes[:, 2:] - table.boxes[:, :2]
    return (table.labels >= 0) & (sides > 0).all(1)


def visible_parts(table: PeakTable) -> Tensor:
    """Where the landmark of each part is known, bool ``(N, P)``."""
    return table.part_locations.isfinite().all(-1)


def mean_by_category(values: Tensor, labels: Tensor, categories: int) -> Tensor:
    """Mean of `values` ``(N, K)`` over the images of each category, float64 ``(C, K)``.

    NaN for a category without images; the background counts nowhere.
    """
    members = (labels[:, None] == torch.arange(categories)).double()
    totals = members.T @ values.double()
    return totals / members.sum(0)[:, None]


def largest_mean_peak(table: PeakTable, measurable: Tensor) -> Tensor:
    """Category of each filter: where its mean peak is largest, long ``(K,)``.

    Args:
        table: peaks.
        measurable: which categories may be chosen, bool ``(C,)``.
    """
    means = mean_by_category(table.values, table.labels, len(measurable))
    return torch.where(measurable[:, None], means, -torch.inf).nan_to_num(-torch.inf).argmax(0)
