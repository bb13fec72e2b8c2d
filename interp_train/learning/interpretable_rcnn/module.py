"""Interpretable R-CNN: a detector whose boxes come with a parse tree of parts nobody labelled.

The And-Or head of a Faster R-CNN, or its position-sensitive form, learns folded first (all
configurations of parts alike), then unfolds (the best configuration alone). T. Wu, X. Song,
"Towards Interpretable Object Detection by Unfolding Latent Structures", ICCV 2019; T. Wu et al.,
arXiv 1711.05226. Built from its description; `layers` and `position_sensitive` say what is ours.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, final

import torch
from torch import Tensor, nn
from torchmetrics import MeanMetric, Metric

from interp_train.backbones.backbone import Backbone
from interp_train.checks import check_choice, check_range
from interp_train.evaluation.leaf_counts import LeafCounts
from interp_train.evaluation.voc_average_precision import VocAveragePrecision
from interp_train.learning.interpretable_rcnn.average_precision import (
    coco_average_precision,
    coco_records,
)
from interp_train.learning.interpretable_rcnn.detector import (
    DetectorSettings,
    PartSettings,
    box_head_of,
    build_detector,
    detections_of,
    training_losses,
    validated,
)
from interp_train.learning.interpretable_rcnn.feature_pyramid import BackbonePyramid
from interp_train.learning.interpretable_rcnn.functional import sharpness_at
from interp_train.learning.interpretable_rcnn.part_head import PartHead
from interp_train.optimisation import learning_rate_of
from interp_train.protocols import FilterObjective
from interp_train.structures import DataInfo, DetectionBatch, Detections, StepOutputs
from interp_train.systems import LearnedSystem
from interp_train.target_scores import evaluation_mode

HEADS = ("and_or", "position_sensitive", "two_layer")
LOSSES = ("loss_classifier", "loss_box_reg", "loss_objectness", "loss_rpn_box_reg")


@final
class InterpretableRcnn(LearnedSystem):
    """Faster R-CNN with a head that parses boxes, or with torchvision's two layers for comparison.

    Logs torchvision's losses as ``loss/train/<name>`` and ``loss/validation/<name>``, the latter
    means over images that are seen one by one; ``accuracy/map``, ``accuracy/map_50`` and
    ``accuracy/map_75`` as COCO, ``accuracy/voc07_ap_50`` as VOC 2007; and of the boxes with a
    score of at least 0.5 ``parts/unfolded_share`` (parse trees with two leaves or more),
    ``parts/unfolded_share_category_mean``, ``parts/leaves_per_box`` and ``parts/tree_depth``.

    Args:
        network: gives the maps; a classifier of its own stays unused.
        data_info: names the categories; size and normalisation of the images.
        objectives: must be empty.
        head: ``"and_or"``; ``"position_sensitive"``, its R-FCN form; or ``"two_layer"``.
        levels: layers whose maps are used, finest first, dotted names or tap aliases; the last
            must be the end of the backbone.
        frozen_norms: whether the backbone's BatchNorm layers keep their statistics and weights, as
            usual where a batch is a few images; set it to false for an untrained backbone.
        detector: see `DetectorSettings`; None takes its defaults.
        parts: see `PartSettings`; None takes its defaults.
        optimizer: partial of a torch optimiser with an ``lr``.
        scheduler: partial of a torch scheduler, called with the optimiser; None for a constant
            learning rate.
        scheduler_interval: whether the scheduler steps per ``"epoch"`` or per ``"step"``.
        warmup_steps: in which the learning rate grows from a thousandth to its full value.

    Raises:
        ValueError: if an argument is out of its range, or there are objectives.
    """

    def __init__(
        self,
        network: Backbone,
        data_info: DataInfo,
        objectives: Mapping[str, FilterObjective] | None = None,
        *,
        head: str = "and_or",
        levels: Sequence[str] = ("mid", "top"),
        frozen_norms: bool = True,
        detector: DetectorSettings | None = None,
        parts: PartSettings | None = None,
        optimizer: Callable[..., torch.optim.Optimizer],
        scheduler: Callable[..., Any] | None = None,
        scheduler_interval: str = "epoch",
        warmup_steps: int = 100,
    ) -> None:
        super().__init__(network, data_info)
        check_choice("head", head, HEADS)
        check_choice("scheduler_interval", scheduler_interval, ("epoch", "step"))
        check_range("warmup_steps", warmup_steps, 0)
        if objectives:
            raise ValueError(
                f"`objectives` must be empty for a detector, but got {sorted(objectives)}. Set "
                f"filter_objective=none."
            )
        settings, self.parts = detector or DetectorSettings(), parts or PartSettings()
        sharpness_at(0.0, self.parts.folding, self.parts.smooth)  # checks both shares
        self.make_optimizer, self.make_scheduler = optimizer, scheduler
        self.scheduler_interval, self.warmup_steps = scheduler_interval, warmup_steps
        self.frozen_norms = frozen_norms
        pyramid = BackbonePyramid(network, levels, settings.channels, settings.coarser_level)
        num_categories = len(data_info.class_names)
        box_head = box_head_of(head, 1 + num_categories, settings, self.parts)
        self.detector = build_detector(pyramid, box_head, settings, data_info)
        self._freeze_what_does_not_learn()
        self.validation_losses = nn.ModuleDict({name: MeanMetric() for name in LOSSES})
        self.voc_average_precision = VocAveragePrecision(num_categories)
        self.leaf_counts = LeafCounts(num_categories)
        self.mean_average_precision: Metric | None = None

    @property
    def and_or_head(self) -> PartHead | None:
        """The head that parses boxes, if there is one."""
        head = self.detector.roi_heads.box_head
        return head if isinstance(head, PartHead) else None

    # -- steps -----------------------------------------------------------------------------

    def run(self, batch: Any) -> StepOutputs:
        """Losses of a `DetectionBatch`; in evaluation mode detections as well."""
        tap = self.opened_tap()
        nothing = batch.images[0].new_zeros(len(batch.images), 0)
        if self.training:
            seed = int(self.config.get("seed", 0))
            losses = training_losses(self.detector, batch, seed, self.current_epoch + 1)
            return StepOutputs(nothing, tap.take(), losses)
        losses, found = validated(self.detector, batch)
        return StepOutputs(nothing, tap.take(), losses, found)

    def loss_terms(self, outputs: StepOutputs, batch: Any) -> dict[str, Tensor]:
        """``loss_classifier``, ``loss_box_reg``, ``loss_objectness``, ``loss_rpn_box_reg``."""
        return dict(outputs.loss_terms)

    def forward(self, images: Sequence[Tensor]) -> list[Detections]:  # type: ignore[override]
        """What is found in images ``(3, H_i, W_i)``, RGB in [0, 1], each seen alone."""
        with evaluation_mode(self):
            return [detections_of(self.detector, image) for image in images]

    def validation_step(  # type: ignore[override]  # callbacks read the outputs
        self, batch: DetectionBatch, batch_idx: int
    ) -> StepOutputs:
        """See `LearnedSystem`; also counts what is right."""
        outputs = self.run(batch)
        self._count(outputs, batch)
        return outputs

    # -- course of training ----------------------------------------------------------------

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Fold or unfold, as the step demands."""
        if self.and_or_head is None:
            return
        total = self.trainer.estimated_stepping_batches
        if math.isinf(total):
            raise ValueError(
                "`trainer` must know its number of steps, since the head folds in the first and "
                "unfolds in the last, but max_epochs and max_steps are unlimited. Set "
                "trainer.max_epochs."
            )
        progress = min(self.global_step / max(total, 1), 1.0)
        self.and_or_head.sharpness = sharpness_at(progress, self.parts.folding, self.parts.smooth)

    def train(self, mode: bool = True) -> "InterpretableRcnn":
        """Training mode for all but the frozen normalisations."""
        super().train(mode)
        if self.frozen_norms:
            for norm in batch_norms(self.network):
                norm.eval()
        return self

    def on_train_epoch_start(self) -> None:
        """Keep what is frozen in evaluation mode, whatever Lightning set."""
        super().on_train_epoch_start()
        self.train()

    def configure_optimizers(self) -> Any:
        """Optimiser over the backbone's groups and the detector; warm-up and scheduler."""
        rate = learning_rate_of(self.make_optimizer)
        own = [parameter for parameter in self.detector.parameters() if parameter.requires_grad]
        groups = [
            *self.network.parameter_groups(rate),
            {"params": own, "lr": rate, "name": "detector"},
        ]
        optimizer = self.make_optimizer([group for group in groups if group["params"]])
        schedulers = []
        if self.warmup_steps:
            warmup = torch.optim.lr_scheduler.LinearLR(
                optimizer, start_factor=1e-3, total_iters=self.warmup_steps
            )
            schedulers.append({"scheduler": warmup, "interval": "step"})
        if self.make_scheduler is not None:
            scheduler = self.make_scheduler(optimizer)
            schedulers.append({"scheduler": scheduler, "interval": self.scheduler_interval})
        return [optimizer], schedulers

    def _freeze_what_does_not_learn(self) -> None:
        """The backbone's classifier, which nothing reads, and the frozen normalisations."""
        for name in self.network.readout:
            self.network.get_submodule(name).requires_grad_(False)
        for norm in batch_norms(self.network) if self.frozen_norms else ():
            norm.requires_grad_(False)
        self.train(self.training)

    # -- measures --------------------------------------------------------------------------

    def setup(self, stage: str) -> None:
        """Make COCO's measure, which needs a package of its own; a detector alone does not."""
        if stage != "predict" and self.mean_average_precision is None:
            self.mean_average_precision = coco_average_precision()

    @property
    def _loss_means(self) -> dict[str, MeanMetric]:
        means: Any = self.validation_losses
        return dict(means.items())

    def _count(self, outputs: StepOutputs, batch: DetectionBatch) -> None:
        for name, loss in outputs.loss_terms.items():
            self._loss_means[name].update(loss, len(batch.images))
        found = outputs.detections
        self.leaf_counts.update(found)
        self.voc_average_precision.update(found, batch.boxes, batch.labels, batch.ignored)
        if self.mean_average_precision is not None:
            self.mean_average_precision.update(*coco_records(found, batch))

    def on_validation_epoch_end(self) -> None:
        """Log losses, average precisions and how far the trees unfold."""
        losses = {name: metric.compute() for name, metric in self._loss_means.items()}
        self.log_dict({f"loss/validation/{name}": value for name, value in losses.items()})
        self.log("accuracy/voc07_ap_50", self.voc_average_precision.compute().nanmean())
        self.log_dict({f"parts/{k}": value for k, value in self.leaf_counts.compute().items()})
        if self.mean_average_precision is not None:
            found = self.mean_average_precision.compute()
            names = ("map", "map_50", "map_75")
            self.log_dict({f"accuracy/{name}": found[name] for name in names})
            self.mean_average_precision.reset()
        for metric in self._loss_means.values():
            metric.reset()
        self.voc_average_precision.reset()
        self.leaf_counts.reset()


def batch_norms(network: nn.Module) -> list[nn.Module]:
    """The BatchNorm layers of a network."""
    kind = nn.modules.batchnorm._BatchNorm
    return [module for module in network.modules() if isinstance(module, kind)]
