"""Part tracking of layers after each validation; see `interp_train.evaluation.part_tracking`."""

from collections.abc import Mapping, Sequence
from typing import Any, final

from interp_train.callbacks.layer_metrics import LayerMetricCallback
from interp_train.callbacks.layer_records import table_entries
from interp_train.callbacks.pinned_images import ToBatch
from interp_train.evaluation.part_tracking import PartTrackingMetric
from interp_train.structures import DataInfo, LayerGeometry


@final
class PartTracking(LayerMetricCallback):
    """Logs ``parts/<layer>/part_tracking_<quantity>`` beside the baselines.

    Example:
        Trainer(callbacks=[PartTracking(layers=["layer4"], to_batch=my_part_batch)])

    Args:
        layers: see `LayerMetricCallback`, like the arguments that are not explained here.
        every_n_epochs: see there.
        save_records: see there.
        random_network: see there.
        by_category: False treats all categories as one (200 bird species, the same parts).
        seed: of the random baseline.
        data_info: see there.
        geometry: see there.
        to_batch: see there.
    """

    name = "part_tracking"
    headlines = (
        "part_tracking_mean_r2",
        "part_tracking_share",
        "part_tracking_coverage",
        "part_tracking_distinct_parts",
    )

    def __init__(
        self,
        layers: Sequence[str] = ("last",),
        *,
        every_n_epochs: int = 1,
        save_records: bool = False,
        random_network: bool = True,
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
        self.by_category, self.seed = by_category, seed

    def make_metric(
        self, geometry: LayerGeometry | None, info: DataInfo | None
    ) -> PartTrackingMetric:
        """Part tracking of one layer."""
        return PartTrackingMetric(geometry, info, by_category=self.by_category, seed=self.seed)

    def entries(self, metric: PartTrackingMetric, info: DataInfo | None) -> dict[str, Any]:
        """The table of peaks, and part, score and category of each filter."""
        assert metric.latest is not None
        assert metric.result is not None
        found = {f"{self.name}_{key}": value for key, value in metric.result._asdict().items()}
        return {**table_entries(metric.latest, metric.frame(), info), **found}
