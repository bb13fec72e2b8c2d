"""Picture what units of a trained network encode: the verb `visualize`.

The folder holds one record per layer, from which report.html and its figures are drawn.
"""

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from interp_train.atomic_files import write_json
from interp_train.callbacks.unit_visualizations import captions_of, save_gallery
from interp_train.checks import check_name, check_range
from interp_train.data.image_files import image_paths, read_images
from interp_train.evaluate import validation_loader_of
from interp_train.experiment import DEFAULTS, recorded_run
from interp_train.protocols import UnitVisualizer
from interp_train.report.concept_labels import find_labels
from interp_train.structures import DataInfo
from interp_train.target_scores import evaluation_mode, resolved_layer
from interp_train.targets import build_entries
from interp_train.terminal_progress import shown_progress
from interp_train.trained_network import TrainedNetwork, configured_network, trained_network
from interp_train.typical_images import loader_batches
from interp_train.visualization.top_patches import TopPatches
from interp_train.visualization.unit_gallery import (
    UnitGallery,
    image_gallery,
    most_active_units,
    normalised_like,
    unit_gallery,
)


@dataclass(frozen=True)
class VisualizationSettings:
    """What is pictured, and how much of it.

    Attributes:
        layers: tap aliases or dotted names.
        units: their numbers, in every layer; None takes the most active ones.
        num_units: how many, unless they are listed.
        num_images: that visualizers choose from, at most.
        num_inverted: of these, for visualizers that invert a layer.
        picture_size: side of a picture, in pixels.
        device: where the network computes.
    """

    layers: Sequence[str] = ("last",)
    units: Sequence[int] | None = None
    num_units: int = 6
    num_images: int = 256
    num_inverted: int = 4
    picture_size: int = 224
    device: str = "cpu"

    def __post_init__(self) -> None:
        """Check the ranges."""
        for name in ("num_units", "num_images", "picture_size"):
            check_range(name, getattr(self, name), 1)
        check_range("num_inverted", self.num_inverted, 0)


class Visualization(NamedTuple):
    """What was pictured.

    Attributes:
        folder: of the results.
        units: a gallery per layer; none if no visualizer pictures units.
        images: the same of the visualizers that invert a layer.
    """

    folder: Path
    units: list[UnitGallery]
    images: list[UnitGallery]


def visualize(
    source: str | Path | torch.nn.Module,
    images: Sequence[str | Path] | str | Path | Tensor,
    visualizers: Mapping[str, UnitVisualizer] | None = None,
    *,
    info: DataInfo | None = None,
    folder: str | Path | None = None,
    output_dir: str | Path = "outputs",
    **settings: Any,
) -> Visualization:
    """Picture units of a network, and write them as a page.

    Example:
        interp_train.visualize(resnet18(weights="DEFAULT"), "photos", layers=["layer4"])

    Args:
        source: run folder, checkpoint, or any network that puts out logits ``(N, C)``.
        images: files or folders, or network input ``(N, channels, H, W)``.
        visualizers: name -> method; None is top patches alone. Those of the package take the
            normalisation of `info`.
        info: of the network's input; None takes what the source knows, else 224 pixels with the
            normalisation of ImageNet.
        folder: new folder of the results; None makes one in ``<output_dir>/visualize``.
        output_dir: where the folder goes.
        settings: fields of `VisualizationSettings`.

    Raises:
        FileNotFoundError: if an image or the network does not exist.
        ValueError: if an image is none, or for an unknown layer, unit or setting.
    """
    for name in settings:
        known = [entry.name for entry in fields(VisualizationSettings)]
        check_name("settings", name, known, "a setting of a visualization")
    chosen = VisualizationSettings(**settings)
    subject = trained_network(source, info)
    inputs = images if isinstance(images, Tensor) else _of_files(images, subject, chosen)
    record = {
        "name": "visualize", "seed": 0, "output_dir": str(output_dir),
        "path": str(source) if isinstance(source, str | Path) else subject.source,
        "folder": str(folder) if folder is not None else None,
    }  # fmt: skip
    methods = visualizers or {"top_patches": TopPatches()}
    return _visualized(record, _Task(subject, inputs, methods, chosen))


