"""Deletion of the regions of filters; see `interp_train.evaluation.filter_deletion`."""

from collections.abc import Mapping, Sequence
from typing import Any, final

import torch
import torch.distributed
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor, nn

from interp_train.callbacks.image_sample import ImageSample
from interp_train.callbacks.layer_metrics import LayerMetricCallback
from interp_train.callbacks.pinned_images import ToBatch
from interp_train.callbacks.random_network import activations_of, measured_network
from interp_train.evaluation.filter_deletion import FilterDeletionMetric
from interp_train.evaluation.heatmap_faithfulness import Scale
from interp_train.evaluation.position_baselines import scrambled
from interp_train.evaluation.row_gathering import gather_rows
from interp_train.structures import Batch, DataInfo, ImageBatch, LayerGeometry


@final
class FilterDeletion(LayerMetricCallback):
    """Logs ``parts/<layer>/filter_deletion_auc`` (low: the network needs what filters see).

    Needs labels only. Costs ``2 * num_images * num_filters * (num_steps + 1)`` more forward passes
    per validation, and as many once for the random network, whose filters are tried on the
    network itself; the images are chosen by their `sample_id`, objects first.

    Args:
        layers: see `LayerMetricCallback`, like the arguments that are not explained here.
        every_n_epochs: see there.
        save_records: see there.
        random_network: see there.
        num_images: in which filters are deleted.
        num_filters: of each layer, see `FilterDeletionMetric` like the following.
        share: see there.
        num_steps: see there.
        scale: see there; None takes a sigmoid where the system's loss is logistic, else a softmax.
        batch_size: see there.
        data_info: see there.
        geometry: see there.
        to_batch: see there.
    """

    name = "filter_deletion"
    headlines = ("filter_deletion_auc",)

    def __init__(
        self,
        layers: Sequence[str] = ("last",),
        *,
        every_n_epochs: int = 1,
        save_records: bool = False,
        random_network: bool = True,
        num_images: int = 16,
        num_filters: int = 12,
        share: float = 0.2,
        num_steps: int = 5,
        scale: Scale | None = None,
        batch_size: int = 64,
        data_info: DataInfo | None = None,
        geometry: Mapping[str, LayerGeometry] | None = None,
        to_batch: ToBatch | None = None,
    ) -> None:
        super().__init__(
            layers,
            every_n_epochs=every_n_epochs,
            save_records=save_records,
            random_network=random_network,
            data_info=data_info,
            geometry=geometry,
            to_batch=to_batch,
        )
        self._sample, self.scale = ImageSample(num_images), scale
        self._scale: Scale = scale or "softmax"
        self._options: dict[str, Any] = {
            "share": share, "num_steps": num_steps, "num_filters": num_filters,
            "batch_size": batch_size,
        }  # fmt: skip
        self.make_metric(None, None)  # checks the options

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Find the layers, and the scale of the module's scores."""
        super().setup(trainer, pl_module, stage)
        logistic = getattr(pl_module, "loss", None) == "logistic"
        self._scale = self.scale or ("sigmoid" if logistic else "softmax")

    def make_metric(
        self, geometry: LayerGeometry | None, info: DataInfo | None
    ) -> FilterDeletionMetric:
        """Deletion of the filters of one layer."""
        return FilterDeletionMetric(geometry, scale=self._scale, **self._options)

    def entries(self, metric: FilterDeletionMetric, info: DataInfo | None) -> dict[str, Any]:
        """The area of each filter that is measured."""
        return {f"{self.name}_scores": metric.result}

    def read(self, activations: Mapping[str, Tensor], batch: Batch, source: object) -> None:
        """Keep the images with the smallest keys."""
        self._sample.add(batch)

    def finish(self, module: LightningModule) -> None:
        """Delete the regions of filters, and read the scores."""
        images, network = self._sample.take(), measured_network(module)
        sources: list[tuple[nn.Module, dict[str, Any]]] = [(network, self.metrics)]
        if self._twin is not None:
            sources.append((self._twin.network, self._twin_metrics))
        for source, metrics in sources:
            layers = list(metrics)
            maps = {} if images is None else activations_of(source, layers, images.images)
            for layer, metric in metrics.items():
                others = _of_next_images(maps.get(layer), images)
                if images is not None:
                    metric.update(network, maps[layer], images, others)


def _of_next_images(maps: Tensor | None, images: ImageBatch | None) -> Tensor | None:
    """For each image of this process, the maps ``(N, K, h, w)`` of the one with the next key.

    Every process must call. None where this process has no images.
    """
    keys = torch.empty(0) if images is None else scrambled(images.sample_ids, 0)
    everywhere, all_keys = torch.empty(0) if maps is None else maps, keys
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        everywhere = torch.cat([part for part in gather_rows(everywhere) if len(part)])
        all_keys = torch.cat([part for part in gather_rows(keys) if len(part)])
    if maps is None:
        return None
    order = all_keys.argsort()
    after = torch.searchsorted(all_keys[order], keys, right=True) % len(order)
    return everywhere[order[after]]
