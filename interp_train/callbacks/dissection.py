"""Network dissection of layers at each validation; see `interp_train.evaluation.dissection`.

Concepts come with the validation images, so that dissection reads the one forward pass that
everything reads, or from a probe set of its own, which costs a forward pass over that set.

With a time budget, what is heavy is left out of a validation that has no time for it, and the log
says so: the pictures, the baselines, and the random network, which is then measured in the first
validation that has the time.
"""

import contextlib
import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, final

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor

from interp_train.callbacks.dissection_pictures import DissectionPictures, ImageSource
from interp_train.callbacks.figure_writer import figure_writer_of
from interp_train.callbacks.layer_metrics import LayerMetricCallback
from interp_train.callbacks.pinned_images import ToBatch
from interp_train.callbacks.probe_set import ConceptNames, ProbeSet, checked_probe_set
from interp_train.callbacks.random_network import activations_of, measured_network
from interp_train.callbacks.time_budget import TimeBudget
from interp_train.checks import check_range
from interp_train.collectives import num_processes
from interp_train.evaluation.concept_labels import concept_scheme, thinned
from interp_train.evaluation.detectors import HEADLINES
from interp_train.evaluation.dissection import DissectionMetric
from interp_train.evaluation.layer_dissection import (
    BASELINES,
    LayerDissection,
    as_entries,
    counts_of,
    layer_dissection,
)
from interp_train.stopwatch import stopwatch_of
from interp_train.structures import ConceptBatch, DataInfo, LayerGeometry

# Heavy parts, as the log calls them.
RANDOM, NULLS, PICTURES = "the random network", "rotated basis and shuffled masks", "pictures"
_WITH_BASELINES = {
    f"{name}{end}" for name in HEADLINES for end in ("", *(f"_{b}" for b in BASELINES))
}