def visualize_command(config: Mapping[str, Any]) -> int:
    """The verb `visualize`."""
    names = [entry.name for entry in fields(VisualizationSettings)]
    settings = VisualizationSettings(**{name: config[name] for name in names})
    visualizers = build_entries(config.get("unit_visualizers"), "unit_visualizers")
    subject = configured_network(config)
    if config.get("images"):
        images = _of_files(config["images"], subject, settings)
    else:
        images = _of_data(subject, config.get("data") or {}, settings.num_images)
    found = _visualized(config, _Task(subject, images, visualizers, settings))
    print(f"pictures: {found.folder / 'figures'}")
    print(f"report: {found.folder / 'report.html'}")
    return 0


def _of_files(images: Any, subject: TrainedNetwork, settings: VisualizationSettings) -> Tensor:
    paths = image_paths(images)
    step = max(1, -(-len(paths) // settings.num_images))
    return read_images(paths[::step], subject.info)


def _of_data(subject: TrainedNetwork, changes: Mapping[str, Any], most: int) -> Tensor:
    """Images of the validation data, spread evenly.

    Raises:
        ValueError: if there are none: no run, or its data cannot be read here.
    """
    loader, why = validation_loader_of(subject.config.get("data"), changes)
    if loader is None:
        raise ValueError(
            f"`images` must be given for a network without a run whose data can be read, but is "
            f"null ({why}). Give images=[<files or folders>] or data=<name>."
        )
    return torch.cat([images for images, _ in loader_batches(loader, most)])


class _Task(NamedTuple):
    """Everything that pictures are made from."""

    subject: TrainedNetwork
    images: Tensor
    visualizers: Mapping[str, UnitVisualizer]
    settings: VisualizationSettings


def _visualized(config: Mapping[str, Any], task: _Task) -> Visualization:
    """Draw every layer inside a run folder."""
    subject, device = task.subject, task.settings.device
    mean, std = subject.info.mean, subject.info.std
    methods = {name: normalised_like(m, mean, std) for name, m in task.visualizers.items()}
    layers = [resolved_layer(subject.network, layer) for layer in task.settings.layers]
    place = subject.device
    data = subject.config.get("data") or {}
    plain = {**DEFAULTS, **config, "data": config.get("data") or data, "resume": None}
    with recorded_run(plain) as record:
        found = Visualization(record.folder, [], [])
        with evaluation_mode(subject.network):
            try:
                subject.network.to(device)
                moved = task._replace(images=task.images.to(device), visualizers=methods)
                for layer in layers:
                    _picture_units(found, layer, moved)
                    _picture_images(found, layer, moved)
            finally:
                subject.network.to(place)
        counts = {f"visualization/{g.layer}/units": float(len(g.rows)) for g in found.units}
        counts |= {f"visualization/{g.layer}/images": float(len(g.rows)) for g in found.images}
        write_json(record.folder / "result.json", {"epoch": 0.0, **counts})
    return found


def _picture_units(found: Visualization, layer: str, task: _Task) -> None:
    network, settings = task.subject.network, task.settings
    units = settings.units
    if units is None:
        units = most_active_units(network, layer, task.images, settings.num_units)
    gallery = unit_gallery(
        network, layer, units, task.images, task.visualizers, size=settings.picture_size,
        shown=functools.partial(shown_progress, description=layer, total=len(task.visualizers)),
    )  # fmt: skip
    if gallery is None:
        return
    labels, _ = find_labels(task.subject.folder, [layer])
    captions = [
        f"{caption}\n{labels[unit].name}, IoU {labels[unit].iou:.2f}" if unit in labels else caption
        for unit, caption in zip(units, captions_of(gallery, "units"), strict=True)
    ]
    save_gallery(found.folder, gallery, captions, "units")
    found.units.append(gallery)


def _picture_images(found: Visualization, layer: str, task: _Task) -> None:
    info, settings = task.subject.info, task.settings
    gallery = image_gallery(
        task.subject.network, layer, task.images[: settings.num_inverted], task.visualizers,
        mean=info.mean, std=info.std, size=settings.picture_size,
    )  # fmt: skip
    if gallery is not None:
        save_gallery(found.folder, gallery, captions_of(gallery, "images"), "images")
        found.images.append(gallery)
