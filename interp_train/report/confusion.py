"""Which categories a network takes for which: matrix, table, and the errors it is most sure of."""

import textwrap
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from matplotlib.colors import LinearSegmentedColormap
from numpy.typing import NDArray
from torch.nn import functional

from interp_train.figures import (
    INK,
    MUTED,
    OKABE_ITO,
    PAPER,
    UnitPictures,
    common_high,
    new_figure,
    overlay,
    unit_figure,
)
from interp_train.report.panels import TILE, Panel, Strip, captioned, image_tiles, wrapped
from interp_train.report.plots import Plot
from interp_train.report.records import RunData
from interp_train.report.table_formats import Table
from interp_train.report.tables import shown

_LIGHT = "#fdfdfd"  # on dark cells; the paper's own white is left out of the page
_NAMED = 30  # categories whose names fit beside a matrix
_WRITTEN = 12  # categories whose counts fit into its cells
_LISTED = 12  # confusions in the table


def confusions(data: str, runs: Sequence[RunData]) -> list[tuple[str, Plot, Table | None]]:
    """Name, matrix and table of each run whose answers were recorded."""
    plots = [(run, confusion_plot(data, run)) for run in runs]
    return [
        (shown(run.row), plot, confusion_table(data, run))
        for run, plot in plots
        if plot is not None
    ]


def error_panels(data: str, runs: Sequence[RunData]) -> list[Panel]:
    """The worst errors of each run, for every method that was recorded."""
    names = [name for run in runs for name in run.panels if name.startswith("errors_")]
    methods = [name.removeprefix("errors_") for name in dict.fromkeys(names)]
    panels = [error_panel(data, method, run) for method in methods for run in runs]
    return [panel for panel in panels if panel is not None]


def confusion_counts(run: RunData) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    """How often each category (rows) is taken for each other (columns), and their names.

    The background stands last, where it occurs.

    Returns:
        Counts ``(C, C)`` and C names; empty without records or with one category only.
    """
    record = run.predictions
    if "predictions" not in record or not len(record["predictions"]):
        return np.zeros((0, 0), np.int64), ()
    labels = np.asarray(record["labels"], np.int64)
    answers = np.asarray(record["predictions"], np.int64)
    names = class_names_of(run, int(max(labels.max(), answers.max())) + 1)
    number = len(names)
    if min(labels.min(), answers.min()) < 0:
        names = (*names, "background")
        labels, answers = (np.where(v < 0, number, v) for v in (labels, answers))
    if len(names) < 2:
        return np.zeros((0, 0), np.int64), ()
    counts = np.zeros((len(names), len(names)), np.int64)
    np.add.at(counts, (labels, answers), 1)
    return counts, names


def class_names_of(run: RunData, number: int) -> tuple[str, ...]:
    """Names of at least `number` categories, or their numbers where none were recorded."""
    recorded = [run.predictions.get("class_names", ())]
    recorded += [layer.class_names for layer in run.layers.values()]
    names = next((tuple(map(str, n)) for n in recorded if len(n) >= number), ())
    return names or tuple(map(str, range(number)))


