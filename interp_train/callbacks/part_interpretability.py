"""Part interpretability of layers; see `interp_train.evaluation.part_interpretability`."""

from collections.abc import Mapping, Sequence
from typing import Any, final

from interp_train.callbacks.layer_metrics import LayerMetricCallback
from interp_train.callbacks.pinned_images import ToBatch
from interp_train.evaluation.part_interpretability import PartInterpretabilityMetric
from interp_train.structures import DataInfo, LayerGeometry


@final
class PartInterpretability(LayerMetricCallback):
    """Logs ``parts/<layer>/part_interpretability`` (IoU with parts) beside the baselines.

    Args:
        layers: see `LayerMetricCallback`, like the arguments that are not explained here.
        every_n_epochs: see there.
        save_records: see there.
        random_network: see there.
        share: of the activations that exceed a filter's threshold.
        least_iou: above which a region stands for a part.
        radius: of the disks, in pixels; None = 1.5 strides.
        max_images: how many images are used; None = all.
        by_category: False treats all categories as one.
        seed: of the random baseline and of the choice of images.
        data_info: see there.
        geometry: see there.
        to_batch: see there.
    """

    name = "part_interpretability"
    headlines = ("part_interpretability",)

    def __init__(
        self,
        layers: Sequence[str] = ("last",),
        *,
        every_n_epochs: int = 1,
        save_records: bool = False,
        random_network: bool = True,
        share: float = 0.005,
        least_iou: float = 0.2,
        radius: float | None = None,
        max_images: int | None = 500,
        by_category: bool = True,
        seed: int = 0,
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
        self.share, self.least_iou, self.radius = share, least_iou, radius
        self.max_images, self.by_category, self.seed = max_images, by_category, seed

    def make_metric(
        self, geometry: LayerGeometry | None, info: DataInfo | None
    ) -> PartInterpretabilityMetric:
        """Part interpretability of one layer."""
        return PartInterpretabilityMetric(
            geometry,
            info,
            share=self.share,
            least_iou=self.least_iou,
            radius=self.radius,
            max_images=self.max_images,
            by_category=self.by_category,
            seed=self.seed,
        )

    def entries(self, metric: PartInterpretabilityMetric, info: DataInfo | None) -> dict[str, Any]:
        """How often each filter stands for each part, and the filter's category."""
        assert metric.result is not None
        return {f"{self.name}_{key}": value for key, value in metric.result._asdict().items()}
