"""Images that lie in memory as bytes: one data set for all of them, and its data module."""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, final

import numpy as np
import torch
from lightning.pytorch import LightningDataModule
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from interp_train.checks import check_name, check_range
from interp_train.counter_random import whole_numbers
from interp_train.data.split_loaders import training_loader, validation_loader
from interp_train.structures import Batch, DataInfo, FactorBatch, ImageBatch

SPLITS = ("train", "val")


class Arrays(NamedTuple):
    """The images of one split.

    Attributes:
        images: uint8 ``(N, channels, H, W)``.
        labels: category of each, ``(N,)``.
        sample_ids: identity of each, ``(N,)``; those of two splits may overlap only if the same
            images stand in both.
        factors: value of each known factor of variation, ``(N, F)``; F = 0 if none is known.
    """

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]
    sample_ids: NDArray[np.int64]
    factors: NDArray[np.int64]


class ImageArrays(Dataset[Batch]):
    """One split; an item is a batch of one, and `__getitems__` makes a whole batch at once.

    Batches are `FactorBatch` if factors are known, else `ImageBatch`.

    Args:
        arrays: the images.
        value_range: of the network's input: what black and white become.
        shift: largest random displacement along each axis, in pixels, filled with black; every
            whole number is equally likely and follows from (seed, epoch, sample id).
        seed: of the displacements.
    """

    def __init__(
        self, arrays: Arrays, value_range: tuple[float, float], shift: int = 0, seed: int = 0
    ) -> None:
        self.images = torch.from_numpy(np.require(arrays.images, requirements=["C", "W"]))
        self.labels = torch.from_numpy(arrays.labels)
        self.sample_ids = torch.from_numpy(arrays.sample_ids)
        self.factors = torch.from_numpy(arrays.factors)
        self.value_range, self.shift, self.seed = value_range, shift, seed
        # Shared, so that worker processes that live on also see the epoch.
        self._epoch = torch.zeros((), dtype=torch.long).share_memory_()  # type: ignore[no-untyped-call]

    def __len__(self) -> int:
        """Number of images."""
        return len(self.labels)

    def set_epoch(self, epoch: int) -> None:
        """Draw the displacements of `epoch` from now on, in worker processes too."""
        self._epoch.fill_(epoch)

    def __getitem__(self, index: int) -> Batch:
        """A batch of the one image `index`."""
        return self.__getitems__([index])

    def __getitems__(self, indices: Sequence[int]) -> Batch:
        """The batch of images `indices`."""
        chosen = torch.as_tensor(indices)
        images, ids = self.images[chosen], self.sample_ids[chosen]
        if self.shift:
            span = 2 * self.shift + 1
            by = whole_numbers(ids, 2, span, self.seed, int(self._epoch)) - self.shift
            images = shifted(images, by)
        low, high = self.value_range
        pixels = images.float() * ((high - low) / 255) + low
        number = len(chosen)
        fields = (
            pixels,
            self.labels[chosen],
            ids,
            torch.full((number, 4), torch.nan),
            torch.zeros(number, 0, 0, 0),
        )
        if self.factors.shape[1]:
            return FactorBatch(*fields, self.factors[chosen])
        return ImageBatch(*fields)


def shifted(images: Tensor, by: Tensor) -> Tensor:
    """Images displaced by whole pixels, 0 where nothing was.

    Args:
        images: ``(N, C, H, W)``.
        by: displacement along x and y, to the right and down, long ``(N, 2)``.
    """
    number, _, height, width = images.shape
    rows = torch.arange(height) - by[:, 1:]
    columns = torch.arange(width) - by[:, :1]
    inside = ((rows >= 0) & (rows < height))[:, :, None]
    inside = inside & ((columns >= 0) & (columns < width))[:, None, :]
    rows, columns = rows.clamp(0, height - 1), columns.clamp(0, width - 1)
    samples = torch.arange(number)[:, None, None]
    moved = images.transpose(0, 1)[:, samples, rows[:, :, None], columns[:, None, :]]
    return moved.transpose(0, 1) * inside[:, None]


