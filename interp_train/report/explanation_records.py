"""What an explanation says, as plain records: for the page, the figures and explanation.json."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from interp_train.report.concept_labels import ConceptLabel


class HeatmapView(NamedTuple):
    """One method's heatmap of one image.

    Attributes:
        method: its name.
        shows: what its values are.
        heatmap: ``(H, W)`` >= 0, not rescaled.
        high: upper end of its colour scale.
    """

    method: str
    shows: str
    heatmap: Tensor
    high: float

    @property
    def is_zero(self) -> bool:
        """Whether nothing in the image speaks for the category by this method."""
        return bool(self.heatmap.amax() <= 1e-12)

    @property
    def title(self) -> str:
        """The method's name in words."""
        return self.method.replace("_", " ")


class UnitView(NamedTuple):
    """What one unit adds to the answer about one image.

    Attributes:
        unit: index in its layer.
        contribution: in units of the score.
        share: of all that speaks for the category, the sum of the positive contributions.
        activation: at its peak.
        position: (x, y) of its peak in pixels of the network's input.
        field: (x_min, y_min, x_max, y_max) of the theoretical receptive field of the peak.
        concept: what it stands for; None where no dissection says so.
        here: the image with the field of the peak lit, ``(3, S, S)`` in [0, 1].
        typical: the unit's top images, ``(T, 3, S, S)``; NaN where there are fewer.
        typical_values: their activations, ``(T,)``; NaN where there is no image.
        typical_ids: their sample ids, ``(T,)``; -1 where there is none.
    """

    unit: int
    contribution: float
    share: float
    activation: float
    position: tuple[float, float]
    field: tuple[float, float, float, float]
    concept: ConceptLabel | None
    here: Tensor
    typical: Tensor
    typical_values: tuple[float, ...]
    typical_ids: tuple[int, ...]

    @property
    def title(self) -> str:
        """Unit and concept in words."""
        if self.concept is None:
            return f"unit {self.unit}"
        return f"unit {self.unit} · {self.concept.name.replace('_', ' ')}"


class ImageView(NamedTuple):
    """The explanation of one image.

    Attributes:
        name: of the image, unique in the explanation.
        file: where it comes from; empty for a tensor.
        pixels: in [0, 1], ``(3, H, W)``.
        prediction: category index, or -1 for the background.
        confidence: probability of the prediction.
        ranking: most probable categories first: index, name, probability.
        category: index of the category that is explained.
        category_name: its name.
        score: its logit.
        heatmaps: one per method.
        units: the units that add most to the score, descending.
        rule: what a contribution is.
        exact: whether contributions and remainder add up to the score exactly.
        remainder: score minus all contributions: the bias where they are exact.
    """

    name: str
    file: str
    pixels: Tensor
    prediction: int
    confidence: float
    ranking: Sequence[tuple[int, str, float]]
    category: int
    category_name: str
    score: float
    heatmaps: Sequence[HeatmapView]
    units: Sequence[UnitView]
    rule: str
    exact: bool
    remainder: float

    @property
    def predicted_name(self) -> str:
        """Name of the prediction."""
        names = {index: name for index, name, _ in self.ranking}
        return "background" if self.prediction < 0 else names[self.prediction]


class Explanation(NamedTuple):
    """Explanations of some images by one network.

    Attributes:
        folder: where the page and the files lie.
        network: its name.
        source: checkpoint or description of the weights.
        layer: whose units are shown, dotted.
        images: one entry per image.
        typical_source: where the typical images come from; empty if there are none.
        typical_reason: why there are none.
        concept_source: file of the dissection; None without one.
        loss: ``"softmax"`` or ``"logistic"``: what a probability is.
    """

    folder: Path
    network: str
    source: str
    layer: str
    images: Sequence[ImageView]
    typical_source: str
    typical_reason: str
    concept_source: Path | None
    loss: str


def as_plain(explanation: Explanation) -> dict[str, Any]:
    """The explanation as plain values, without pictures; their files are named."""
    return {
        "network": explanation.network,
        "source": explanation.source,
        "layer": explanation.layer,
        "probability": explanation.loss,
        "dissection": str(explanation.concept_source) if explanation.concept_source else None,
        "typical_images": explanation.typical_source or None,
        "typical_images_missing": explanation.typical_reason or None,
        "images": [_plain_image(view) for view in explanation.images],
    }


def _plain_image(view: ImageView) -> dict[str, Any]:
    return {
        "name": view.name,
        "file": view.file or None,
        "prediction": view.predicted_name,
        "prediction_index": view.prediction,
        "confidence": view.confidence,
        "ranking": [
            {"index": index, "name": name, "probability": value}
            for index, name, value in view.ranking
        ],
        "explained": {"index": view.category, "name": view.category_name, "logit": view.score},
        "figure": [f"figures/{view.name}.png", f"figures/{view.name}.pdf"],
        "heatmaps": {heatmap.method: _plain_heatmap(heatmap) for heatmap in view.heatmaps},
        "contribution": view.rule,
        "contributions_exact": view.exact,
        "remainder": view.remainder,
        "units": [_plain_unit(unit) for unit in view.units],
    }


def _plain_heatmap(view: HeatmapView) -> Mapping[str, Any]:
    place = int(view.heatmap.argmax())
    width = view.heatmap.shape[-1]
    return {
        "shows": view.shows,
        "zero": view.is_zero,
        "highest": float(view.heatmap.amax()),
        "highest_at": None if view.is_zero else [place % width, place // width],
    }


def _plain_unit(view: UnitView) -> Mapping[str, Any]:
    return {
        "unit": view.unit,
        "contribution": view.contribution,
        "share": view.share,
        "activation": view.activation,
        "peak": list(view.position),
        "receptive_field": list(view.field),
        "label": view.concept.name if view.concept else None,
        "iou": view.concept.iou if view.concept else None,
        "typical_sample_ids": [index for index in view.typical_ids if index >= 0],
        "typical_activations": [value for value in view.typical_values if value == value],
    }
