"""Region consistency of layers; see `interp_train.evaluation.region_consistency`."""

from collections.abc import Mapping, Sequence
from typing import Any, final

from interp_train.callbacks.layer_metrics import LayerMetricCallback
from interp_train.callbacks.layer_records import table_entries
from interp_train.callbacks.pinned_images import ToBatch
from interp_train.evaluation.region_consistency import RegionConsistencyMetric
from interp_train.structures import DataInfo, LayerGeometry


@final
class RegionConsistency(LayerMetricCallback):
    """Logs ``parts/<layer>/region_<quantity>`` beside the baselines.

    Args:
        layers: see `LayerMetricCallback`, like the arguments that are not explained here.
        every_n_epochs: see there.
        save_records: see there.
        random_network: see there.
        by_category: False treats all categories as one.
        seed: of the random baseline.
        data_info: see there.
        geometry: see there.
        to_batch: see there.
    """

    name = "region_consistency"
    headlines = ("region_inconsistency", "region_diversity", "region_information")

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
    ) -> RegionConsistencyMetric:
        """Region consistency of one layer."""
        return RegionConsistencyMetric(geometry, info, by_category=self.by_category, seed=self.seed)

    def entries(self, metric: RegionConsistencyMetric, info: DataInfo | None) -> dict[str, Any]:
        """The table of peaks, and the shares, inconsistency and category of each filter."""
        assert metric.latest is not None
        assert metric.result is not None
        found = {f"{self.name}_{key}": value for key, value in metric.result._asdict().items()}
        return {**table_entries(metric.latest, metric.frame(), info), **found}
