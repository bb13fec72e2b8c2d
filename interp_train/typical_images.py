"""The images of a data set that excite chosen units most, kept while the data stream by."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from interp_train.activations import ActivationTap
from interp_train.callbacks.pinned_images import spread_indices
from interp_train.callbacks.unit_panels import drawn_diameter, unit_pictures
from interp_train.checks import check_range
from interp_train.evaluation.peak_table import MapFrame
from interp_train.figures import unnormalised
from interp_train.structures import DataInfo
from interp_train.target_scores import evaluation_mode
from interp_train.trained_network import TrainedNetwork


class TypicalImages(NamedTuple):
    """The top images of some units.

    Attributes:
        units: whose images they are.
        pictures: the field of the peak lit, half of the peak outlined, ``(U, T, 3, S, S)`` in
            [0, 1]; NaN where a unit has fewer images that excite it.
        values: activation at the peak, descending, ``(U, T)``; NaN where there is no image.
        sample_ids: of the images, long ``(U, T)``; -1 where there is none.
        source: where the images come from, in words.
        reason: why there are none; empty if there are.
    """

    units: tuple[int, ...]
    pictures: Tensor
    values: Tensor
    sample_ids: Tensor
    source: str
    reason: str


def no_images(units: Sequence[int], reason: str, size: int) -> TypicalImages:
    """Typical images that were left out, and why."""
    number = len(units)
    return TypicalImages(
        tuple(units), torch.zeros(number, 0, 3, size, size), torch.zeros(number, 0),
        torch.zeros(number, 0, dtype=torch.long), "", reason,
    )  # fmt: skip


class _Best:
    """The highest activations of each unit so far, with their images and maps.

    An image that several units share is kept once.

    Args:
        number: images per unit.
    """

    def __init__(self, number: int) -> None:
        self.number = number
        self.images = torch.empty(0)
        self.values = torch.empty(0)
        self.fields: list[Tensor] = []  # maps, sample ids, places in `images`; each (U, T, ...)

    def add(self, images: Tensor, maps: Tensor, sample_ids: Tensor) -> None:
        """Add images ``(N, C, H, W)`` with the units' maps ``(N, U, h, w)``."""
        peaks = maps.amax((-2, -1)).T
        units = len(peaks)
        places = torch.arange(len(images)) + len(self.images)
        new = [maps.transpose(0, 1), sample_ids.expand(units, -1), places.expand(units, -1)]
        if not self.fields:
            self.images, self.values = images[:0], peaks[:, :0]
            self.fields = [field[:, :0] for field in new]
        pooled = torch.cat([self.values, peaks], 1)
        # Stable, so that of equal values the first image stays.
        order = pooled.sort(dim=1, descending=True, stable=True).indices[:, : self.number]
        rows = torch.arange(units)[:, None]
        self.values = pooled[rows, order]
        *kept, places = (
            torch.cat([old, field], 1)[rows, order]
            for old, field in zip(self.fields, new, strict=True)
        )
        used, places = torch.unique(places, return_inverse=True)
        self.images = torch.cat([self.images, images])[used]
        self.fields = [*kept, places]


def typical_images(
    subject: TrainedNetwork,
    batches: Iterable[tuple[Tensor, Tensor]],
    units: Sequence[int],
    frame: MapFrame,
    *,
    layer: str,
    number: int,
    field_share: float,
    size: int,
    source: str,
) -> TypicalImages:
    """The images with the highest activation of each unit, drawn.

    Args:
        subject: the network.
        batches: images ``(N, channels, H, W)`` and sample ids ``(N,)``.
        units: whose images are wanted.
        frame: how the layer's maps lie in the image.
        layer: dotted name.
        number: images per unit, at most.
        field_share: diameter of the lit field over the theoretical receptive field.
        size: side of a picture, in pixels.
        source: of the images, in words.
    """
    check_range("number", number, 1)
    best = _Best(number)
    chosen = torch.tensor(list(units))
    with torch.no_grad(), evaluation_mode(subject.network):
        for images, sample_ids in batches:
            with ActivationTap(subject.network, [layer]) as tap:
                subject.network(images.to(subject.device))
            maps = tap.activations[layer][:, chosen.to(subject.device)].float().cpu()
            best.add(images.cpu(), maps, sample_ids.cpu())
    maps, sample_ids, places = best.fields
    pixels = pixels_of_input(best.images, subject.info)[places]
    diameter = drawn_diameter(frame, field_share)
    pictures = unit_pictures(pixels, maps, frame, diameter=diameter, size=size)
    silent = best.values <= 0
    pictures[silent] = torch.nan
    return TypicalImages(
        tuple(units), pictures, best.values.masked_fill(silent, torch.nan),
        sample_ids.masked_fill(silent, -1), source, "",
    )  # fmt: skip


def pixels_of_input(images: Tensor, info: DataInfo) -> Tensor:
    """Network input as pixels in [0, 1], float32 ``(..., 3, H, W)``."""
    return unnormalised(images.detach().cpu(), info.mean, info.std)


def loader_batches(loader: Any, most: int, batch_size: int = 32) -> Iterator[tuple[Tensor, Tensor]]:
    """Images and sample ids of at most `most` images, spread evenly over a loader's data set.

    A loader whose data set cannot be asked by place gives its first images.
    """
    dataset: Any = getattr(loader, "dataset", None)
    if not (hasattr(dataset, "__getitem__") and hasattr(dataset, "__len__")):
        yield from _first_batches(loader, most)
        return
    places = list(dict.fromkeys(spread_indices(len(dataset), most)))
    fetch = getattr(dataset, "__getitems__", None)
    for start in range(0, len(places), batch_size):
        chosen = places[start : start + batch_size]
        items = fetch(chosen) if fetch else [dataset[place] for place in chosen]
        yield _images_and_ids(loader.collate_fn(items), torch.tensor(chosen))


def _first_batches(loader: Any, most: int) -> Iterator[tuple[Tensor, Tensor]]:
    seen = 0
    for batch in loader:
        images, ids = _images_and_ids(batch, None)
        kept = slice(0, most - seen)
        ids = ids if len(ids) else torch.arange(seen, seen + len(images))
        yield images[kept], ids[kept]
        seen += len(images)
        if seen >= most:
            return


def _images_and_ids(batch: Any, places: Tensor | None) -> tuple[Tensor, Tensor]:
    """Images and ids of our batches, or of the ``(images, labels)`` of others."""
    images = getattr(batch, "images", None)
    if images is None:
        images = batch[0] if isinstance(batch, list | tuple) else batch
    ids = getattr(batch, "sample_ids", places)
    return images, torch.empty(0, dtype=torch.long) if ids is None else ids
