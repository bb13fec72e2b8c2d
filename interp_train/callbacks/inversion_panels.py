"""What a layer gives back of a few pinned validation images, after each validation."""

from collections.abc import Sequence
from typing import Protocol, final, runtime_checkable

import torch
from lightning.pytorch import LightningModule, Trainer
from matplotlib.figure import Figure
from torch import Tensor

from interp_train.callbacks.figure_writer import FigureCallback
from interp_train.callbacks.layer_metrics import measures_now
from interp_train.callbacks.pinned_images import (
    ToBatch,
    as_bytes,
    pinned_images,
    pixels_of,
    save_record,
)
from interp_train.checks import check_range
from interp_train.figures import UnitPictures, unit_figure
from interp_train.stopwatch import stopwatch_of
from interp_train.structures import Batch


@runtime_checkable
class Inverts(Protocol):
    """A module that draws images from the maps of a layer.

    Attributes:
        layer: dotted name of the layer.
    """

    layer: str

    def reconstructions(self, images: Tensor) -> Tensor:
        """What the layer gives back of network input, in [0, 1], ``(N, 3, H, W)``."""


@final
class InversionPanels(FigureCallback):
    """Draws pinned validation images above what the layer gives back of them, on process 0.

    For systems that invert a layer, such as `UpConvolutionalInversion`. Pictures go to
    ``visualization/<layer>/inversion``; the latest to ``measures/panels/inversion.npz``, from
    which the report of a study puts layers below one another.

    Args:
        num_images: how many images.
        indices: their places in the validation set; None spreads them evenly.
        every_n_epochs: draws in every n-th epoch of a fit, in its last, and in every `validate`.
        to_batch: turns a foreign batch into an `ImageBatch`; None if batches are ours.
    """

    def __init__(
        self,
        *,
        num_images: int = 8,
        indices: Sequence[int] | None = None,
        every_n_epochs: int = 1,
        to_batch: ToBatch | None = None,
    ) -> None:
        check_range("num_images", num_images, 1)
        check_range("every_n_epochs", every_n_epochs, 1)
        self.num_images = num_images
        self.indices = indices
        self.every_n_epochs = every_n_epochs
        self.to_batch = to_batch
        self._pinned: Batch | None = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Refuse a module that inverts nothing.

        Raises:
            ValueError: if the module has no `layer` and `reconstructions`.
        """
        if not isinstance(pl_module, Inverts):
            raise ValueError(
                f"`learning` must be a system that inverts a layer (`layer` and `reconstructions`)"
                f", but got {type(pl_module).__name__}. Take "
                f"learning=up_convolutional_inversion, or leave the callback out."
            )

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draw the images and their reconstructions, once the module has logged its error."""
        if not (trainer.is_global_zero and measures_now(trainer, self.every_n_epochs)):
            return
        assert isinstance(pl_module, Inverts)  # `setup` said so
        with stopwatch_of(trainer).measure("visualization"):
            if self._pinned is None:
                self._pinned = pinned_images(
                    trainer, number=self.num_images, indices=self.indices, to_batch=self.to_batch
                )
            images = self._pinned.images
            with torch.no_grad():
                drawn = pl_module.reconstructions(images.to(pl_module.device)).float().cpu()
            self._submit(trainer, pl_module.layer, pixels_of(pl_module, images), drawn)

    def _submit(self, trainer: Trainer, layer: str, pixels: Tensor, drawn: Tensor) -> None:
        error = trainer.callback_metrics.get("loss/validation/relative")
        save_record(
            trainer,
            "inversion",
            images=as_bytes(pixels),
            reconstructions=as_bytes(drawn),
            layer=layer,
            relative_error=float("nan") if error is None else float(error),
            epoch=trainer.current_epoch,
        )

        def draw() -> Figure:
            pictures = torch.stack([pixels, drawn])
            return unit_figure(
                UnitPictures(pictures, torch.ones(pictures.shape[:2]), ["image", layer])
            )

        self.submit(trainer, f"visualization/{layer}/inversion", draw)
