"""Pictures of a report: the same images, seen by every network of the study."""

import html
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from matplotlib.figure import Figure
from torch import Tensor
from torch.nn import functional

from interp_train.figures import (
    UnitPictures,
    category_style,
    common_high,
    outlined,
    overlay,
    position_figure,
    spotlight,
    unit_figure,
)
from interp_train.report.embedding import data_uri
from interp_train.report.filter_plots import best_unit_of, has_tracking, telling_parts
from interp_train.report.records import LayerData, RunData
from interp_train.report.tables import shown

_CAPTION_WIDTH = 24  # characters beside a strip
TILE = 144  # side of a picture in the page, in pixels
FIELD_SHARE = 0.37  # as in the panels of units: 72 of 195 pixels, Zhou et al., ICLR 2015


class Strip(NamedTuple):
    """A line of pictures.

    Attributes:
        label: what the line shows, its first line in strong type.
        tiles: elements of the page, one per picture.
    """

    label: str
    tiles: Sequence[str]


class Panel(NamedTuple):
    """Lines of pictures with a heading, and the same as a figure of its own.

    Attributes:
        name: of the file.
        title: heading; may be empty.
        strips: lines.
        figure: the same for the folder of figures.
    """

    name: str
    title: str
    strips: Sequence[Strip]
    figure: Figure


def pinned_of(runs: Sequence[RunData]) -> Any:
    """The record of pinned images of the first run that has one; None without."""
    return next((run.panels["pinned"] for run in runs if "pinned" in run.panels), None)


def filter_panels(data: str, layer: str, runs: Sequence[RunData], number: int = 3) -> list[Panel]:
    """Per telling part: where the best filter of each network fires in the pinned images."""
    pinned = pinned_of(runs)
    runs = [run for run in runs if has_tracking(run, layer)]
    if pinned is None or not runs:
        return []
    parts = telling_parts(runs, layer, number)
    return [_filter_panel(data, layer, runs, part, pinned) for part in parts]


def _filter_panel(data: str, layer: str, runs: Sequence[RunData], part: int, pinned: Any) -> Panel:
    name = runs[0].layers[layer].part_names[part].replace("_", " ")
    strips, pictures, labels = [], [], []
    for run in runs:
        record = run.layers[layer]
        found = units_of_images(record, part, pinned)
        drawn = lit_pictures(record, [unit for unit, _ in found], part, pinned)
        caption = f"{shown(run.row)}\n{_filters_in_words(found)}"
        alts = [f"{name} in image {index + 1}, {caption}" for index in range(len(drawn))]
        strips.append(Strip(caption, image_tiles(drawn, alts)))
        pictures.append(drawn)
        labels.append(wrapped(caption))
    stack = torch.stack(pictures)
    figure = unit_figure(
        UnitPictures(stack, torch.ones(stack.shape[:2]), labels),
        note=f"bright: field of the filter's peak;  ring: landmark of the {name}",
    )
    file = f"filters_{data}_{name.replace(' ', '_')}"
    return Panel(file, name, strips, figure)


def wrapped(caption: str) -> str:
    """A caption in lines that fit beside a strip of pictures."""
    return "\n".join(textwrap.fill(line, _CAPTION_WIDTH) for line in caption.splitlines())


def units_of_images(record: LayerData, part: int, pinned: Any) -> list[tuple[int, float]]:
    """For each pinned image, the best filter of its category for a part, and its R2."""
    best = {int(label): best_unit_of(record, part, int(label)) for label in set(pinned["labels"])}
    return [best[int(label)] for label in pinned["labels"]]


def _filters_in_words(found: Sequence[tuple[int, float]]) -> str:
    scores = {unit: score for unit, score in found if unit >= 0}
    texts = [f"{score:.2f}".replace("-", "−") for score in sorted(scores.values())]
    if not texts:
        return "no filter"
    if len(texts) == 1:
        return f"filter {next(iter(scores))}, R²\u00a0{texts[0]}"
    return f"one filter per category, R²\u00a0{texts[0]} to {texts[-1]}"


