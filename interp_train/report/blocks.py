"""The pieces of a page: blocks of text and elements, and the writer that makes elements."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from markupsafe import Markup, escape

from interp_train.figures import save_figure
from interp_train.report.embedding import save_plot
from interp_train.report.panels import Panel, Strip
from interp_train.report.plots import Plot
from interp_train.report.table_formats import Table, as_html, save_table


class Block(NamedTuple):
    """One heading of the page.

    Attributes:
        title: heading.
        text: what you see, one short paragraph.
        body: elements of the page.
    """

    title: str
    text: str
    body: Markup


class Section(NamedTuple):
    """The blocks of one data set.

    Attributes:
        anchor: for links within the page.
        title: heading.
        findings: sentences that say what came out.
        blocks: in order.
    """

    anchor: str
    title: str
    findings: Sequence[str]
    blocks: Sequence[Block]


class Writer:
    """Turns tables, plots and panels into elements of the page, and saves each alone.

    Args:
        folder: of the report; figures go to ``figures``, tables to ``tables``.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def table(self, table: Table) -> Markup:
        """A table with its note."""
        save_table(table, self.folder / "tables")
        note = f'<p class="note">{escape(table.note)}</p>' if table.note else ""
        return Markup(as_html(table) + note)

    def plot(self, plot: Plot | None) -> Markup:
        """A plot as svg; nothing for None."""
        if plot is None:
            return Markup()
        svg = save_plot(plot, self.folder / "figures")
        return Markup(f'<div class="plot">{svg}</div>')

    def panel(self, panel: Panel | None) -> Markup:
        """Lines of pictures; nothing for None."""
        if panel is None:
            return Markup()
        for suffix in (".png", ".pdf"):
            save_figure(panel.figure, self.folder / "figures" / f"{panel.name}{suffix}")
        head = f"<h4>{escape(panel.title)}</h4>" if panel.title else ""
        strips = "".join(_strip(strip) for strip in panel.strips)
        return Markup(f'<div class="panel">{head}{strips}</div>')


def _strip(strip: Strip) -> str:
    first, *rest = strip.label.split("\n")
    label = f"<strong>{escape(first)}</strong>" + "".join(f"<span>{escape(r)}</span>" for r in rest)
    tiles = "".join(strip.tiles)
    style = f"--tiles:{max(len(strip.tiles), 1)}"
    return (
        f'<div class="strip"><div class="label">{label}</div>'
        f'<div class="tiles" style="{style}">{tiles}</div></div>'
    )
