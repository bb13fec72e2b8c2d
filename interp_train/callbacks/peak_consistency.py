"""Peak consistency of layers; see `interp_train.evaluation.peak_consistency`."""

from collections.abc import Mapping, Sequence
from typing import Any, final

from lightning.pytorch import LightningModule
from torch import Tensor, nn

from interp_train.callbacks.image_sample import ImageSample
from interp_train.callbacks.layer_metrics import LayerMetricCallback
from interp_train.callbacks.pinned_images import ToBatch
from interp_train.callbacks.random_network import activations_of, measured_network
from interp_train.evaluation.peak_consistency import (
    PeakConsistencyMetric,
    moved_images,
    standard_motions,
)
from interp_train.structures import Batch, DataInfo, ImageBatch, LayerGeometry


@final
class PeakConsistency(LayerMetricCallback):
    """Logs ``parts/<layer>/peak_consistency`` under known shifts, flips and scales.

    Needs no annotations. Costs six more forward passes of `num_images` images per validation;
    the images are chosen by their `sample_id`, and are the same in every run and for any number
    of processes.

    Args:
        layers: see `LayerMetricCallback`, like the arguments that are not explained here.
        every_n_epochs: see there.
        save_records: see there.
        random_network: see there.
        num_images: how many images are moved.
        shift: in image sides.
        scale: factor; its inverse is the second scale.
        data_info: see there.
        geometry: see there.
        to_batch: see there.
    """

    name = "peak_consistency"
    headlines = ("peak_consistency",)

    def __init__(
        self,
        layers: Sequence[str] = ("last",),
        *,
        every_n_epochs: int = 1,
        save_records: bool = False,
        random_network: bool = True,
        num_images: int = 16,
        shift: float = 0.15,
        scale: float = 1.25,
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
        self._sample, self.motions = ImageSample(num_images), standard_motions(shift, scale)

    def make_metric(
        self, geometry: LayerGeometry | None, info: DataInfo | None
    ) -> PeakConsistencyMetric:
        """Peak consistency of one layer."""
        return PeakConsistencyMetric(geometry, self.motions)

    def entries(self, metric: PeakConsistencyMetric, info: DataInfo | None) -> dict[str, Any]:
        """The consistency of each filter."""
        return {f"{self.name}_scores": metric.result}

    def read(self, activations: Mapping[str, Tensor], batch: Batch, source: object) -> None:
        """Keep the images with the smallest keys."""
        self._sample.add(batch)

    def finish(self, module: LightningModule) -> None:
        """Move the images, and read where the peaks went."""
        images = self._sample.take()
        if images is None:
            return
        self._measure(measured_network(module), self.metrics, images)
        if self._twin is not None:
            self._measure(self._twin.network, self._twin_metrics, images)

    def _measure(self, network: nn.Module, metrics: Mapping[str, Any], batch: ImageBatch) -> None:
        layers = list(metrics)
        before = activations_of(network, layers, batch.images)
        for index, motion in enumerate(self.motions):
            after = activations_of(network, layers, moved_images(batch.images, motion))
            for layer, metric in metrics.items():
                metric.update(before[layer], after[layer], batch, index)
