"""The tables of a report, and a short one for the terminal."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from interp_train.evaluation.bootstrap import PairedDifference
from interp_train.report.comparison import Cell, cell_of, verdict
from interp_train.report.measures import (
    BASELINES,
    BY_NAME,
    MEASURES,
    Measure,
    direction_of,
    label_of,
    number,
    parsed,
    unit_of,
)
from interp_train.report.records import (
    LayerData,
    RunData,
    StudyData,
    quantities_of,
    read_folder,
)
from interp_train.report.table_formats import Table


def cell_text(cell: Cell, name: str) -> str:
    """``mean ± sd``, the mean alone for one value, a dash for none."""
    if not cell.values:
        return "–"
    mean = number(cell.mean, name)
    return mean if len(cell.values) < 2 else f"{mean} ± {number(cell.deviation, name)}"


def headlines(runs: Sequence[RunData]) -> dict[str, list[str]]:
    """Layer -> logged names of the known measures, without baselines; accuracy under ``""``."""
    found: dict[str, list[str]] = {}
    for name in quantities_of(runs):
        quantity = parsed(name)
        if quantity.name in BY_NAME and not quantity.baseline:
            found.setdefault(quantity.layer, []).append(name)
    return found


def comparison_table(study: StudyData, data: str, layer: str) -> Table:
    """Rows of the study, then baselines; one column per measure."""
    runs = [run for row in study.rows for run in study.of(row, data)]
    names = [*headlines(runs).get("", ()), *headlines(runs).get(layer, ())]
    names = list(dict.fromkeys(names))
    cells = {row: [cell_of(study.of(row, data), name) for name in names] for row in study.rows}
    rows = [
        (shown(row), *(cell_text(cell, parsed(name).name) for cell, name in zip(
            cells[row], names, strict=True)))
        for row in study.rows
    ]  # fmt: skip
    bold = {
        (best, column + 1)
        for column, name in enumerate(names)
        if (best := _best_row([cells[row][column] for row in study.rows], name)) is not None
    }
    muted = []
    for baseline in _baselines_of(runs, names):
        muted.append(len(rows))
        values = [cell_of(runs, f"{name}_{baseline}") for name in names]
        rows.append(
            (BASELINES[baseline], *(number(cell.mean, parsed(name).name) for cell, name in zip(
                values, names, strict=True)))
        )  # fmt: skip
    return Table(
        name=f"comparison_{data}" + (f"_{layer}" if layer else ""),
        title=f"{data}: results" + (f" at layer {layer}" if layer else ""),
        columns=("", *(heading(name) for name in names)),
        rows=tuple(rows),
        records=tuple(_comparison_records(study, data, names, runs)),
        bold=frozenset(bold) if len(study.rows) > 1 else frozenset(),
        muted=frozenset(muted),
        note=_seeds_note(study, data),
    )


def shown(row: str) -> str:
    """Name of a row for readers."""
    return row.replace("_", " ")


def heading(name: str) -> str:
    """Heading of a column: measure, unit, and an arrow towards the better end."""
    quantity = parsed(name).name
    return f"{label_of(quantity)}{unit_of(quantity)}\u00a0{direction_of(quantity)}".strip()


def _best_row(cells: Sequence[Cell], name: str) -> int | None:
    """The row with the best mean; None where two rows read the same."""
    quantity = parsed(name).name
    means = [cell.mean for cell in cells if cell.values]
    if len(means) < 2:
        return None
    best = number(max(means) if BY_NAME[quantity].higher else min(means), quantity)
    rows = [row for row, cell in enumerate(cells) if number(cell.mean, quantity) == best]
    return rows[0] if len(rows) == 1 else None


def _baselines_of(runs: Sequence[RunData], names: Sequence[str]) -> list[str]:
    logged = {name for run in runs for name in run.result}
    return [key for key in BASELINES if any(f"{name}_{key}" in logged for name in names)]


def _seeds_note(study: StudyData, data: str) -> str:
    counts = sorted({len(study.of(row, data)) for row in study.rows})
    seeds = f"{counts[0]}" if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    deviation = "mean ± standard deviation over " if counts[-1] > 1 else ""
    return f"{deviation}{seeds} seed{'s' if counts[-1] != 1 else ''}; – = not measured."


def _comparison_records(
    study: StudyData, data: str, names: Sequence[str], runs: Sequence[RunData]
) -> list[dict[str, Any]]:
    sources = [(row, study.of(row, data), "") for row in study.rows]
    sources += [(key, list(runs), f"_{key}") for key in _baselines_of(runs, names)]
    records = []
    for label, group, suffix in sources:
        for name in names:
            cell = cell_of(group, name + suffix)
            quantity = parsed(name)
            records.append(
                {
                    "data": data, "row": label, "kind": "baseline" if suffix else "network",
                    "layer": quantity.layer, "measure": quantity.name, "mean": cell.mean,
                    "sd": cell.deviation, "seeds": len(cell.values),
                }
            )  # fmt: skip
    return records


def difference_table(
    data: str, ordinary: str, differences: Mapping[str, Mapping[str, PairedDifference]]
) -> Table:
    """Every row minus the ordinary one, with 95 % intervals; one line per row and measure."""
    rows: list[tuple[str, ...]] = []
    records = []
    for row, found in differences.items():
        label = shown(row)  # named once, on its first line
        for measure in (measure for measure in MEASURES if measure.name in found):
            pair = found[measure.name]
            rows.append((label, *_difference_cells(pair, measure)))
            records.append({"data": data, "row": row, "measure": measure.name, **pair._asdict()})
            label = ""
    return Table(
        name=f"differences_{data}",
        title=f"{data}: difference from {shown(ordinary)}",
        columns=("", "measure", shown(ordinary), "row", "difference", "95 % interval", "reading"),
        rows=tuple(rows),
        records=tuple(records),
        note="Paired bootstrap over the validation images (percentile intervals, 1000 resamples); "
        "it speaks of images, not of seeds. Differences of percentages are percentage points.",
        words=frozenset({1, 6}),
    )


def _difference_cells(pair: PairedDifference, measure: Measure) -> tuple[str, ...]:
    name = measure.name
    difference, low, high = (
        signed_number(value, name) for value in (pair.difference, pair.low, pair.high)
    )
    return (
        f"{measure.label}{unit_of(name)}",
        number(pair.first, name),
        number(pair.second, name),
        difference,
        f"[{low}, {high}]",
        verdict(pair, measure.higher),
    )


def all_quantities_table(study: StudyData, data: str) -> Table:
    """Every logged quantity, one line each; one column per row of the study."""
    runs = [run for row in study.rows for run in study.of(row, data)]
    rows, records = [], []
    for name in quantities_of(runs):
        cells = [cell_of(study.of(row, data), name) for row in study.rows]
        rows.append((name, *(cell_text(cell, "") for cell in cells)))
        for row, cell in zip(study.rows, cells, strict=True):
            values = {"mean": cell.mean, "sd": cell.deviation, "seeds": len(cell.values)}
            records.append({"data": data, "row": row, "quantity": name, **values})
    return Table(
        f"all_quantities_{data}", f"{data}: every logged quantity",
        ("quantity", *map(shown, study.rows)), tuple(rows), tuple(records),
        note="Names as in metrics.csv and TensorBoard; the last validation of each run.",
    )  # fmt: skip


def overall_table(study: StudyData) -> Table | None:
    """Means over data sets and seeds; None for one data set."""
    if len(study.data) < 2:
        return None
    runs = {row: [r for data in study.data for r in study.of(row, data)] for row in study.rows}
    together = [run for group in runs.values() for run in group]
    found = headlines(together)
    names = list(dict.fromkeys([*found.get("", ()), *found.get(last_layer(together), ())]))
    rows = tuple(
        (shown(row), *(cell_text(cell_of(group, n), parsed(n).name) for n in names))
        for row, group in runs.items()
    )
    return Table(
        "comparison_all_data", "All data sets together", ("", *map(heading, names)), rows,
        note=f"mean ± standard deviation over {len(study.data)} data sets and the seeds.",
    )  # fmt: skip


def cost_table(study: StudyData, data: str) -> Table:
    """Seconds per run, and what interpretability took of them."""
    groups = {row: [r for r in study.of(row, data) if r.status] for row in study.rows}
    runs = [run for group in groups.values() for run in group]
    activities = list(dict.fromkeys(a for run in runs for a in run.status.get("cost") or {}))
    rows, records = [], []
    for row, group in groups.items():
        seconds = _mean([float(run.status.get("seconds") or 0) for run in group])
        costs = {
            activity: _mean([(run.status.get("cost") or {}).get(activity, 0.0) for run in group])
            for activity in activities
        }
        share = 100 * sum(costs.values()) / seconds if seconds else 0.0
        parts = (f"{costs[activity]:.1f}" for activity in activities)
        rows.append((shown(row), f"{seconds:.0f}", f"{share:.1f} %", *parts))
        records.append({"data": data, "row": row, "seconds": seconds, "share": share, **costs})
    columns = ("", "run, s", "interpretability", *(f"{shown(a)}, s" for a in activities))
    return Table(
        f"cost_{data}", f"{data}: cost of a run", columns, tuple(rows), tuple(records),
        note="Mean over seeds of host time. Figures are drawn by a thread beside the training; "
        "only the time spent waiting for it is counted.",
    )  # fmt: skip


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else 0.0


def category_table(study: StudyData, data: str, layer: str) -> Table | None:
    """Filters of each category: how many, their mean R2, and the parts that they follow.

    Of the first run of each row; None where filters belong to one category.
    """
    firsts = [study.of(row, data)[0] for row in study.rows if study.of(row, data)]
    records = [run.layers[layer] for run in firsts if layer in run.layers]
    records = [record for record in records if record.num_categories > 1]
    if not records:
        return None
    names = records[0].class_names or tuple(map(str, range(records[0].num_categories)))
    rows = []
    for category, name in enumerate(names):
        row = [shown(name)]
        for record in records:
            row += _category_cells(record, category)
        rows.append(tuple(row))
    kept = [run for run in firsts if layer in run.layers and run.layers[layer].num_categories > 1]
    heads = [
        f"{shown(run.row)}: {what}" for run in kept for what in ("filters", "mean R²", "parts")
    ]
    return Table(
        f"categories_{data}", f"{data}: filters by category", ("category", *heads), tuple(rows),
        note="A filter belongs to the category with its highest mean peak, or to the one that its "
        "objective assigned; parts: followed with R² > .25. First seed of each row.",
    )  # fmt: skip


def _category_cells(record: LayerData, category: int) -> list[str]:
    own = record.arrays["part_tracking_categories"] == category
    scores = record.arrays["part_tracking_scores"][own]
    parts = record.arrays["part_tracking_parts"][own]
    followed = sorted(
        {record.part_names[p] for p, s in zip(parts, scores, strict=True) if s > 0.25}
    )
    known = [float(score) for score in scores if score == score]
    mean = number(_mean(known)) if known else "–"
    return [str(int(own.sum())), mean, ", ".join(map(shown, followed)) or "–"]


def signed_number(value: float, name: str) -> str:
    """A difference as text, with its sign."""
    text = number(value, name)
    return text if text.startswith(("−", "–")) else f"+{text}"


def summary_table(folder: str | Path) -> list[dict[str, str]]:
    """The main results of a run or study folder for a terminal, one mapping per line.

    Columns: ``data``, ``row``, then one per measure (of the deepest measured layer).
    """
    study = read_folder(Path(folder))
    lines = []
    for data in study.data:
        runs = [run for row in study.rows for run in study.of(row, data)]
        table = comparison_table(study, data, last_layer(runs))
        lines += [
            {"data": data, "row": row[0], **dict(zip(table.columns[1:], row[1:], strict=True))}
            for row in table.rows
        ]
    return lines


def last_layer(runs: Sequence[RunData]) -> str:
    """The deepest measured layer; empty if none was measured."""
    layers = [layer for layer in headlines(runs) if layer]
    return layers[-1] if layers else ""