_OPTIONS = (  # of the metric
    "quantiles", "threshold_on", "union", "least_iou", "least_images", "rotated_basis",
    "shuffled_masks", "half_precision", "cache_bytes", "seed",
)  # fmt: skip


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
        label_size: side to which larger concept maps are thinned, in pixels, at least; the default
            is that of the paper's Broden. Counting costs time for every pixel. None counts all.
        num_units: in ``dissection/<layer>/units``, beside ``detectors`` and ``curves``; 0 draws no
            pictures. Loaders of pictured images must not shuffle.
        num_images: top images of each unit.
        budget_seconds: see `TimeBudget`.
        budget_share: see there.
        concept_names: see `DissectionMetric`.
        probe_set: images with concepts; None takes the validation images.
        geometry: see `LayerMetricCallback`.
        to_batch: see there; may also give a `ConceptBatch`.

    Attributes:
        budget: tells what was left out of the latest validation, and why.
        history: layer -> quantity -> epoch -> value, of the quantities that have baselines.
    """

    name = "dissection"
    group = "dissection"
    headlines = HEADLINES
    history: dict[str, dict[str, dict[int, float]]]  # from `setup` on, like the next
    _twin_counts: dict[str, dict[str, float]]
    _data: Any = None
    _num_images: int | None = None
    _num_batches = _total = _twin_batches = 0
    _twin_late = False

    def __init__(
        self,
        layers: Sequence[str] = ("last",),
        *,
        every_n_epochs: int = 1,
        save_records: bool = True,
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
        label_size: int | None = 112,
        num_units: int = 8,
        num_images: int = 6,
        budget_seconds: float | None = None,
        budget_share: float | None = None,
        concept_names: ConceptNames | None = None,
        probe_set: ProbeSet | None = None,
        geometry: Mapping[str, LayerGeometry] | None = None,
        to_batch: ToBatch | None = None,
    ) -> None:
        super().__init__(
            layers, every_n_epochs=every_n_epochs, save_records=save_records,
            random_network=random_network, geometry=geometry, to_batch=to_batch,
        )  # fmt: skip
        given: dict[str, Any] = {**locals(), "quantiles": tuple(quantiles)}
        self.options = {name: given[name] for name in _OPTIONS}
        DissectionMetric(**self.options)  # wrong values fail here, not at the first validation
        if label_size is not None:
            check_range("label_size", label_size, 1)
        self.label_size = label_size
        self.pictures = DissectionPictures(num_units, num_images)
        self.budget = TimeBudget(budget_seconds, budget_share)
        self.concept_names, self.probe_set = concept_names, checked_probe_set(probe_set)

    @property
    def state_key(self) -> str:
        """Two dissections by different rules keep states of their own."""
        return self._generate_state_key(
            layers=self.layers, label_size=self.label_size, **self.options
        )

    def state_dict(self) -> dict[str, Any]:
        """Plain values that a resumed run goes on with."""
        numbers = {
            layer: {name: float(number) for name, number in found.items()}
            for layer, found in self._twin_numbers.items()
        }
        return {
            "twin_measured": self._twin_measured, "twin_numbers": numbers,
            "twin_counts": self._twin_counts, "history": self.history,
            "costs": dict(self.budget.costs), "validation": self.budget.validation,
        }  # fmt: skip

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on where a checkpoint ended."""
        self._twin_measured = state_dict["twin_measured"]
        self._twin_numbers = {
            layer: {name: torch.tensor(v, dtype=torch.float64) for name, v in found.items()}
            for layer, found in state_dict["twin_numbers"].items()
        }
        self._twin_counts, self.history = state_dict["twin_counts"], state_dict["history"]
        self.budget.costs = dict(state_dict["costs"])
        self.budget.validation = state_dict["validation"]

    def make_metric(
        self, geometry: LayerGeometry | None, info: DataInfo | None
    ) -> DissectionMetric:
        """Dissection of one layer."""
        names, number = self._names_of_concepts(), self._num_images
        source = self._data if self.concept_names is None else None
        source = source if self.probe_set is None else self.probe_set
        layers = getattr(source, "concept_layers", None)
        return DissectionMetric(
            geometry, names, num_images=number, concept_layers=layers, **self.options
        )

    def entries(self, metric: DissectionMetric, info: DataInfo | None) -> dict[str, Any]:
        """IoU, threshold and area of each unit, and the concepts."""
        layer = next(name for name, known in self.metrics.items() if known is metric)
        return as_entries(self._dissection(layer))

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """See `LayerMetricCallback`; another module begins a history of its own."""
        if self._module is None or self._module() is not pl_module:
            self.history, self._twin_counts = {}, {}
        super().setup(trainer, pl_module, stage)

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """See `LayerMetricCallback`; also find the data."""
        self.budget.start()
        self.pictures.start()
        self._twin_batches, self._twin_late = 0, False
        super().on_validation_epoch_start(trainer, pl_module)
        self._data = getattr(trainer, "datamodule", None)
        loader = self._loader(trainer)
        self._total = len(loader) if hasattr(loader, "__len__") else 0
        dataset: Any = getattr(loader, "dataset", None)
        if hasattr(dataset, "__len__"):
            # At most so many: the loader of a process may hold its share only.
            several = num_processes()
            self._num_images = several * (len(dataset) + (several > 1))
        self._num_batches = 0

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """See `LayerMetricCallback`; also say what was left out."""
        super().on_validation_epoch_end(trainer, pl_module)
        for part, why in self.budget.skipped.items():
            rank_zero_info(
                f"dissection leaves out {part}, epoch {trainer.current_epoch + 1}: {why}."
            )

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Wait for the figures before the loggers close."""
        super().teardown(trainer, pl_module, stage)
        with stopwatch_of(trainer).measure("figures"):
            figure_writer_of(trainer).flush()

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        """Take the hooks off; write the figures that were submitted."""
        super().on_exception(trainer, pl_module, exception)
        with contextlib.suppress(RuntimeError):  # the run's own error is the one to see
            figure_writer_of(trainer).flush()

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
        # Once for all layers: their caches share one copy, without what was thinned out.
        maps = thinned(maps, self.label_size).contiguous()
        maps = maps.to(made.images.device, concept_scheme(names).label_type)
        return ConceptBatch(made.images, made.labels, made.sample_ids, maps)

    def read(self, activations: Mapping[str, Tensor], batch: Any, source: object) -> None:
        """See `LayerMetricCallback`; nothing is read of the validation beside a probe set."""
        self._num_batches += 1
        if self.probe_set is None:
            with self.budget.spend():
                super().read(activations, batch, source)
                self._look(activations, batch)
            self._check_twin()

    def read_twin(self, layers: Sequence[str], batch: Any, source: object) -> None:
        """See `LayerMetricCallback`; until the time is used up."""
        if self._twin is not None and layers and not self._twin_late:
            self._twin_batches += 1
            with self.budget.part(RANDOM, more=True):
                super().read_twin(layers, batch, source)

    def twin_allowed(self, module: LightningModule) -> bool:
        """See `LayerMetricCallback`."""
        allowed = self.budget.allows(RANDOM, module.device)
        if allowed:
            self.budget.costs[RANDOM] = 0.0  # counted anew
        return allowed

    def finish(self, module: LightningModule) -> None:
        """Show the probe set, and whatever must be shown twice."""
        self.budget.close()
        if self.probe_set is not None:
            self._show(module, self.metrics, self._twin_metrics, first=True)
        self._settle_twin(module.device)
        nulls = self.options["rotated_basis"] or self.options["shuffled_masks"]
        if nulls and not self.budget.allows(NULLS, module.device):
            for metric in self.metrics.values():
                metric.leave_out_baselines()
        counted = (
            contextlib.nullcontext() if NULLS in self.budget.skipped else self.budget.part(NULLS)
        )
        with counted, self.budget.spend():
            own = {n: metric for n, metric in self.metrics.items() if metric.start_second_pass()}
        twin: dict[str, DissectionMetric] = {}
        if self._twin_metrics:
            with self.budget.part(RANDOM, more=True):
                twin = {n: m for n, m in self._twin_metrics.items() if m.start_second_pass()}
        if own or twin:
            self._show(module, own, twin)

    def concluded(self, trainer: Trainer, module: LightningModule, layer: str) -> None:
        """Remember the numbers and draw."""
        for name, number in self.numbers[layer].items():
            if name in _WITH_BASELINES:
                curve = self.history.setdefault(layer, {}).setdefault(name, {})
                curve[trainer.current_epoch] = number
        if not self.pictures.num_units or not self.budget.allows(PICTURES, module.device):
            return
        with self.budget.part(PICTURES):
            if trainer.is_global_zero:
                found = self._dissection(layer)
                self.pictures.draw(trainer, found, self.history[layer])
                source = ImageSource(self._loader(trainer), self.batch_of, self.probe_set)
                self.pictures.draw_units(trainer, module, found, self.metrics[layer], source)

    def _dissection(self, layer: str) -> LayerDissection:
        twin = self._twin_metrics.get(layer)
        if twin is not None and twin.result is not None and twin.scheme is not None:
            iou = twin.result.iou[:, 0]
            self._twin_counts[layer] = counts_of(iou, twin.scheme, twin.least_iou)
        numbers = self.numbers.get(layer, {})
        return layer_dissection(layer, self.metrics[layer], numbers, self._twin_counts.get(layer))

    def _look(self, activations: Mapping[str, Tensor], batch: Any) -> None:
        if self.pictures.num_units and isinstance(batch, ConceptBatch):
            for name, metric in self.metrics.items():
                self.pictures.read(name, metric, activations[name], batch.sample_ids)

    def _check_twin(self) -> None:
        """Stop the random network on this process when the time is used up."""
        if self._twin is not None and not self._twin_late and self.budget.left() <= 0:
            self._twin_late = True
            # What all images would take, so that it is not begun again in vain.
            self.budget.costs[RANDOM] *= max(self._total / max(self._twin_batches, 1), 1.0)

    def _settle_twin(self, device: torch.device) -> None:
        """Leave the random network out everywhere if it was stopped anywhere."""
        why = "the time was used up before it had seen all images"
        if self._twin is not None and self.budget.refused(RANDOM, self._twin_late, device, why):
            self._twin, self._twin_metrics = None, {}

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
        *,
        first: bool = False,
    ) -> None:
        """Another forward pass, over the probe set or the images of this validation."""
        network = measured_network(module)
        for source in self._batches(module.trainer):
            with self.budget.spend():
                source = module.trainer.strategy.batch_to_device(source, module.device)
                batch = self.batch_of(source)
                with module.trainer.precision_plugin.val_step_context():
                    found = activations_of(network, list(metrics), batch.images)
                for name, metric in metrics.items():
                    metric.update(found[name], batch)
                if first:
                    self._look(found, batch)
                self.read_twin(list(twin_metrics), batch, source)
            if first:
                self._check_twin()

    def _batches(self, trainer: Trainer) -> Iterator[Any]:
        """As the validation showed them: the random state is left alone."""
        with torch.random.fork_rng(devices=[]):
            limit = None if self.probe_set is not None else self._num_batches
            yield from itertools.islice(self._loader(trainer), limit)
