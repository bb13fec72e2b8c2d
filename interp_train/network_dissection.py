"""Dissect any network over any probe set, outside of a training run.

`dissect` takes a network (or the path of a run or checkpoint) and images with concept maps, and
measures its layers as the callback `Dissection` does at a validation, beside the same baselines.
"""

import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import torch
from torch import nn

from interp_train.callbacks.dissection_panels import (
    Show,
    ShownImages,
    UnitPanel,
    has_places,
    images_of_loader,
    pixels_of_images,
    unit_panel,
)
from interp_train.callbacks.layer_metrics import found_geometries
from interp_train.callbacks.probe_set import ProbeSet
from interp_train.callbacks.random_network import activations_of, channels_last, reinitialised
from interp_train.checks import check_range
from interp_train.evaluation.detectors import HEADLINES
from interp_train.evaluation.dissection import DissectionMetric
from interp_train.evaluation.layer_dissection import (
    LayerDissection,
    counts_of,
    layer_dissection,
)
from interp_train.evaluation.top_images import TopImages
from interp_train.structures import ConceptBatch, LayerGeometry
from interp_train.systems import load_system
from interp_train.target_scores import evaluation_mode, resolved_layer
from interp_train.terminal_progress import shown_progress
from interp_train.unit_formulas import FormulaLabels, LayerFormulas

log = logging.getLogger(__name__)


class NetworkDissection(NamedTuple):
    """What the units of some layers detect.

    Attributes:
        layers: dotted name -> what was found.
        panels: dotted name -> pictures of the units; without the layers that have none.
        num_images: of the probe set.
        formulas: dotted name -> compositional labels, if these were asked for.
    """

    layers: dict[str, LayerDissection]
    panels: dict[str, UnitPanel]
    num_images: int
    formulas: Mapping[str, LayerFormulas] = MappingProxyType({})

    @property
    def numbers(self) -> dict[str, float]:
        """``dissection/<layer>/<quantity>`` -> value, as a run logs it."""
        return {
            f"dissection/{layer}/{name}": value
            for layer, found in self.layers.items()
            for name, value in found.numbers.items()
        }

    def write(self, folder: str | Path) -> Path:
        """Write tables, figures and report.html; returns the path of the report."""
        from interp_train.dissection_folder import write_dissection
        from interp_train.report.page import write_report

        write_dissection(self, Path(folder))
        return write_report(Path(folder))


def dissect(
    network: nn.Module | str | Path,
    probe_set: ProbeSet,
    layers: Sequence[str] = ("last",),
    *,
    random_network: bool = True,
    formula_length: int = 1,
    num_units: int = 12,
    num_images: int = 6,
    picture_size: int = 112,
    device: str = "cpu",
    geometry: Mapping[str, LayerGeometry] | None = None,
    progress: bool = False,
    **options: Any,
) -> NetworkDissection:
    """Which concept each unit of some layers detects, beside the baselines by the same rule.

    The network is left as it was, in mode and weights.

    Args:
        network: any network that takes the images of the probe set, or the path of a run folder
            or checkpoint.
        probe_set: images with concept maps.
        layers: dotted names, or tap aliases of a `Backbone`.
        random_network: whether a copy with random weights is measured, too.
        formula_length: concepts in a formula that labels a unit, e.g. 3 for "(water OR river) AND
            NOT blue"; costs another pass. 1 leaves formulas out.
        num_units: units per layer that are pictured; 0 draws none.
        num_images: top images per pictured unit.
        picture_size: side of a picture, in pixels.
        device: where the network computes.
        geometry: dotted name -> receptive fields; None asks a `Backbone`, or follows the
            operations of another network.
        progress: shows a bar in a terminal, and lines elsewhere.
        options: keyword arguments of `DissectionMetric`, e.g. ``quantiles=(0.005, 0.01)``.

    Raises:
        ValueError: if an argument is out of its range, a layer does not exist, or an activation
            is not finite.
        FileNotFoundError: if a path leads to no checkpoint.

    Example:
        probe = SegmentationFolder("camvid", images="val", labels="valannot")
        found = interp_train.dissect(torchvision.models.resnet18(), probe, ["layer4"])
        found.layers["layer4"].counts()["detectors"]
        found.write("outputs/resnet18_on_camvid")
    """
    check_range("num_units", num_units, 0)
    check_range("num_images", num_images, 1)
    check_range("formula_length", formula_length, 1)
    check_range("picture_size", picture_size, 8)
    _check_layers(layers)
    if isinstance(network, str | Path):
        network = load_system(network).network
    names = {resolved_layer(network, layer) for layer in layers}
    ordered = [name for name, _ in network.named_modules() if name in names]
    place = next(network.parameters(), torch.zeros(0)).device
    with evaluation_mode(network):
        try:
            study = _Dissecting(network.to(device), probe_set, ordered, options, progress=progress)
            study.measure(geometry or {}, random_network=random_network, num_top=num_images)
            found = study.result(num_units, picture_size)
            if formula_length > 1:
                found = found._replace(formulas=study.formulas(formula_length))
            return found
        finally:
            network.to(place)


