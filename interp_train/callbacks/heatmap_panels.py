"""Heatmaps of a few pinned validation images, beside the training curves."""

from collections.abc import Mapping, Sequence
from typing import Any, final

import torch
from lightning.pytorch import LightningModule, Trainer
from matplotlib.figure import Figure
from torch import Tensor, nn

from interp_train.activations import gradients_enabled
from interp_train.callbacks.figure_writer import FigureCallback
from interp_train.callbacks.layer_metrics import measures_now
from interp_train.callbacks.pinned_images import (
    ToBatch,
    as_bytes,
    class_names_of,
    network_of,
    pinned_images,
    pixels_of,
    save_record,
)
from interp_train.callbacks.predictions import predict
from interp_train.checks import check_range
from interp_train.figures import heatmap_figure
from interp_train.protocols import HeatmapMethod
from interp_train.stopwatch import stopwatch_of
from interp_train.structures import BACKGROUND, Batch, Target

_NOTHING = 1e-12  # what does not exceed it is shown as zero


@final
class HeatmapPanels(FigureCallback):
    """Draws heatmaps of pinned validation images after each validation, on process 0.

    The target is the image's category (the first one for an image of the background). Pictures
    go to ``heatmaps/<method>``; the latest heatmaps to ``measures/panels/heatmaps_<method>.npz``.

    Args:
        methods: name -> heatmap method; None entries are left out.
        num_images: how many images.
        indices: their places in the validation set; None spreads them evenly.
        every_n_epochs: draws in every n-th epoch of a fit, in its last, and in every `validate`.
        to_batch: turns a foreign batch into an `ImageBatch`; None if batches are ours.
    """

    def __init__(
        self,
        methods: Mapping[str, HeatmapMethod | None],
        *,
        num_images: int = 8,
        indices: Sequence[int] | None = None,
        every_n_epochs: int = 1,
        to_batch: ToBatch | None = None,
    ) -> None:
        check_range("num_images", num_images, 1)
        check_range("every_n_epochs", every_n_epochs, 1)
        self.methods = {name: method for name, method in methods.items() if method is not None}
        self.num_images = num_images
        self.indices = indices
        self.every_n_epochs = every_n_epochs
        self.to_batch = to_batch
        self._pinned: Batch | None = None

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draw each method's panel."""
        if not (
            trainer.is_global_zero and self.methods and measures_now(trainer, self.every_n_epochs)
        ):
            return
        with stopwatch_of(trainer).measure("heatmaps"):
            batch = self._images(trainer)
            for name, method in self.methods.items():
                self._draw(trainer, pl_module, name, method, batch)

    def _images(self, trainer: Trainer) -> Batch:
        if self._pinned is None:
            self._pinned = pinned_images(
                trainer, number=self.num_images, indices=self.indices, to_batch=self.to_batch
            )
        return self._pinned

    def _draw(
        self,
        trainer: Trainer,
        module: LightningModule,
        name: str,
        method: HeatmapMethod,
        batch: Batch,
    ) -> None:
        images = batch.images.to(module.device)
        units = batch.labels.clamp(min=0).to(module.device)
        network = network_of(module)
        with gradients_enabled(), _LogitsSeen(network, images) as seen:
            heatmaps = method(network, images.clone(), Target(None, units.clone()))
        logits = seen.logits if seen.logits is not None else logits_of(network, images)
        heatmaps = heatmaps.detach().float().cpu()
        pixels = pixels_of(module, batch.images)
        predictions, confidences = predict(logits, str(getattr(module, "loss", "softmax")))
        names = class_names_of(module, logits.shape[1])
        titles = panel_titles(batch.labels, predictions, confidences, names)
        titles = zero_marked(titles, heatmaps)
        shows = str(getattr(method, "shows", "values of the method's own"))
        save_record(
            trainer,
            f"heatmaps_{name}",
            images=as_bytes(pixels),
            heatmaps=heatmaps.half().numpy(),
            titles=titles,
            shows=shows,
            labels=batch.labels.numpy(),
            sample_ids=batch.sample_ids.numpy(),
            epoch=trainer.current_epoch,
        )

        def draw() -> Figure:
            return heatmap_figure(pixels, heatmaps, titles, scale_label=scale_label(name, shows))

        self.submit(trainer, f"heatmaps/{name}", draw)


@final
class _LogitsSeen:
    """Keeps the logits of a forward pass over `images` that happens inside the block.

    Most methods begin with one: another would cost as much again.
    """

    def __init__(self, network: nn.Module, images: Tensor) -> None:
        self.network, self.images = network, images
        self.logits: Tensor | None = None

    def __enter__(self) -> "_LogitsSeen":
        self._hook = self.network.register_forward_hook(self._keep)
        return self

    def __exit__(self, *error: object) -> None:
        self._hook.remove()

    def _keep(self, network: nn.Module, inputs: tuple[Any, ...], outputs: Any) -> None:
        if self.logits is None and isinstance(outputs, Tensor) and inputs:
            given = inputs[0]
            alike = given.shape == self.images.shape and given.device == self.images.device
            if alike and torch.equal(given, self.images):
                self.logits = outputs.detach().float().cpu()


def logits_of(network: nn.Module, images: Tensor) -> Tensor:
    """Logits of a forward pass without gradients, on the CPU."""
    with torch.no_grad():
        logits: Tensor = network(images)
    return logits.detach().float().cpu()


def panel_titles(
    labels: Tensor, predictions: Tensor, confidences: Tensor, names: Sequence[str]
) -> list[str]:
    """What an image is, and what the network takes it for with which probability."""
    titles = []
    for label, prediction, confidence in zip(labels, predictions, confidences, strict=True):
        truth = _name(int(label), names)
        found = _name(int(prediction), names)
        said = f"{confidence:.2f}".lstrip("0") if confidence < 0.995 else "1.0"
        titles.append(f"{truth} ({said})" if truth == found else f"{truth} → {found} ({said})")
    return titles


def _name(category: int, names: Sequence[str]) -> str:
    return "background" if category == BACKGROUND else names[category].replace("_", " ")


def zero_marked(titles: Sequence[str], heatmaps: Tensor) -> list[str]:
    """Titles that say so where a heatmap is zero everywhere: nothing speaks for the category.

    Args:
        titles: one per image.
        heatmaps: ``(N, 1, H, W)``.
    """
    zero = (heatmaps.flatten(1).amax(1) <= _NOTHING).tolist()
    return [
        f"{title}\nheatmap is all zero" if is_zero else title
        for title, is_zero in zip(titles, zero, strict=True)
    ]


def scale_label(name: str, shows: str) -> str:
    """What the colours of a method's panel mean."""
    return f"{name.replace('_', ' ')}: {shows}; one scale for all"
