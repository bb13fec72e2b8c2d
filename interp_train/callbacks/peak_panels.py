"""What the callbacks share that draw where filters fire: they read peaks from the validation."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, NamedTuple, final

import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor

from interp_train.activations import ActivationTap
from interp_train.callbacks.figure_writer import FigureCallback
from interp_train.callbacks.layer_metrics import (
    found_geometries,
    measures_now,
    resolved_layer,
)
from interp_train.callbacks.pinned_images import ToBatch, batch_places
from interp_train.checks import check_range
from interp_train.evaluation.part_scheme import (
    PartScheme,
    as_one_category,
    part_measures_missing,
    part_scheme,
)
from interp_train.evaluation.part_tracking import (
    PartTrackingResult,
    best_filters,
    can_track,
    part_tracking,
)
from interp_train.evaluation.peak_table import MapFrame, PeakMetric, PeakTable
from interp_train.stopwatch import stopwatch_of
from interp_train.structures import Batch
from interp_train.systems import LearnedSystem


@final
class PeakCollector(PeakMetric):
    """The merged peaks of a layer, and how its maps lie in the image."""

    def compute(self) -> tuple[PeakTable, MapFrame]:
        """Table and frame over all processes."""
        return self.table(), self.frame()


class LayerPeaks(NamedTuple):
    """Peaks of one layer over the validation set, and what its filters follow.

    Attributes:
        layer: dotted name.
        table: peaks and annotations.
        frame: how the maps lie in the image.
        scheme: names of parts and categories.
        tracking: part and score of each filter; None where the data has no landmarks.
    """

    layer: str
    table: PeakTable
    frame: MapFrame
    scheme: PartScheme
    tracking: PartTrackingResult | None


class PeakPanels(FigureCallback, ABC):
    """Collects the peaks of layers during validation and has process 0 draw them.

    Args:
        layers: dotted names or tap aliases.
        every_n_epochs: draws in every n-th epoch of a fit, in its last, and in every `validate`.
        by_category: False treats all categories as one when parts are assigned to filters.
        to_batch: turns a foreign batch into an `ImageBatch` or `PartBatch`.
    """

    def __init__(
        self,
        layers: Sequence[str],
        *,
        every_n_epochs: int,
        by_category: bool,
        to_batch: ToBatch | None,
    ) -> None:
        check_range("every_n_epochs", every_n_epochs, 1)
        self.layers = tuple(layers)
        self.every_n_epochs = every_n_epochs
        self.by_category = by_category
        self.to_batch = to_batch
        self.names: list[str] = []
        self._collectors: dict[str, PeakCollector] = {}
        self._tap: ActivationTap | None = None
        self._due = False
        self._order: list[list[int]] = []
        self.places: dict[int, int] = {}  # sample id -> place in the validation set, process 0

    @abstractmethod
    def draw_panels(self, trainer: Trainer, module: LightningModule, peaks: LayerPeaks) -> None:
        """Draw and submit the figures of one layer; called on process 0 only."""

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Find the layers, so that a wrong name fails before anything is computed."""
        if isinstance(pl_module, LearnedSystem):
            self.names = pl_module.request_layers(self.layers)
        else:
            self.names = [resolved_layer(pl_module, layer) for layer in self.layers]

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start anew; open a tap on a foreign module."""
        self._due = measures_now(trainer, self.every_n_epochs)
        self._collectors, self.places = {}, {}
        self._order = batch_places(trainer) if self._due else []
        if self._due and not isinstance(pl_module, LearnedSystem):
            self._tap = ActivationTap(pl_module, self.names).open()

    def on_validation_batch_end(  # noqa: PLR0917  (Lightning's signature)
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Keep the peaks of one batch."""
        if not self._due or dataloader_idx:
            return
        with stopwatch_of(trainer).measure("panels"):
            activations = self._tap.take() if self._tap is not None else outputs.activations
            own = self.to_batch(batch) if self.to_batch is not None else batch
            self.places.update(zip(own.sample_ids.tolist(), self._order[batch_idx], strict=True))
            for layer in self.names:
                self._collector(pl_module, layer, own).update(activations[layer], own)

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Merge over processes; draw on process 0."""
        if self._tap is not None:
            self._tap.close()
            self._tap = None
        if not self._due:
            return
        with stopwatch_of(trainer).measure("panels"):
            self.places = merged(self.places)
            for layer in self.names:  # a process without images takes part in the merge
                collector = self._collectors.pop(layer, PeakCollector().to(pl_module.device))
                table, frame = collector.compute()
                if trainer.is_global_zero:
                    self.draw_panels(trainer, pl_module, self._read(pl_module, layer, table, frame))

    def _collector(self, module: LightningModule, layer: str, batch: Batch) -> PeakCollector:
        if layer not in self._collectors:
            geometry = found_geometries(module, [layer], batch.images).get(layer)
            self._collectors[layer] = PeakCollector(geometry).to(module.device)
        return self._collectors[layer]

    def _read(
        self, module: LightningModule, layer: str, table: PeakTable, frame: MapFrame
    ) -> LayerPeaks:
        info = getattr(module, "data_info", None)
        scheme = part_scheme(table, info, self.by_category)
        count = scheme.num_categories
        table = table if count > 1 else as_one_category(table)
        tracking = None
        if not part_measures_missing(table, boxes=True) and can_track(table, count):
            tracking = part_tracking(table, num_categories=count)
        return LayerPeaks(layer, table, frame, scheme, tracking)


def merged(own: dict[int, int]) -> dict[int, int]:
    """The entries of all processes."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return own
    found: list[Any] = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(found, own)
    return {key: value for entries in found for key, value in entries.items()}


def tracking_units(tracking: PartTrackingResult, number: int) -> list[int]:
    """Units that follow parts best: first the best of each part, then the best of the rest.

    Args:
        tracking: part and score of each unit.
        number: how many units at most.
    """
    best, scores = best_filters(tracking)
    order = scores.nan_to_num(-float("inf")).argsort(descending=True, stable=True)
    first = [int(best[part]) for part in order if best[part] >= 0]
    rest = tracking.scores.nan_to_num(-float("inf")).argsort(descending=True, stable=True)
    return list(dict.fromkeys([*first, *rest.tolist()]))[:number]


def best_of_category(tracking: PartTrackingResult, category: int) -> tuple[Tensor, Tensor]:
    """As `best_filters`, among the filters of one category (all filters for the background)."""
    own = (tracking.categories == category) | (category < 0)
    return best_filters(
        tracking._replace(choice_r2=torch.where(own[:, None], tracking.choice_r2, torch.nan))
    )


def active_units(values: Tensor, number: int) -> list[int]:
    """Units with the highest mean peak, of values ``(N, K)``."""
    return values.mean(0).argsort(descending=True, stable=True)[:number].tolist()


def unit_caption(unit: int, peaks: LayerPeaks) -> str:
    """The unit's number and, with landmarks, its part and R2."""
    if peaks.tracking is None or int(peaks.tracking.parts[unit]) < 0:
        return f"unit {unit}"
    part = peaks.scheme.part_names[int(peaks.tracking.parts[unit])].replace("_", " ")
    score = f"{peaks.tracking.scores[unit]:.2f}".replace("-", "−")
    return f"unit {unit}\n{part}, R²\u00a0{score}"
