"""Figures and pictures as parts of a page that loads nothing from outside."""

import base64
import io
import re
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from markupsafe import Markup
from matplotlib.figure import Figure
from PIL import Image

from interp_train.figures import HAIRLINE, INK, MUTED, PAPER, as_pixels, save_figure
from interp_train.report.plots import Plot

# Ink of the files -> ink of the page.
_PAGE_COLOURS = {INK: "var(--ink)", MUTED: "var(--muted)", HAIRLINE: "var(--line)", PAPER: "none"}
_LIVE_TEXT: Any = {"svg.fonttype": "none", "pdf.fonttype": 42, "svg.hashsalt": "interp_train"}


def save_plot(plot: Plot, folder: Path) -> str:
    """Write ``<name>.png``, ``.pdf`` and ``.svg``; returns the svg for the page."""
    with matplotlib.rc_context(_LIVE_TEXT):
        for suffix in (".png", ".pdf", ".svg"):
            path = save_figure(plot.figure, folder / f"{plot.name}{suffix}")
    return inline_svg(plot, path.read_text(encoding="utf-8"))


def inline_svg(plot: Plot, text: str) -> str:
    """An svg file as an element in the colours of the page, without ids that could clash."""
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r'\sxmlns(:\w+)?="[^"]*"', "", text)
    text = text.replace("xlink:href", "href")
    prefix = re.sub(r"\W", "-", plot.name)
    text = re.sub(r'\bid="([^"]+)"', rf'id="{prefix}-\1"', text)
    text = re.sub(r'href="#([^"]+)"', rf'href="#{prefix}-\1"', text)
    text = re.sub(r"url\(#([^)]+)\)", rf"url(#{prefix}-\1)", text)
    for ink, page in _PAGE_COLOURS.items():
        text = text.replace(ink, page)
    text = re.sub(r"font: ([\d.]+px) '[^;\"]*", r"font: \1 var(--sans)", text)
    text = re.sub(r"font: (bold|700) ([\d.]+px) '[^;\"]*", r"font: 700 \2 var(--sans)", text)
    text = re.sub(r'width="[\d.]+pt" height="[\d.]+pt"', "", text, count=1)
    label = plot.alt.replace("&", "&amp;").replace('"', "&quot;").replace("<", "&lt;")
    size = f"width:{plot.figure.get_figwidth() * 96:.0f}px"
    return text.replace("<svg", f'<svg role="img" aria-label="{label}" style="{size}"', 1)


def save_picture(figure: Figure, folder: Path, name: str, alt: str) -> Markup:
    """Write ``<name>.png`` and ``.pdf``; returns the picture for the page, at twice its size."""
    for suffix in (".png", ".pdf"):
        save_figure(figure, folder / f"{name}{suffix}")
    wide = round(figure.get_figwidth() * 96)
    figure.set_dpi(192)
    pixels = as_pixels(figure).numpy()
    return Markup('<img src="{}" alt="{}" style="width:{}px;max-width:100%">').format(
        data_uri(pixels, quality=88), alt, wide
    )


def data_uri(pixels: Any, quality: int = 80) -> str:
    """Pixels uint8 ``(3, H, W)`` as a WebP image inside the page."""
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(np.moveaxis(pixels, 0, -1))).save(
        buffer, format="WEBP", quality=quality, method=4
    )
    return "data:image/webp;base64," + base64.b64encode(buffer.getvalue()).decode()
