"""The abstract data set of images with concept maps, which network dissection probes with.

A probe set is fixed: which images it holds follows from their names, not from a draw, so that
curves over epochs and runs are comparable; and each image is shown once, by one process.
"""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import final

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from interp_train.checks import check_range
from interp_train.data.photo_data import check_normalisation
from interp_train.data.samplers import ShardedValidationSampler
from interp_train.data.split_loaders import whole_batch
from interp_train.data.views import View, normalised
from interp_train.structures import BACKGROUND, ConceptBatch


class ProbeImages(Dataset[ConceptBatch], ABC):
    """Images with concept maps, in one order.

    Args:
        image_size: side of the network's input, in pixels.
        label_size: side of the concept maps, in pixels.
        batch_size: images per batch and process.
        num_workers: loader processes.
        mean: see `DataInfo`.
        std: see `DataInfo`.

    Attributes:
        concept_names: category -> names; label v > 0 of its maps stands for name v - 1.
        concept_layers: category -> number of its maps.
    """

    concept_names: Mapping[str, Sequence[str]]
    concept_layers: Mapping[str, int]

    def __init__(
        self,
        *,
        image_size: int,
        label_size: int,
        batch_size: int,
        num_workers: int,
        mean: Sequence[float],
        std: Sequence[float],
    ) -> None:
        check_range("image_size", image_size, 1)
        check_range("label_size", label_size, 1)
        check_range("batch_size", batch_size, 1)
        check_range("num_workers", num_workers, 0)
        check_normalisation(mean, std)
        self.image_size, self.label_size = image_size, label_size
        self.batch_size, self.num_workers = batch_size, num_workers
        self.mean, self.std = tuple(mean), tuple(std)

    @abstractmethod
    def __len__(self) -> int:
        """Number of images."""

    @abstractmethod
    def __getitems__(self, indices: Sequence[int]) -> ConceptBatch:
        """The batch of images `indices`."""

    @final
    def __getitem__(self, index: int) -> ConceptBatch:
        """A batch of the one image `index`."""
        return self.__getitems__([index])

    @final
    def concept_dataloader(self) -> DataLoader[ConceptBatch]:
        """Every image once over all processes, in one order."""
        return DataLoader(
            self,
            batch_size=self.batch_size,
            num_workers=self.num_workers,
            sampler=ShardedValidationSampler(self),
            collate_fn=whole_batch,
        )

    @final
    def batch_of(
        self, photos: Sequence[Path], names: Sequence[str], maps: Sequence[NDArray[np.int16]]
    ) -> ConceptBatch:
        """Whole photos, stretched to the network's square input, of no category.

        Args:
            photos: image files.
            names: of the images, unique in the set; their ids follow from them.
            maps: concept maps of each image, ``(maps, label_size, label_size)``.
        """
        pixels = torch.stack([_whole(photo, self.image_size) for photo in photos])
        return ConceptBatch(
            images=normalised(pixels, self.mean, self.std),
            labels=torch.full((len(photos),), BACKGROUND),
            sample_ids=torch.tensor([name_hash(name) % 2**40 for name in names]),
            concept_maps=torch.from_numpy(np.stack(maps)),
        )


def name_hash(name: str) -> int:
    """A whole number below 2**64 that follows from a name alone."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big")


def balanced_order(names: Sequence[str], strata: Sequence[Hashable]) -> list[int]:
    """An order of which every beginning holds the strata in equal shares, as far as they last.

    Within a stratum the names' hashes decide, so that a name keeps its place among those of its
    stratum when more are added.

    Args:
        names: of the images.
        strata: what each image belongs to.

    Returns:
        Indices of all images.
    """
    counts: dict[Hashable, int] = {}
    ranks = {}
    for index in sorted(range(len(names)), key=lambda index: name_hash(names[index])):
        ranks[index] = counts.get(strata[index], 0)
        counts[strata[index]] = ranks[index] + 1
    return sorted(ranks, key=lambda index: (ranks[index], name_hash(names[index])))


def covering(presence: NDArray[np.bool_], least: int, max_images: int) -> list[int]:
    """The first images, but so that each concept occurs in `least` of them, or in all it has.

    Concepts are served from the rarest to the most frequent, each with the first images that show
    it; what is left is filled with the first of the other images.

    Args:
        presence: whether image n shows concept c, bool ``(N, C)``.
        least: images per concept.
        max_images: number of images.

    Returns:
        Indices, ascending, ``min(max_images, N)`` of them.

    Raises:
        ValueError: if that takes more images.
    """
    chosen = np.zeros(len(presence), dtype=bool)
    totals = presence.sum(0)
    for concept in np.argsort(totals, kind="stable"):
        missing = min(least, int(totals[concept])) - int(presence[chosen, concept].sum())
        fresh = np.flatnonzero(presence[:, concept] & ~chosen)
        chosen[fresh[: max(0, missing)]] = True
    if chosen.sum() > max_images:
        raise ValueError(
            f"`max_images` must be at least {chosen.sum()} so that each concept occurs in "
            f"`least_per_concept`={least} images, but got {max_images}. Raise it, or lower the "
            f"other."
        )
    rest = np.flatnonzero(~chosen)[: max_images - int(chosen.sum())]
    chosen[rest] = True
    found: list[int] = np.flatnonzero(chosen).tolist()
    return found


def at_centres(values: NDArray[np.int64], size: int) -> NDArray[np.int64]:
    """What a label map has at the centre of each pixel of a smaller (or larger) square one."""
    rows, columns = (
        ((np.arange(size) + 0.5) * length / size).astype(int) for length in values.shape
    )
    found: NDArray[np.int64] = values[rows[:, None], columns]
    return found


def _whole(path: Path, size: int) -> Tensor:
    with Image.open(path) as image:
        photo = torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1)
    return View(0, 0, photo.shape[2], photo.shape[1]).render(photo, size)
