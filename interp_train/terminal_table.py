"""Tables in the terminal; that of a study: quantities down, rows of the study across."""

import fnmatch
import statistics
from collections.abc import Mapping, Sequence

from rich import box
from rich.console import Console
from rich.table import Table

from interp_train.report.measures import parsed

# Baselines that stand beside the scores, and their headings; the report shows all.
BASELINE_COLUMNS = {
    "constant": "constant",
    "random_network": "random\nnetwork",
    "oracle": "oracle",
}

Cells = Sequence[tuple[str, Mapping[str, float]]]


def study_table(title: str, cells: Cells, patterns: Sequence[str]) -> Table:
    """A table of mean ± standard deviation over the seeds of each row, beside the baselines.

    The quantities of one layer stand together under its name. A baseline is the mean over all
    runs; its column is left out where no quantity has it.

    Args:
        title: of the table.
        cells: the row's name and the final quantities of one run; one entry per run.
        patterns: which quantities to show, in this order, e.g. ``"parts/*/instability"``.
    """
    rows = list(dict.fromkeys(row for row, _ in cells))
    chosen = _chosen(cells, patterns)
    baselines = [
        key for key in BASELINE_COLUMNS if any(_values(cells, f"{name}_{key}") for name in chosen)
    ]
    table = Table(
        title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 0, 0, 1), pad_edge=False
    )
    table.add_column("quantity", overflow="fold")
    for row in rows:
        table.add_column(row, justify="right", overflow="fold")
    for key in baselines:
        table.add_column(BASELINE_COLUMNS[key], justify="right", style="dim")
    place = ""
    for name in chosen:
        if _place(name) != place:
            place = _place(name)
            table.add_row(place)
        shown = f"  {name.removeprefix(place)}" if place else name
        scores = (mean_and_deviation(_values(cells, name, row)) for row in rows)
        others = (_values(cells, f"{name}_{key}") for key in baselines)
        means = (mean_and_deviation([statistics.fmean(found)] if found else []) for found in others)
        table.add_row(shown, *scores, *means)
    return table


def _chosen(cells: Cells, patterns: Sequence[str]) -> list[str]:
    """Quantities in the order of the patterns, those of one layer together."""
    known = sorted({quantity for _, result in cells for quantity in result})
    matching = [name for pattern in patterns for name in known if fnmatch.fnmatch(name, pattern)]
    chosen = list(dict.fromkeys(matching))
    places = list(dict.fromkeys(map(_place, chosen)))
    return sorted(chosen, key=lambda name: places.index(_place(name)))


def _place(name: str) -> str:
    """``parts/<layer>/`` of a quantity of a layer, else nothing."""
    quantity = parsed(name)
    return f"{quantity.group}/{quantity.layer}/" if quantity.layer else ""


def _values(cells: Cells, name: str, row: str | None = None) -> list[float]:
    return [result[name] for other, result in cells if row in (None, other) and name in result]


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
