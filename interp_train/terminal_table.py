"""Tables in the terminal; that of a study: quantities down, rows of the study across."""

import fnmatch
import statistics
from collections.abc import Mapping, Sequence

from rich import box
from rich.console import Console
from rich.table import Table


def study_table(
    title: str, cells: Sequence[tuple[str, Mapping[str, float]]], patterns: Sequence[str]
) -> Table:
    """A table of mean ± standard deviation over the seeds of each row.

    Args:
        title: of the table.
        cells: the row's name and the final quantities of one run; one entry per run.
        patterns: which quantities to show, in this order, e.g. ``"parts/*/instability"``.
    """
    rows = list(dict.fromkeys(row for row, _ in cells))
    known = sorted({quantity for _, result in cells for quantity in result})
    chosen = [
        quantity for pattern in patterns for quantity in known if fnmatch.fnmatch(quantity, pattern)
    ]
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("quantity")
    for row in rows:
        table.add_column(row, justify="right")
    for quantity in dict.fromkeys(chosen):
        values = {row: [r[quantity] for name, r in cells if name == row and quantity in r]
                  for row in rows}  # fmt: skip
        table.add_row(quantity, *(mean_and_deviation(values[row]) for row in rows))
    return table


def output_console() -> Console:
    """The terminal, or a file without a right margin."""
    console = Console()
    return console if console.is_terminal else Console(width=200)


def mean_and_deviation(values: Sequence[float]) -> str:
    """``.873 ± .012`` over several values, ``.873`` for one, a dash for none."""
    if not values:
        return "–"
    mean = f"{statistics.fmean(values):.3f}"
    return f"{mean} ± {statistics.stdev(values):.3f}" if len(values) > 1 else mean
