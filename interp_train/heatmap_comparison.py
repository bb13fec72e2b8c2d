"""Compare heatmap methods on images that say where the evidence should lie.

The verb `evaluate_heatmaps`: for every method, localisation, faithfulness, stability and the
weight-randomisation check on pinned validation images, beside random and oracle baselines.
"""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from interp_train.activations import gradients_enabled
from interp_train.callbacks.pinned_images import spread_indices
from interp_train.checks import check_choice, check_name, check_range
from interp_train.commands import print_rows
from interp_train.evaluate import evaluated_data
from interp_train.evaluation.disk_overlap import box_masks
from interp_train.evaluation.heatmap_faithfulness import SCORES, HeatmapFaithfulnessMetric, Scale
from interp_train.evaluation.heatmap_localisation import HeatmapLocalisationMetric, centre_heatmap
from interp_train.evaluation.heatmap_stability import MaxSensitivityMetric
from interp_train.evaluation.weight_randomisation import WeightRandomisationMetric
from interp_train.experiment import build_data, recorded_run
from interp_train.protocols import HeatmapMethod
from interp_train.report.heatmap_quality_page import (
    HeatmapQuality,
    MethodQuality,
    page_path,
    quality_table,
    write_quality,
)
from interp_train.structures import BACKGROUND, Batch, Target
from interp_train.targets import build_entries
from interp_train.terminal_progress import shown_progress
from interp_train.trained_network import TrainedNetwork, configured_network
from interp_train.typical_images import pixels_of_input


@dataclass(frozen=True)
class ComparisonSettings:
    """What is measured, on how many images.

    Attributes:
        part: name of the part that heatmaps should point at; None is the object.
        target: what is explained: ``"predicted"`` or ``"label"``.
        num_images: pinned validation images.
        stability_images: how many of them measure stability and weight randomisation; 0 leaves
            both out.
        example_images: how many of them are drawn.
        batch_size: images in one forward pass, at most.
        tolerance: of the pointing game, in pixels.
        scores: of faithfulness, see `HeatmapFaithfulnessMetric`.
        num_steps: of deletion and insertion.
        scale: of the score in deletion and insertion.
        num_noisy: noisy copies of each image for max-sensitivity.
        num_stages: of weight randomisation.
        seed: of everything random.
    """

    part: str | None = None
    target: str = "predicted"
    num_images: int = 100
    stability_images: int = 8
    example_images: int = 4
    batch_size: int = 16
    tolerance: int = 15
    scores: Sequence[str] = SCORES
    num_steps: int = 32
    scale: Scale = "softmax"
    num_noisy: int = 10
    num_stages: int = 4
    seed: int = 0

    def __post_init__(self) -> None:
        """Check the ranges."""
        check_choice("target", self.target, ("predicted", "label"))
        check_range("num_images", self.num_images, 1)
        check_range("stability_images", self.stability_images, 0, self.num_images)
        check_range("example_images", self.example_images, 1, self.num_images)
        check_range("batch_size", self.batch_size, 1)


@dataclass(frozen=True)
class _Images:
    """Pinned images with what heatmaps should point at.

    Attributes:
        images: network input, ``(N, channels, H, W)``.
        masks: bool ``(N, 1, H, W)``, none of them empty.
        units: category that is explained, long ``(N,)``.
        titles: one per image.
    """

    images: Tensor
    masks: Tensor
    units: Tensor
    titles: Sequence[str]

    def parts(self, size: int) -> Iterator[tuple[Tensor, Target, Tensor]]:
        """Images, targets and masks in batches."""
        for start in range(0, len(self.images), size):
            rows = slice(start, start + size)
            yield self.images[rows], Target(None, self.units[rows]), self.masks[rows]


def evaluate_heatmaps_command(config: Mapping[str, Any]) -> int:
    """The verb `evaluate_heatmaps`."""
    names = [entry.name for entry in fields(ComparisonSettings)]
    settings = ComparisonSettings(**{name: config[name] for name in names})
    methods = build_entries(config.get("heatmaps"), "heatmaps")
    if not methods:
        raise ValueError("`heatmap` must name at least one method, but is empty.")
    subject = configured_network(config)
    changes = config.get("data") or {}
    if not subject.config.get("data") and "_target_" not in changes:
        raise ValueError(
            "`data` must be given for a network without a run, but is empty. Choose data=<name>, "
            "see conf/data."
        )
    data = build_data(evaluated_data(subject.config.get("data") or {}, changes))
    data.setup("validate")
    with recorded_run({**config, "resume": None}) as run:
        quality = compare_heatmaps(
            subject, data, methods, settings, run.folder, progress=True, found=write_quality
        )
        run.update(data_fingerprint=data.info.fingerprint, data_licence=data.info.licence)
    table = quality_table(quality)
    print_rows([dict(zip(table.columns, row, strict=True)) for row in table.rows])
    print(f"comparison: {page_path(quality.folder)}")
    return 0


