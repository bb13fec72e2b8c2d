"""The pictures that dissection makes of a layer at a validation.

``dissection/<layer>/detectors``: bars beside the baselines; ``dissection/<layer>/curves``: over the
epochs; ``dissection/<layer>/units``: units with their label, IoU and top patches.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, final

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info
from matplotlib.figure import Figure
from torch import Tensor

from interp_train.callbacks.dissection_panels import (
    ShownImages,
    UnitPanel,
    has_places,
    images_of_loader,
    pixels_of_images,
    unit_panel,
)
from interp_train.callbacks.figure_writer import submit_figure
from interp_train.callbacks.pinned_images import pixels_of, save_record
from interp_train.checks import check_range
from interp_train.dissection_figures import UNIT_NOTE, detectors_figure, iou_curves_figure
from interp_train.evaluation.detector_bars import layer_bars
from interp_train.evaluation.dissection import DissectionMetric
from interp_train.evaluation.layer_dissection import LayerDissection
from interp_train.evaluation.top_images import TopImages
from interp_train.figures import UnitPictures, unit_figure

PICTURE_SIZE = 112  # side, in pixels


class ImageSource(NamedTuple):
    """Where the images of a dissection come from.

    Attributes:
        loader: of the images.
        read: turns a batch of the loader, on the module's device, into one with `images`.
        probe_set: whose normalisation holds; None takes that of the module.
    """

    loader: Any
    read: Callable[[Any], Any]
    probe_set: Any


@final
class DissectionPictures:
    """Keeps the top images of each unit during a validation, and draws at its end.

    Process 0 draws, of the images that it was shown.

    Args:
        num_units: pictured per layer; 0 for no pictures.
        num_images: top images per unit.
    """

    def __init__(self, num_units: int, num_images: int) -> None:
        check_range("num_units", num_units, 0)
        check_range("num_images", num_images, 1)
        self.num_units, self.num_images = num_units, num_images
        self.top: dict[str, TopImages] = {}

    def start(self) -> None:
        """Begin a validation."""
        self.top = {}

    def read(self, layer: str, metric: DissectionMetric, maps: Tensor, sample_ids: Tensor) -> None:
        """Look at the maps of a batch."""
        top = self.top.setdefault(layer, TopImages(self.num_images))
        top.add(metric.rules.rounded(maps), sample_ids)

    def draw(
        self,
        trainer: Trainer,
        found: LayerDissection,
        history: Mapping[str, Mapping[int, float]],
    ) -> None:
        """Submit bars and, from the second validation on, curves; process 0 only."""
        bars, layer = layer_bars(found), found.layer
        place = f"dissection/{layer}"
        submit_figure(trainer, f"{place}/detectors", lambda: detectors_figure([bars]), vector=True)
        curves = {name: dict(curve) for name, curve in history.items()}
        if len(curves.get("mean_best_iou", ())) > 1:
            submit_figure(
                trainer, f"{place}/curves", lambda: iou_curves_figure({layer: curves}), vector=True
            )

    def draw_units(
        self,
        trainer: Trainer,
        module: LightningModule,
        found: LayerDissection,
        metric: DissectionMetric,
        source: ImageSource,
    ) -> None:
        """Load the top images of the best units, submit their grid and record it."""
        top, frame = self.top.get(found.layer), metric.frame
        if top is None or frame is None:
            return
        if not has_places(source.loader):
            rank_zero_info("Units are not pictured: the loader gives no images by their place.")
            return

        def read(batch: Any) -> ShownImages:
            made = source.read(trainer.strategy.batch_to_device(batch, module.device))
            images, own = made.images.float(), source.probe_set
            pixels = pixels_of(module, images) if own is None else pixels_of_images(own, images)
            return ShownImages(pixels, made.sample_ids.cpu())

        show = images_of_loader(source.loader, read)
        panel = unit_panel(found, top, show, frame, number=self.num_units, size=PICTURE_SIZE)
        if panel is not None:
            self._submit(trainer, found.layer, panel)

    def _submit(self, trainer: Trainer, layer: str, panel: UnitPanel) -> None:
        epoch = trainer.current_epoch
        save_record(trainer, f"dissection_{layer}", epoch=epoch, **panel.as_arrays())

        def draw() -> Figure:
            pictures = UnitPictures(panel.pictures, panel.values, panel.captions)
            return unit_figure(pictures, note=UNIT_NOTE)

        submit_figure(trainer, f"dissection/{layer}/units", draw)
