"""Curves and dot plots of a study, and their form inside the page.

Drawn by matplotlib with live text. In the page the ink becomes the page's own colour, so that one
figure serves light and dark screens; the files beside the page are for print.
"""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from interp_train.evaluation.bootstrap import PairedDifference
from interp_train.figures import (
    HAIRLINE,
    INK,
    MUTED,
    OKABE_ITO,
    new_figure,
    quiet_axes,
)
from interp_train.report.comparison import cell_of
from interp_train.report.measures import BASELINES, BY_NAME, MEASURES, label_of, parsed, unit_of
from interp_train.report.records import RunData, StudyData
from interp_train.report.tables import headlines, shown

_SHORT = {
    "random": "random", "constant": "constant", "object_centre": "centre", "oracle": "oracle",
    "mean_landmark": "landmark", "random_network": "untrained", "shuffled_labels": "shuffled",
    "shuffled_images": "shuffled", "rotated_basis": "rotated", "shuffled_masks": "shuffled",
}  # fmt: skip


class Plot(NamedTuple):
    """A figure of the report.

    Attributes:
        name: of its files.
        figure: what to draw.
        alt: what it shows, for readers who cannot see it.
    """

    name: str
    figure: Figure
    alt: str


def row_colour(study: StudyData, row: str) -> str:
    """Colour of a row; the ordinary one is the first of the palette."""
    rows = sorted(study.rows, key=lambda name: (name != study.ordinary, study.rows.index(name)))
    return OKABE_ITO[rows.index(row) % len(OKABE_ITO)]


