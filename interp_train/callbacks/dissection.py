"""Network dissection of layers at each validation; see `interp_train.evaluation.dissection`.

Concepts come with the validation images, so that dissection reads the one forward pass that
everything reads, or from a probe set of its own, which costs a forward pass over that set.
"""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol, final, runtime_checkable

import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor
from torch.utils.data import DataLoader

from interp_train.callbacks.layer_metrics import LayerMetricCallback
from interp_train.callbacks.pinned_images import ToBatch
from interp_train.callbacks.random_network import activations_of, measured_network
from interp_train.collectives import num_processes
from interp_train.evaluation.concept_overlap import concept_scheme
from interp_train.evaluation.detectors import HEADLINES
from interp_train.evaluation.dissection import DissectionMetric
from interp_train.structures import ConceptBatch, DataInfo, LayerGeometry

ConceptNames = Mapping[str, Sequence[str]]


@runtime_checkable
class ProbeSet(Protocol):
    """Images with concept maps, normalised as the network expects.

    Attributes:
        concept_names: category -> names; label v > 0 of its map stands for name v - 1.
    """

    concept_names: ConceptNames

    def concept_dataloader(self) -> DataLoader[ConceptBatch]:
        """Every image once over all processes, in the same order each time."""


@final
class Dissection(LayerMetricCallback):
    """Logs ``dissection/<layer>/<quantity>`` beside the baselines.

    Concepts are those of `probe_set`, else of the validation images: from batches that are (or
    that `to_batch` turns into) `ConceptBatch`, else from the data module's
    ``concept_maps(sample_ids)``; names from `concept_names`, else the data module's.

    Maps that exceed `cache_bytes` cost a second forward pass over the images.

    Args:
        layers: see `LayerMetricCallback`, like the arguments that are not explained here.
        every_n_epochs: see there.
        save_records: see there.
        random_network: see there.
        quantiles: see `DissectionMetric`, like the following.
        threshold_on: see there.
        union: see there.
        least_iou: see there.
        least_images: see there.
        rotated_basis: see there.
        shuffled_masks: see there.
        half_precision: see there.
        cache_bytes: see there; per layer and network.
        seed: see there.
        concept_names: see there.
        probe_set: images with concepts; None takes the validation images.
        geometry: see `LayerMetricCallback`.
        to_batch: see there; may also give a `ConceptBatch`.
    """

    name = "dissection"
    group = "dissection"
    headlines = HEADLINES

    def __init__(
        self,
        layers: Sequence[str] = ("last",),
        *,
        every_n_epochs: int = 1,
        save_records: bool = False,
        random_network: bool = True,
        quantiles: Sequence[float] = (0.005,),
        threshold_on: str = "feature",
        union: str = "paper",
        least_iou: float = 0.04,
        least_images: int = 5,
        rotated_basis: bool = True,
        shuffled_masks: bool = True,
        half_precision: bool = True,
        cache_bytes: int = 1_073_741_824,
        seed: int = 0,
        concept_names: ConceptNames | None = None,
        probe_set: ProbeSet | None = None,
        geometry: Mapping[str, LayerGeometry] | None = None,
        to_batch: ToBatch | None = None,
    ) -> None:
        super().__init__(
            layers, every_n_epochs=every_n_epochs, save_records=save_records,
            random_network=random_network, geometry=geometry, to_batch=to_batch,
        )  # fmt: skip
        self.options: dict[str, Any] = {
            "quantiles": tuple(quantiles), "threshold_on": threshold_on, "union": union,
            "least_iou": least_iou, "least_images": least_images, "rotated_basis": rotated_basis,
            "shuffled_masks": shuffled_masks, "half_precision": half_precision,
            "cache_bytes": cache_bytes, "seed": seed,
        }  # fmt: skip
        _check_probe_set(probe_set)
        DissectionMetric(**self.options)  # wrong values fail here, not at the first validation
        self.concept_names, self.probe_set = concept_names, probe_set
        self._data: Any = None
        self._num_images: int | None = None
        self._num_batches = 0

    def make_metric(
        self, geometry: LayerGeometry | None, info: DataInfo | None
    ) -> DissectionMetric:
        """Dissection of one layer."""
        names, number = self._names_of_concepts(), self._num_images
        return DissectionMetric(geometry, names, num_images=number, **self.options)

    def entries(self, metric: DissectionMetric, info: DataInfo | None) -> dict[str, Any]:
        """IoU, threshold and area of each unit, and the concepts."""
        assert metric.result is not None
        assert metric.scheme is not None
        found: dict[str, Any] = {
            f"{self.name}_{name}": value for name, value in metric.result._asdict().items()
        }
        scheme = metric.scheme._asdict().items()
        found |= {f"{self.name}_concept_{name}": list(values) for name, values in scheme}
        return {**found, f"{self.name}_quantiles": list(metric.rules.quantiles)}

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """See `LayerMetricCallback`; also find the data."""
        super().on_validation_epoch_start(trainer, pl_module)
        self._data = getattr(trainer, "datamodule", None)
        dataset: Any = getattr(self._loader(trainer), "dataset", None)
        if hasattr(dataset, "__len__"):
            # At most so many: the loader of a process may hold its share only.
            several = num_processes()
            self._num_images = several * (len(dataset) + (several > 1))
        self._num_batches = 0

    def batch_of(self, batch: Any) -> Any:
        """The batch with its concept maps, where the data have any."""
        made = self.to_batch(batch) if self.to_batch is not None else batch
        names = self._names_of_concepts()
        if names is None or (self.probe_set is not None and not isinstance(made, ConceptBatch)):
            return made
        if isinstance(made, ConceptBatch):
            maps = made.concept_maps
        elif hasattr(self._data, "concept_maps"):
            maps = self._data.concept_maps(made.sample_ids)
        else:
            raise ValueError(
                f"`to_batch` must give a ConceptBatch where the data module has no `concept_maps`, "
                f"but {self.name} got {type(made).__name__}. Pass a function that turns your "
                f"batches into one, or a `probe_set`."
            )
        # Once for all layers: their caches share one copy.
        maps = maps.to(made.images.device, concept_scheme(names).label_type)
        return ConceptBatch(made.images, made.labels, made.sample_ids, maps)

    def read(self, activations: Mapping[str, Tensor], batch: Any, source: object) -> None:
        """See `LayerMetricCallback`; nothing is read of the validation beside a probe set."""
        self._num_batches += 1
        if self.probe_set is None:
            super().read(activations, batch, source)

    def finish(self, module: LightningModule) -> None:
        """Show the probe set, and whatever must be shown twice."""
        both = (self.metrics, self._twin_metrics)
        if self.probe_set is not None:
            self._show(module, *both)
        again = [
            {name: metric for name, metric in metrics.items() if metric.start_second_pass()}
            for metrics in both
        ]
        if any(again):
            self._show(module, *again)

    def _make_metrics(
        self, trainer: Trainer, module: LightningModule, images: Tensor | None
    ) -> None:
        super()._make_metrics(trainer, module, images)
        for metric in self._twin_metrics.values():  # a baseline needs no baselines
            metric.rotated_basis = metric.shuffled_masks = False

    def _names_of_concepts(self) -> ConceptNames | None:
        if self.probe_set is not None:
            return self.probe_set.concept_names
        if self.concept_names is not None:
            return self.concept_names
        return getattr(self._data, "concept_names", None)

    def _loader(self, trainer: Trainer) -> Any:
        if self.probe_set is not None:
            return self.probe_set.concept_dataloader()
        loaders = trainer.val_dataloaders
        return loaders[0] if isinstance(loaders, list | tuple) else loaders

    def _show(
        self,
        module: LightningModule,
        metrics: Mapping[str, DissectionMetric],
        twin_metrics: Mapping[str, DissectionMetric],
    ) -> None:
        """Another forward pass, over the probe set or the images of this validation."""
        network = measured_network(module)
        for source in self._batches(module.trainer):
            source = module.trainer.strategy.batch_to_device(source, module.device)
            batch = self.batch_of(source)
            with module.trainer.precision_plugin.val_step_context():
                found = activations_of(network, list(metrics), batch.images)
            for name, metric in metrics.items():
                metric.update(found[name], batch)
            if twin_metrics and self._twin is not None:
                found = self._twin.activations(source, batch.images)
                for name, metric in twin_metrics.items():
                    metric.update(found[name], batch)

    def _batches(self, trainer: Trainer) -> Iterator[Any]:
        """As the validation showed them: the random state is left alone."""
        with torch.random.fork_rng(devices=[]):
            limit = None if self.probe_set is not None else self._num_batches
            yield from itertools.islice(self._loader(trainer), limit)


def _check_probe_set(probe_set: Any) -> None:
    if probe_set is not None and not isinstance(probe_set, ProbeSet):
        raise ValueError(
            f"`probe_set` must have `concept_names` and `concept_dataloader()`, but got "
            f"{type(probe_set).__name__}. Use e.g. a SegmentationFolder."
        )
