"""What a detector finds in a few pinned validation images, and how it takes its boxes apart."""

from collections.abc import Sequence
from typing import Any, final

import torch
from lightning.pytorch import LightningModule, Trainer

from interp_train.and_or_graph import ParseTree
from interp_train.callbacks.figure_writer import FigureCallback
from interp_train.callbacks.layer_metrics import measures_now
from interp_train.callbacks.pinned_images import (
    images_at,
    save_record,
    spread_indices,
    validation_loader,
)
from interp_train.checks import check_range
from interp_train.collectives import num_processes
from interp_train.learning.interpretable_rcnn.module import InterpretableRcnn
from interp_train.parse_drawings import as_drawn
from interp_train.parse_records import (
    GraphShape,
    ParsedScene,
    ParseRecord,
    as_arrays,
    record_figures,
)
from interp_train.stopwatch import stopwatch_of
from interp_train.structures import DetectionBatch, Detections, StepOutputs

_Parsed = list[tuple[int, ParseTree]]  # label and tree of a box


@final
class ParsePanels(FigureCallback):
    """Draws boxes, leaves, parse trees and their statistics after each validation, on process 0.

    Of pinned images ``parts/detections_<n>``: boxes with the leaves of their parse trees, beside
    them a box's tree as a tree of crops; ``parts/and_or_graph``: the path of one of these trees
    through the And-Or graph. Of all boxes of the validation ``parts/leaf_sizes``, where a collapse
    to whole boxes shows, and ``parts/production_rules``: the most frequent ones of each category.
    The latest are kept in ``measures/panels/parses.npz``, for the report. Of a detector without
    parse trees only the boxes are drawn; other systems are left alone.

    Args:
        num_images: how many images.
        indices: their places in the validation set; None spreads them evenly.
        every_n_epochs: draws in every n-th epoch of a fit, in its last, and in every `validate`.
        least_score: of the detections that are drawn and counted.
    """

    def __init__(
        self,
        num_images: int = 4,
        indices: Sequence[int] | None = None,
        every_n_epochs: int = 1,
        least_score: float = 0.5,
    ) -> None:
        check_range("num_images", num_images, 1)
        check_range("every_n_epochs", every_n_epochs, 1)
        check_range("least_score", least_score, 0.0, 1.0)
        self.num_images, self.indices = num_images, indices
        self.every_n_epochs, self.least_score = every_n_epochs, least_score
        self._pinned: DetectionBatch | None = None
        self._due = False
        self._trees: _Parsed = []

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start anew."""
        known = isinstance(pl_module, InterpretableRcnn)
        self._due, self._trees = known and measures_now(trainer, self.every_n_epochs), []

    def on_validation_batch_end(  # noqa: PLR0917  (Lightning's signature)
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Keep the parse trees of a batch."""
        if self._due and isinstance(outputs, StepOutputs):
            for found in outputs.detections:
                kept = self._kept(found)
                self._trees += zip(kept.labels.tolist(), kept.trees, strict=False)

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Merge over processes; process 0 draws."""
        if not self._due:
            return
        assert isinstance(pl_module, InterpretableRcnn)
        trees = _gathered(self._trees)
        if not trainer.is_global_zero:
            return
        with stopwatch_of(trainer).measure("parse_panels"):
            record = self._record(trainer, pl_module, trees)
            save_record(trainer, "parses", **as_arrays(record))
            for name, draw in record_figures(record).items():
                self.submit(trainer, f"parts/{name}", draw)

    def _record(self, trainer: Trainer, system: InterpretableRcnn, trees: _Parsed) -> ParseRecord:
        head, names = system.and_or_head, system.data_info.class_names
        shape = None
        if head is not None:
            sides = (head.graph.height, head.graph.width)
            shape = GraphShape(*sides, system.parts.min_side, system.parts.root_terminal)
        images = [image.to(system.device) for image in self._images(trainer)]
        found = [self._kept(detections) for detections in system(images)]
        return ParseRecord(
            class_names=names,
            shape=shape,
            scenes=[
                ParsedScene(image.cpu(), _drawn(kept))
                for image, kept in zip(images, found, strict=True)
            ],
            trees=[[tree for own, tree in trees if own == label] for label in range(len(names))],
            epoch=trainer.current_epoch,
        )

    def _images(self, trainer: Trainer) -> Sequence[Any]:
        """The pinned images; without `indices` those with an object come first."""
        if self._pinned is None:
            loader = validation_loader(trainer)
            number = len(loader.dataset)
            places = self.indices or spread_indices(number, 4 * self.num_images)
            batch: DetectionBatch = images_at(loader, places)
            order: Sequence[int] = range(len(places))
            if self.indices is None:
                shown = [index for index in order if len(batch.boxes[index])]
                empty = [index for index in order if not len(batch.boxes[index])]
                chosen = [shown[index] for index in spread_indices(len(shown), self.num_images)]
                order = [*chosen, *empty][: self.num_images]
            self._pinned = batch._replace(images=[batch.images[index] for index in order])
        return self._pinned.images

    def _kept(self, found: Detections) -> Detections:
        """The detections that are sure enough; they come surest first."""
        number = int((found.scores >= self.least_score).sum())
        fields: Any = [field[:number] for field in found]
        return Detections(*fields)


def _drawn(found: Detections) -> list[Any]:
    trees = found.trees or [None] * len(found.boxes)
    boxes = zip(found.boxes.cpu(), found.labels.tolist(), found.scores.tolist(), trees, strict=True)
    return [
        as_drawn(box, label, f"{score:.2f}".lstrip("0"), tree) for box, label, score, tree in boxes
    ]


def _gathered(own: _Parsed) -> _Parsed:
    """The trees of all processes."""
    if num_processes() == 1:
        return own
    found: list[Any] = [None] * num_processes()
    torch.distributed.all_gather_object(found, own)
    return [entry for listed in found for entry in listed]
