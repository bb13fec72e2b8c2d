"""Dissection in the report: tables and figures of what the units of each layer detect."""

from collections.abc import Mapping

import torch

from interp_train.dissection_figures import (
    BASELINE_LABELS,
    UNIT_NOTE,
    detectors_figure,
    iou_curves_figure,
)
from interp_train.evaluation.detector_bars import layer_bars
from interp_train.evaluation.layer_dissection import LayerDissection
from interp_train.figures import UnitPictures, unit_figure
from interp_train.report.panels import Panel, Strip, image_tiles
from interp_train.report.plots import Plot
from interp_train.report.records import RunData
from interp_train.report.table_formats import Table
from interp_train.report.tables import shown


def detectors_table(found: LayerDissection, name: str = "") -> Table:
    """Detectors by category beside the baselines; different concepts in brackets."""
    own = found.counts()
    sources = {"this network": own}
    for key, label in BASELINE_LABELS.items():
        if key in found.baselines:
            sources[label] = dict(found.baselines[key])
    keys = [category.replace(" ", "_") for category in found.scheme.categories]
    titles = [category.replace("_", " ") for category in found.scheme.categories]
    lines = [
        (title, f"detectors_{key}", f"unique_{key}")
        for title, key in zip(titles, keys, strict=True)
    ]
    lines.append(("any category", "detectors", "unique_best"))
    rows = [
        (title, *(f"{c[first]:.0f} ({c[second]:.0f})" for c in sources.values()))
        for title, first, second in lines
    ]
    rows.append(("mean IoU", *(f"{c['mean_best_iou']:.4f}" for c in sources.values())))
    records = [
        {"layer": found.layer, "network": label, **counts} for label, counts in sources.items()
    ]
    units = len(found.result.iou)
    return Table(
        name=name or f"detectors_{found.layer}",
        title=f"Detectors in {found.layer} ({units} units, IoU > {found.least_iou:g})",
        columns=(f"{found.layer}: detectors (concepts)", *sources),
        rows=tuple(rows),
        records=tuple(records),
        note=f"Of {units} units; the number of different concepts in brackets. A unit may detect a "
        "concept in several categories; the last count goes by its best concept of all.",
    )


def unit_table(found: LayerDissection, name: str = "", most: int = 40) -> Table:
    """The units with the highest IoU; the csv has all of them."""
    rows = sorted(found.unit_rows(), key=lambda row: -row.iou)
    text = tuple(
        (str(row.unit), row.label or "–", row.category or "–", f"{row.iou:.3f}",
         f"{100 * row.active_area:.2f}")
        for row in rows[:most]
    )  # fmt: skip
    left_out = len(rows) - len(text)
    return Table(
        name=name or f"units_{found.layer}",
        title=f"Units of {found.layer}",
        columns=("unit", "label", "category", "IoU", "active area, %"),
        rows=text,
        records=tuple({"layer": found.layer, **row._asdict()} for row in found.unit_rows()),
        note=f"{left_out} units of lower IoU are in the csv file." if left_out else "",
        words=frozenset({1, 2}),
    )


def detectors_plot(data: str, run: RunData) -> Plot | None:
    """Detectors of each layer of a run."""
    if not run.dissections:
        return None
    bars = [layer_bars(found) for found in run.dissections.values()]
    said = "; ".join(
        f"{b.layer}: {sum(n for *_, n in b.concepts)} of {b.num_units} units" for b in bars
    )
    alt = f"Detectors by category on {data}, {shown(run.row)}: {said}."
    return Plot(f"detectors_{data}_{run.row}", detectors_figure(bars), alt)


def iou_plot(data: str, run: RunData) -> Plot | None:
    """Dissection of a run over its epochs; None for one validation only."""
    curves: dict[str, dict[str, Mapping[int, float]]] = {}
    for layer in run.dissections:
        prefix = f"dissection/{layer}/"
        found = {n.removeprefix(prefix): c for n, c in run.curves.items() if n.startswith(prefix)}
        if len(found.get("mean_best_iou", ())) > 1:
            curves[layer] = found
    if not curves:
        return None
    alt = f"IoU and detectors over epochs on {data}, {shown(run.row)}, of {', '.join(curves)}."
    return Plot(f"dissection_curves_{data}_{run.row}", iou_curves_figure(curves), alt)


def unit_panels(data: str, run: RunData) -> list[Panel]:
    """Per layer: units with their label, IoU and top images."""
    panels = []
    for layer in run.dissections:
        record = run.panels.get(f"dissection_{layer}")
        if record is None:
            continue
        pictures = torch.as_tensor(record["pictures"]).float() / 255
        values = torch.as_tensor(record["values"]).float()
        captions = [str(caption) for caption in record["captions"]]
        strips = [
            Strip(caption, image_tiles(row[seen], [caption] * int(seen.sum())))
            for row, seen, caption in zip(pictures, values.isfinite(), captions, strict=True)
        ]
        figure = unit_figure(UnitPictures(pictures, values, captions), note=UNIT_NOTE)
        title = f"{shown(run.row)}: {layer}"
        panels.append(Panel(f"dissected_units_{data}_{run.row}_{layer}", title, strips, figure))
    return panels
