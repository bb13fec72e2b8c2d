"""Write an explanation: explanation.html (opens offline), explanation.json, a figure per image."""

import html
from pathlib import Path
from typing import NamedTuple

import torch
from markupsafe import Markup
from torch import Tensor
from torch.nn import functional

import interp_train
from interp_train.atomic_files import write_json, write_text
from interp_train.figures import save_figure
from interp_train.report.embedding import data_uri
from interp_train.report.explanation_figure import (
    drawn_heatmap,
    explanation_figure,
    headline,
    kept_pictures,
    probability,
    rule_of,
    unit_heading,
    unit_lines,
    words,
)
from interp_train.report.explanation_records import Explanation, ImageView, UnitView, as_plain
from interp_train.report.page import environment

_LARGE, _SMALL = 224, 128  # sides of pictures in the page, in pixels


class _Section(NamedTuple):
    """One image of the page."""

    anchor: str
    title: str
    file: str
    ranking: list[tuple[str, str, float]]
    pictures: Markup
    heading: str
    rule: str
    units: list[dict[str, object]]


def write_explanation(explanation: Explanation) -> Path:
    """Write the page, the records and the figures into the explanation's folder.

    Returns:
        The path of explanation.html.
    """
    folder = explanation.folder
    for view in explanation.images:
        figure = explanation_figure(view, explanation)
        for suffix in (".png", ".pdf"):
            save_figure(figure, folder / "figures" / f"{view.name}{suffix}")
    write_json(folder / "explanation.json", as_plain(explanation))
    page = environment().get_template("explanation.html.j2").render(
        title=f"Explanations by {explanation.network}",
        facts=_facts(explanation),
        sections=[_section(view, explanation) for view in explanation.images],
        typical=explanation.typical_source,
        typical_missing=explanation.typical_reason,
        version=interp_train.__version__,
    )  # fmt: skip
    path = folder / "explanation.html"
    write_text(path, page)
    return path


def _facts(explanation: Explanation) -> list[tuple[str, str]]:
    concepts = explanation.concept_source.name if explanation.concept_source else "none given"
    return [
        ("network", explanation.source),
        ("layer of the units", explanation.layer),
        ("images", str(len(explanation.images))),
        ("concepts of the units", concepts),
        ("probability", "each category against the rest" if explanation.loss == "logistic"
         else "softmax over the categories"),
    ]  # fmt: skip


def _section(view: ImageView, explanation: Explanation) -> _Section:
    return _Section(
        anchor=f"image-{view.name}",
        title=headline(view),
        file=Path(view.file).name or view.name,
        ranking=[(words(name), probability(value), value) for _, name, value in view.ranking],
        pictures=_pictures(view),
        heading=unit_heading(view, explanation),
        rule=rule_of(view),
        units=[_unit(unit, view) for unit in view.units],
    )


def _pictures(view: ImageView) -> Markup:
    tiles = [_tile(view.pixels, f"{view.name} as the network sees it", "image", "", _LARGE)]
    for heatmap in view.heatmaps:
        scale = "zero everywhere" if heatmap.is_zero else f"0 to {heatmap.high:.2g}"
        alt = f"{heatmap.title} of {view.name}"
        note = f"{scale}; {heatmap.shows}"
        tiles.append(_tile(drawn_heatmap(view, heatmap), alt, heatmap.title, note, _LARGE))
    return Markup("".join(tiles))  # every text in it is escaped


def _unit(unit: UnitView, view: ImageView) -> dict[str, object]:
    largest = view.units[0].contribution
    typical = [
        _image(picture, f"top image {index + 1} of {unit.title}", _SMALL)
        for index, picture in enumerate(kept_pictures(unit.typical))
    ]
    return {
        "title": unit.title,
        "lines": unit_lines(unit),
        "bar": f"{100 * unit.contribution / largest:.0f}",
        "here": Markup(_image(unit.here, f"where {unit.title} fires here", _SMALL)),
        "typical": Markup("".join(typical)),
        "tiles": max(len(typical), 1),
    }


def _tile(picture: Tensor, alt: str, title: str, note: str, side: int) -> str:
    caption = f"<strong>{html.escape(title)}</strong>"
    caption += f"<span>{html.escape(note)}</span>" if note else ""
    return f"<figure>{_image(picture, alt, side)}<figcaption>{caption}</figcaption></figure>"


def _image(picture: Tensor, alt: str, side: int) -> str:
    """An image element of ``(3, H, W)`` in [0, 1], its longer side `side` pixels at least."""
    height, width = picture.shape[-2:]
    scale = side / max(height, width)
    if scale > 1:  # small pictures keep their pixels visible
        picture = functional.interpolate(picture[None], scale_factor=int(scale), mode="nearest")[0]
    pixels = (picture.clamp(0, 1) * 255).round().to(torch.uint8).numpy()
    return (
        f'<img src="{data_uri(pixels, quality=88)}" alt="{html.escape(alt)}" '
        f'width="{pixels.shape[2]}" height="{pixels.shape[1]}">'
    )
