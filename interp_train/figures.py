"""Tensors to pictures: overlays, spotlights, grids, and positions over landmarks.

Knows no logger and no trainer. Figures are built without `pyplot` and without global state, so a
writer thread may draw them while the main thread trains.

Colours: categories take the palette of Okabe and Ito (2008), which stays distinguishable under the
common colour-vision deficiencies; magnitudes take perceptually uniform maps (`magma`, `viridis`,
`cividis`) over a stated scale.

Reference: M. Okabe, K. Ito, "Color Universal Design", 2008.
"""

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from torch import Tensor
from torch.nn import functional

from interp_train.checks import check_shape

INK = "#1f2328"
MUTED = "#6a737d"
HAIRLINE = "#d4d9df"
PAPER = "#ffffff"

# Blue and vermilion first: the two that most figures need, furthest apart in every vision type.
OKABE_ITO = (
    "#0072b2",
    "#d55e00",
    "#009e73",
    "#cc79a7",
    "#e69f00",
    "#56b4e9",
    "#8c8c00",
    "#5c5c5c",
)
MARKERS = ("o", "s", "^", "D", "v", "P", "X")


class UnitPictures(NamedTuple):
    """The top images of some units.

    Attributes:
        images: pixels in [0, 1], ``(U, T, 3, H, W)``; all NaN where a unit has fewer images.
        values: activation at the peak, ``(U, T)``; NaN where there is no image.
        labels: one caption per unit.
    """

    images: Tensor
    values: Tensor
    labels: Sequence[str]


