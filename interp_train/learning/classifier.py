"""A classifier that learns from image labels, and from any number of filter objectives."""

from collections.abc import Callable, Mapping
from typing import Any, final

import torch
from torch import Tensor, nn

from interp_train.backbones.backbone import Backbone
from interp_train.checks import check_choice
from interp_train.evaluation.answer_measures import AnswerMeasures
from interp_train.label_counts import LabelCounts, membership_of
from interp_train.learning.objective_terms import (
    SecondPath,
    objective_groups,
    objective_terms,
)
from interp_train.optimisation import learning_rate_of, with_scheduler
from interp_train.protocols import FilterObjective
from interp_train.structures import BACKGROUND, Batch, DataInfo, OverlapBatch, StepOutputs
from interp_train.systems import LearnedSystem


@final
class Classifier(LearnedSystem):
    """Trains `network` with a classification loss and the terms of `objectives`.

    The task loss is a mean over images: of the cross-entropy over categories (``"softmax"``),
    or of the sum over categories of ``log(1 + exp(-y z))``, y = ±1 (``"logistic"``; one
    category against the background, or each against the rest).

    Logs ``loss/train/task`` and ``loss/train/<objective>/<term>``, what objectives watch as
    ``loss/watched/<objective>/<quantity>``, ``accuracy/train``, and on the validation data
    ``accuracy/top1``, ``accuracy/per_category_mean`` and ``loss/validation/task``, a mean over
    images. On images of overlapping objects (`OverlapBatch`), which take the logistic loss and no
    objectives, all objects are to be named, and the accuracies are ``accuracy/all_objects`` and
    ``accuracy/objects``. Terms of objectives are statistics of a batch, so no number stands for a
    whole validation set; what they cause is what the measures show.

    Args:
        network: built once by the caller; its readout is fitted to the number of categories.
        data_info: names the categories.
        objectives: name -> objective; they insert their layers here.
        loss: ``"softmax"`` or ``"logistic"``.
        background: whether `predict` may answer `BACKGROUND`; None means: only if there is
            one category. Needs the logistic loss.
        balance: weight images inversely to the share of their category so far (softmax), or
            positives and negatives of a category equally (logistic).
        head: partial of a head, called with ``in_channels``, ``num_outputs`` and ``in_size``;
            None keeps the network's own classifier, with as many outputs as categories.
        optimizer: partial of a torch optimiser with an ``lr``; called with the network's
            parameter groups.
        scheduler: partial of a torch scheduler, called with the optimiser; None for a constant
            learning rate.
        scheduler_interval: whether the scheduler steps per ``"epoch"`` or per ``"step"``.
        compile: whether training and validation run a compiled network.

    Raises:
        ValueError: for an unknown loss or interval, or a softmax with a background or with one
            category.
    """

    def __init__(
        self,
        network: Backbone,
        data_info: DataInfo,
        objectives: Mapping[str, FilterObjective] | None = None,
        *,
        loss: str = "softmax",
        background: bool | None = None,
        balance: bool = False,
        head: Callable[..., nn.Module] | None = None,
        optimizer: Callable[..., torch.optim.Optimizer],
        scheduler: Callable[..., Any] | None = None,
        scheduler_interval: str = "epoch",
        compile: bool = False,
    ) -> None:
        super().__init__(network, data_info)
        check_choice("loss", loss, ("softmax", "logistic"))
        check_choice("scheduler_interval", scheduler_interval, ("epoch", "step"))
        self.num_categories = len(data_info.class_names)
        self.loss, self.balance = loss, balance
        self.background = self.num_categories == 1 if background is None else background
        self._check_softmax()
        self.make_optimizer, self.make_scheduler = optimizer, scheduler
        self.scheduler_interval = scheduler_interval
        self._label_range: Tensor | None = None  # lowest and highest label on the device so far
        self._attach(head, objectives or {})
        self.label_counts = LabelCounts(self.num_categories)
        self.measures = AnswerMeasures(self.num_categories, ("task",))
        if compile:
            # The bound method: as a module it would double every key of the state dict.
            compiled: Any = torch.compile(network)
            self.compiled_forward = compiled.__call__

    def _check_softmax(self) -> None:
        if self.loss == "softmax" and (self.num_categories == 1 or self.background):
            raise ValueError(
                f"`loss` must be 'logistic' for one category or with a background, but got "
                f"'softmax' with {self.num_categories} categories. Set loss=logistic."
            )

    def _attach(
        self, head: Callable[..., nn.Module] | None, objectives: Mapping[str, FilterObjective]
    ) -> None:
        """Head first: objectives tap its layers."""
        if head is None:
            self.network.resize_classifier(self.num_categories)
        else:
            channels, *size = self.network.feature_shape(self.data_info.image_size)
            made = head(in_channels=channels, num_outputs=self.num_categories, in_size=tuple(size))
            self.network.attach_head(made)
        self.objectives = nn.ModuleDict()
        for name, objective in objectives.items():
            if not isinstance(objective, nn.Module) or not isinstance(objective, FilterObjective):
                raise TypeError(
                    f"`objectives[{name!r}]` must be an nn.Module with taps, attach, loss_terms "
                    f"and measurements, but got {type(objective).__name__}."
                )
            objective.attach(self.network, self.num_categories)
            self.objectives[name] = objective
            self.request_layers(objective.taps)

    def loss_terms(self, outputs: StepOutputs, batch: Batch) -> dict[str, Tensor]:
        """``task``, and ``<objective>/<term>``."""
        labels = self._labels_of(batch)
        self._check_labels(labels)
        epoch = self.current_epoch + 1
        terms = {"task": self.task_loss(outputs.logits.float(), labels)}
        second_path = SecondPath(self.network, labels, self.image_losses)
        for name, objective in self._named_objectives():
            found = objective_terms(objective, outputs, batch, second_path, epoch)
            terms.update({f"{name}/{term}": value for term, value in found.items()})
        if self._tap is not None:
            self._tap.take()  # what a second path left there
        return terms

    def _labels_of(self, batch: Batch) -> Tensor:
        """Label of each image ``(N,)``, or of each of its objects ``(N, M)``."""
        if not isinstance(batch, OverlapBatch):
            return batch.labels
        if self.loss == "softmax":
            raise ValueError(
                "`loss` must be 'logistic' for images of several objects, but got 'softmax'. "
                "Set loss=logistic."
            )
        if self.objectives:
            raise ValueError(
                f"`objectives` must be empty for images of several objects, but got "
                f"{sorted(self.objectives)}. Set filter_objective=none."
            )
        return batch.object_labels

    def task_loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Mean over images of the classification loss; see `image_losses`."""
        if self.balance and self.training:
            self.label_counts.update(labels)
        return self.image_losses(logits, labels).mean()

    def image_losses(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Classification loss of each image ``(N,)``.

        Args:
            logits: ``(N, C)``.
            labels: ``(N,)``; for the logistic loss also of several objects, ``(N, M)``.
        """
        shares = self.label_counts.shares().to(logits.dtype).clamp(min=1e-6)
        if self.loss == "softmax":
            weights = 1 / (self.num_categories * shares) if self.balance else None
            return nn.functional.cross_entropy(logits, labels, weights, reduction="none")
        weights = None
        if self.balance:
            targets = membership_of(labels, self.num_categories, logits)
            others = (1 - shares).clamp(min=1e-6)
            weights = targets * 0.5 / shares + (1 - targets) * 0.5 / others
        return logistic_losses(logits, labels, weights)

    def predict(self, logits: Tensor) -> Tensor:
        """Label of each image, category index or `BACKGROUND`, ``(N, C)`` -> ``(N,)``."""
        largest, labels = logits.max(1)
        return torch.where(largest > 0, labels, BACKGROUND) if self.background else labels

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """See `LearnedSystem`; also counts the right answers and logs what objectives watch."""
        outputs = self.run(batch)
        terms = self.loss_terms(outputs, batch)
        logits = outputs.logits.detach()
        self.measures.count_training(logits, self.predict(logits), batch)
        if self.writes_now():
            self._log_measurements()
        return self.loss_of(terms)

    def validation_step(  # type: ignore[override]  # callbacks read the outputs
        self, batch: Batch, batch_idx: int
    ) -> StepOutputs:
        """See `LearnedSystem`; also counts the right answers."""
        outputs = super().validation_step(batch, batch_idx)
        logits, terms = outputs.logits, {"task": outputs.loss_terms["task"]}
        self.measures.count_validation(logits, self.predict(logits), batch, terms)
        return outputs

    def on_train_epoch_end(self) -> None:
        """Log the accuracy on the training batches, under augmentation and dropout."""
        self._check_label_range()
        self.log_dict(self.measures.training_summary())

    def on_validation_epoch_end(self) -> None:
        """Log the loss and the accuracies on the validation data."""
        self._check_label_range()
        self.log_dict(self.measures.validation_summary())

    def configure_optimizers(self) -> Any:
        """Optimiser over the network's groups and the objectives' parameters; scheduler."""
        rate = learning_rate_of(self.make_optimizer)
        groups = self.network.parameter_groups(rate)
        groups += objective_groups(self.objectives, rate)
        optimizer = self.make_optimizer(groups)
        return with_scheduler(optimizer, self.make_scheduler, self.scheduler_interval)

    def _check_labels(self, labels: Tensor) -> None:
        """At once where reading them costs nothing; else the first batch, and the range later.

        Lightning's hook for batches that are still on the CPU warns whenever a data module is used.
        """
        if labels.device.type == "cpu":
            check_labels(labels, self.num_categories, self.loss)
        elif labels.numel():
            first = self._label_range is None
            self._label_range = label_range(labels, self._label_range)
            if first:
                check_labels(self._label_range.cpu(), self.num_categories, self.loss)

    def _check_label_range(self) -> None:
        if self._label_range is not None:
            check_labels(self._label_range.cpu(), self.num_categories, self.loss)
            self._label_range = None

    def _named_objectives(self) -> list[tuple[str, FilterObjective]]:
        pairs = self.objectives.items()
        return [(name, made) for name, made in pairs if isinstance(made, FilterObjective)]

    def _log_measurements(self) -> None:
        """Only where somebody reads them, because measuring costs time."""
        for name, objective in self._named_objectives():
            found = objective.measurements()
            self.log_dict({f"loss/watched/{name}/{key}": value for key, value in found.items()})