def lit_pictures(record: LayerData, units: Sequence[int], part: int, pinned: Any) -> Tensor:
    """Pinned images with the field of a unit's peak lit and the part's landmark ringed.

    Args:
        record: of the layer.
        units: one per image.
        part: whose landmark is ringed.
        pinned: record of the pinned images.

    Returns:
        ``(N, 3, TILE, TILE)`` in [0, 1]; an image without a peak is dark.
    """
    images = torch.as_tensor(pinned["images"]).float() / 255
    scale = TILE / images.shape[-1]
    images = functional.interpolate(images, (TILE, TILE), mode="bilinear", antialias=True)
    geometry = record.frame.geometry
    side = min(record.frame.image_height, record.frame.image_width)
    diameter = max(min(FIELD_SHARE * geometry.size, side / 2), 2 * geometry.stride) * scale
    centres = peaks_in(record, pinned, units) * scale
    silent = centres.isnan().any(-1)
    lit = spotlight(images, centres.nan_to_num(-1e6), diameter)
    lit[silent] = images[silent] * 0.4
    landmarks = torch.as_tensor(pinned["part_locations"]).float()[:, part] * scale
    return outlined(lit.clamp(0, 1), disks_at(landmarks, 0.055 * TILE), "#ffffff", width=1)


def disks_at(centres: Tensor, radius: float) -> Tensor:
    """Masks bool ``(N, 1, TILE, TILE)`` of disks around ``(N, 2)``; empty where NaN."""
    cells = torch.arange(TILE, dtype=torch.float32)
    x, y = centres[:, 0, None, None], centres[:, 1, None, None]
    inside = (cells[None, None] - x) ** 2 + (cells[None, :, None] - y) ** 2 <= radius**2
    return inside[:, None]


def peaks_in(record: LayerData, pinned: Any, units: Sequence[int]) -> Tensor:
    """Peak of one unit per pinned image, ``(N, 2)``; NaN where silent or not measured."""
    found = torch.full((len(units), 2), torch.nan)
    for row, (sample, unit) in enumerate(zip(pinned["sample_ids"], units, strict=True)):
        match = (record.table.sample_ids == int(sample)).nonzero()[:, 0]
        if len(match) and unit >= 0 and record.table.values[match[0], unit] > 0:
            found[row] = record.table.positions[match[0], unit]
    return found


def image_tiles(pictures: Tensor, alts: Sequence[str]) -> list[str]:
    """Image elements of pictures ``(N, 3, H, W)`` in [0, 1]."""
    pixels = (pictures.clamp(0, 1) * 255).round().to(torch.uint8).numpy()
    return [
        f'<img src="{data_uri(image)}" alt="{html.escape(alt.replace(chr(10), ", "))}" '
        f'width="{image.shape[2]}" height="{image.shape[1]}">'
        for image, alt in zip(pixels, alts, strict=True)
    ]


def position_panel(
    data: str, layer: str, runs: Sequence[RunData], least_r2: float = 0.25
) -> tuple[list[Panel], list[tuple[str, str]]]:
    """Per network: the best filter of each part over the landmarks of the pinned images.

    Returns:
        One panel per network, and the legend: (part, colour).
    """
    pinned = pinned_of(runs)
    runs = [run for run in runs if has_tracking(run, layer)]
    if pinned is None or not runs:
        return [], []
    panels: list[Panel] = []
    used: set[int] = set()
    for run in runs:
        record = run.layers[layer]
        found = [units_of_images(record, part, pinned) for part in range(len(record.part_names))]
        kept = {
            part: [unit if score > least_r2 else -1 for unit, score in units]
            for part, units in enumerate(found)
            if any(score > least_r2 for _, score in units)
        }
        used.update(kept)
        panels.append(_positions(data, run, record, kept, pinned))
    names = runs[0].layers[layer].part_names
    legend = [(names[part].replace("_", " "), category_style(part)[0]) for part in sorted(used)]
    return panels, legend


def _positions(
    data: str, run: RunData, record: LayerData, kept: Mapping[int, Sequence[int]], pinned: Any
) -> Panel:
    images = torch.as_tensor(pinned["images"]).float() / 255
    known = torch.as_tensor(pinned["part_locations"]).float()
    landmarks = torch.full(known.shape, torch.nan)
    positions = torch.full((len(images), len(kept), 2), torch.nan)
    for column, (part, units) in enumerate(kept.items()):
        followed = torch.tensor(units) >= 0
        landmarks[followed, part] = torch.as_tensor(pinned["part_locations"]).float()[
            followed, part
        ]
        positions[:, column] = peaks_in(record, pinned, units)
    tiles = []
    for index, picture in enumerate(images):
        side = images.shape[-1]
        marks = [_ring(landmarks[index, part], category_style(part)[0], side) for part in kept]
        marks += [
            _dot(positions[index, column], category_style(part)[0], side)
            for column, part in enumerate(kept)
        ]
        tiles.append(marked_tile(picture, "".join(marks), f"image {index + 1}, {run.row}"))
    note = "no filter follows a part with R² > .25" if not kept else f"{len(kept)} parts followed"
    figure = position_figure(
        images, landmarks, positions, unit_parts=list(kept),
        part_names=[name.replace("_", " ") for name in record.part_names],
    )  # fmt: skip
    strip = Strip(f"{shown(run.row)}\n{note}", tiles)
    return Panel(f"positions_{data}_{run.row}", "", [strip], figure)


