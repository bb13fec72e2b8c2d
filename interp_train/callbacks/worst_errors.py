"""The validation images that the network is most sure of and wrong about, with heatmaps."""

from collections.abc import Mapping
from typing import Any, NamedTuple, final

import torch
from lightning.pytorch import LightningModule, Trainer
from matplotlib.figure import Figure
from torch import Tensor

from interp_train.activations import gradients_enabled
from interp_train.callbacks.figure_writer import FigureCallback
from interp_train.callbacks.heatmap_panels import panel_titles, scale_label, zero_marked
from interp_train.callbacks.layer_metrics import measures_now
from interp_train.callbacks.pinned_images import (
    as_bytes,
    batch_places,
    class_names_of,
    loaded_images,
    network_of,
    pixels_of,
    save_record,
)
from interp_train.callbacks.predictions import predict
from interp_train.checks import check_range
from interp_train.figures import heatmap_figure
from interp_train.protocols import HeatmapMethod
from interp_train.stopwatch import stopwatch_of
from interp_train.structures import Batch, StepOutputs, Target


class Errors(NamedTuple):
    """Wrong answers.

    Attributes:
        places: in the validation set, long ``(N,)``.
        sample_ids: long ``(N,)``.
        labels: category or `BACKGROUND`, long ``(N,)``.
        predictions: the same, long ``(N,)``.
        confidences: probability of the prediction, float ``(N,)``.
    """

    places: Tensor
    sample_ids: Tensor
    labels: Tensor
    predictions: Tensor
    confidences: Tensor


@final
class WorstErrors(FigureCallback):
    """Draws heatmaps of the wrong answers of the highest probability, after each validation.

    Two heatmaps per image and method: what speaks for the answer, and what speaks for the image's
    own category (for the background: the first category). Pictures go to
    ``heatmaps/<method>_errors``; the latest to ``measures/panels/errors_<method>.npz``. The
    validation loader must not shuffle. Needs a `LearnedSystem`.

    Args:
        methods: name -> heatmap method; None entries are left out.
        num_images: how many images, at most.
        every_n_epochs: draws in every n-th epoch of a fit, in its last, and in every `validate`.
    """

    def __init__(
        self,
        methods: Mapping[str, HeatmapMethod | None],
        *,
        num_images: int = 8,
        every_n_epochs: int = 1,
    ) -> None:
        check_range("num_images", num_images, 1)
        check_range("every_n_epochs", every_n_epochs, 1)
        self.methods = {name: method for name, method in methods.items() if method is not None}
        self.num_images = num_images
        self.every_n_epochs = every_n_epochs
        self._due = False
        self._order: list[list[int]] = []
        self._parts: list[Errors] = []

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start anew."""
        self._due = bool(self.methods) and measures_now(trainer, self.every_n_epochs)
        self._parts = []
        self._order = batch_places(trainer) if self._due else []

    def on_validation_batch_end(  # noqa: PLR0917  (Lightning's signature)
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Batch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Keep the answers of one batch; which are wrong is asked at the end, without a wait."""
        if not self._due or dataloader_idx or not isinstance(outputs, StepOutputs):
            return
        with stopwatch_of(trainer).measure("heatmaps"):
            loss = str(getattr(pl_module, "loss", "softmax"))
            background = getattr(pl_module, "background", None)
            found = predict(outputs.logits.detach().float(), loss, background)
            places = torch.tensor(self._order[batch_idx])
            self._parts.append(Errors(places, batch.sample_ids, batch.labels, *found))

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Merge over processes; process 0 draws."""
        if not self._due:
            return
        with stopwatch_of(trainer).measure("heatmaps"):
            errors = worst(_gathered(self._parts), self.num_images)
            self._parts = []
            if trainer.is_global_zero and len(errors.places):
                batch = loaded_images(trainer, errors.places.tolist(), None)
                if not torch.equal(batch.sample_ids, errors.sample_ids):
                    raise ValueError(
                        "The validation loader must not shuffle, but its images came in another "
                        "order than its sampler gives. Leave out WorstErrors or set shuffle=False."
                    )
                for name, method in self.methods.items():
                    self._draw(trainer, pl_module, name=name, method=method, found=(batch, errors))

    def _draw(
        self,
        trainer: Trainer,
        module: LightningModule,
        *,
        name: str,
        method: HeatmapMethod,
        found: tuple[Batch, Errors],
    ) -> None:
        batch, errors = found
        said, own = _heatmaps_of(module, method, *found)
        pixels = pixels_of(module, batch.images)
        most = int(torch.stack([errors.predictions, errors.labels]).max()) + 1
        names = class_names_of(module, most)
        titles = panel_titles(errors.labels, errors.predictions, errors.confidences, names)
        shows = str(getattr(method, "shows", "values of the method's own"))
        save_record(
            trainer,
            f"errors_{name}",
            images=as_bytes(pixels),
            heatmaps=said.half().numpy(),
            own_heatmaps=own.half().numpy(),
            titles=titles,
            shows=shows,
            labels=errors.labels.numpy(),
            predictions=errors.predictions.numpy(),
            confidences=errors.confidences.numpy(),
            sample_ids=errors.sample_ids.numpy(),
            epoch=trainer.current_epoch,
        )

        def draw() -> Figure:
            captions = zero_marked(titles, said)
            return heatmap_figure(pixels, said, captions, scale_label=scale_label(name, shows))

        self.submit(trainer, f"heatmaps/{name}_errors", draw)


def _heatmaps_of(
    module: LightningModule, method: HeatmapMethod, batch: Batch, errors: Errors
) -> tuple[Tensor, Tensor]:
    """Heatmaps for the answer and for the image's own category, each ``(N, 1, H, W)``."""
    images = batch.images.to(module.device)
    network = network_of(module)
    heatmaps = []
    for units in (errors.predictions, errors.labels):
        target = Target(None, units.clamp(min=0).to(module.device))
        with gradients_enabled():
            heatmaps.append(method(network, images.clone(), target).detach().float().cpu())
    said, own = heatmaps
    return said, own


def worst(answers: Errors, number: int) -> Errors:
    """The wrong answers of the highest probability, descending; of equal ones the first images.

    Args:
        answers: right ones and wrong ones.
        number: how many, at most.
    """
    wrong = (answers.predictions != answers.labels).nonzero()[:, 0]
    wrong = wrong[answers.sample_ids[wrong].argsort(stable=True)]
    order = answers.confidences[wrong].argsort(descending=True, stable=True)[:number]
    return Errors(*(field[wrong[order]] for field in answers))


def _gathered(parts: list[Errors]) -> Errors:
    """The answers of all processes, on the CPU."""
    empty = torch.zeros(0, dtype=torch.long)
    own = Errors(empty, empty, empty, empty, torch.zeros(0))
    if parts:
        own = Errors(*(torch.cat([f.cpu() for f in field]) for field in zip(*parts, strict=True)))
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return own
    found: list[Any] = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(found, own)
    return Errors(*(torch.cat(field) for field in zip(*found, strict=True)))
