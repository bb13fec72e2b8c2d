"""Figures of dissection: which concepts units detect, and how that changes, beside the nulls.

A network's own numbers are filled, baselines are hollow or broken, as everywhere in this package.
"""

import math
from collections.abc import Mapping, Sequence
from textwrap import shorten
from typing import Any, NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from interp_train.figures import HAIRLINE, INK, MUTED, OKABE_ITO, new_figure, quiet_axes

UNIT_NOTE = "patch of half the image's side around the peak; in colour: pixels above the threshold"
BASELINE_LABELS = {
    "random_network": "random weights",
    "rotated_basis": "rotated basis",
    "shuffled_masks": "shuffled masks",
}
_MARKS = {"random_network": "o", "rotated_basis": "D", "shuffled_masks": "s"}
_SHIFTS = {"random_network": -0.22, "rotated_basis": 0.0, "shuffled_masks": 0.22}  # of a bar
_LINES = {"random_network": (0, (1, 1.6)), "rotated_basis": (0, (5, 2)),
          "shuffled_masks": (0, (5, 2, 1, 2))}  # fmt: skip
_CURVES = {
    "mean_best_iou": "mean IoU of the units",
    "detectors": "units that detect a concept",
    "unique_best": "different concepts",
}
_WIDTH, _LEFT, _BARS, _CONCEPTS = 7.6, 1.1, 2.0, 3.55  # inches
_AROUND = 1.05  # inches above and below the axes of a layer: title, rotated names
_MOST_CONCEPTS = 28

Curve = Mapping[int, float]  # epoch from 0 -> value


class LayerBars(NamedTuple):
    """The detectors of one layer.

    Attributes:
        layer: dotted name.
        num_units: K.
        least_iou: above which a unit is a detector.
        categories: of concepts.
        detectors: units that detect a concept of each category.
        unique: different concepts of each category that are detected.
        baselines: key of `BASELINE_LABELS` -> its detectors of each category.
        concepts: name, index of the category and number of units labelled so, of each concept
            that some detector is labelled with.
    """

    layer: str
    num_units: int
    least_iou: float
    categories: Sequence[str]
    detectors: Sequence[float]
    unique: Sequence[float]
    baselines: Mapping[str, Sequence[float]]
    concepts: Sequence[tuple[str, int, int]]


def detectors_figure(layers: Sequence[LayerBars]) -> Figure:
    """Per layer: detectors of each category beside the baselines, and units per concept."""
    heights = [_AROUND + max(0.27 * len(bars.categories), 0.8) for bars in layers]
    total = sum(heights) + 0.3
    figure = new_figure(_WIDTH, total)
    top = total - 0.3
    for bars, height in zip(layers, heights, strict=True):
        inner = height - _AROUND
        bottom = (top - 0.26 - inner) / total
        left = figure.add_axes((_LEFT / _WIDTH, bottom, _BARS / _WIDTH, inner / total))
        _draw_categories(left, bars)
        place = (_LEFT + _BARS + 0.75) / _WIDTH
        right = figure.add_axes((place, bottom, _CONCEPTS / _WIDTH, inner / total))
        _draw_concepts(right, bars)
        top -= height
    _baseline_legend(figure, [name for name in _MARKS if any(name in b.baselines for b in layers)])
    return figure


def _draw_categories(axes: Axes, bars: LayerBars) -> None:
    lines = range(len(bars.categories))
    colours = [OKABE_ITO[index % len(OKABE_ITO)] for index in lines]
    axes.barh(list(lines), bars.detectors, height=0.62, color=colours, linewidth=0)
    for name, counts in bars.baselines.items():
        places = [line + _SHIFTS[name] for line in lines]
        axes.scatter(
            counts, places, s=20, marker=_MARKS[name], facecolors="white", edgecolors=INK, lw=0.9,
            zorder=3, clip_on=False,
        )  # fmt: skip
    largest = max([*bars.detectors, *(v for c in bars.baselines.values() for v in c), 1])
    for line, (number, unique) in enumerate(zip(bars.detectors, bars.unique, strict=True)):
        axes.annotate(
            f"{number:.0f} ({unique:.0f})", (1.0, line), xycoords=("axes fraction", "data"),
            xytext=(6, 0), textcoords="offset points", fontsize=7.5, color=INK, va="center",
        )  # fmt: skip
    quiet_axes(axes, grid=False)
    axes.grid(axis="x", color=HAIRLINE, linewidth=0.6)
    axes.set_yticks(list(lines), [name.replace("_", " ") for name in bars.categories])
    axes.tick_params(axis="y", labelcolor=INK, pad=7)
    axes.set_ylim(len(bars.categories) - 0.4, -0.6)
    axes.set_xlim(0, 1.08 * largest)
    axes.xaxis.set_major_locator(MaxNLocator(4, integer=True))
    axes.set_xlabel(f"detectors (different concepts), of {bars.num_units} units")
    axes.xaxis.label.set_fontsize(7.5)
    axes.set_title(bars.layer, fontsize=9, color=INK, loc="left", pad=5, x=-_LEFT / _BARS + 0.02)


