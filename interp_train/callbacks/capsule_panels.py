"""What capsules hold: images drawn from them, each atom varied, and which parts vote for them."""

from collections.abc import Sequence
from typing import Any, final

import torch
from lightning.pytorch import LightningModule, Trainer
from matplotlib.figure import Figure
from torch import Tensor

from interp_train.callbacks.figure_writer import FigureCallback
from interp_train.callbacks.layer_metrics import measures_now
from interp_train.callbacks.pinned_images import as_bytes, pinned_images, pixels_of, save_record
from interp_train.capsule_figures import reconstruction_figure, sweep_figure, vote_figure
from interp_train.checks import check_range
from interp_train.learning.capsules.functional import vote_maps
from interp_train.learning.capsules.module import CapsNet, Reading
from interp_train.receptive_field import upsampled
from interp_train.stopwatch import stopwatch_of
from interp_train.structures import BACKGROUND, Batch, OverlapBatch


@final
class CapsulePanels(FigureCallback):
    """Draws what capsules say about pinned validation images, on process 0.

    ``capsules/drawn`` shows images and what the decoder draws from the longest capsule (of an image
    of M objects, from each of the M longest), titled with the category, or what it is → what it is
    taken for, and the length. ``capsules/varied_<i>`` varies each atom of the longest capsule of an
    image along a row. ``capsules/votes`` shows where the primary capsules lie that send what they
    see to the longest capsule; it is left out where they share one position. Without a decoder only
    the votes are drawn. Numbers and images are kept in ``measures/panels/capsules.npz``.

    Args:
        num_images: how many images.
        num_varied: of how many of them the capsule is varied.
        steps: values of an atom.
        reach: they go from minus this to this; the paper shows 0.25.
        indices: places of the images in the validation set; None spreads them evenly.
        every_n_epochs: draws in every n-th epoch of a fit, in its last, and in every `validate`.
    """

    def __init__(
        self,
        num_images: int = 10,
        num_varied: int = 2,
        steps: int = 11,
        *,
        reach: float = 0.25,
        indices: Sequence[int] | None = None,
        every_n_epochs: int = 1,
    ) -> None:
        check_range("num_images", num_images, 1)
        check_range("num_varied", num_varied, 0, num_images)
        check_range("steps", steps, 2)
        check_range("reach", reach, 0.0)
        check_range("every_n_epochs", every_n_epochs, 1)
        self.num_images, self.num_varied = num_images, num_varied
        self.steps, self.reach = steps, reach
        self.indices, self.every_n_epochs = indices, every_n_epochs
        self._pinned: Batch | None = None

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draw all pictures.

        Raises:
            ValueError: if the system has no capsules.
        """
        if not isinstance(pl_module, CapsNet):
            raise ValueError(
                f"`callbacks.capsule_panels` must watch a system with capsules, such as "
                f"learning=capsnet, but got {type(pl_module).__name__}. Leave the callback out."
            )
        if not (trainer.is_global_zero and measures_now(trainer, self.every_n_epochs)):
            return
        with stopwatch_of(trainer).measure("capsule_panels"):
            if self._pinned is None:
                self._pinned = pinned_images(trainer, number=self.num_images, indices=self.indices)
            batch = self._pinned
            reading = pl_module.read(batch.images.to(pl_module.device))
            record: dict[str, Any] = {
                "images": as_bytes(pixels_of(pl_module, batch.images)),
                "labels": batch.labels.numpy(),
                "sample_ids": batch.sample_ids.numpy(),
                "titles": titles_of(pl_module, batch, reading),
                "lengths": reading.lengths.float().cpu().numpy(),
                "epoch": trainer.current_epoch,
            }
            if pl_module.decoder is not None:
                record |= self._draw_images(trainer, pl_module, batch, reading)
                record |= self._draw_varied(trainer, pl_module, reading)
            if reading.activity[0, 0].numel() > 1:
                record |= self._draw_votes(trainer, pl_module, batch, reading)
            save_record(trainer, "capsules", **record)

    def _draw_images(
        self, trainer: Trainer, system: CapsNet, batch: Batch, reading: Reading
    ) -> dict[str, Any]:
        number = batch.object_labels.shape[1] if isinstance(batch, OverlapBatch) else 1
        longest = reading.lengths.topk(number, 1).indices
        drawn = [system.drawn(reading.capsules, column) for column in longest.unbind(1)]
        shown = torch.stack(drawn, 1).cpu()
        pixels, titles = pixels_of(system, batch.images), titles_of(system, batch, reading)

        def draw() -> Figure:
            return reconstruction_figure(pixels, shown, titles)

        self.submit(trainer, "capsules/drawn", draw)
        return {"drawn": as_bytes(shown)}

    def _draw_varied(self, trainer: Trainer, system: CapsNet, reading: Reading) -> dict[str, Any]:
        offsets = torch.linspace(-self.reach, self.reach, self.steps)
        names, found = system.data_info.class_names, []
        for place, category in enumerate(reading.lengths[: self.num_varied].argmax(1).tolist()):
            capsules = reading.capsules[place : place + 1]
            swept = varied_capsules(capsules, category, offsets)
            categories = torch.full((len(swept),), category, device=swept.device)
            images = system.drawn(swept, categories).cpu()
            images = images.view(-1, self.steps, *images.shape[1:])
            self._submit_varied(trainer, place, images, names[category])
            found.append(as_bytes(images))
        record = {f"varied_{place}": images for place, images in enumerate(found)}
        return {**record, "offsets": offsets.numpy()}

    def _submit_varied(self, trainer: Trainer, place: int, images: Tensor, name: str) -> None:
        offsets = torch.linspace(-self.reach, self.reach, self.steps).tolist()

        def draw() -> Figure:
            return sweep_figure(images, offsets, title=f"capsule of {name}, image {place + 1}")

        self.submit(trainer, f"capsules/varied_{place}", draw)

    def _draw_votes(
        self, trainer: Trainer, system: CapsNet, batch: Batch, reading: Reading
    ) -> dict[str, Any]:
        maps = vote_maps(reading.coupling, reading.activity, reading.lengths.argmax(1))
        size = (batch.images.shape[2], batch.images.shape[3])
        votes = upsampled(maps.float().cpu(), size, system.network.geometry("primary"))
        pixels, titles = pixels_of(system, batch.images), titles_of(system, batch, reading)

        def draw() -> Figure:
            return vote_figure(pixels, votes, titles)

        self.submit(trainer, "capsules/votes", draw)
        return {"votes": votes.half().numpy()}


def varied_capsules(capsules: Tensor, category: int, offsets: Tensor) -> Tensor:
    """Capsules of one image, with one atom of one of them changed in each copy.

    Args:
        capsules: ``(1, J, O)``.
        category: whose capsule is changed.
        offsets: what is added to an atom, ``(S,)``.

    Returns:
        ``(O * S, J, O)``, all offsets of the first atom first.
    """
    atoms, steps = capsules.shape[2], len(offsets)
    copies = capsules.repeat(atoms * steps, 1, 1)
    rows = torch.arange(atoms * steps, device=capsules.device)
    added = offsets.to(copies).repeat(atoms)
    copies[rows, category, rows // steps] += added
    return copies


def titles_of(system: CapsNet, batch: Batch, reading: Reading) -> list[str]:
    """What each image is, what it is taken for if that differs, and the length of that capsule."""
    names, titles = system.data_info.class_names, []
    for place, lengths in enumerate(reading.lengths.float().cpu()):
        number = batch.object_labels.shape[1] if isinstance(batch, OverlapBatch) else 1
        length, longest = lengths.topk(number)
        own = batch.object_labels[place] if isinstance(batch, OverlapBatch) else batch.labels[place]
        truth = _named(own.flatten().tolist(), names)
        found = _named(longest.tolist(), names)
        said = f"{float(length[-1]):.2f}"
        titles.append(f"{truth} ({said})" if truth == found else f"{truth} → {found} ({said})")
    return titles


def _named(categories: Sequence[int], names: Sequence[str]) -> str:
    words = [
        "background" if category == BACKGROUND else names[category].replace("_", " ")
        for category in sorted(categories)
    ]
    return " + ".join(words)
