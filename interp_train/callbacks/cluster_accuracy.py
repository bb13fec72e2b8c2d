"""Accuracy of clusters of filters; see `interp_train.evaluation.cluster_accuracy`."""

import functools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, final

import torch
from lightning.pytorch import LightningModule
from torch import Tensor

from interp_train.backbones.layers_behind import logits_behind
from interp_train.callbacks.layer_metrics import LayerMetricCallback
from interp_train.evaluation.cluster_accuracy import ClusterAccuracyMetric, cluster_predictions
from interp_train.learning.classifier import Classifier
from interp_train.structures import DataInfo, LayerGeometry


@final
class ClusterAccuracy(LayerMetricCallback):
    """Logs ``accuracy/<layer>/cluster_accuracy_own`` and its likes.

    Needs a `Classifier` with an objective that assigns the layer's filters to categories. Masks
    that hang on the layer do not apply.

    Args:
        layers: see `LayerMetricCallback`, like the other arguments.
        every_n_epochs: see there.
        save_records: see there.
    """

    name = "cluster_accuracy"
    group = "accuracy"
    headlines = ()

    def __init__(
        self,
        layers: Sequence[str] = ("last",),
        *,
        every_n_epochs: int = 1,
        save_records: bool = False,
    ) -> None:
        super().__init__(
            layers,
            every_n_epochs=every_n_epochs,
            save_records=save_records,
            random_network=False,
        )

    def make_metric(
        self, geometry: LayerGeometry | None, info: DataInfo | None
    ) -> ClusterAccuracyMetric:
        """Accuracies of the clusters of one layer."""
        return ClusterAccuracyMetric()

    def read(self, activations: Mapping[str, Tensor], batch: Any, source: object) -> None:
        """Classify the batch with parts of each layer's filters."""
        module = self._module() if self._module is not None else None
        for layer, metric in self.metrics.items():
            categories = assigned_categories(module, layer)
            if not isinstance(module, Classifier) or categories is None:
                metric.update(batch.labels.new_zeros(3, 0), batch.labels[:0])  # no images
                continue
            maps = activations[layer]
            predict = functools.partial(predictions_behind, module, layer)
            with torch.no_grad():
                found = cluster_predictions(maps, categories.to(maps.device), batch.labels, predict)
            metric.update(found, batch.labels)

    def finish(self, module: LightningModule) -> None:
        """Say where no objective assigns filters; the same on all processes."""
        for layer, metric in self.metrics.items():
            if assigned_categories(module, layer) is None:
                metric.missing = "an objective that assigns filters to categories"

    def _lacks(self, what: str) -> str:
        return f"{self.name} needs {what}; this run has none, so it is not measured."


def predictions_behind(system: Classifier, layer: str, activations: Tensor) -> Tensor:
    """Labels that a classifier names, ``(N,)``, with other activations of a layer."""
    return system.predict(logits_behind(system.network, layer, activations))


def assigned_categories(module: LightningModule | None, layer: str) -> Tensor | None:
    """Category of each filter of a layer ``(K,)``, from the first objective that assigns them.

    None if there is no such objective, or the module is no `Classifier`.
    """
    held: Iterable[Any] = module.objectives.values() if isinstance(module, Classifier) else ()
    for objective in held:
        if hasattr(objective, "filter_categories") and layer in getattr(objective, "layers", ()):
            categories: Tensor = objective.filter_categories(layer)
            return categories
    return None
