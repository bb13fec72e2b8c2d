"""Quality of a detector's parse trees at each validation, beside random trees."""

from typing import Any, final

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from interp_train.checks import check_range
from interp_train.data.scenes import mirrored_boxes
from interp_train.evaluation.leaf_deletion import LeafDeletion, covered, deletion_orders
from interp_train.evaluation.part_layouts import LayoutConsistency, PartRecovery, leaf_boxes_of
from interp_train.learning.interpretable_rcnn.detector import parses_at, probabilities_at
from interp_train.learning.interpretable_rcnn.module import InterpretableRcnn
from interp_train.stopwatch import stopwatch_of
from interp_train.structures import DetectionBatch, Detections, StepOutputs

_Measures = tuple[LayoutConsistency, PartRecovery, LeafDeletion]


@final
class ParseQuality(Callback):
    """Layout consistency, part recovery where true parts are known, and the deletion of leaves.

    Logged as ``parts/<quantity>``; see `LayoutConsistency`, `PartRecovery` and `LeafDeletion`.
    Detectors without parse trees are left alone.

    Args:
        every_n_epochs: epochs between two measurements.
        least_score: of the detections that are looked at.
        deletion_every: leaves are covered in every so many-th image of a process, since each leaf
            takes a pass through the network; 0 leaves the deletion test out.
        deletion_boxes: boxes of such an image whose leaves are covered, surest first.
    """

    def __init__(
        self,
        every_n_epochs: int = 1,
        least_score: float = 0.5,
        deletion_every: int = 0,
        deletion_boxes: int = 2,
    ) -> None:
        check_range("every_n_epochs", every_n_epochs, 1)
        check_range("least_score", least_score, 0.0, 1.0)
        check_range("deletion_every", deletion_every, 0)
        check_range("deletion_boxes", deletion_boxes, 1)
        self.every_n_epochs, self.least_score = every_n_epochs, least_score
        self.deletion_every, self.deletion_boxes = deletion_every, deletion_boxes
        self._measures: _Measures | None = None
        self._seen = 0

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start afresh, if this epoch is measured and the detector parses."""
        head = pl_module.and_or_head if isinstance(pl_module, InterpretableRcnn) else None
        due = not trainer.sanity_checking and trainer.current_epoch % self.every_n_epochs == 0
        self._measures, self._seen = None, 0
        if head is not None and due:
            made = (LayoutConsistency(head.graph), PartRecovery(head.graph), LeafDeletion())
            self._measures = made
            for measure in made:
                measure.to(pl_module.device)
            # No image, so that a process without boxes computes without a warning, too.
            made[0].update([], [], [], 0)
            made[1].update([], torch.zeros(0, 4), torch.zeros(0, 1, 4), 0)
            made[2].update({})

    def on_validation_batch_end(  # noqa: PLR0917  (Lightning's signature)
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Add the images of a batch."""
        if self._measures is None or not isinstance(outputs, StepOutputs):
            return
        assert isinstance(pl_module, InterpretableRcnn)
        with stopwatch_of(trainer).measure("parse_quality"):
            for index, found in enumerate(outputs.detections):
                self._add_layout(pl_module, batch, index, found)
                self._add_parts(pl_module, batch, index)
                if self.deletion_every and self._seen % self.deletion_every == 0:
                    self._add_deletion(pl_module, batch.images[index], found)
                self._seen += 1

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log what was measured."""
        if self._measures is None:
            return
        for measure in self._measures:
            for name, value in measure.compute().items():
                pl_module.log(f"parts/{name}", value.float())

    def _add_layout(
        self, system: InterpretableRcnn, batch: DetectionBatch, index: int, found: Detections
    ) -> None:
        assert self._measures is not None
        image, sample_id = batch.images[index], int(batch.sample_ids[index])
        kept = found.scores >= self.least_score
        trees = [tree for tree, keep in zip(found.trees, kept.tolist(), strict=True) if keep]
        if not trees:
            return
        boxes = mirrored_boxes(found.boxes[kept], image.shape[-1])
        labels = found.labels[kept]
        turned = parses_at(system.detector, image.flip(-1), boxes, labels)
        back = [parse.tree for parse in turned]
        self._measures[0].update(trees, back, labels.tolist(), sample_id)

    def _add_parts(self, system: InterpretableRcnn, batch: DetectionBatch, index: int) -> None:
        """The trees of the true boxes: a missed object says nothing about parts."""
        assert self._measures is not None
        parts, boxes = batch.part_boxes[index], batch.boxes[index]
        if not parts.numel():
            return
        parses = parses_at(system.detector, batch.images[index], boxes, batch.labels[index])
        trees = [parse.tree for parse in parses]
        self._measures[1].update(trees, boxes, parts, int(batch.sample_ids[index]))

    def _add_deletion(self, system: InterpretableRcnn, image: Tensor, found: Detections) -> None:
        assert self._measures is not None
        number = min(int((found.scores >= self.least_score).sum()), self.deletion_boxes)
        boxes, labels = found.boxes[:number], found.labels[:number]
        if not number:
            return
        colour = torch.tensor(system.data_info.mean)
        parses = parses_at(system.detector, image, boxes, labels)
        for row, parse in enumerate(parses):
            head = system.and_or_head
            assert head is not None
            grid = (head.graph.height, head.graph.width)
            leaves = leaf_boxes_of(parse.tree.leaves(), boxes[row], grid)
            curves = {}
            for name, order in deletion_orders(parse.contributions, seed=row).items():
                steps = [covered(image, leaves[order[:n]], colour) for n in range(len(order) + 1)]
                place = (boxes[row : row + 1], labels[row : row + 1])
                curves[name] = torch.cat(
                    [probabilities_at(system.detector, step, *place) for step in steps]
                )
            self._measures[2].update(curves)
