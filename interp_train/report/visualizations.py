"""Pictures of units and layers in the report: galleries of units, layers that were inverted."""

from collections.abc import Sequence

import torch
from torch.nn import functional

from interp_train.figures import UnitPictures, unit_figure
from interp_train.gallery_figures import gallery_figure
from interp_train.report.panels import TILE, Panel, Strip, captioned, image_tiles, wrapped
from interp_train.report.records import RunData
from interp_train.report.tables import shown

GALLERY = "gallery_"  # records of galleries begin so
INVERSION = "inversion"


def inversion_panel(data: str, runs: Sequence[RunData]) -> Panel | None:
    """The same images as each layer gives them back, from the layer that knows most on.

    Args:
        data: name of the data set.
        runs: one per layer, or per row of a study.

    Returns:
        None if no run inverted a layer. Runs with other images than the first are left out.
    """
    found = [(run, run.panels[INVERSION]) for run in runs if INVERSION in run.panels]
    if not found:
        return None
    shape = found[0][1]["images"].shape
    found = [entry for entry in found if entry[1]["images"].shape == shape]
    found.sort(key=lambda entry: float(entry[1]["relative_error"]))
    lines = [("image", torch.as_tensor(found[0][1]["images"]))]
    for run, record in found:
        text = f"{shown(run.row)}\n{record['layer']}: error {float(record['relative_error']):.2f}"
        lines.append((text, torch.as_tensor(record["reconstructions"])))
    strips, pictures = [], []
    for label, images in lines:
        drawn = functional.interpolate(
            images.float() / 255, (TILE, TILE), mode="bilinear", antialias=True
        )
        alts = [f"image {index + 1}, {label}" for index in range(len(drawn))]
        strips.append(Strip(label, image_tiles(drawn, alts)))
        pictures.append(drawn)
    stack = torch.stack(pictures)
    figure = unit_figure(
        UnitPictures(stack, torch.ones(stack.shape[:2]), [wrapped(label) for label, _ in lines]),
        note="error: squared, over that of the mean colour, on the validation images",
    )
    return Panel(f"inversions_{data}", "", strips, figure)


def gallery_panels(data: str, run: RunData) -> list[Panel]:
    """Per layer of a run: units in lines, ways to picture them side by side."""
    panels = []
    for name, record in run.panels.items():
        if not name.startswith(GALLERY):
            continue
        layer = str(record["layer"])
        pictures = torch.as_tensor(record["pictures"]).float() / 255
        titles = [str(title) for title in record["columns"]]
        captions = [str(caption) for caption in record["captions"]]
        strips = [
            Strip(label, [captioned(tile, title) for tile, title in zip(
                image_tiles(row, [f"{title}, {label}" for title in titles]), titles, strict=True
            )])
            for row, label in zip(pictures, captions, strict=True)
        ]  # fmt: skip
        figure = gallery_figure(pictures, captions, titles)
        title = f"{shown(run.row)}: {layer}"
        panels.append(Panel(f"{name}_{data}_{run.row}", title, strips, figure))
    return panels
