"""The figure of one explained image: its heatmaps, and the units that the answer rests on."""

import textwrap
from collections.abc import Sequence

import torch
from matplotlib.figure import Figure
from torch import Tensor

from interp_train.figures import (
    INK,
    MUTED,
    OKABE_ITO,
    coloured,
    new_figure,
    overlay,
    picture_axes,
)
from interp_train.report.explanation_records import Explanation, HeatmapView, ImageView, UnitView
from interp_train.report.measures import number

_WIDTH, _MARGIN = 7.6, 0.06  # inches, as all that follow
_SPAN = _WIDTH - 2 * _MARGIN
_CAPTION, _GAP, _TILE = 2.0, 0.2, 0.98
_FOOT = 0.36
_NOTE = "Bright: field of the peak. Line: half of the unit's peak activation."


def probability(value: float) -> str:
    """A probability in two digits; never 1 or 0 unless it is."""
    if 0.995 <= value < 1:
        return "> .99"
    if 0 < value < 0.005:
        return "< .01"
    return number(value, digits=2)


def signed(value: float) -> str:
    """A contribution with its sign, in three digits."""
    text = f"{value:+.3g}"
    return text.replace("-", "−")


def headline(view: ImageView) -> str:
    """What the network says, and what is explained where that differs."""
    said = f"{words(view.predicted_name)} ({probability(view.confidence)})"
    if view.category == view.prediction:
        return said
    return f"{said}; explained: {words(view.category_name)}"


def kind_of(view: ImageView) -> str:
    """How far contributions can be trusted, in one word."""
    return "exact" if view.exact else "estimate"


def rule_of(view: ImageView) -> str:
    """What a contribution is, and what the contributions leave over."""
    left = f"{view.remainder + 0.0:.2f}".replace("-0.00", "0.00").replace("-", "−")
    return f"Contribution: {view.rule}; all units and a remainder of {left} make the logit."


def unit_heading(view: ImageView, explanation: Explanation) -> str:
    """What the list of units shows."""
    return (
        f"Units of {explanation.layer} that add most to the logit {view.score:.3g} of "
        f"{words(view.category_name)}"
    )


def words(name: str) -> str:
    """A name without underscores."""
    return name.replace("_", " ")


def drawn_heatmap(view: ImageView, heatmap: HeatmapView) -> Tensor:
    """The heatmap in colour over the grey image, ``(3, H, W)``."""
    return overlay(view.pixels[None], heatmap.heatmap[None, None], high=heatmap.high)[0]


def unit_lines(unit: UnitView) -> list[str]:
    """What is said about a unit under its title."""
    lines = [f"{signed(unit.contribution)}, {100 * unit.share:.0f} % of what speaks for it"]
    if unit.concept is not None:
        weak = "" if unit.concept.is_detector else ", no detector"
        lines.append(f"IoU {number(unit.concept.iou, digits=2)}{weak}")
    return lines


def explanation_figure(view: ImageView, explanation: Explanation) -> Figure:
    """A figure for print.

    Args:
        view: the image.
        explanation: that it belongs to.
    """
    sheet = _Sheet(_heights(view))
    sheet.text(0, 0.0, headline(view), size=10.5, weight="bold")
    _draw_heatmaps(sheet, view)
    if view.units:
        _draw_units(sheet, view, explanation)
    return sheet.figure


class _Sheet:
    """A figure whose places are inches from the upper left corner, inside the margins.

    Args:
        heights: of heading, heatmaps, units and foot.
    """

    def __init__(self, heights: Sequence[float]) -> None:
        self.heights = heights
        self.height = sum(heights) + 2 * _MARGIN
        self.figure = new_figure(_WIDTH, self.height)

    def box(
        self, left: float, top: float, width: float, height: float
    ) -> tuple[float, float, float, float]:
        """Left, bottom, width and height as shares of the figure."""
        bottom = self.height - _MARGIN - top - height
        return (
            (left + _MARGIN) / _WIDTH, bottom / self.height, width / _WIDTH, height / self.height,
        )  # fmt: skip

    def text(
        self,
        left: float,
        top: float,
        text: str,
        *,
        size: float = 7.5,
        colour: str = INK,
        align: str = "left",
        weight: str = "normal",
    ) -> None:
        """Text whose upper corner stands at a place."""
        x, y, _, _ = self.box(left, top, 0, 0)
        self.figure.text(
            x, y, text, fontsize=size, color=colour, ha=align, va="top", weight=weight,
            linespacing=1.15,
        )  # fmt: skip


def _grid(view: ImageView) -> tuple[int, float, float]:
    """Columns of the heatmaps, width and height of one of them."""
    columns = min(len(view.heatmaps) + 1, 5)
    wide = min((_SPAN - 0.12 * (columns - 1)) / columns, 1.9)
    return columns, wide, wide * view.pixels.shape[-2] / view.pixels.shape[-1]