class _Dissecting:
    """One dissection, from the first image to the pictures."""

    def __init__(
        self,
        network: nn.Module,
        probe_set: ProbeSet,
        layers: Sequence[str],
        options: Mapping[str, Any],
        *,
        progress: bool,
    ) -> None:
        self.network, self.probe_set, self.layers = network, probe_set, list(layers)
        self.options, self.progress = dict(options), progress
        self.device = next(network.parameters(), torch.zeros(0)).device
        self.loader = probe_set.concept_dataloader()
        self.length = _length(self.loader)
        self.twin: nn.Module | None = None
        self.top: dict[str, TopImages] = {}
        self.metrics: dict[str, DissectionMetric] = {}
        self.twin_metrics: dict[str, DissectionMetric] = {}
        self.num_images = 0

    def measure(
        self, geometry: Mapping[str, LayerGeometry], *, random_network: bool, num_top: int
    ) -> None:
        """Show the probe set, once or twice."""
        if random_network:
            self.twin = reinitialised(self.network)
            if self.device.type == "cpu":
                channels_last(self.twin)
            self.twin.to(self.device)
        self.top = {layer: TopImages(num_top) for layer in self.layers}
        for batch in self._batches("images"):
            if not self.metrics:
                self._open(geometry, batch)
            self.num_images += len(batch.images)
            self._show(batch, self.metrics, self.twin_metrics, self.top)
        if not self.num_images:
            raise ValueError(
                f"`probe_set` must hold at least one image, but {type(self.probe_set).__name__} "
                f"gave none."
            )
        own, twin = (
            {layer: metric for layer, metric in metrics.items() if metric.start_second_pass()}
            for metrics in (self.metrics, self.twin_metrics)
        )
        if own or twin:
            for batch in self._batches("images again: their maps exceed `cache_bytes`"):
                self._show(batch, own, twin, {})

    def result(self, num_units: int, picture_size: int) -> NetworkDissection:
        """The counts, and pictures where the probe set gives images by their place."""
        found = {layer: self._found(layer) for layer in self.layers}
        panels = {}
        if num_units and not has_places(self.loader):
            log.info("The loader of the probe set has no places; units are not pictured.")
        elif num_units:
            for layer, dissection in found.items():
                frame = self.metrics[layer].frame
                assert frame is not None
                panel = unit_panel(
                    dissection, self.top[layer], self._shower(), frame,
                    number=num_units, size=picture_size,
                )  # fmt: skip
                if panel is not None:
                    panels[layer] = panel
        return NetworkDissection(found, panels, self.num_images)

    def formulas(self, length: int) -> dict[str, LayerFormulas]:
        """Formulas of at most `length` concepts for the units; shows the images once more."""
        labels = {layer: FormulaLabels(metric, length) for layer, metric in self.metrics.items()}
        for batch in self._batches("images, for formulas"):
            moved = ConceptBatch(*(field.to(self.device) for field in batch))
            for layer, maps in activations_of(self.network, self.layers, moved.images).items():
                labels[layer].update(maps, moved)
        return {layer: found.compute() for layer, found in labels.items()}

    def _open(self, geometry: Mapping[str, LayerGeometry], batch: ConceptBatch) -> None:
        unknown = [layer for layer in self.layers if layer not in geometry]
        places = {**geometry, **found_geometries(self.network, unknown, batch.images)}
        names = self.probe_set.concept_names
        maps = getattr(self.probe_set, "concept_layers", None)
        known = {"num_images": self.length, "concept_layers": maps, **self.options}
        plain = {**known, "rotated_basis": False, "shuffled_masks": False}
        for layer in self.layers:
            self.metrics[layer] = DissectionMetric(places.get(layer), names, **known)
            if self.twin is not None:  # a baseline needs no baselines
                self.twin_metrics[layer] = DissectionMetric(places.get(layer), names, **plain)

    def _show(
        self,
        batch: ConceptBatch,
        metrics: Mapping[str, DissectionMetric],
        twin_metrics: Mapping[str, DissectionMetric],
        top: Mapping[str, TopImages],
    ) -> None:
        moved = ConceptBatch(*(field.to(self.device) for field in batch))
        maps = activations_of(self.network, list(metrics), moved.images) if metrics else {}
        for layer, metric in metrics.items():
            metric.update(maps[layer], moved)
        for layer, kept in top.items():
            kept.add(self.metrics[layer].rules.rounded(maps[layer]), moved.sample_ids)
        if self.twin is not None and twin_metrics:
            maps = activations_of(self.twin, list(twin_metrics), moved.images)
            for layer, metric in twin_metrics.items():
                metric.update(maps[layer], moved)

    def _found(self, layer: str) -> LayerDissection:
        metric = self.metrics[layer]
        numbers: dict[str, float] = {n: float(value) for n, value in metric.compute().items()}
        random: dict[str, float] | None = None
        if layer in self.twin_metrics:
            twin = self.twin_metrics[layer]
            twin.compute()
            assert twin.result is not None
            assert twin.scheme is not None
            random = counts_of(twin.result.iou[:, 0], twin.scheme, twin.least_iou)
            numbers |= {f"{name}_random_network": random[name] for name in HEADLINES}
        return layer_dissection(layer, metric, numbers, random)

    def _shower(self) -> Show:
        def read(batch: ConceptBatch) -> ShownImages:
            pixels = pixels_of_images(self.probe_set, batch.images)
            return ShownImages(pixels, batch.sample_ids.cpu())

        return images_of_loader(self.loader, read)

    def _batches(self, what: str) -> Iterator[ConceptBatch]:
        """All images; the global random state is left alone."""
        with torch.random.fork_rng(devices=[]):
            if not self.progress:
                yield from self.loader
                return
            total = len(self.loader) if hasattr(self.loader, "__len__") else None
            yield from shown_progress(self.loader, what, total)


def _check_layers(layers: Any) -> None:
    if isinstance(layers, str) or not layers:
        raise ValueError(
            f"`layers` must be a list of names, but got {layers!r}. Give e.g. ['layer4']."
        )


def _length(loader: Any) -> int | None:
    dataset: Any = getattr(loader, "dataset", None)
    return len(dataset) if hasattr(dataset, "__len__") else None