def logistic_losses(logits: Tensor, labels: Tensor, weights: Tensor | None = None) -> Tensor:
    """Sum over categories of ``log(1 + exp(-y z))``, y = ±1, of each image, ``(N,)``.

    Args:
        logits: ``(N, C)``.
        labels: category index or `BACKGROUND`, ``(N,)``, or of several objects ``(N, M)``.
        weights: of each image and category, ``(N, C)``.
    """
    targets = membership_of(labels, logits.shape[1], logits)
    losses = nn.functional.binary_cross_entropy_with_logits(
        logits, targets, weights, reduction="none"
    )
    return losses.sum(1)


def label_range(labels: Tensor, known: Tensor | None) -> Tensor:
    """Lowest and highest of the labels and of the `known` range, ``(2,)``; not read."""
    low, high = labels.aminmax()
    if known is None:
        return torch.stack((low, high))
    return torch.stack((torch.minimum(low, known[0]), torch.maximum(high, known[1])))


def check_labels(labels: Tensor, num_categories: int, loss: str) -> None:
    """Raise ValueError for labels that the loss cannot take.

    Args:
        labels: category index or `BACKGROUND`, ``(N,)`` or ``(N, M)``.
        num_categories: C.
        loss: ``"softmax"`` takes no background.
    """
    if not labels.numel():
        return
    low, high = int(labels.min()), int(labels.max())
    if low < BACKGROUND or high >= num_categories:
        raise ValueError(
            f"`labels` must be category indices below {num_categories}, or {BACKGROUND} for the "
            f"background, but got values from {low} to {high}."
        )
    if low == BACKGROUND and loss == "softmax":
        raise ValueError(
            f"`labels` must be category indices for loss='softmax', but some images are "
            f"background ({BACKGROUND}). Set loss=logistic, or leave background images out of "
            f"the data."
        )