def _draw_concepts(axes: Axes, bars: LayerBars) -> None:
    ordered = sorted(bars.concepts, key=lambda concept: -concept[2])
    kept = sorted(ordered[:_MOST_CONCEPTS], key=lambda concept: (concept[1], -concept[2]))
    quiet_axes(axes)
    left_out = len(ordered) - len(kept)
    more = f", {left_out} rarer ones left out" if left_out else ""
    title = f"units per concept (IoU > {_short(bars.least_iou)}{more})"
    axes.set_title(title, fontsize=8, color=MUTED, loc="left", pad=5)
    if not kept:
        axes.set(xticks=[], yticks=[], ylim=(0, 1))
        axes.text(0.0, 0.5, "no unit detects a concept", fontsize=8, color=MUTED, va="center")
        return
    places = range(len(kept))
    colours = [OKABE_ITO[category % len(OKABE_ITO)] for _, category, _ in kept]
    axes.bar(list(places), [count for *_, count in kept], width=0.72, color=colours, linewidth=0)
    names = [shorten(name.replace("_", " "), 20, placeholder=" …") for name, *_ in kept]
    size = 7.5 if len(kept) <= 16 else 6.2
    axes.set_xticks(
        list(places), names, rotation=45, ha="right", rotation_mode="anchor", fontsize=size
    )
    axes.tick_params(axis="x", labelcolor=INK, pad=1)
    axes.set_xlim(-0.6, max(len(kept), 8) - 0.4)
    axes.yaxis.set_major_locator(MaxNLocator(4, integer=True))


def _baseline_legend(figure: Figure, names: Sequence[str]) -> None:
    axes = figure.axes[0]
    handles: list[Any] = [Patch(color=MUTED)]
    handles += [
        axes.scatter([], [], s=24, marker=_MARKS[name], facecolors="white", edgecolors=INK, lw=0.9)
        for name in names
    ]
    labels = ["this network", *(BASELINE_LABELS[name] for name in names)]
    figure.legend(
        handles, labels, loc="upper left", ncols=len(labels), frameon=False,
        fontsize=8, labelcolor=INK, handletextpad=0.4, columnspacing=1.4, borderaxespad=0.1,
        handlelength=1.2,
    )  # fmt: skip


def iou_curves_figure(curves: Mapping[str, Mapping[str, Curve]]) -> Figure:
    """Per layer: mean IoU, detectors and different concepts over epochs, beside the nulls.

    Args:
        curves: layer -> quantity as it is logged (``"mean_best_iou"``,
            ``"mean_best_iou_rotated_basis"`` ...) -> epoch -> value.
    """
    height = 0.42 + 1.95 * len(curves)
    figure = new_figure(_WIDTH, height)
    for line, (layer, quantities) in enumerate(curves.items()):
        bottom = (height - 0.42 - 1.95 * line - 0.28 - 1.22) / height
        for column, (name, title) in enumerate(_CURVES.items()):
            left = (0.48 + 2.47 * column) / _WIDTH
            axes = figure.add_axes((left, bottom, 2.0 / _WIDTH, 1.22 / height))
            _draw_curves(axes, quantities, name)
            heading = f"{layer}: {title}" if column == 0 else title
            axes.set_title(heading, fontsize=8, color=INK, loc="left", pad=4, x=-0.06)
            if line == len(curves) - 1:
                axes.set_xlabel("epoch")
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(
        handles, labels, loc="upper left", ncols=len(labels), frameon=False, fontsize=8,
        labelcolor=INK, handlelength=2.2, columnspacing=1.6, borderaxespad=0.1,
    )  # fmt: skip
    return figure


def _draw_curves(axes: Axes, quantities: Mapping[str, Curve], name: str) -> None:
    quiet_axes(axes)
    own = {epoch: v for epoch, v in quantities.get(name, {}).items() if math.isfinite(v)}
    epochs = [epoch + 1 for epoch in own]
    marker = "o" if len(own) < 13 else None
    axes.plot(
        epochs, list(own.values()), color=OKABE_ITO[0], lw=1.8, marker=marker, ms=3.2,
        label="this network", zorder=3,
    )  # fmt: skip
    for index, (baseline, label) in enumerate(BASELINE_LABELS.items(), 1):
        curve = quantities.get(f"{name}_{baseline}", {})
        if not curve:
            continue
        colour = (MUTED, OKABE_ITO[1], OKABE_ITO[2])[index - 1]
        x, y = [epoch + 1 for epoch in curve], list(curve.values())
        mark = _MARKS[baseline] if len(curve) < 13 else None
        axes.plot(
            x, y, color=colour, lw=1.3, ls=_LINES[baseline], marker=mark, ms=3.6, mfc="white",
            mew=0.9, label=label,
        )  # fmt: skip
    axes.set_ylim(0, None if axes.dataLim.y1 > 0 else 1)
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    axes.yaxis.set_major_locator(MaxNLocator(4, integer=name != "mean_best_iou"))
    if len(own) < 2:  # one validation only
        axes.set_xlim(0, 2)


def _short(number: float) -> str:
    return f"{number:g}".removeprefix("0")
