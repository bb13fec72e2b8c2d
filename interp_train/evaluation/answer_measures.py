"""What a system that names objects counts while it trains and validates."""

from collections.abc import Mapping, Sequence
from typing import final

import torch
from torch import Tensor, nn
from torchmetrics import MeanMetric, Metric

from interp_train.collectives import sum_over_processes
from interp_train.evaluation.category_accuracy import CategoryAccuracy
from interp_train.evaluation.object_accuracy import ObjectAccuracy
from interp_train.structures import Batch, OverlapBatch


@final
class AnswerMeasures(nn.Module):
    """Accuracies of one or of several objects per image, and mean losses.

    Args:
        num_categories: C.
        terms: names of the losses.
    """

    def __init__(self, num_categories: int, terms: Sequence[str]) -> None:
        super().__init__()
        self.training_category = CategoryAccuracy(num_categories)
        self.training_objects = ObjectAccuracy()
        self.validation_category = CategoryAccuracy(num_categories)
        self.validation_objects = ObjectAccuracy()
        self.losses = nn.ModuleDict({term: MeanMetric() for term in terms})
        self._used: set[str] = set()

    def count_training(self, logits: Tensor, predicted: Tensor, batch: Batch) -> None:
        """Count the answers of a training batch.

        Args:
            logits: ``(N, C)``; they count where images show several objects.
            predicted: category index or `BACKGROUND`, ``(N,)``; it counts where they show one.
            batch: what was shown.
        """
        self._count("training", logits, predicted, batch)

    def count_validation(
        self, logits: Tensor, predicted: Tensor, batch: Batch, terms: Mapping[str, Tensor]
    ) -> None:
        """Count the answers of a validation batch as of a training batch, and its losses."""
        self._count("validation", logits, predicted, batch)
        for name, term in terms.items():
            self._metric(f"losses.{name}").update(term, len(batch.labels))

    def training_summary(self) -> dict[str, Tensor]:
        """``accuracy/train``, of images or of objects; starts anew."""
        found = self._taken("training_category", "training_objects")
        values = [found[name] for name in ("top1", "objects") if name in found]
        return {"accuracy/train": values[0]} if values else {}

    def validation_summary(self) -> dict[str, Tensor]:
        """Accuracies and losses as they are logged; starts anew."""
        accuracies = self._taken("validation_category", "validation_objects")
        losses = self._taken(*(f"losses.{term}" for term in self.losses))
        return {
            **{f"accuracy/{name}": value for name, value in accuracies.items()},
            **{f"loss/validation/{name}": value for name, value in losses.items()},
        }

    def _count(self, split: str, logits: Tensor, predicted: Tensor, batch: Batch) -> None:
        if isinstance(batch, OverlapBatch):
            self._metric(f"{split}_objects").update(logits, batch.object_labels)
        else:
            self._metric(f"{split}_category").update(predicted, batch.labels)

    def _metric(self, name: str) -> Metric:
        self._used.add(name)
        metric = self.get_submodule(name)
        assert isinstance(metric, Metric)
        return metric

    def _taken(self, *names: str) -> dict[str, Tensor]:
        """Values of the metrics that some process used; a collective over processes."""
        device = self.training_category.total.device
        flags = torch.tensor([float(name in self._used) for name in names], device=device)
        found: dict[str, Tensor] = {}
        for name, used in zip(names, sum_over_processes(flags).tolist(), strict=True):
            if used:
                metric = self._metric(name)
                value = metric.compute()
                found |= value if isinstance(value, dict) else {name.rpartition(".")[2]: value}
                metric.reset()
        self._used -= set(names)
        return found