def _heights(view: ImageView) -> tuple[float, float, float, float]:
    columns, _, tall = _grid(view)
    lines = -(-(len(view.heatmaps) + 1) // columns)
    units = 0.55 + len(view.units) * (_TILE + 0.06) if view.units else 0.0
    return 0.3, lines * (tall + 0.86), units, _FOOT if view.units else 0.0


def _draw_heatmaps(sheet: _Sheet, view: ImageView) -> None:
    columns, wide, tall = _grid(view)
    for index, heatmap in enumerate((None, *view.heatmaps)):
        left = (index % columns) * (wide + 0.12)
        top = sheet.heights[0] + (index // columns) * (tall + 0.86)
        title = heatmap.title if heatmap else _shortened(view.name, int(14 * wide))
        sheet.text(left, top, title, size=8.5)
        picture = drawn_heatmap(view, heatmap) if heatmap else view.pixels
        picture_axes(sheet.figure, sheet.box(left, top + 0.19, wide, tall), picture)
        if heatmap is not None:
            _draw_scale(sheet, heatmap, left, top + 0.19 + tall + 0.06, wide)


def _draw_scale(sheet: _Sheet, heatmap: HeatmapView, left: float, top: float, wide: float) -> None:
    """The colours from 0 to the highest value, and what they mean."""
    if heatmap.is_zero:
        sheet.text(left, top, "zero everywhere", colour=MUTED)
        return
    steps = coloured(torch.linspace(0, 1, 256)[None, None, None], low=0.0, high=1.0)[0]
    axes = picture_axes(sheet.figure, sheet.box(left, top, wide, 0.05), steps)
    axes.set_aspect("auto")
    sheet.text(left, top + 0.08, "0", size=7, colour=MUTED)
    sheet.text(left + wide, top + 0.08, f"{heatmap.high:.2g}", size=7, colour=MUTED, align="right")
    shows = textwrap.fill(heatmap.shows, int(19 * wide))
    sheet.text(left, top + 0.22, shows, size=6.5, colour=MUTED)


def _draw_units(sheet: _Sheet, view: ImageView, explanation: Explanation) -> None:
    top = sheet.heights[0] + sheet.heights[1]
    first = _CAPTION + _TILE + _GAP
    sheet.text(0, top, unit_heading(view, explanation), size=8.5, weight="bold")
    sheet.text(0, top + 0.22, f"contribution ({kind_of(view)})", colour=MUTED)
    sheet.text(_CAPTION, top + 0.22, "here", colour=MUTED)
    typical = f"top images of {explanation.typical_source}"
    if not explanation.typical_source:
        typical = textwrap.fill(f"no top images: {explanation.typical_reason}", 70)
    sheet.text(first, top + 0.22, typical, colour=MUTED)
    largest = view.units[0].contribution
    number_of = max((len(unit.typical) for unit in view.units), default=0)
    side = min(_TILE, (_SPAN - first + 0.04) / max(number_of, 1) - 0.04)
    for row, unit in enumerate(view.units):
        start = top + 0.5 + row * (_TILE + 0.06)
        _draw_caption(sheet, unit, start, unit.contribution / largest)
        picture_axes(sheet.figure, sheet.box(_CAPTION, start, _TILE, _TILE), unit.here)
        for column, picture in enumerate(kept_pictures(unit.typical)):
            place = sheet.box(first + column * (side + 0.04), start, side, side)
            picture_axes(sheet.figure, place, picture)
    foot = f"{_NOTE}\n{rule_of(view)}"
    sheet.text(0, sheet.height - 2 * _MARGIN - 0.25, foot, size=6.5, colour=MUTED)


def _draw_caption(sheet: _Sheet, unit: UnitView, top: float, length: float) -> None:
    y = top + 0.06
    for line in textwrap.wrap(unit.title, 27)[:2]:
        sheet.text(0, y, line, size=8.5)
        y += 0.15
    bar = sheet.figure.add_axes(sheet.box(0, y + 0.05, _CAPTION - 0.25, 0.06))
    bar.barh(0, length, height=1.0, color=OKABE_ITO[0])
    bar.set(xlim=(0, 1), ylim=(-0.5, 0.5))
    bar.set_axis_off()
    for index, line in enumerate(unit_lines(unit)):
        sheet.text(0, y + 0.16 + 0.14 * index, line, size=7, colour=MUTED)


def kept_pictures(pictures: Tensor) -> Sequence[Tensor]:
    """The pictures that are there, of ``(T, 3, S, S)``."""
    return [picture for picture in pictures if not bool(torch.isnan(picture).any())]


def _shortened(text: str, width: int) -> str:
    return text if len(text) <= width else f"{text[: width - 1]}…"