def marked_tile(picture: Tensor, marks: str, alt: str) -> str:
    """A picture with svg marks in its own pixel coordinates."""
    height, width = picture.shape[-2:]
    pixels = (picture * 255).round().to(torch.uint8).numpy()
    return (
        f'<svg class="tile" role="img" aria-label="{html.escape(alt)}" '
        f'viewBox="-0.5 -0.5 {width} {height}"><image href="{data_uri(pixels)}" x="-0.5" y="-0.5" '
        f'width="{width}" height="{height}"/>{marks}</svg>'
    )


def _ring(place: Tensor, colour: str, side: int) -> str:
    if place.isnan().any():
        return ""
    x, y = place.tolist()
    shape = f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{0.043 * side:.1f}" fill="none"'
    return (
        f'{shape} stroke="#fff" stroke-width="{0.024 * side:.1f}"/>'
        f'{shape} stroke="{colour}" stroke-width="{0.012 * side:.1f}"/>'
    )


def _dot(place: Tensor, colour: str, side: int) -> str:
    if place.isnan().any():
        return ""
    x, y = place.tolist()
    return (
        f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{0.024 * side:.1f}" fill="{colour}" '
        f'stroke="#fff" stroke-width="{0.007 * side:.1f}"/>'
    )


def heatmap_panel(data: str, method: str, runs: Sequence[RunData]) -> Panel | None:
    """Heatmaps of one method: the images, then a line per network on a scale of its own."""
    key = f"heatmaps_{method}"
    runs = [run for run in runs if key in run.panels]
    if not runs:
        return None
    first = runs[0].panels[key]
    images = torch.as_tensor(first["images"]).float() / 255
    resized = functional.interpolate(images, (TILE, TILE), mode="bilinear", antialias=True)
    names = [f"image {index + 1}" for index in range(len(images))]
    strips, pictures, labels = [Strip("image", image_tiles(resized, names))], [resized], ["image"]
    for run in runs:
        record = run.panels[key]
        heatmaps = torch.as_tensor(record["heatmaps"]).float()
        own = torch.as_tensor(record["images"]).float() / 255
        high = common_high(heatmaps)
        drawn = functional.interpolate(overlay(own, heatmaps, high=high), (TILE, TILE), mode="area")
        label = f"{shown(run.row)}\n0 to {high:.2g}"
        titles = [str(title) for title in record["titles"]]
        tiles = image_tiles(drawn, [f"{title}, {run.row}" for title in titles])
        strips.append(Strip(label, [captioned(t, c) for t, c in zip(tiles, titles, strict=True)]))
        pictures.append(drawn)
        labels.append(wrapped(label))
    stack = torch.stack(pictures)
    title = method.replace("_", " ")
    if "shows" in first:
        title = f"{title}: {first['shows']}"
    figure = unit_figure(
        UnitPictures(stack, torch.ones(stack.shape[:2]), labels),
        note=f"{title}: magma, 60 % opacity, from 0 to the value at the left",
    )
    return Panel(f"heatmaps_{method}_{data}", title, strips, figure)


def captioned(tile: str, caption: str) -> str:
    """A picture of the page with a line below it."""
    return f"<figure>{tile}<figcaption>{html.escape(caption)}</figcaption></figure>"


def unit_panels(data: str, layer: str, runs: Sequence[RunData]) -> list[Panel]:
    """Per network: the top images of its chosen filters."""
    panels = []
    for run in runs:
        record = run.panels.get(f"units_{layer}")
        if record is None:
            continue
        pictures = torch.as_tensor(record["pictures"]).float() / 255
        values = torch.as_tensor(record["values"]).float()
        captions = [str(caption) for caption in record["captions"]]
        strips = [
            Strip(caption, image_tiles(row[seen], [caption] * int(seen.sum())))
            for row, seen, caption in zip(pictures, values.isfinite(), captions, strict=True)
        ]
        figure = unit_figure(UnitPictures(pictures, values, captions))
        panels.append(Panel(f"units_{data}_{run.row}", shown(run.row), strips, figure))
    return panels