def padded(images: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    """Images ``(N, C, H, W)`` in the middle of black squares of `side` pixels.

    Raises:
        ValueError: if they are larger than that.
    """
    height, width = images.shape[-2:]
    if side < max(height, width):
        raise ValueError(
            f"`image_size` must be at least the size of the images, {height} x {width}, but got "
            f"{side}. These images are not made smaller."
        )
    edges = [((side - length) // 2, (side - length + 1) // 2) for length in (height, width)]
    return np.pad(images, ((0, 0), (0, 0), *edges)) if side > min(height, width) else images


class ArrayData(LightningDataModule, ABC):
    """Images in memory; a subclass reads them.

    Args:
        value_range: of the network's input, ``[0, 1]`` or ``[-1, 1]``.
        shift: see `ImageArrays`; of training images only.
        batch_size: images per batch and process.
        num_workers: loader processes; 0 is fast, since the images lie in memory.
        seed: of order and displacements.
    """

    def __init__(
        self,
        *,
        value_range: Sequence[float],
        shift: int,
        batch_size: int,
        num_workers: int,
        seed: int,
    ) -> None:
        super().__init__()
        check_range("batch_size", batch_size, 1)
        check_range("num_workers", num_workers, 0)
        check_range("seed", seed, 0, 2**40 - 1)
        check_range("shift", shift, 0, 16)
        if list(value_range) not in ([0, 1], [-1, 1]):
            raise ValueError(
                f"`value_range` must be [0, 1] or [-1, 1], but got {list(value_range)}."
            )
        self.value_range = (float(value_range[0]), float(value_range[1]))
        self.shift, self.seed = shift, seed
        self.batch_size, self.num_workers = batch_size, num_workers
        self._datasets: dict[str, ImageArrays] = {}
        self._info: DataInfo | None = None

    @abstractmethod
    def read(self) -> tuple[dict[str, Arrays], Mapping[str, Any]]:
        """Arrays of ``"train"`` and ``"val"``, and `name`, `class_names` and `licence`."""

    @property
    @final
    def info(self) -> DataInfo:
        """What networks, measures and reports must know; read at first use."""
        if self._info is None:
            self._read_all()
        assert self._info is not None
        return self._info

    @final
    def setup(self, stage: str | None = None) -> None:
        """Read the files, once."""
        _ = self.info

    @final
    def dataset(self, split: str) -> ImageArrays:
        """The data set of a split, ``"train"`` or ``"val"``; only the first is displaced."""
        _ = self.info
        check_name("split", split, self._datasets, "a split of the data")
        return self._datasets[split]

    def train_dataloader(self) -> DataLoader[Batch]:
        """Batches in an order that follows from (seed, epoch)."""
        return training_loader(
            self.dataset("train"),
            batch_size=self.batch_size,
            num_workers=self.num_workers,
            seed=self.seed,
        )

    def val_dataloader(self) -> DataLoader[Batch]:
        """Every validation image exactly once over all processes."""
        return validation_loader(
            self.dataset("val"), batch_size=self.batch_size, num_workers=self.num_workers
        )

    def test_dataloader(self) -> DataLoader[Batch]:
        """The validation images: there are two splits."""
        return self.val_dataloader()

    def _read_all(self) -> None:
        arrays, described = self.read()
        content = hashlib.sha256(repr(described).encode())
        for split in SPLITS:
            for values in arrays[split]:
                content.update(repr(values.shape).encode() + np.ascontiguousarray(values).data)
            shift = self.shift if split == "train" else 0
            self._datasets[split] = ImageArrays(arrays[split], self.value_range, shift, self.seed)
        low, high = self.value_range
        channels, image_size = arrays["train"].images.shape[1:3]
        self._info = DataInfo(
            **described,
            part_names=(),
            part_groups={},
            instability_parts=(),
            image_size=image_size,
            channels=channels,
            mean=(-low / (high - low),) * channels,
            std=(1 / (high - low),) * channels,
            fingerprint=content.hexdigest()[:16],
        )
