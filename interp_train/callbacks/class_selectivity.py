"""Class selectivity of layers; see `interp_train.evaluation.class_selectivity`."""

from collections.abc import Mapping, Sequence
from typing import Any, final

from interp_train.callbacks.layer_metrics import LayerMetricCallback
from interp_train.callbacks.pinned_images import ToBatch
from interp_train.checks import check_choice
from interp_train.evaluation.class_selectivity import ClassSelectivityMetric, Statistic
from interp_train.structures import DataInfo, LayerGeometry


@final
class ClassSelectivity(LayerMetricCallback):
    """Logs ``parts/<layer>/class_selectivity``; needs labels only.

    Args:
        layers: see `LayerMetricCallback`, like the arguments that are not explained here.
        every_n_epochs: see there.
        save_records: see there.
        random_network: see there.
        statistic: ``"mean"`` over positions, or ``"peak"``.
        seed: of the shuffled labels.
        data_info: see there.
        geometry: see there.
        to_batch: see there.
    """

    name = "class_selectivity"
    headlines = ("class_selectivity",)

    def __init__(
        self,
        layers: Sequence[str] = ("last",),
        *,
        every_n_epochs: int = 1,
        save_records: bool = False,
        random_network: bool = True,
        statistic: Statistic = "mean",
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
        check_choice("statistic", statistic, ("mean", "peak"))
        self.statistic, self.seed = statistic, seed

    def make_metric(
        self, geometry: LayerGeometry | None, info: DataInfo | None
    ) -> ClassSelectivityMetric:
        """Class selectivity of one layer."""
        return ClassSelectivityMetric(geometry, statistic=self.statistic, seed=self.seed)

    def entries(self, metric: ClassSelectivityMetric, info: DataInfo | None) -> dict[str, Any]:
        """The selectivity of each filter."""
        return {f"{self.name}_scores": metric.result}
