"""Pictures of what units encode, by any unit visualizers, beside the training curves."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import final

import torch
from lightning.pytorch import LightningModule, Trainer
from matplotlib.figure import Figure
from torch import Tensor, nn

from interp_train.callbacks.figure_writer import FigureCallback
from interp_train.callbacks.layer_metrics import measures_now, resolved_layer
from interp_train.callbacks.pinned_images import (
    ToBatch,
    as_bytes,
    loaded_images,
    network_of,
    spread_indices,
    validation_loader,
    write_record,
)
from interp_train.checks import check_range
from interp_train.data.photo_data import IMAGENET_MEAN, IMAGENET_STD
from interp_train.gallery_figures import gallery_figure
from interp_train.protocols import UnitVisualizer
from interp_train.stopwatch import stopwatch_of
from interp_train.systems import LearnedSystem
from interp_train.visualization.unit_gallery import (
    UnitGallery,
    image_gallery,
    most_active_units,
    normalised_like,
    unit_gallery,
)


@final
class UnitVisualizations(FigureCallback):
    """Draws units of layers by several visualizers after a validation, on process 0.

    The sample that visualizers choose from is spread evenly over the validation set; the loader
    must give images by their place. Visualizers of ours take the normalisation of the module's
    `data_info`. Pictures go to ``visualization/<layer>/units`` and, of visualizers that invert a
    layer, ``visualization/<layer>/images``; the latest to ``measures/panels/gallery_<layer>.npz``.

    Args:
        visualizers: name -> unit visualizer; None entries are left out.
        layers: dotted names or tap aliases.
        units: their numbers, in every layer; None takes the most active ones.
        num_units: how many, unless they are listed.
        num_images: of the sample.
        num_inverted: of these, for visualizers that invert a layer.
        picture_size: side of a picture, in pixels.
        every_n_epochs: draws in every n-th epoch of a fit, in its last, and in every `validate`.
        to_batch: turns a foreign batch into an `ImageBatch`; None if batches are ours.
    """

    def __init__(
        self,
        visualizers: Mapping[str, UnitVisualizer | None],
        *,
        layers: Sequence[str] = ("last",),
        units: Sequence[int] | None = None,
        num_units: int = 4,
        num_images: int = 128,
        num_inverted: int = 4,
        picture_size: int = 160,
        every_n_epochs: int = 1,
        to_batch: ToBatch | None = None,
    ) -> None:
        for name in ("num_units", "num_images", "picture_size", "every_n_epochs"):
            check_range(name, locals()[name], 1)
        check_range("num_inverted", num_inverted, 0)
        self.visualizers = {name: m for name, m in visualizers.items() if m is not None}
        self.layers, self.units = tuple(layers), units
        self.num_units, self.num_images = num_units, num_images
        self.num_inverted, self.picture_size = num_inverted, picture_size
        self.every_n_epochs = every_n_epochs
        self.to_batch = to_batch
        self._names: list[str] = []
        self._sample: Tensor | None = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Find the layers, so that a wrong name fails before anything is computed."""
        if isinstance(pl_module, LearnedSystem):
            self._names = [pl_module.network.resolve(layer) for layer in self.layers]
        else:
            self._names = [resolved_layer(pl_module, layer) for layer in self.layers]

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draw each layer."""
        due = measures_now(trainer, self.every_n_epochs)
        if not (trainer.is_global_zero and self.visualizers and due):
            return
        with stopwatch_of(trainer).measure("visualization"):
            images = self._images(trainer).to(pl_module.device)
            info = getattr(pl_module, "data_info", None)
            mean, std = (IMAGENET_MEAN, IMAGENET_STD) if info is None else (info.mean, info.std)
            methods = {n: normalised_like(m, mean, std) for n, m in self.visualizers.items()}
            network = network_of(pl_module)
            for layer in self._names:
                found = self._units(network, layer, images)
                size = self.picture_size
                units = unit_gallery(network, layer, found, images, methods, size=size)
                inverted = image_gallery(
                    network, layer, images[: self.num_inverted], methods,
                    mean=mean, std=std, size=size,
                )  # fmt: skip
                self._submit(trainer, units, "units")
                self._submit(trainer, inverted, "images")

    def _units(self, network: nn.Module, layer: str, images: Tensor) -> Sequence[int]:
        if self.units is not None:
            return self.units
        return most_active_units(network, layer, images, self.num_units)

    def _images(self, trainer: Trainer) -> Tensor:
        if self._sample is None:
            places = spread_indices(len(validation_loader(trainer).dataset), self.num_images)
            self._sample = loaded_images(trainer, places, self.to_batch).images
        return self._sample

    def _submit(self, trainer: Trainer, gallery: UnitGallery | None, kind: str) -> None:
        if gallery is None:
            return
        captions = captions_of(gallery, kind)
        save_gallery(Path(trainer.default_root_dir), gallery, captions, kind)

        def draw() -> Figure:
            return gallery_figure(gallery.pictures, captions, titles_of(gallery))

        self.submit(trainer, f"visualization/{gallery.layer}/{kind}", draw)


def captions_of(gallery: UnitGallery, kind: str) -> list[str]:
    """A name per row: ``unit 3``, or ``image 1`` for the kind ``"images"``."""
    if kind == "images":
        return [f"image {row + 1}" for row in gallery.rows]
    return [f"unit {row}" for row in gallery.rows]


def titles_of(gallery: UnitGallery) -> list[str]:
    """Names of the visualizers in words."""
    return [name.replace("_", " ") for name in gallery.columns]


def save_gallery(folder: Path, gallery: UnitGallery, captions: Sequence[str], kind: str) -> Path:
    """Record a gallery below a run folder, where reports find it."""
    end = "" if kind == "units" else f"_{kind}"
    return write_record(
        folder,
        f"gallery_{gallery.layer}{end}",
        pictures=as_bytes(gallery.pictures),
        rows=torch.tensor(gallery.rows).numpy(),
        columns=titles_of(gallery),
        captions=list(captions),
        layer=gallery.layer,
    )