def measures_plot(study: StudyData, data: str, layer: str) -> Plot | None:
    """One panel per measure: rows of the study in colour, baselines as hollow marks."""
    runs = [run for row in study.rows for run in study.of(row, data)]
    names = [*headlines(runs).get("", ()), *headlines(runs).get(layer, ())]
    if not names:
        return None
    panels = [_panel_rows(study, data, runs, name) for name in dict.fromkeys(names)]
    columns = min(3, len(panels))
    lines = -(-len(panels) // columns)
    tallest = [
        max(len(entries) for _, entries in panels[line * columns : (line + 1) * columns])
        for line in range(lines)
    ]
    heights = [0.72 + 0.19 * count for count in tallest]
    figure = new_figure(3.45 * columns, sum(heights))
    top = sum(heights)
    for index, (name, entries) in enumerate(panels):
        line, column = divmod(index, columns)
        height = 0.19 * len(entries)
        bottom = top - sum(heights[:line]) - 0.3 - height
        place = ((column + 0.38) / columns, bottom / top, 0.56 / columns, height / top)
        _draw_panel(figure.add_axes(place), name, entries)
    return Plot(
        f"measures_{data}", figure,
        f"Dot plots of {len(panels)} measures on {data}: one dot per seed and a bar at the mean of "
        f"each of {', '.join(map(shown, study.rows))}, with baselines as hollow marks.",
    )  # fmt: skip


def _panel_rows(
    study: StudyData, data: str, runs: Sequence[RunData], name: str
) -> tuple[str, list[tuple[str, str, tuple[float, ...]]]]:
    """Label, colour (empty for a baseline) and values of every line of a panel."""
    entries = [
        (shown(row), row_colour(study, row), cell_of(study.of(row, data), name).values)
        for row in study.rows
    ]
    for key, label in BASELINES.items():
        cell = cell_of(runs, f"{name}_{key}")
        if cell.values:
            entries.append((label, "", (cell.mean,)))
    return name, entries


def _draw_panel(
    axes: Axes, name: str, entries: Sequence[tuple[str, str, tuple[float, ...]]]
) -> None:
    quantity = parsed(name).name
    measure = BY_NAME[quantity]
    scale = 100 if measure.percent else 1
    floor = (
        -1.0 if quantity.endswith("r2") else None
    )  # R2 has no lower bound; a far one says no more
    for line, (_, colour, values) in enumerate(entries):
        places = [scale * (value if floor is None else max(value, floor)) for value in values]
        height = [-line] * len(places)
        if colour and places:
            mean = sum(places) / len(places)
            axes.plot([mean, mean], [-line - 0.33, -line + 0.33], color=colour, lw=1.8)
            axes.scatter(places, height, s=20, color=colour, alpha=0.75, linewidths=0, zorder=3)
        else:
            marker = "<" if floor is not None and values and values[0] < floor else "o"
            axes.scatter(
                places, height, s=17, marker=marker, facecolors="none", edgecolors=MUTED, lw=0.9
            )
    quiet_axes(axes, grid=False)
    axes.grid(axis="x", color=HAIRLINE, linewidth=0.6)
    axes.set_yticks([-line for line in range(len(entries))], [label for label, *_ in entries])
    for tick, (_, colour, _) in zip(axes.get_yticklabels(), entries, strict=True):
        tick.set_color(INK if colour else MUTED)
    axes.set_ylim(0.6 - len(entries), 0.6)
    axes.spines["left"].set_visible(False)
    axes.margins(x=0.08)
    axes.locator_params(axis="x", nbins=4)
    arrow = "→" if measure.higher else "←"
    title = f"{measure.label}{unit_of(quantity)}  {arrow} better"
    axes.set_title(title, fontsize=8.5, color=INK, loc="left", x=-0.66, pad=5)


def curves_plot(study: StudyData, data: str, layer: str) -> Plot | None:
    """One panel per measure over epochs: rows with the range over seeds, baselines dashed."""
    runs = [run for row in study.rows for run in study.of(row, data)]
    logged = {name for run in runs for name in run.curves}
    names = [*headlines(runs).get("", ()), *headlines(runs).get(layer, ())]
    names = [name for name in dict.fromkeys(names) if name in logged]
    if not names:
        return None
    columns = min(3, len(names))
    lines = -(-len(names) // columns)
    figure = new_figure(3.45 * columns, 2.15 * lines + 0.3)
    for index, name in enumerate(names):
        axes = figure.add_subplot(lines, columns, index + 1)
        for row in study.rows:
            _draw_curve(axes, study.of(row, data), name, row_colour(study, row), shown(row))
        _draw_baselines(axes, runs, name)
        quiet_axes(axes)
        quantity = parsed(name).name
        title = f"{label_of(quantity)}{unit_of(quantity)}"
        axes.set_title(title, fontsize=8.5, color=INK, loc="left", pad=5)
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        axes.set_xlabel("epoch")
        if axes.dataLim.width == 0:  # one validation only
            axes.set_xlim(0, 2)
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(
        handles, labels, loc="upper left", ncols=len(labels), frameon=False, fontsize=8.5,
        labelcolor=INK, handlelength=1.4, columnspacing=1.6,
    )  # fmt: skip
    height = 2.15 * lines + 0.3
    figure.subplots_adjust(
        left=0.5 / (3.45 * columns), right=1 - 0.62 / (3.45 * columns), top=1 - 0.58 / height,
        bottom=0.45 / height, wspace=0.42, hspace=0.62,
    )  # fmt: skip
    alt = (
        f"Curves over epochs on {data}: {', '.join(label_of(parsed(name).name) for name in names)}."
    )
    return Plot(f"curves_{data}", figure, alt)


def _draw_curve(axes: Axes, runs: Sequence[RunData], name: str, colour: str, label: str) -> None:
    measure = BY_NAME[parsed(name).name]
    scale = 100 if measure.percent else 1
    curves = [run.curves[name] for run in runs if name in run.curves]
    epochs = sorted({epoch for curve in curves for epoch in curve})
    values = [
        [scale * curve[epoch] for curve in curves if math.isfinite(curve.get(epoch, math.nan))]
        for epoch in epochs
    ]
    kept = [(epoch + 1, found) for epoch, found in zip(epochs, values, strict=True) if found]
    x = [epoch for epoch, _ in kept]
    means = [sum(found) / len(found) for _, found in kept]
    marker = "o" if len(x) == 1 else None
    axes.plot(x, means, color=colour, lw=1.6, label=label, marker=marker, ms=3)
    if len(curves) > 1:
        lowest, highest = [min(found) for _, found in kept], [max(found) for _, found in kept]
        axes.fill_between(x, lowest, highest, color=colour, alpha=0.16, linewidth=0)


def _draw_baselines(axes: Axes, runs: Sequence[RunData], name: str) -> None:
    """Dashed lines at the final value, named at the right where they do not collide."""
    scale = 100 if BY_NAME[parsed(name).name].percent else 1
    levels = []
    for key, label in BASELINES.items():
        cell = cell_of(runs, f"{name}_{key}")
        if cell.values:
            levels.append((scale * cell.mean, _SHORT.get(key, label)))
    own = [scale * v for run in runs for v in run.curves.get(name, {}).values()]
    low, high = min(own, default=0.0), max(own, default=1.0)
    # A far baseline must not flatten the curves: it is left to the tables.
    reach = 1.2 * max(high - low, 1e-6)
    shown_levels = sorted(level for level in levels if low - reach <= level[0] <= high + reach)
    last = -math.inf
    for level, _ in shown_levels:
        axes.axhline(level, color=MUTED, lw=0.8, ls=(0, (4, 3)), zorder=1)
    bottom, top = axes.get_ylim()
    for level, label in shown_levels:
        if level - last > 0.085 * (top - bottom):
            axes.annotate(
                label, (1.0, level), xycoords=("axes fraction", "data"), xytext=(3, 0),
                textcoords="offset points", va="center", fontsize=6.5, color=MUTED,
            )  # fmt: skip
            last = level


def differences_plot(
    study: StudyData, data: str, differences: Mapping[str, Mapping[str, PairedDifference]]
) -> Plot | None:
    """Difference of every row from the ordinary one, with 95 % intervals, a panel per measure."""
    measures = [m for m in MEASURES if any(m.name in found for found in differences.values())]
    if not measures:
        return None
    rows = list(differences)
    height = 0.72 + 0.24 * len(rows)
    figure = new_figure(2.55 * len(measures) + 1.2, height)
    for index, measure in enumerate(measures):
        width = 2.55 * len(measures) + 1.2
        left = (1.45 + 2.5 * index) / width
        place = (left, 0.38 / height, 2.1 / width, 0.24 * len(rows) / height)
        axes = quiet_axes(figure.add_axes(place), grid=False)
        axes.grid(axis="x", color=HAIRLINE, linewidth=0.6)
        axes.axvline(0, color=MUTED, lw=0.9)
        scale = 100 if measure.percent else 1
        for line, row in enumerate(rows):
            pair = differences[row].get(measure.name)
            if pair is not None:
                colour = row_colour(study, row)
                ends = [scale * pair.low, scale * pair.high]
                axes.plot(ends, [-line, -line], color=colour, lw=1.6, solid_capstyle="butt")
                axes.scatter([scale * pair.difference], [-line], s=26, color=colour, zorder=3)
        names = [shown(row) for row in rows] if index == 0 else []
        axes.set_yticks([-line for line in range(len(rows))] if names else [], names)
        axes.tick_params(axis="y", labelcolor=INK)
        axes.set_ylim(0.6 - len(rows), 0.6)
        axes.spines["left"].set_visible(False)
        axes.locator_params(axis="x", nbins=4)
        unit = " (points)" if measure.percent else ""
        arrow = "→" if measure.higher else "←"
        title = f"Δ {measure.label}{unit}  {arrow} better"
        axes.set_title(title, fontsize=7.5, color=INK, loc="left", pad=5)
    alt = f"Differences from {shown(study.ordinary or '')} on {data} with 95 % intervals."
    return Plot(f"differences_{data}", figure, alt)


def best_parts_plot(study: StudyData, data: str, layer: str) -> Plot | None:
    """R2 of the best filter of each part, a line per part, a mark per row and seed."""
    prefix = f"parts/{layer}/part_tracking_best_"
    runs = [run for row in study.rows for run in study.of(row, data)]
    parts = list(dict.fromkeys(n for run in runs for n in run.result if n.startswith(prefix)))
    if not parts:
        return None
    parts.sort(key=lambda name: max(cell_of(study.of(row, data), name).mean for row in study.rows))
    figure = new_figure(6.4, 0.75 + 0.21 * len(parts))
    axes = quiet_axes(figure.add_subplot(), grid=False)
    axes.grid(axis="both", color=HAIRLINE, linewidth=0.6)
    for row in study.rows:
        colour = row_colour(study, row)
        cells = [cell_of(study.of(row, data), name) for name in parts]
        means = [max(cell.mean, -1.0) if cell.values else math.nan for cell in cells]
        axes.scatter(means, range(len(parts)), s=34, color=colour, zorder=3, label=shown(row))
        for line, cell in enumerate(cells):
            if len(cell.values) > 1:
                ends = [max(min(cell.values), -1.0), max(max(cell.values), -1.0)]
                axes.plot(ends, [line, line], color=colour, lw=1.2, alpha=0.6)
    axes.axvline(0.25, color=MUTED, lw=0.9, ls=(0, (4, 3)))
    axes.set_yticks(
        range(len(parts)), [name.removeprefix(prefix).replace("_", " ") for name in parts]
    )
    axes.tick_params(axis="y", labelcolor=INK)
    axes.set_xlim(-1.05, 1.02)
    axes.set_xlabel("R² of the best filter (dashed: bound of .25; values below −1 are drawn at −1)")
    axes.legend(
        loc="lower left", bbox_to_anchor=(-0.02, 1.0), ncols=len(study.rows), frameon=False,
        fontsize=8.5, labelcolor=INK, handletextpad=0.1,
    )  # fmt: skip
    figure.tight_layout(pad=0.4)
    return Plot(f"best_filters_{data}", figure, f"R² of the best filter of each part on {data}.")