def category_style(index: int) -> tuple[str, str]:
    """Colour and marker of the `index`-th category; 56 combinations before they repeat."""
    return OKABE_ITO[index % len(OKABE_ITO)], MARKERS[index // len(OKABE_ITO) % len(MARKERS)]


def unnormalised(images: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """Pixels in [0, 1], float32 ``(..., 3, H, W)``, of normalised images ``(..., C, H, W)``.

    Args:
        images: network input; one channel becomes three.
        mean: per channel.
        std: per channel.
    """
    shape = (-1, 1, 1)
    scale = torch.as_tensor(std, dtype=torch.float32, device=images.device).view(shape)
    shift = torch.as_tensor(mean, dtype=torch.float32, device=images.device).view(shape)
    pixels = (images.float() * scale + shift).clamp(0, 1)
    return pixels.expand(*pixels.shape[:-3], 3, *pixels.shape[-2:])


def rescaled(images: Tensor) -> Tensor:
    """Pixels in [0, 1] of images whose normalisation is unknown: the batch's range is stretched."""
    low, high = images.min(), images.max()
    pixels = (images.float() - low) / (high - low).clamp(min=1e-12)
    return pixels.expand(*pixels.shape[:-3], 3, *pixels.shape[-2:])


@functools.cache
def _colour_table(name: str) -> Tensor:
    colours = matplotlib.colormaps[name](np.linspace(0, 1, 256))[:, :3]
    return torch.as_tensor(np.ascontiguousarray(colours), dtype=torch.float32)


def coloured(values: Tensor, *, low: float, high: float, colour_map: str = "magma") -> Tensor:
    """Colours ``(N, 3, H, W)`` of values on the scale [low, high], beyond it the end colours.

    Args:
        values: ``(N, 1, H, W)``.
        low: value of the first colour.
        high: value of the last colour.
        colour_map: a perceptually uniform map of matplotlib.
    """
    check_shape("values", values, ("N", 1, "H", "W"))
    table = _colour_table(colour_map).to(values.device)
    share = (values.float() - low) / max(high - low, 1e-12)
    index = (share.nan_to_num(0.0).clamp(0, 1) * 255).round().long()[:, 0]
    return table[index].permute(0, 3, 1, 2)


def overlay(
    images: Tensor,
    heatmaps: Tensor,
    *,
    high: float,
    opacity: float = 0.6,
    colour_map: str = "magma",
) -> Tensor:
    """Heatmaps in colour over the grey images, at one opacity, so that a colour bar holds.

    Args:
        images: pixels in [0, 1], ``(N, 3, H, W)``.
        heatmaps: ``(N, 1, H, W)`` >= 0.
        high: value of the last colour; the first stands for 0.
        opacity: of the colours, 0..1.
        colour_map: see `coloured`.

    Returns:
        ``(N, 3, H, W)`` in [0, 1].
    """
    check_shape("images", images, ("N", 3, "H", "W"))
    grey = images.mean(1, keepdim=True).expand_as(images)
    colours = coloured(heatmaps, low=0.0, high=high, colour_map=colour_map)
    return (1 - opacity) * grey + opacity * colours


def spotlight(images: Tensor, centres: Tensor, diameter: float, *, darkness: float = 0.6) -> Tensor:
    """Images darkened outside a round field.

    Args:
        images: pixels in [0, 1], ``(N, 3, H, W)``.
        centres: (x, y) of the field in pixels, ``(N, 2)``; a NaN leaves that image as it is.
        diameter: of the field, in pixels; the edge is soft over a tenth of it.
        darkness: share of the light taken away outside, 0..1.

    Returns:
        ``(N, 3, H, W)``.
    """
    check_shape("images", images, ("N", 3, "H", "W"))
    check_shape("centres", centres, (images.shape[0], 2))
    height, width = images.shape[-2:]
    rows = torch.arange(height, device=images.device).view(1, -1, 1)
    columns = torch.arange(width, device=images.device).view(1, 1, -1)
    x, y = centres.to(images.device).float().view(-1, 2, 1, 1).unbind(1)
    distance = ((columns - x) ** 2 + (rows - y) ** 2).sqrt()
    light = ((diameter / 2 - distance) / (0.1 * diameter) + 0.5).clamp(0, 1)
    light = light.nan_to_num(1.0).unsqueeze(1)
    return images * (1 - darkness * (1 - light))


def outlined(images: Tensor, masks: Tensor, colour: str = "#ffffff", width: int = 1) -> Tensor:
    """Images with the inner edge of a mask drawn in.

    Args:
        images: ``(N, 3, H, W)`` in [0, 1].
        masks: bool ``(N, 1, H, W)``.
        colour: of the line.
        width: in pixels.
    """
    inside = masks.float()
    # A pixel stays inside after erosion if its whole neighbourhood is inside.
    eroded = -functional.max_pool2d(-inside, 2 * width + 1, stride=1, padding=width)
    edge = (inside > 0) & (eroded == 0)
    paint = torch.tensor(matplotlib.colors.to_rgb(colour), device=images.device).view(1, 3, 1, 1)
    return torch.where(edge, paint, images)


def image_grid(images: Tensor, columns: int, *, gap: int = 3, background: float = 1.0) -> Tensor:
    """Images in rows of `columns`, with a gap between them and none around.

    Args:
        images: ``(N, 3, H, W)``; where NaN, the background shows.
        columns: images per row.
        gap: pixels between images.
        background: grey level.

    Returns:
        ``(3, rows * (H + gap) - gap, columns * (W + gap) - gap)``.
    """
    number, channels, height, width = images.shape
    rows = -(-number // columns)
    canvas = images.new_full(
        (channels, rows * (height + gap) - gap, columns * (width + gap) - gap), background
    )
    for index, image in enumerate(images.nan_to_num(background)):
        top, left = index // columns * (height + gap), index % columns * (width + gap)
        canvas[:, top : top + height, left : left + width] = image
    return canvas


def new_figure(width: float, height: float) -> Figure:
    """An empty figure, in inches, that belongs to no window system and no global list."""
    figure = Figure(figsize=(width, height), dpi=110, facecolor=PAPER)
    FigureCanvasAgg(figure)
    return figure


def as_pixels(figure: Figure) -> Tensor:
    """A figure as pixels, uint8 ``(3, H, W)``."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()  # type: ignore[no-untyped-call]
    pixels = np.asarray(canvas.buffer_rgba())[..., :3]  # type: ignore[no-untyped-call]
    return torch.from_numpy(pixels.copy()).permute(2, 0, 1)


def save_figure(figure: Figure, path: Path) -> Path:
    """Write a figure in the format of the path's suffix, without dates; folders are made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    options: dict[str, dict[str, Any]] = {  # level 6 would take four times as long, save a tenth
        ".png": {"metadata": {"Software": None}, "pil_kwargs": {"compress_level": 2}},
        ".pdf": {"metadata": dict.fromkeys(("Creator", "Producer", "CreationDate"))},
        ".svg": {"metadata": dict.fromkeys(("Creator", "Date", "Format", "Type"))},
    }
    figure.savefig(path, **options.get(path.suffix, {}))
    return path


def quiet_axes(axes: Axes, *, grid: bool = True) -> Axes:
    """Axes without a box: two hairlines, muted ticks, and a faint horizontal grid."""
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color(HAIRLINE)
    axes.tick_params(colors=MUTED, labelsize=8, length=0)
    axes.xaxis.label.set(color=MUTED, fontsize=8.5)
    axes.yaxis.label.set(color=MUTED, fontsize=8.5)
    axes.set_axisbelow(True)
    if grid:
        axes.grid(axis="y", color=HAIRLINE, linewidth=0.6)
    return axes


def picture_axes(figure: Figure, place: tuple[float, float, float, float], image: Tensor) -> Axes:
    """Axes at `place` (left, bottom, width, height; shares of the figure) that hold one image."""
    axes = figure.add_axes(place)
    axes.imshow(image.clamp(0, 1).permute(1, 2, 0).cpu().numpy(), interpolation="antialiased")
    axes.set_axis_off()
    return axes


def colour_bar(
    figure: Figure,
    place: tuple[float, float, float, float],
    *,
    high: float,
    label: str,
    colour_map: str = "magma",
) -> None:
    """A horizontal colour bar from 0 to `high` with its quantity and unit."""
    axes = figure.add_axes(place)
    scale = ScalarMappable(Normalize(0, high), cmap=colour_map)
    bar = figure.colorbar(scale, cax=axes, orientation="horizontal", ticks=[0, high / 2, high])
    bar.outline.set_visible(False)
    axes.set_xticklabels(["0", f"{high / 2:.2g}", f"{high:.2g}"])
    axes.tick_params(colors=MUTED, labelsize=8, length=0, pad=2)
    axes.set_title(label, fontsize=8, color=MUTED, loc="left", pad=3)


def common_high(heatmaps: Tensor) -> float:
    """Upper end of one colour scale: 99.5 % of all pixels lie below it; 1 if all maps are zero."""
    values = heatmaps.float().flatten()
    high = float(values.kthvalue(int(0.995 * (len(values) - 1)) + 1).values) or float(values.max())
    return high if high > 1e-12 else 1.0


def heatmap_figure(
    images: Tensor,
    heatmaps: Tensor,
    titles: Sequence[str],
    *,
    scale_label: str,
) -> Figure:
    """Images in the first row, their heatmaps over them in the second, one scale for all.

    Args:
        images: pixels in [0, 1], ``(N, 3, H, W)``.
        heatmaps: ``(N, 1, H, W)`` >= 0.
        titles: one per image.
        scale_label: quantity and unit of the heatmaps.
    """
    check_shape("heatmaps", heatmaps, (images.shape[0], 1, *images.shape[-2:]))
    number = images.shape[0]
    high = common_high(heatmaps)
    grid = image_grid(torch.cat([images, overlay(images, heatmaps, high=high)]), number)
    width = max(1.35 * number, 4.0)
    picture = width * grid.shape[1] / grid.shape[2]
    height = picture + 0.3 + 0.62
    figure = new_figure(width, height)
    place = (0.0, 0.62 / height, 1.0, picture / height)
    axes = picture_axes(figure, place, grid)
    for index, title in enumerate(titles):
        x, y = index * (images.shape[-1] + 3) + images.shape[-1] / 2, -0.027 * images.shape[-2]
        axes.text(x, y, title, ha="center", va="bottom", fontsize=7.5, color=INK)
    bar = (0.004, 0.2 / height, min(0.5, 2.2 / width), 0.1 / height)
    colour_bar(figure, bar, high=high, label=scale_label)
    return figure


def unit_figure(pictures: UnitPictures, *, note: str = "") -> Figure:
    """One row per unit: its caption, then its top images from the highest activation down.

    Args:
        pictures: images, activations and captions.
        note: a line under the rows: what is bright, what the line encloses.
    """
    units, tops = pictures.values.shape
    side = pictures.images.shape[-1]
    grid = image_grid(pictures.images.flatten(0, 1), tops, gap=max(2, side // 32))
    caption, foot = 1.55, 0.32 if note else 0.05
    width = caption + 1.02 * tops
    picture = (width - caption) * grid.shape[1] / grid.shape[2]
    height = picture + foot
    figure = new_figure(width, height)
    place = (caption / width, foot / height, 1 - caption / width, picture / height)
    axes = picture_axes(figure, place, grid)
    step = grid.shape[1] / units
    for row, label in enumerate(pictures.labels):
        y = (row + 0.5) * step
        axes.text(-0.06 * side, y, label, ha="right", va="center", fontsize=8, color=INK)
    if note:
        figure.text(caption / width, 0.1 / height, note, fontsize=7.5, color=MUTED)
    return figure


def position_figure(
    images: Tensor,
    landmarks: Tensor,
    positions: Tensor,
    *,
    unit_parts: Sequence[int],
    part_names: Sequence[str],
    columns: int = 4,
) -> Figure:
    """Where units fire (filled) over the landmarks of the parts they follow (rings).

    Args:
        images: pixels in [0, 1], ``(N, 3, H, W)``.
        landmarks: (x, y) of each part, ``(N, P, 2)``; NaN where not visible.
        positions: (x, y) of each unit's peak, ``(N, U, 2)``; NaN where it is silent.
        unit_parts: index of the part that each unit follows; -1 for none (drawn grey).
        part_names: one per part.
        columns: images per row.
    """
    check_shape("landmarks", landmarks, (images.shape[0], len(part_names), 2))
    check_shape("positions", positions, (images.shape[0], len(unit_parts), 2))
    gap, number, side = 3, images.shape[0], images.shape[-1]
    columns = min(columns, number)
    grid = image_grid(images * 0.82 + 0.18, columns, gap=gap)
    width = 1.75 * columns
    picture = width * grid.shape[1] / grid.shape[2]
    parts = sorted({part for part in unit_parts if part >= 0})
    foot = 0.14 + 0.2 * -(-(len(parts) + 2) // (2 * columns))
    figure = new_figure(width, picture + foot)
    axes = picture_axes(figure, (0, foot / (picture + foot), 1, picture / (picture + foot)), grid)
    index = torch.arange(number)
    step = torch.tensor([side + gap, images.shape[-2] + gap])
    corner = (torch.stack([index % columns, index // columns], -1) * step)[:, None]
    for part in parts:
        _draw_landmarks(axes, landmarks[:, part] + corner[:, 0], part)
    _draw_peaks(axes, positions + corner, unit_parts, part_names)
    axes.scatter([], [], s=45, facecolors="none", edgecolors=MUTED, label="landmark")
    figure.legend(
        *axes.get_legend_handles_labels(), loc="lower left", ncols=2 * columns, frameon=False,
        fontsize=7.5, labelcolor=INK, handletextpad=0.1, columnspacing=0.9, borderpad=0.1,
    )  # fmt: skip
    return figure


def _draw_landmarks(axes: Axes, landmarks: Tensor, part: int) -> None:
    x, y = landmarks.unbind(-1)
    colour, marker = category_style(part)
    for edge, width in (("white", 2.6), (colour, 1.4)):
        axes.scatter(x, y, s=64, marker=marker, facecolors="none", edgecolors=edge, lw=width)


def _draw_peaks(
    axes: Axes, positions: Tensor, unit_parts: Sequence[int], part_names: Sequence[str]
) -> None:
    labelled: set[int] = set()
    for unit, part in enumerate(unit_parts):
        x, y = positions[:, unit].unbind(-1)
        colour, marker = category_style(part) if part >= 0 else (MUTED, "o")
        name = part_names[part] if part >= 0 else "no part"
        label = None if part in labelled else name
        labelled.add(part)
        axes.scatter(
            x, y, s=17, marker=marker, color=colour, edgecolors="white", lw=0.7, label=label
        )