def compare_heatmaps(
    subject: TrainedNetwork,
    data: Any,
    methods: Mapping[str, HeatmapMethod],
    settings: ComparisonSettings,
    folder: Path,
    *,
    progress: bool = False,
    found: Callable[[HeatmapQuality], object] | None = None,
) -> HeatmapQuality:
    """Measure every method on the same pinned images.

    Args:
        subject: the network.
        data: module whose validation images carry boxes or masks.
        methods: name -> heatmap method.
        settings: what is measured.
        folder: where the result will be written.
        progress: shows a bar in a terminal, and lines elsewhere.
        found: told after each method what is known so far, so that a stopped comparison keeps it.

    Raises:
        ValueError: if no image says where the evidence should lie.
    """
    pinned = _pinned(subject, data, settings)
    shown = slice(0, len(pinned.images), max(1, len(pinned.images) // settings.example_images))
    rows = list(range(len(pinned.images)))[shown][: settings.example_images]
    named: Iterable[tuple[str, HeatmapMethod]] = methods.items()
    if progress:
        named = shown_progress(named, "comparing heatmap methods", len(methods))
    quality = HeatmapQuality(
        folder=folder,
        network=subject.source,
        setting=_stated(settings, data, len(pinned.images)),
        methods=[],
        baselines=[],
        examples=pixels_of_input(pinned.images[rows], subject.info),
        titles=[pinned.titles[row] for row in rows],
        outlines=pinned.masks[rows],
    )
    for name, method in named:
        measured, stated = _measured(subject, method, pinned, settings, name=name, examples=rows)
        quality = quality._replace(
            methods=[*quality.methods, measured],
            baselines=quality.baselines or _baselines(subject, pinned, settings, stated),
        )
        if found is not None:
            found(quality)
    return quality


def _stated(settings: ComparisonSettings, data: Any, num_images: int) -> dict[str, Any]:
    """The setting, as the page says it."""
    return {
        "data": data.info.name,
        "images": num_images,
        "image size": data.info.image_size,
        "should point at": settings.part or "object",
        "target": settings.target,
        "stability and randomisation on": f"{settings.stability_images} images",
        "seed": settings.seed,
    }


def _measured(
    subject: TrainedNetwork,
    method: HeatmapMethod,
    pinned: _Images,
    settings: ComparisonSettings,
    *,
    name: str,
    examples: Sequence[int],
) -> tuple[MethodQuality, dict[str, float]]:
    """Measures of one method, and the baselines that its metrics state."""
    network, device = subject.network, subject.device
    localisation = HeatmapLocalisationMetric(settings.tolerance)
    faithfulness = _faithfulness(settings, baselines=False)
    kept, seconds = [], 0.0
    for part in pinned.parts(settings.batch_size):
        images, target, masks = part
        began = time.perf_counter()
        with gradients_enabled():
            heatmaps = method(network, images.to(device), _on(target, device)).detach()
        seconds += time.perf_counter() - began
        localisation.update(heatmaps.cpu(), masks)
        _add_faithfulness(faithfulness, subject, part, heatmaps)
        kept.append(heatmaps.float().cpu())
    stable = _stability(subject, method, pinned, settings)
    values = {**_plain(localisation.compute()), **_plain(faithfulness.compute()), **stable}
    values["seconds"] = seconds / len(pinned.images)
    own = {key: value for key, value in values.items() if not key.endswith(_BASELINE_ENDINGS)}
    shows = str(getattr(method, "shows", "values of the method's own"))
    found = MethodQuality(name, shows, own, torch.cat(kept)[list(examples)])
    return found, values


_BASELINE_ENDINGS = ("_random", "_centre", "_oracle", "_insensitive")


def _stability(
    subject: TrainedNetwork, method: HeatmapMethod, pinned: _Images, settings: ComparisonSettings
) -> dict[str, float]:
    number = settings.stability_images
    if not number:
        return {}
    chosen = spread_indices(len(pinned.images), number)
    images = pinned.images[chosen].to(subject.device)
    target = Target(None, pinned.units[chosen].to(subject.device))
    changed = MaxSensitivityMetric(num_samples=settings.num_noisy, seed=settings.seed)
    randomised = WeightRandomisationMetric(settings.num_stages, seed=settings.seed)
    for metric in (changed, randomised):
        metric.to(subject.device).update(method, subject.network, images, target)
    zeros = {"zero_heatmaps"}
    found = {**_plain(changed.compute()), **_plain(randomised.compute())}
    return {key: value for key, value in found.items() if key not in zeros}


def _baselines(
    subject: TrainedNetwork,
    pinned: _Images,
    settings: ComparisonSettings,
    stated: Mapping[str, float],
) -> list[MethodQuality]:
    """Random, centre and oracle: what the metrics state, and their faithfulness."""
    metric = _faithfulness(settings, baselines=True)
    for part in pinned.parts(settings.batch_size):
        masks = part[2]
        centre = centre_heatmap(*masks.shape[-2:]).expand(masks.shape)
        _add_faithfulness(metric, subject, part, centre)
    found = _plain(metric.compute())
    rows: dict[str, dict[str, float]] = {"random": {}, "centre": {}, "oracle": {}}
    for baseline, values in rows.items():
        suffix = f"_{baseline}"
        for source in (stated, found):
            values |= {
                key.removesuffix(suffix): value
                for key, value in source.items()
                if key.endswith(suffix)
            }
    rows["centre"] |= {key: found[key] for key in settings.scores if key in found}
    return [
        MethodQuality(name, "", values, torch.empty(0)) for name, values in rows.items() if values
    ]


def _faithfulness(settings: ComparisonSettings, *, baselines: bool) -> HeatmapFaithfulnessMetric:
    return HeatmapFaithfulnessMetric(
        settings.num_steps, scale=settings.scale, batch_size=settings.batch_size,
        scores=settings.scores, baselines=baselines, seed=settings.seed,
    )  # fmt: skip


def _add_faithfulness(
    metric: HeatmapFaithfulnessMetric,
    subject: TrainedNetwork,
    part: tuple[Tensor, Target, Tensor],
    heatmaps: Tensor,
) -> None:
    if metric.scores:
        device = subject.device
        images, target, masks = part
        values = (images.to(device), _on(target, device), heatmaps.to(device), masks.to(device))
        metric.to(device).update(subject.network, *values)


def _on(target: Target, device: torch.device) -> Target:
    return target._replace(units=target.units.to(device))


def _plain(values: Mapping[str, Tensor]) -> dict[str, float]:
    return {key: float(value) for key, value in values.items()}


def _pinned(subject: TrainedNetwork, data: Any, settings: ComparisonSettings) -> _Images:
    """Validation images that say where the evidence lies, spread evenly over the data."""
    loader = data.val_dataloader()
    dataset = loader.dataset
    candidates = spread_indices(len(dataset), 2 * settings.num_images)
    fetch = getattr(dataset, "__getitems__", None)
    kept: list[tuple[Tensor, ...]] = []
    for start in range(0, len(candidates), settings.batch_size):
        places = candidates[start : start + settings.batch_size]
        items = fetch(places) if fetch else [dataset[place] for place in places]
        batch = loader.collate_fn(items)
        masks = evidence_masks(batch, data.info.part_names, settings.part)
        fits = masks.flatten(1).any(1)
        if settings.target == "label":
            fits &= batch.labels != BACKGROUND
        kept.append((batch.images[fits], masks[fits], batch.labels[fits]))
    images, masks, labels = (torch.cat(column) for column in zip(*kept, strict=True))
    if not len(images):
        raise ValueError(
            f"`data` must hold images with {settings.part or 'object'} boxes or masks, but none "
            f"of {len(candidates)} of {data.info.name} has one."
        )
    chosen = spread_indices(len(images), settings.num_images)
    images, masks, labels = images[chosen], masks[chosen], labels[chosen]
    parts = torch.split(images, settings.batch_size)
    logits = torch.cat([subject.logits(part) for part in parts])
    units = labels if settings.target == "label" else logits.argmax(1)
    names = subject.class_names(logits.shape[1])
    return _Images(images, masks, units, [names[unit] for unit in units.tolist()])


def evidence_masks(batch: Batch, part_names: Sequence[str], part: str | None) -> Tensor:
    """Where the evidence should lie: the part's mask or box, or the object's box.

    Args:
        batch: with annotations.
        part_names: of the data.
        part: one of them; None is the object.

    Returns:
        Bool ``(N, 1, H, W)``; empty where an image is not annotated.

    Raises:
        ValueError: for an unknown part.
    """
    height, width = batch.images.shape[-2:]
    if part is None:
        return box_masks(batch.boxes, height, width)[:, None]
    check_name("part", part, part_names, "a part of the data")
    index = list(part_names).index(part)
    masks = getattr(batch, "part_masks", torch.empty(0))
    if masks.numel():
        found: Tensor = masks[:, index : index + 1]
        return found
    boxes: Tensor = batch.part_boxes[:, index]  # type: ignore[union-attr]
    return box_masks(boxes, height, width)[:, None]
