"""The form of tables: for the page, as csv and as LaTeX."""

import csv
import html
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from interp_train.atomic_files import write_text

_LATEX = {
    "&": r"\&", "%": r"\%", "#": r"\#", "_": r"\_", "±": r"$\pm$", "−": "$-$", "²": "$^2$",
    "↑": r"$\uparrow$", "↓": r"$\downarrow$", "–": "--", ">": "$>$", "<": "$<$", "…": r"\dots",
    "×": r"$\times$", "\u00a0": "~",
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
        words: columns that hold words, beside the first.
    """

    name: str
    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    records: tuple[Mapping[str, Any], ...] = ()
    bold: frozenset[tuple[int, int]] = frozenset()
    muted: frozenset[int] = frozenset()
    note: str = ""
    words: frozenset[int] = frozenset()


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
        rf"  \begin{{tabular}}{{{_alignment(table)}}}",
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
    head = "".join(
        f'<th scope="col"{_words(table, index)}>{html.escape(column)}</th>'
        for index, column in enumerate(table.columns)
    )
    body = []
    for index, row in enumerate(table.rows):
        cells = [f'<th scope="row">{html.escape(row[0])}</th>']
        for column, cell in enumerate(row[1:], 1):
            best = (index, column) in table.bold
            emphasis = ' class="best"' if best else _words(table, column)
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


def _alignment(table: Table) -> str:
    columns = range(len(table.columns))
    return "".join("l" if index == 0 or index in table.words else "r" for index in columns)


def _words(table: Table, column: int) -> str:
    return ' class="word"' if column in table.words else ""


def _latex(text: str) -> str:
    return "".join(_LATEX.get(character, character) for character in text)