def confusion_plot(data: str, run: RunData) -> Plot | None:
    """The matrix: share of each category's images (a row) by answer; None without errors to show.

    Args:
        data: name of the data set.
        run: whose answers.
    """
    counts, names = confusion_counts(run)
    if not len(names):
        return None
    number = len(names)
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    side = min(max(0.34 * number, 1.6), 5.6)
    longest = max(len(shown(name)) for name in names) if number <= _NAMED else 0
    margin = 0.45 + 0.062 * longest
    width, height = margin + side + 0.3, margin + side + 0.12
    figure = new_figure(width, height)
    axes = figure.add_axes((margin / width, 0.1 / height, side / width, side / height))
    colours = LinearSegmentedColormap.from_list("confusion", [PAPER, OKABE_ITO[0]])
    axes.imshow(shares, vmin=0, vmax=1, cmap=colours, interpolation="nearest")
    axes.xaxis.tick_top()
    axes.xaxis.set_label_position("top")
    axes.tick_params(length=0, labelsize=7.5, labelcolor=INK, pad=2)
    if number <= _NAMED:
        texts = [shown(name) for name in names]
        axes.set_xticks(range(number), texts, rotation=90)
        axes.set_yticks(range(number), texts)
    else:
        axes.set_xticks([])
        axes.set_yticks([])
    axes.set_xlabel("answer", fontsize=8.5, color=MUTED)
    axes.set_ylabel("category", fontsize=8.5, color=MUTED)
    for place in axes.spines.values():
        place.set_visible(False)
    if number <= _WRITTEN:
        for row, column in np.argwhere(counts > 0).tolist():
            ink = _LIGHT if shares[row, column] > 0.5 else INK
            axes.text(column, row, str(counts[row, column]), ha="center", va="center",
                      fontsize=7.5, color=ink)  # fmt: skip
    right = int(np.trace(counts))
    alt = f"Confusion matrix of {shown(run.row)} on {data}: {right} of {counts.sum()} are right."
    return Plot(f"confusion_{data}_{run.row}", figure, alt)


def confusion_table(data: str, run: RunData) -> Table | None:
    """The most frequent confusions; the csv holds every cell of the matrix that is not 0."""
    counts, names = confusion_counts(run)
    if not len(names):
        return None
    totals = counts.sum(1)
    cells = [(int(r), int(c)) for r, c in np.argwhere(counts > 0)]
    wrong = sorted((cell for cell in cells if cell[0] != cell[1]), key=lambda c: -counts[c])
    rows = [
        (shown(names[r]), shown(names[c]), f"{counts[r, c]} of {totals[r]}",
         f"{100 * counts[r, c] / totals[r]:.1f}")
        for r, c in wrong[:_LISTED]
    ]  # fmt: skip
    if not rows:
        return None
    return Table(
        name=f"confusion_{data}_{run.row}",
        title=f"{data}, {shown(run.row)}: most frequent confusions",
        columns=("category", "taken for", "images", "%"),
        rows=tuple(rows),
        records=tuple(
            {"category": names[r], "answer": names[c], "images": int(counts[r, c]),
             "of": int(totals[r])}
            for r, c in cells
        ),
        note=f"{len(wrong)} pairs of categories are confused at all; the csv file holds all cells.",
        words=frozenset({1}),
    )  # fmt: skip


def error_panel(data: str, method: str, run: RunData) -> Panel | None:
    """The wrong answers of the highest probability: images, and what spoke for both answers.

    Args:
        data: name of the data set.
        method: of the heatmaps.
        run: whose errors.
    """
    record: Any = run.panels.get(f"errors_{method}")
    if not record:
        return None
    images = torch.as_tensor(record["images"]).float() / 255
    maps = [torch.as_tensor(record[key]).float() for key in ("heatmaps", "own_heatmaps")]
    high = common_high(torch.cat(maps))
    titles = [str(title) for title in record["titles"]]
    rows = {
        "image": images,
        f"for its answer\n0 to {high:.2g}": overlay(images, maps[0], high=high),
        f"for the image's category\n0 to {high:.2g}": overlay(images, maps[1], high=high),
    }
    strips, pictures = [], []
    for index, (label, drawn) in enumerate(rows.items()):
        small = functional.interpolate(drawn, (TILE, TILE), mode="bilinear", antialias=True)
        alts = [f"{title}, {label}" for title in titles]
        tiles = image_tiles(small.clamp(0, 1), alts)
        if index == 0:
            tiles = [captioned(tile, title) for tile, title in zip(tiles, titles, strict=True)]
        strips.append(Strip(label, tiles))
        pictures.append(small)
    stack = torch.stack(pictures)
    name = f"{shown(run.row)}, {method.replace('_', ' ')}"
    labels: Sequence[str] = [wrapped(label) for label in rows]
    figure = unit_figure(
        UnitPictures(stack, torch.ones(stack.shape[:2]), labels),
        note=textwrap.shorten(f"{name}; from the left: {'; '.join(titles)}", 150),
    )
    return Panel(f"errors_{method}_{data}_{run.row}", name, strips, figure)
