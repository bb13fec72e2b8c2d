"""Tables of a report: for the page, as csv and as LaTeX, and a short one for the terminal."""

import csv
import html
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from interp_train.atomic_files import write_text
from interp_train.evaluation.bootstrap import PairedDifference
from interp_train.report.comparison import Cell, cell_of, verdict
from interp_train.report.measures import (
    BASELINES,
    BY_NAME,
    MEASURES,
    direction_of,
    label_of,
    number,
    parsed,
    unit_of,
)
from interp_train.report.records import RunData, StudyData, quantities_of, read_folder

_LATEX = {
    "&": r"\&", "%": r"\%", "#": r"\#", "_": r"\_", "±": r"$\pm$", "−": "$-$", "²": "$^2$",
    "↑": r"$\uparrow$", "↓": r"$\downarrow$", "–": "--", ">": "$>$", "<": "$<$", "…": r"\dots",
    "×": r"$\times$",
}  # fmt: skip


class Table(NamedTuple):
    """A table in words and in numbers.

    Attributes:
        name: of its files.
        title: one line.
        columns: headings; the first column names the rows.
        rows: cells as text.
        records: the same as plain numbers, one mapping per line of the csv; the cells if empty.
        bold: (row, column) of emphasised cells.
        muted: rows that are not results of a network (baselines).
        note: what a reader must know, below the table.
    """

    name: str
    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    records: tuple[Mapping[str, Any], ...] = ()
    bold: frozenset[tuple[int, int]] = frozenset()
    muted: frozenset[int] = frozenset()
    note: str = ""


def as_csv(table: Table) -> str:
    """Comma-separated, numbers unrounded where the table has them."""
    text = io.StringIO()
    if table.records:
        writer = csv.DictWriter(text, list(table.records[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(table.records)
    else:
        plain = csv.writer(text, lineterminator="\n")
        plain.writerow(table.columns)
        plain.writerows(table.rows)
    return text.getvalue()


def as_latex(table: Table) -> str:
    """A booktabs tabular inside a table environment."""
    lines = [
        r"\begin{table}",
        r"  \centering",
        rf"  \caption{{{_latex(table.title)}}}",
        rf"  \begin{{tabular}}{{l{'r' * (len(table.columns) - 1)}}}",
        r"    \toprule",
        "    " + " & ".join(_latex(column) for column in table.columns) + r" \\",
        r"    \midrule",
    ]
    for index, row in enumerate(table.rows):
        if index in table.muted and index - 1 not in table.muted and index:
            lines.append(r"    \midrule")
        cells = [
            rf"\textbf{{{_latex(cell)}}}" if (index, column) in table.bold else _latex(cell)
            for column, cell in enumerate(row)
        ]
        lines.append("    " + " & ".join(cells) + r" \\")
    lines += [r"    \bottomrule", r"  \end{tabular}", r"\end{table}", ""]
    return "\n".join(lines)


def as_html(table: Table) -> str:
    """A table element; numbers align, baselines are muted."""
    head = "".join(f'<th scope="col">{html.escape(column)}</th>' for column in table.columns)
    body = []
    for index, row in enumerate(table.rows):
        cells = [f'<th scope="row">{html.escape(row[0])}</th>']
        for column, cell in enumerate(row[1:], 1):
            emphasis = ' class="best"' if (index, column) in table.bold else ""
            cells.append(f"<td{emphasis}>{html.escape(cell)}</td>")
        first = index in table.muted and index - 1 not in table.muted
        kind = f' class="baseline{" first" if first else ""}"' if index in table.muted else ""
        body.append(f"<tr{kind}>{''.join(cells)}</tr>")
    return (
        f'<div class="scroll"><table><thead><tr>{head}</tr></thead>'
        f"<tbody>{''.join(body)}</tbody></table></div>"
    )


def save_table(table: Table, folder: Path) -> None:
    """Write ``<name>.csv`` and ``<name>.tex``."""
    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / f"{table.name}.csv", as_csv(table))
    write_text(folder / f"{table.name}.tex", as_latex(table))


def _latex(text: str) -> str:
    return "".join(_LATEX.get(character, character) for character in text)


# ------------------------------------------------------------------------------ what they hold


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
    return f"{label_of(quantity)}{unit_of(quantity)} {direction_of(quantity)}".strip()


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
    rows, records = [], []
    for row, found in differences.items():
        for measure in MEASURES:
            if measure.name not in found:
                continue
            pair = found[measure.name]
            values = (pair.first, pair.second)
            signed = [
                signed_number(v, measure.name) for v in (pair.difference, pair.low, pair.high)
            ]
            rows.append(
                (
                    shown(row), f"{measure.label}{unit_of(measure.name)}",
                    *(number(value, measure.name) for value in values), signed[0],
                    f"[{signed[1]}, {signed[2]}]", verdict(pair, measure.higher),
                )
            )  # fmt: skip
            records.append({"data": data, "row": row, "measure": measure.name, **pair._asdict()})
    return Table(
        name=f"differences_{data}",
        title=f"{data}: difference from {shown(ordinary)}",
        columns=("", "measure", shown(ordinary), "row", "difference", "95 % interval", "reading"),
        rows=tuple(rows),
        records=tuple(records),
        note="Paired bootstrap over the validation images (percentile intervals, 1000 resamples); "
        "it speaks of images, not of seeds. Differences of percentages are percentage points.",
    )


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
