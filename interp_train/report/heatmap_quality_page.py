"""Write the comparison of heatmap methods: a table, curves and pictures, one page."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from markupsafe import Markup
from matplotlib.figure import Figure
from torch import Tensor

import interp_train
from interp_train.atomic_files import write_json, write_text
from interp_train.figures import (
    INK,
    MUTED,
    category_style,
    common_high,
    image_grid,
    new_figure,
    outlined,
    overlay,
    picture_axes,
    quiet_axes,
    save_figure,
)
from interp_train.report.embedding import save_plot
from interp_train.report.measures import number
from interp_train.report.page import environment
from interp_train.report.plots import Plot
from interp_train.report.table_formats import Table, as_html, save_table

# Name, heading, whether high is good, what it shows.
COLUMNS = (
    ("pointing_game", "pointing game", True, "share of images whose highest pixel hits"),
    ("localisation_mass", "mass inside", True, "share of the heatmap's sum inside"),
    ("relevance_rank", "relevance rank", True, "share of the highest pixels, as many as there are "
     "inside, that lie inside"),
    ("deletion_auc", "deletion AUC", False, "mean score while pixels are blanked, highest first"),
    ("insertion_auc", "insertion AUC", True, "mean score while pixels return, highest first"),
    ("sensitivity", "sensitivity-n", True, "correlation of the score's fall with the heatmap's sum "
     "over random sets of blocks"),
    ("max_sensitivity", "max-sensitivity", False, "largest change under a little noise, in lengths "
     "of the heatmap"),
    ("randomisation_similarity", "similarity, cascade", False, "rank correlation with the heatmap "
     "of a network that loses its weights from the output down, mean over the stages"),
    ("randomisation_similarity_all", "similarity, no weights left", False, "the same at the last "
     "stage: a method that stays near 1 shows the image, not the network"),
    ("seconds", "seconds per image", False, "of one heatmap"),
)  # fmt: skip
BASELINE_ROWS = ("random", "centre", "oracle")


class MethodQuality(NamedTuple):
    """What was measured of one method or baseline.

    Attributes:
        name: of the method, or of a baseline.
        shows: what its values are; empty for a baseline.
        values: measure -> mean over the images.
        examples: its heatmaps of the example images, ``(E, 1, H, W)``; empty for a baseline.
    """

    name: str
    shows: str
    values: Mapping[str, float]
    examples: Tensor


class HeatmapQuality(NamedTuple):
    """A comparison of heatmap methods.

    Attributes:
        folder: where it is written.
        network: name and weights.
        setting: how many images of which data, what they should point at.
        methods: one entry per method.
        baselines: random, centre and oracle, as far as they were measured.
        examples: pixels of the example images, ``(E, 3, H, W)``.
        titles: one per example.
        outlines: what the heatmaps should point at, bool ``(E, 1, H, W)``.
    """

    folder: Path
    network: str
    setting: Mapping[str, Any]
    methods: Sequence[MethodQuality]
    baselines: Sequence[MethodQuality]
    examples: Tensor
    titles: Sequence[str]
    outlines: Tensor


def write_quality(quality: HeatmapQuality) -> Path:
    """Write heatmap_quality.html and .json, tables and figures; returns the path of the page."""
    folder = quality.folder
    table = quality_table(quality)
    save_table(table, folder / "tables")
    curves, examples = cascade_plot(quality), example_figure(quality)
    for suffix in (".png", ".pdf"):
        save_figure(examples, folder / "figures" / f"examples{suffix}")
    svg = save_plot(curves, folder / "figures") if curves is not None else ""
    pictures = save_plot(Plot("examples", examples, "Heatmaps of every method."),
                         folder / "figures")  # fmt: skip
    rows = [*quality.methods, *quality.baselines]
    plain = {entry.name: dict(entry.values) for entry in rows}
    write_json(folder / "heatmap_quality.json", {**quality.setting, "measures": plain})
    shown = {column for column, *_ in COLUMNS if any(column in row.values for row in rows)}
    page = environment().get_template("heatmap_quality.html.j2").render(
        title="How good are the heatmaps?",
        facts=[("network", quality.network), *((k, str(v)) for k, v in quality.setting.items())],
        table=Markup(as_html(table)), note=table.note, curves=Markup(svg),
        examples=Markup(pictures), version=interp_train.__version__,
        measures=[(heading, text) for name, heading, _, text in COLUMNS if name in shown],
    )  # fmt: skip
    path = page_path(folder)
    write_text(path, page)
    return path


def page_path(folder: Path) -> Path:
    """The page of a comparison."""
    return folder / "heatmap_quality.html"


def quality_table(quality: HeatmapQuality) -> Table:
    """Methods, then baselines; the best method of each measure is emphasised."""
    rows = [*quality.methods, *quality.baselines]
    columns = [column for column in COLUMNS if any(column[0] in row.values for row in rows)]
    cells = [[row.values.get(name) for name, *_ in columns] for row in rows]
    bold = set()
    for index, (name, _, higher, _) in enumerate(columns):
        own = [row.values.get(name) for row in quality.methods]
        known = [value for value in own if value is not None]
        if known and name != "seconds":
            best = max(known) if higher else min(known)
            bold |= {(line, index + 1) for line, value in enumerate(own) if value == best}
    arrows = [f"{heading} {'↑' if higher else '↓'}" for _, heading, higher, _ in columns]
    return Table(
        name="heatmap_quality",
        title="Quality of heatmap methods",
        columns=("method", *arrows),
        rows=tuple(
            (row.name.replace("_", " "), *(number(value) for value in line))
            for row, line in zip(rows, cells, strict=True)
        ),
        records=tuple(
            {"method": row.name, **{name: row.values.get(name, "") for name, *_ in columns}}
            for row in rows
        ),
        bold=frozenset(bold),
        muted=frozenset(range(len(quality.methods), len(rows))),
        note="↑ high is good, ↓ low is good. Below the line: baselines under the same rules. The "
        "oracle is the mask itself, which is right only as far as the network uses it.",
    )


def cascade_plot(quality: HeatmapQuality) -> Plot | None:
    """Similarity of the heatmaps to the original ones, stage by stage; None if not measured."""
    prefix = "randomisation_similarity_stage_"
    curves = {
        method.name: [1.0, *(method.values[key] for key in sorted(
            (key for key in method.values if key.startswith(prefix)),
            key=lambda key: int(key.removeprefix(prefix))))]
        for method in quality.methods
        if f"{prefix}1" in method.values
    }  # fmt: skip
    if not curves:
        return None
    figure = new_figure(6.6, 3.4)
    axes = quiet_axes(figure.add_axes((0.09, 0.14, 0.58, 0.76)))
    ordered = sorted(curves.items(), key=lambda item: -item[1][-1])
    for index, (name, values) in enumerate(ordered):
        colour, _ = category_style(index)
        marker = "osD^vPX"[index // 8 % 7]
        shares = [100 * stage / (len(values) - 1) for stage in range(len(values))]
        axes.plot(shares, values, color=colour, lw=1.5, marker=marker, ms=4,
                  ls="-" if index < 8 else (0, (4, 2)), label=name.replace("_", " "))  # fmt: skip
    axes.axhline(0, color=MUTED, lw=0.8)
    axes.set_ylim(min(-0.1, *(min(values) - 0.05 for values in curves.values())), 1.04)
    axes.set_xlabel("layers that lost their weights, from the output down (%)")
    axes.set_title("Rank correlation with the original heatmap", fontsize=9, color=INK, loc="left")
    figure.legend(loc="center left", bbox_to_anchor=(0.7, 0.54), frameon=False, fontsize=8,
                  labelcolor=INK, title="from the top: least sensitive", title_fontsize=8,
                  alignment="left")  # fmt: skip
    return Plot("cascade", figure, "Similarity of heatmaps while the network loses its weights.")


def example_figure(quality: HeatmapQuality) -> Figure:
    """Images in the first column, one column per method, the mask outlined in the image."""
    images = quality.examples
    line = max(1, images.shape[-1] // 112)
    tiles = [outlined(images, quality.outlines, width=line)]
    for method in quality.methods:
        maps = method.examples
        tiles.append(torch.cat([
            overlay(image[None], heatmap[None], high=common_high(heatmap))
            for image, heatmap in zip(images, maps, strict=True)
        ]))  # fmt: skip
    columns = 7
    names = ["image", *(method.name.replace("_", " ") for method in quality.methods)]
    bands = [
        (names[start : start + columns], tiles[start : start + columns])
        for start in range(0, len(tiles), columns)
    ]
    side = 7.6 / columns
    wide = min(columns, max(len(tiles), 2)) * side
    tall = len(images) * side * images.shape[-2] / images.shape[-1]
    figure = new_figure(wide, len(bands) * (tall + 0.3))
    whole = len(bands) * (tall + 0.3)
    for index, (titles, band) in enumerate(bands):
        grid = image_grid(torch.stack(band, 1).flatten(0, 1), len(band), gap=max(2, line * 3))
        bottom = 1 - (index + 1) * (tall + 0.3) / whole
        place = (0.0, bottom, len(band) * side / wide, tall / whole)
        picture_axes(figure, place, grid).set_anchor("NW")
        for column, title in enumerate(titles):
            figure.text((column * side + 0.02) / wide, bottom + (tall + 0.05) / whole, title,
                        fontsize=7.5, color=INK)  # fmt: skip
    return figure
