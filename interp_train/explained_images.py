"""From images and a network to the records of their explanation."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from interp_train.activations import gradients_enabled
from interp_train.callbacks.predictions import predict
from interp_train.callbacks.unit_panels import drawn_diameter, unit_pictures
from interp_train.checks import check_name, check_range
from interp_train.diagnosis.unit_contributions import (
    ESTIMATE,
    EXACT,
    UnitContributions,
    unit_contributions,
)
from interp_train.evaluation.peak_table import MapFrame, map_frame, peaks_of
from interp_train.figures import common_high
from interp_train.layer_geometry import cells_of
from interp_train.protocols import HeatmapMethod
from interp_train.receptive_field import receptive_field_boxes
from interp_train.report.concept_labels import ConceptLabel, find_labels, read_labels
from interp_train.report.explanation_records import (
    Explanation,
    HeatmapView,
    ImageView,
    UnitView,
)
from interp_train.structures import Target
from interp_train.target_scores import resolved_layer
from interp_train.trained_network import TrainedNetwork
from interp_train.typical_images import (
    TypicalImages,
    loader_batches,
    no_images,
    pixels_of_input,
    typical_images,
)

PICTURE_SIZE = 168  # side of the pictures of units, in pixels
_RANKED = 5  # categories that are listed


@dataclass(frozen=True)
class ExplanationSettings:
    """What is explained, and how much of it.

    Attributes:
        category: index or name of the category that is explained; None is the predicted one.
        layer: of the units, dotted name or tap alias; None is the network's last tap.
        num_units: units per image.
        num_top_images: images that excite a unit most.
        search_images: how many images of the data are searched for them.
        field_share: diameter of the drawn field over the theoretical receptive field.
        fit: how a photo fills the input: ``"stretch"`` or ``"centre"``.
        dissection: csv or JSON file with unit, label, iou; None looks in the run folder.
    """

    category: int | str | None = None
    layer: str | None = None
    num_units: int = 5
    num_top_images: int = 5
    search_images: int = 500
    field_share: float = 0.37
    fit: str = "stretch"
    dissection: str | None = None

    def __post_init__(self) -> None:
        """Check the ranges."""
        check_range("num_units", self.num_units, 0)
        check_range("num_top_images", self.num_top_images, 0)
        check_range("search_images", self.search_images, 1)
        check_range("field_share", self.field_share, 0)


@dataclass(frozen=True)
class Question:
    """Everything that an explanation is made from.

    Attributes:
        subject: the network.
        images: its input, ``(N, channels, H, W)``.
        files: of the images; empty text for those without.
        methods: name -> heatmap method.
        settings: what is explained.
        loader: of the data where top images are searched; None without.
        said: what these data are, or why there is no loader.
    """

    subject: TrainedNetwork
    images: Tensor
    files: Sequence[str]
    methods: Mapping[str, HeatmapMethod]
    settings: ExplanationSettings
    loader: Any = None
    said: str = ""


def explanation_of(question: Question, folder: Path) -> Explanation:
    """The explanations of all images, as records; nothing is written.

    Args:
        question: network, images and settings.
        folder: where they will be written.

    Raises:
        ValueError: for an unknown layer or category, or a layer without maps.
    """
    subject, settings, images = question.subject, question.settings, question.images
    layer = resolved_layer(subject.network, settings.layer)
    logits = torch.cat([subject.logits(image[None]) for image in images])
    categories = _categories(logits, question)
    evidence = [
        unit_contributions(
            subject.network, image[None].to(subject.device), Target(None, category[None]), layer
        )
        for image, category in zip(images, categories, strict=True)
    ]
    geometry = cells_of(subject.network, layer, images.to(subject.device))
    frame = map_frame(evidence[0].activations, images, geometry)
    top = [top_units(found.contributions[0], settings.num_units) for found in evidence]
    typical = _typical(question, sorted({unit for units in top for unit in units}), frame, layer)
    labels, labels_file = _concepts(question, layer)
    names = unique_names(question.files)
    views = []
    for index, (found, chosen) in enumerate(zip(evidence, top, strict=True)):
        units = _unit_views(images[index], found, chosen, frame, question)
        units = [_completed(unit, typical, labels.get(unit.unit)) for unit in units]
        view = _image_view(question, index, logits[index], int(categories[index]), found)
        views.append(view._replace(name=names[index], units=units))
    return Explanation(
        folder, subject.name, subject.source, layer, views, typical.source, typical.reason,
        labels_file, subject.loss,
    )  # fmt: skip


def top_units(contributions: Tensor, number: int) -> list[int]:
    """The units that contribute most, descending; those that add nothing are left out.

    Args:
        contributions: of one image, ``(K,)``.
        number: of units, at most.
    """
    order = contributions.argsort(descending=True, stable=True)[:number]
    return [int(unit) for unit in order if contributions[unit] > 0]


def unique_names(files: Sequence[str]) -> list[str]:
    """A name per image that may stand in a file name, from its file or its number."""
    names: list[str] = []
    for index, file in enumerate(files, 1):
        stem = re.sub(r"[^A-Za-z0-9._-]+", "_", Path(file).stem) if file else f"image_{index}"
        name = stem
        while name in names:
            name = f"{stem}_{index}" if name == stem else f"{name}_"
        names.append(name)
    return names


def _categories(logits: Tensor, question: Question) -> Tensor:
    """The category that is explained, per image, long ``(N,)``.

    The highest logit, also where the answer is the background.
    """
    asked = question.settings.category
    if asked is None:
        return logits.argmax(1)
    number = logits.shape[1]
    if isinstance(asked, str) and not asked.isdigit():
        names = question.subject.class_names(number)
        check_name("category", asked, names, "a category of the network")
        asked = names.index(asked)
    check_range("category", int(asked), 0, number - 1)
    return torch.full((len(logits),), int(asked))


def _image_view(
    question: Question, index: int, logits: Tensor, category: int, found: UnitContributions
) -> ImageView:
    subject = question.subject
    names = subject.class_names(len(logits))
    predictions, confidences = predict(logits[None], subject.loss, subject.background)
    logistic = subject.loss == "logistic"
    probabilities = logits.sigmoid() if logistic else logits.softmax(0)
    order = probabilities.argsort(descending=True, stable=True)[:_RANKED].tolist()
    exact = bool(found.exact[0])
    return ImageView(
        name="",
        file=question.files[index],
        pixels=pixels_of_input(question.images[index], subject.info),
        prediction=int(predictions[0]),
        confidence=float(confidences[0]),
        ranking=[(place, names[place], float(probabilities[place])) for place in order],
        category=category,
        category_name=names[category],
        score=float(found.scores[0]),
        heatmaps=_heatmaps(question, index, category),
        units=(),
        rule=EXACT if exact else ESTIMATE,
        exact=exact,
        remainder=float(found.remainders[0]),
    )


def _heatmaps(question: Question, index: int, category: int) -> list[HeatmapView]:
    subject = question.subject
    image = question.images[index : index + 1].to(subject.device)
    views = []
    for name, method in question.methods.items():
        with gradients_enabled():
            units = torch.tensor([category], device=image.device)
            heatmaps = method(subject.network, image.clone(), Target(None, units))
        heatmaps = heatmaps.detach().float().cpu()
        shows = str(getattr(method, "shows", "values of the method's own"))
        views.append(HeatmapView(name, shows, heatmaps[0, 0], common_high(heatmaps)))
    return views


def _unit_views(
    image: Tensor,
    found: UnitContributions,
    units: Sequence[int],
    frame: MapFrame,
    question: Question,
) -> list[UnitView]:
    """What units add to the answer about one image, without concepts and typical images."""
    if not units:
        return []
    maps = found.activations[0, list(units)].float().cpu()
    peaks, cells = peaks_of(maps[:, None])
    positions = frame.positions_of(cells[:, 0].long()).float()
    fields = receptive_field_boxes(positions, frame.geometry)
    pixels = pixels_of_input(image, question.subject.info)
    pictures = unit_pictures(
        pixels[None].expand(len(maps), -1, -1, -1)[:, None],
        maps[:, None],
        frame,
        diameter=drawn_diameter(frame, question.settings.field_share),
        size=PICTURE_SIZE,
    )[:, 0]
    contributions = found.contributions[0].cpu()
    whole = float(contributions.clamp(min=0).sum())
    return [
        UnitView(
            unit=unit,
            contribution=float(contributions[unit]),
            share=float(contributions[unit]) / whole,
            activation=float(peaks[row, 0]),
            position=(float(positions[row, 0]), float(positions[row, 1])),
            field=tuple(map(float, fields[row])),  # type: ignore[arg-type]
            concept=None,
            here=pictures[row],
            typical=torch.zeros(0, 3, PICTURE_SIZE, PICTURE_SIZE),
            typical_values=(),
            typical_ids=(),
        )
        for row, unit in enumerate(units)
    ]


def _completed(view: UnitView, typical: TypicalImages, concept: ConceptLabel | None) -> UnitView:
    row = typical.units.index(view.unit)
    return view._replace(
        concept=concept,
        typical=typical.pictures[row],
        typical_values=tuple(typical.values[row].tolist()),
        typical_ids=tuple(typical.sample_ids[row].tolist()),
    )


def _typical(
    question: Question, units: Sequence[int], frame: MapFrame, layer: str
) -> TypicalImages:
    """Top images of units: from the data, else from several explained images, else none."""
    settings, images = question.settings, question.images
    if not units or not settings.num_top_images:
        return no_images(units, "none were asked for", PICTURE_SIZE)
    if question.loader is not None:
        batches = loader_batches(question.loader, settings.search_images)
        source = question.said
    elif len(images) > settings.num_top_images:
        batches = iter([(images, torch.arange(len(images)))])
        source = f"the explained images ({question.said})"
    else:
        reason = f"{question.said}, and the explained images are too few"
        return no_images(units, reason, PICTURE_SIZE)
    return typical_images(
        question.subject, batches, units, frame, layer=layer, number=settings.num_top_images,
        field_share=settings.field_share, size=PICTURE_SIZE, source=source,
    )  # fmt: skip


def _concepts(question: Question, layer: str) -> tuple[Mapping[int, ConceptLabel], Path | None]:
    """Concept of each unit of a layer, from the table that was given or from the run folder."""
    subject, given = question.subject, question.settings.dissection
    taps: Mapping[str, str] = getattr(subject.network, "taps", {})
    names = [layer, *(alias for alias, name in taps.items() if name == layer)]
    if given is not None:
        path = Path(given)
        return read_labels(path, names), path
    return find_labels(subject.folder, names)
