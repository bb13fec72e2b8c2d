"""Capsules in the report: images drawn from them, each atom varied, and who votes for them."""

from collections.abc import Sequence
from typing import Any

import torch
from markupsafe import Markup, escape
from matplotlib.figure import Figure
from torch import Tensor

from interp_train.capsule_figures import reconstruction_figure, sweep_figure, vote_figure
from interp_train.figures import as_pixels
from interp_train.report.blocks import Block
from interp_train.report.embedding import data_uri
from interp_train.report.records import RunData
from interp_train.report.tables import shown

_TEXT = (
    "An image is drawn from its longest capsule alone. In the rows below one atom of that capsule "
    "changes and the rest stays: a capsule whose atoms mean something changes one thing in each "
    "row. Votes lie where the primary capsules lie that send what they see to the longest capsule."
)


def capsule_blocks(data: str, runs: Sequence[RunData]) -> list[Block]:
    """A block for each run whose capsules were pictured.

    Args:
        data: name of the data set.
        runs: one per row.
    """
    found = []
    for run in runs:
        record = run.panels.get("capsules")
        if record is not None and "images" in record:
            body = Markup().join(_bodies(record))
            found.append(Block(f"What the capsules hold, {data}: {shown(run.row)}", _TEXT, body))
    return found


def _bodies(record: Any) -> list[Markup]:
    images, titles = _pixels(record["images"]), [str(title) for title in record["titles"]]
    bodies = []
    if "drawn" in record:
        figure = reconstruction_figure(images, _pixels(record["drawn"]), titles)
        bodies.append(_picture("images, and what is drawn from their longest capsules", figure))
    for name in record:
        if name.startswith("varied_"):
            place = int(name.removeprefix("varied_"))
            offsets = [float(offset) for offset in record["offsets"]]
            figure = sweep_figure(_pixels(record[name]), offsets, title=titles[place])
            bodies.append(_picture(f"each atom varied: {titles[place]}", figure))
    if "votes" in record:
        votes = torch.as_tensor(record["votes"]).float()
        bodies.append(_picture("votes for the longest capsule", vote_figure(images, votes, titles)))
    return bodies


def _pixels(values: Any) -> Tensor:
    return torch.as_tensor(values).float() / 255


def _picture(caption: str, figure: Figure) -> Markup:
    return Markup(
        '<figure class="plot"><img src="{}" alt="{}" style="max-width:100%">'
        "<figcaption>{}</figcaption></figure>"
    ).format(data_uri(as_pixels(figure).numpy()), escape(caption), caption)
