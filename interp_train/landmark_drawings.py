"""Filters over landmarks, without photos: the same objects under several networks.

Objects are drawn as outlines through their landmarks, so that pictures of data whose photos must
not be passed on can be shown.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray
from torch import Tensor

from interp_train.callbacks.layer_records import read_table
from interp_train.checks import check_name
from interp_train.evaluation.part_tracking import TRACKING_BOUND
from interp_train.evaluation.peak_table import PeakTable
from interp_train.figures import HAIRLINE, INK, MUTED, OKABE_ITO, new_figure

BIRD_OUTLINE = ("beak", "forehead", "crown", "nape", "back", "tail", "belly", "breast", "throat")
BIRD_REGIONS = {
    "face": ("beak", "forehead", "left eye", "right eye"),
    "crown and nape": ("crown", "nape"),
    "throat": ("throat",),
    "breast": ("breast",),
    "belly and legs": ("belly", "left leg", "right leg"),
    "back, wings and tail": ("back", "left wing", "right wing", "tail"),
}
_JAW = tuple(f"jaw {number}" for number in range(1, 18))
_BROWS = tuple(
    f"{side} eyebrow {number}" for side in ("left", "right") for number in range(5, 0, -1)
)
FACE_OUTLINE = (*_JAW, *_BROWS)
FACE_REGIONS = {
    "jaw": _JAW,
    "eyes": tuple(f"{side} eye {number}" for side in ("right", "left") for number in range(1, 7)),
    "eyebrows": _BROWS,
    "nose": tuple(f"nose {number}" for number in range(1, 10)),
    "mouth": tuple(f"mouth {number}" for number in range(1, 21)),
}
_JITTER = 0.014  # of the side, so that filters in one cell are seen


class _Record(NamedTuple):
    table: PeakTable
    part_names: list[str]
    scores: NDArray[np.float64]  # R2, (K,)
    parts: NDArray[np.int64]  # (K,)
    side: float


def filters_over_landmarks(
    records: Mapping[str, Path],
    *,
    num_objects: int = 12,
    outline: Sequence[str] = BIRD_OUTLINE,
    regions: Mapping[str, Sequence[str]] = BIRD_REGIONS,
    mark_landmarks: bool = False,
) -> Figure:
    """Where all filters fire in the same objects; a line per network.

    Objects are spread evenly over those whose outline is visible. A filter has the colour of the
    region of the part that it follows (R2 > .25), grey if it follows none.

    Args:
        records: ``measures/<layer>.npz`` of runs on the same images, by the name of the network.
        num_objects: how many.
        outline: landmarks around the object, in order.
        regions: parts that share a colour.
        mark_landmarks: whether each landmark is drawn as a small cross, too.

    Raises:
        ValueError: for no record, one without part tracking or of other images, or too few objects
            with an outline.
    """
    if not records:
        raise ValueError("`records` must name at least one record, but got none.")
    read = {name: _read(path) for name, path in records.items()}
    first = next(iter(read.values()))
    for name in outline:
        check_name("outline", name, first.part_names, "a landmark")
    places = [first.part_names.index(name) for name in outline]
    shown = _spread(first.table, places, num_objects)
    _check_shown(read, shown)
    width = 0.8 * num_objects + 1.1
    figure = new_figure(width, 0.9 * len(read) + 0.4)
    foot = 0.3 / (0.9 * len(read) + 0.4)
    left, height = 1.1 / width, (1 - foot) / len(read)
    for line, (name, record) in enumerate(read.items()):
        bottom = 1 - (line + 1) * height
        figure.text(0.005, bottom + height / 2, name, va="center", fontsize=8, color=INK)
        for column, sample in enumerate(shown.tolist()):
            axes = figure.add_axes(
                (left + column * (1 - left) / num_objects, bottom, (1 - left) / num_objects, height)
            )
            row = int((record.table.sample_ids == sample).nonzero()[0, 0])
            _draw_object(axes, record, row, places, regions)
            if mark_landmarks:
                x, y = record.table.part_locations[row].numpy().T
                axes.scatter(x, y, s=3, c=INK, marker="x", lw=0.3, zorder=2)
    _legend(figure, regions)
    return figure


def _read(path: Path) -> _Record:
    table, frame = read_table(path)
    with np.load(path, allow_pickle=False) as record:
        if "part_tracking_scores" not in record:
            raise ValueError(
                f"`records` must hold part tracking, but {str(path)!r} has no "
                f"'part_tracking_scores'. Measure with part_tracking and save_records=true."
            )
        names, scores, parts = (
            record[key] for key in ("part_names", "part_tracking_scores", "part_tracking_parts")
        )
    return _Record(table, names.tolist(), scores, parts, float(frame.image_height))


def _spread(table: PeakTable, places: Sequence[int], count: int) -> Tensor:
    """Ids of objects with a whole outline, evenly over the table."""
    whole = table.part_locations[:, places].isfinite().flatten(1).all(1).nonzero()[:, 0]
    if len(whole) < count:
        raise ValueError(
            f"`num_objects` must be at most the {len(whole)} objects whose outline is visible, but "
            f"got {count}. Show fewer, or shorten `outline`."
        )
    chosen = torch.linspace(0, len(whole) - 1, count).round().long()
    return table.sample_ids[whole[chosen]]


def _check_shown(records: Mapping[str, _Record], shown: Tensor) -> None:
    for name, record in records.items():
        missing = ~torch.isin(shown, record.table.sample_ids)
        if missing.any():
            raise ValueError(
                f"`records` must be of the same images, but that of {name!r} lacks "
                f"{int(missing.sum())} of the {len(shown)} objects drawn. Name records of runs on "
                f"the same data and split."
            )


def _draw_object(
    axes: Axes,
    record: _Record,
    row: int,
    places: Sequence[int],
    regions: Mapping[str, Sequence[str]],
) -> None:
    side = record.side
    axes.set(xlim=(-0.05 * side, 1.05 * side), ylim=(1.05 * side, -0.05 * side), aspect="equal")
    axes.set_axis_off()
    around = record.table.part_locations[row, places].numpy()
    axes.fill(*_rounded(around).T, facecolor=HAIRLINE, edgecolor=MUTED, lw=0.6)
    colours = [_colour(record, unit, regions) for unit in range(len(record.parts))]
    jitter = np.random.default_rng(0).normal(0, _JITTER * side, (len(colours), 2))
    silent = (record.table.values[row] <= 0).numpy()
    points = np.where(silent[:, None], np.nan, record.table.positions[row].numpy() + jitter)
    axes.scatter(points[:, 0], points[:, 1], s=5, c=colours, lw=0, alpha=0.9, zorder=3)


def _colour(record: _Record, unit: int, regions: Mapping[str, Sequence[str]]) -> str:
    if record.scores[unit] > TRACKING_BOUND:
        name = record.part_names[record.parts[unit]]
        for number, parts in enumerate(regions.values()):
            if name in parts:
                return OKABE_ITO[number % len(OKABE_ITO)]
    return MUTED


def _rounded(points: NDArray[np.float64], steps: int = 2) -> NDArray[np.float64]:
    """A closed outline with its corners cut (Chaikin, 1974)."""
    for _ in range(steps):
        following = np.roll(points, -1, axis=0)
        pairs = np.stack([0.75 * points + 0.25 * following, 0.25 * points + 0.75 * following], 1)
        points = pairs.reshape(-1, 2)
    return points


def _legend(figure: Figure, regions: Mapping[str, Sequence[str]]) -> None:
    axes = figure.axes[0]
    for number, name in enumerate(regions):
        axes.scatter([], [], s=14, color=OKABE_ITO[number % len(OKABE_ITO)], label=name)
    axes.scatter([], [], s=14, color=MUTED, label="follows no part")
    figure.legend(
        *axes.get_legend_handles_labels(), loc="lower center", ncols=len(regions) + 1,
        frameon=False, fontsize=7.5, labelcolor=INK, handletextpad=0.1, columnspacing=1.2,
    )  # fmt: skip
