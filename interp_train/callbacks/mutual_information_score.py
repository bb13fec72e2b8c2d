"""Mutual information score; see `interp_train.evaluation.mutual_information_score`."""

from collections.abc import Mapping, Sequence
from typing import Any, final

from interp_train.callbacks.layer_metrics import LayerMetricCallback
from interp_train.callbacks.pinned_images import ToBatch
from interp_train.checks import check_range
from interp_train.evaluation.mutual_information_score import MutualInformationScoreMetric
from interp_train.structures import DataInfo, LayerGeometry


@final
class MutualInformationScore(LayerMetricCallback):
    """Logs ``parts/<layer>/mutual_information_score``; needs labels only.

    Args:
        layers: see `LayerMetricCallback`, like the arguments that are not explained here.
        every_n_epochs: see there.
        save_records: see there.
        random_network: see there.
        bins: of equally many images, of a filter's mean activation.
        seed: of the shuffled labels.
        data_info: see there.
        geometry: see there.
        to_batch: see there.
    """

    name = "mutual_information_score"
    headlines = ("mutual_information_score",)

    def __init__(
        self,
        layers: Sequence[str] = ("last",),
        *,
        every_n_epochs: int = 1,
        save_records: bool = False,
        random_network: bool = True,
        bins: int = 10,
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
        check_range("bins", bins, 2)
        self.bins, self.seed = bins, seed

    def make_metric(
        self, geometry: LayerGeometry | None, info: DataInfo | None
    ) -> MutualInformationScoreMetric:
        """Mutual information score of one layer."""
        return MutualInformationScoreMetric(geometry, bins=self.bins, seed=self.seed)

    def entries(
        self, metric: MutualInformationScoreMetric, info: DataInfo | None
    ) -> dict[str, Any]:
        """The score of each filter, and of each filter and class."""
        assert metric.information is not None
        return {
            f"{self.name}_scores": metric.information.amax(1),
            f"{self.name}_information": metric.information,
        }
