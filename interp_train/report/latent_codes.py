"""Latent codes in the report: samples, and animations that run through each code."""

import base64
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from markupsafe import Markup, escape
from torch import Tensor
from torch.nn import functional

from interp_train.figures import image_grid
from interp_train.latent_figures import animation_frames, gif
from interp_train.report.blocks import Block
from interp_train.report.embedding import data_uri
from interp_train.report.records import RunData
from interp_train.report.tables import shown

_TEXT = (
    "Every row, or every image of an animation, starts from latents of its own; along it only the "
    "named code changes. A code that means something changes one thing, and the same in all rows."
)
_WIDEST = 640  # pixels of an animation


def code_blocks(data: str, runs: Sequence[RunData], folder: Path) -> list[Block]:
    """A block for each run whose codes were pictured.

    Animations also go to ``figures/code_<name>_<data>_<row>.gif``.

    Args:
        data: name of the data set.
        runs: one per row.
        folder: of the report.
    """
    found = []
    for run in runs:
        record = run.panels.get("codes")
        if record is not None and "samples" in record:
            body = Markup().join(_bodies(record, f"{data}_{run.row}", folder))
            found.append(Block(f"What the codes mean: {shown(run.row)}", _TEXT, body))
    return found


def _bodies(record: Any, suffix: str, folder: Path) -> list[Markup]:
    samples = torch.as_tensor(record["samples"]).float() / 255
    bodies = [_picture("samples", image_grid(samples, min(10, len(samples)), gap=2))]
    for key in record:
        if not key.startswith("varied_"):
            continue
        name = key.removeprefix("varied_")
        images = torch.as_tensor(record[key]).float() / 255
        if name.endswith("uniform"):
            bodies.append(
                _animation(name, images, folder / "figures" / f"code_{name}_{suffix}.gif")
            )
        else:
            grid = image_grid(images.flatten(0, 1), images.shape[1], gap=2)
            bodies.append(_picture(f"code {name}: one value per column", grid))
    return bodies


def _picture(caption: str, pixels: Tensor) -> Markup:
    times = max(1, _WIDEST // pixels.shape[-1])
    large = functional.interpolate(pixels[None], scale_factor=times, mode="nearest")[0]
    source = data_uri((large.clamp(0, 1) * 255).round().to(torch.uint8).numpy())
    return _figure(caption, source)


def _animation(name: str, images: Tensor, path: Path) -> Markup:
    """Images ``(rows, steps, 3, H, W)`` as frames in which all rows move at once."""
    frames = animation_frames(images.transpose(0, 1), min(10, len(images)))
    content = gif(frames, scale=max(1, _WIDEST // frames.shape[-1]))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    source = "data:image/gif;base64," + base64.b64encode(content).decode()
    return _figure(f"code {name}: from its lowest value to its highest, and back", source)


def _figure(caption: str, source: str) -> Markup:
    return Markup(
        '<figure class="plot"><img src="{}" alt="{}" style="max-width:100%">'
        "<figcaption>{}</figcaption></figure>"
    ).format(source, escape(caption), caption)
