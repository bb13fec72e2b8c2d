"""Plots of single filters: position against landmark, and instability against tracking."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from matplotlib.axes import Axes

from interp_train.evaluation.part_scheme import boxed
from interp_train.evaluation.part_tracking import ACTIVE_SHARE
from interp_train.evaluation.tracking_r2 import in_box_frame
from interp_train.figures import HAIRLINE, INK, MUTED, OKABE_ITO, new_figure, quiet_axes
from interp_train.report.comparison import cell_of, instability_of
from interp_train.report.plots import Plot, row_colour
from interp_train.report.records import LayerData, RunData, StudyData
from interp_train.report.tables import shown


def best_unit_of(layer: LayerData, part: int, category: int | None = None) -> tuple[int, float]:
    """The live filter that follows a part best (chosen on one half), and its R2 on the other.

    Args:
        layer: record of a layer.
        part: index of the part.
        category: only filters of this category; None or the background (-1) takes all.

    Returns:
        -1 and NaN where no filter was measured with the part.
    """
    choice = torch.as_tensor(layer.arrays["part_tracking_choice_r2"])[:, part].clone()
    choice[torch.as_tensor(layer.arrays["part_tracking_active"]) < ACTIVE_SHARE] = math.nan
    if category is not None and category >= 0 and layer.num_categories > 1:
        choice[torch.as_tensor(layer.arrays["part_tracking_categories"]) != category] = math.nan
    if not choice.isfinite().any():
        return -1, math.nan
    unit = int(choice.nan_to_num(-math.inf).argmax())
    return unit, float(layer.arrays["part_tracking_score_r2"][unit, part])


def telling_parts(runs: Sequence[RunData], layer: str, number: int) -> list[int]:
    """Parts that some run follows best, most clearly first, without near repetitions.

    Args:
        runs: one per row.
        layer: dotted name.
        number: how many parts at most.
    """
    records = [run.layers[layer] for run in runs if has_tracking(run, layer)]
    if not records:
        return []
    count = len(records[0].part_names)
    best = {
        part: max((best_unit_of(record, part)[1] for record in records), key=_finite_first)
        for part in range(count)
    }
    ordered = sorted(
        (part for part in best if math.isfinite(best[part])), key=lambda part: -best[part]
    )
    units: set[tuple[int, ...]] = set()
    chosen = []
    for part in ordered:  # neighbours that one filter follows tell the same story
        key = tuple(best_unit_of(record, part)[0] for record in records)
        if key not in units:
            chosen.append(part)
            units.add(key)
    return (chosen + [part for part in ordered if part not in chosen])[:number]


def _finite_first(value: float) -> float:
    return value if math.isfinite(value) else -math.inf


def has_tracking(run: RunData, layer: str) -> bool:
    """Whether a run recorded which filter follows which part."""
    return layer in run.layers and "part_tracking_choice_r2" in run.layers[layer].arrays


def _has_instability(run: RunData, layer: str) -> bool:
    return f"parts/{layer}/location_instability" in run.result


def tracking_plot(study: StudyData, data: str, layer: str, runs: Sequence[RunData]) -> Plot | None:
    """Position of the best filter against the landmark, rows of the study x telling parts."""
    runs = [run for run in runs if has_tracking(run, layer)]
    parts = telling_parts(runs, layer, 4)
    if not parts:
        return None
    width, height = 1.95 * len(parts) + 0.75, 1.95 * len(runs) + 0.7
    figure = new_figure(width, height)
    for line, run in enumerate(runs):
        record = run.layers[layer]
        for column, part in enumerate(parts):
            left = (0.62 + 1.95 * column) / width
            bottom = (height - 0.58 - 1.95 * line - 1.5) / height
            axes = figure.add_axes((left, bottom, 1.5 / width, 1.5 / height))
            _draw_tracking(axes, record, part)
            if column == 0:
                axes.set_ylabel(f"{shown(run.row)}\nfilter", color=INK)
            if line == len(runs) - 1:
                axes.set_xlabel("landmark (box frame)")
    for index, name in enumerate(("horizontal", "vertical")):
        figure.text(
            1 - (1.15 - 0.62 * index) / width, 1 - 0.14 / height, name, fontsize=7.5,
            color=OKABE_ITO[index], ha="right", va="top", weight="bold",
        )  # fmt: skip
    alt = (
        f"Scatter plots on {data}: position of the best filter against the landmark, for "
        f"{', '.join(runs[0].layers[layer].part_names[part] for part in parts)}."
    )
    return Plot(f"tracking_{data}", figure, alt)


def _draw_tracking(axes: Axes, record: LayerData, part: int) -> None:
    unit, score = best_unit_of(record, part)
    quiet_axes(axes, grid=False)
    axes.plot([0, 1], [0, 1], color=HAIRLINE, lw=1)
    axes.set(xlim=(-0.15, 1.15), ylim=(-0.15, 1.15), xticks=[0, 0.5, 1], yticks=[0, 0.5, 1])
    name = record.part_names[part].replace("_", " ")
    if unit < 0:
        axes.set_title(f"{name}: no filter", fontsize=8, color=MUTED, loc="left", pad=4)
        return
    table = record.measured_table()
    rows = boxed(table) & table.part_locations[:, part].isfinite().all(-1)
    rows &= table.values[:, unit] > 0
    if int(record.arrays["part_tracking_categories"].max()) > 0:
        rows &= table.labels == int(record.arrays["part_tracking_categories"][unit])
    chosen = rows.nonzero()[:300, 0]
    boxes = table.boxes[chosen]
    landmark = in_box_frame(table.part_locations[chosen, part][:, None], boxes)[:, 0]
    position = in_box_frame(table.positions[chosen, unit][:, None], boxes)[:, 0]
    for axis in (0, 1):
        axes.scatter(
            landmark[:, axis], position[:, axis], s=7, color=OKABE_ITO[axis], alpha=0.45,
            linewidths=0,
        )  # fmt: skip
    text = f"{score:.2f}".replace("-", "−")
    axes.set_title(f"{name}  R² {text}", fontsize=8, color=INK, loc="left", pad=4)


def instability_plot(
    study: StudyData, data: str, layer: str, runs: Sequence[RunData]
) -> Plot | None:
    """Every filter: location instability against part tracking, with the constant position."""
    runs = [run for run in runs if has_tracking(run, layer) and _has_instability(run, layer)]
    if not runs:
        return None
    figure = new_figure(6.4, 3.1)
    axes = quiet_axes(figure.add_subplot())
    axes.grid(axis="x", color=HAIRLINE, linewidth=0.6)
    for run in runs:
        record = run.layers[layer]
        axes.scatter(
            instability_of(record).best_category,
            record.arrays["part_tracking_scores"].clip(-1), s=16, alpha=0.55, linewidths=0,
            color=row_colour(study, run.row), label=shown(run.row),
        )  # fmt: skip
    constant = cell_of(runs, f"parts/{layer}/location_instability_constant")
    if constant.values:
        axes.axvline(constant.mean, color=MUTED, lw=0.9, ls=(0, (4, 3)))
        note: Any = {"xycoords": ("data", "axes fraction"), "textcoords": "offset points"}
        axes.annotate(
            "constant position", (constant.mean, 0.02), xytext=(4, 0), fontsize=7.5, color=MUTED,
            **note,
        )  # fmt: skip
    axes.axhline(0.25, color=MUTED, lw=0.9, ls=(0, (4, 3)))
    axes.set_xlabel("location instability (low is stable)")
    axes.set_ylabel("part tracking, R² (values below −1 at −1)")
    axes.legend(
        loc="lower left", bbox_to_anchor=(-0.02, 1.0), ncols=len(runs), frameon=False,
        fontsize=8.5, labelcolor=INK, handletextpad=0.1,
    )  # fmt: skip
    figure.tight_layout(pad=0.4)
    alt = f"Each filter on {data}: location instability against part tracking R²."
    return Plot(f"instability_and_tracking_{data}", figure, alt)
