"""The base of callbacks that measure layers in every validation, on any LightningModule.

A `LearnedSystem` hands over the activations of its one forward pass. On any other module the
callback records its layers itself, while the module validates as it always does.
"""

import json
import weakref
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor, nn
from torchmetrics import Metric

from interp_train.activations import ActivationTap
from interp_train.backbones.backbone import Backbone
from interp_train.callbacks.layer_records import save_entries, save_missing
from interp_train.callbacks.pinned_images import ToBatch
from interp_train.callbacks.random_network import (
    RandomNetwork,
    measured_network,
    random_network_of,
)
from interp_train.checks import check_name, check_range
from interp_train.layer_geometry import geometry_of, trace_layers
from interp_train.stopwatch import stopwatch_of
from interp_train.structures import (
    DataInfo,
    FactorBatch,
    ImageBatch,
    LayerGeometry,
    PartBatch,
    StepOutputs,
)
from interp_train.systems import LearnedSystem


class LayerMetricCallback(Callback, ABC):
    """Measures layers over the (first) validation set and logs ``<group>/<layer>/<quantity>``.

    Where the data lack what the measure needs, nothing is logged; `missing` says what it is.

    Args:
        layers: tap aliases or dotted names; on a module that is not a `LearnedSystem` a name
            may be given without its beginning (``"layer4"`` for ``"model.layer4"``).
        every_n_epochs: measures in every n-th epoch of a fit, in number `max_epochs`, and in every
            `validate`.
        save_records: writes ``<default_root_dir>/measures/<layer>.npz`` (`layer_records`).
        random_network: at the first validation, measures a copy with random weights too.
        data_info: names of parts and categories; None takes them from the data module or the
            module, where they have them.
        geometry: dotted name -> receptive fields; None asks the network, or follows the
            operations of a foreign one.
        to_batch: turns the batches of a foreign data module into `ImageBatch` or `PartBatch`.

    Attributes:
        missing: layer -> what the measure needs and the data set lacks.
        numbers: layer -> quantity -> value, as they were logged last.
    """

    name: ClassVar[str]
    group: ClassVar[str] = "parts"
    headlines: ClassVar[tuple[str, ...]]  # quantities that the random network is measured in

    def __init__(
        self,
        layers: Sequence[str],
        *,
        every_n_epochs: int = 1,
        save_records: bool = False,
        random_network: bool = True,
        data_info: DataInfo | None = None,
        geometry: Mapping[str, LayerGeometry] | None = None,
        to_batch: ToBatch | None = None,
    ) -> None:
        if isinstance(layers, str):
            raise ValueError(f"`layers` must be a list of names, but got {layers!r}.")
        check_range("every_n_epochs", every_n_epochs, 1)
        self.layers = tuple(layers)
        self.every_n_epochs = every_n_epochs
        self.save_records = save_records
        self.random_network = random_network
        self.data_info = data_info
        self.geometry = geometry
        self.to_batch = to_batch
        self.missing: dict[str, str] = {}
        self.numbers: dict[str, dict[str, float]] = {}
        self.metrics: dict[str, Any] = {}
        self._names: list[str] = []
        self._module: weakref.ref[LightningModule] | None = None
        self._tap: ActivationTap | None = None
        self._twin: RandomNetwork | None = None
        self._twin_metrics: dict[str, Any] = {}
        self._twin_numbers: dict[str, dict[str, Tensor]] = {}
        self._twin_measured = False
        self._measuring = False

    @abstractmethod
    def make_metric(self, geometry: LayerGeometry | None, info: DataInfo | None) -> Metric:
        """A new metric for one layer."""

    def entries(self, metric: Any, info: DataInfo | None) -> dict[str, Any]:
        """What a record keeps of a computed metric, beside its numbers."""
        return {}

    def read(self, activations: Mapping[str, Tensor], batch: Any, source: object) -> None:
        """Update the metrics with one batch.

        Args:
            activations: dotted name -> maps, ``(N, K, h, w)``.
            batch: the images, from `batch_of`.
            source: the batch as the data module gave it.
        """
        for name, metric in self.metrics.items():
            metric.update(activations[name], batch)
        self.read_twin(list(self._twin_metrics), batch, source)

    def read_twin(self, layers: Sequence[str], batch: Any, source: object) -> None:
        """Update the metrics of the random network for some layers, where one is measured."""
        if self._twin is not None and layers:
            random = self._twin.activations(source, batch.images)
            for name in layers:
                self._twin_metrics[name].update(random[name], batch)

    def concluded(self, trainer: Trainer, module: LightningModule, layer: str) -> None:
        """What remains to be done once a layer is computed and logged."""

    def twin_allowed(self, module: LightningModule) -> bool:
        """Whether there is time for the random network in this validation; asked once."""
        return True

    def finish(self, module: LightningModule) -> None:
        """What remains to be done after the last batch, before the metrics are computed."""

    # -- hooks -----------------------------------------------------------------------------

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Find the layers, so that a wrong name fails before anything is computed."""
        if self._module is None or self._module() is not pl_module:
            self._module, self._twin_numbers = weakref.ref(pl_module), {}
            self._twin_measured = False
        if isinstance(pl_module, LearnedSystem):
            self._names = pl_module.request_layers(self.layers)
        else:
            self._names = [resolved_layer(pl_module, layer) for layer in self.layers]

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start new metrics, and record layers where the module does not."""
        self._measuring = measures_now(trainer, self.every_n_epochs)
        self.metrics, self._twin_metrics = {}, {}
        if not self._measuring:
            return
        if not isinstance(pl_module, LearnedSystem):
            self._close_tap()
            self._tap = ActivationTap(pl_module, self._names).open()
        if self.random_network and not self._twin_measured and self.twin_allowed(pl_module):
            with stopwatch_of(trainer).measure(self.name):
                self._twin = random_network_of(pl_module)
                self._twin.request_layers(self._names)

    def on_validation_batch_start(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Make the metrics at the first batch, which tells the size of the images."""
        if self._measuring and not self.metrics:
            with stopwatch_of(trainer).measure(self.name):
                self._make_metrics(trainer, pl_module, self.batch_of(batch).images)

    def on_validation_batch_end(  # noqa: PLR0917  # Lightning's signature
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Read the activations of one batch."""
        if not self._measuring or dataloader_idx:
            return
        with stopwatch_of(trainer).measure(self.name):
            if isinstance(outputs, StepOutputs):
                activations = outputs.activations
            else:
                activations = self._tap.take() if self._tap is not None else {}
            self._check_recorded(activations)
            self.read(activations, self.batch_of(batch), batch)

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Merge over processes, log, and record."""
        if not self._measuring:
            return
        self._close_tap()
        with stopwatch_of(trainer).measure(self.name):
            if not self.metrics:  # this process had no batch; the merge needs it all the same
                self._make_metrics(trainer, pl_module, None)
            self.finish(pl_module)
            for layer in self._names:
                self._conclude(trainer, pl_module, layer)
            if self.save_records and trainer.is_global_zero:
                save_missing(trainer, self.name, self.missing)
        self._twin_measured |= self._twin is not None
        self._measuring, self._twin, self._twin_metrics = False, None, {}

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        """Take the hooks off."""
        self._close_tap()

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Take the hooks off and let the images go."""
        self._close_tap()
        self._twin = None

    # -- steps -----------------------------------------------------------------------------

    def batch_of(self, batch: Any) -> Any:
        """What the metrics read of a batch, as the data module gave it."""
        made = self.to_batch(batch) if self.to_batch is not None else batch
        if not isinstance(made, ImageBatch | PartBatch | FactorBatch):
            raise ValueError(
                f"`to_batch` must give an ImageBatch or a PartBatch, but {self.name} got "
                f"{type(made).__name__}. Pass a function that turns your batches into one of them."
            )
        return made

    def _make_metrics(
        self, trainer: Trainer, module: LightningModule, images: Tensor | None
    ) -> None:
        info = self._info(trainer, module)
        geometries = dict(self.geometry or {})
        if images is not None:
            known = set(geometries)
            geometries |= found_geometries(
                module, [n for n in self._names if n not in known], images
            )
        for name in self._names:
            geometry = geometries.get(name)
            self.metrics[name] = self.make_metric(geometry, info).to(module.device)
            if self._twin is not None:
                self._twin_metrics[name] = self.make_metric(geometry, info).to(module.device)

    def _info(self, trainer: Trainer, module: LightningModule) -> DataInfo | None:
        held = (
            self.data_info,
            getattr(getattr(trainer, "datamodule", None), "info", None),
            getattr(module, "data_info", None),
        )
        return next((info for info in held if isinstance(info, DataInfo)), None)

    def _check_recorded(self, activations: Mapping[str, Tensor]) -> None:
        for name in self._names:
            check_name("layers", name, activations, "a layer that the validation step calls")

    def _conclude(self, trainer: Trainer, module: LightningModule, layer: str) -> None:
        metric = self.metrics[layer]
        numbers: dict[str, Tensor] = metric.compute()
        if metric.missing:
            if layer not in self.missing:
                rank_zero_info(self._lacks(metric.missing))
            self.missing[layer] = self._lacks(metric.missing)
            return
        self.missing.pop(layer, None)
        if layer in self._twin_metrics:
            random: dict[str, Tensor] = self._twin_metrics[layer].compute()
            self._twin_numbers[layer] = {
                f"{name}_random_network": random[name] for name in self.headlines if name in random
            }
        numbers = numbers | self._twin_numbers.get(layer, {})
        module.log_dict(
            {f"{self.group}/{layer}/{name}": number for name, number in numbers.items()},
            # All processes hold the merged value; the maximum of equals is exact.
            reduce_fx="max",
            sync_dist=trainer.world_size > 1,
        )
        if self.save_records and trainer.is_global_zero:
            save_entries(trainer, layer, self._record(trainer, module, metric, numbers))
        self.numbers[layer] = {name: float(number) for name, number in numbers.items()}
        self.concluded(trainer, module, layer)

    def _lacks(self, what: str) -> str:
        return f"{self.name} needs {what}; this data set has none, so it is not measured."

    def _record(
        self, trainer: Trainer, module: LightningModule, metric: Any, numbers: dict[str, Tensor]
    ) -> dict[str, Any]:
        plain = {name: float(number) for name, number in numbers.items()}
        return {
            **self.entries(metric, self._info(trainer, module)),
            f"{self.name}_numbers": json.dumps(plain),
            f"{self.name}_epoch": trainer.current_epoch,
        }

    def _close_tap(self) -> None:
        if self._tap is not None:
            self._tap.close()
            self._tap = None


def measures_now(trainer: Trainer, every_n_epochs: int) -> bool:
    """Whether this validation counts: no sanity check, and it is its turn, or the last.

    The first validation of a fit counts, and after it the first one of every `every_n_epochs`
    epochs, also where the trainer does not validate each of them.
    """
    if trainer.sanity_checking:
        return False
    fitting = trainer.state.fn == "fit"
    last = trainer.max_epochs is not None and trainer.current_epoch == trainer.max_epochs - 1
    step = trainer.check_val_every_n_epoch or 1
    since_first = trainer.current_epoch + 1 - step
    turn = (
        since_first <= 0 or since_first // every_n_epochs > (since_first - step) // every_n_epochs
    )
    return not fitting or last or turn


def resolved_layer(module: nn.Module, layer: str) -> str:
    """The dotted name of `layer`, which may lack its beginning if that is unambiguous.

    Raises:
        ValueError: if no module, or more than one, is meant.
    """
    names: list[str] = [name for name, _ in module.named_modules() if name]
    ending = [name for name in names if name.endswith(f".{layer}")]
    if layer not in names and len(ending) == 1:
        return ending[0]
    check_name("layers", layer, [*ending, *names], "one module of the network")
    return layer


def found_geometries(
    module: nn.Module, layers: list[str], images: Tensor
) -> dict[str, LayerGeometry]:
    """Receptive fields, as far as they can be found: asked from a backbone, else followed.

    A layer that is left out is measured as if its cells tiled the image.
    """
    network = measured_network(module)
    if isinstance(network, Backbone):
        return {name: network.geometry(name) for name in layers}
    if not layers:
        return {}
    channels, height, width = images.shape[1:]
    try:
        traces = trace_layers(network, (channels, height, width))
    # What a foreign forward pass raises on tensors without data; the user is told, and goes on.
    except (RuntimeError, NotImplementedError, TypeError, ValueError, AttributeError) as error:
        rank_zero_info(
            f"The receptive fields of {', '.join(layers)} could not be followed "
            f"({type(error).__name__}); cells are taken to tile the image. Pass `geometry` to say "
            f"where they lie."
        )
        return {}
    found = {}
    for name in layers:
        grid = traces[name].grid if name in traces else None
        geometry = geometry_of(grid) if grid is not None and not isinstance(grid, str) else None
        if geometry is not None:
            found[name] = geometry
    return found
