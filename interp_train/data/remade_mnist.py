"""Data that are made on the fly of MNIST's images: what their modules have in common."""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, final

import torch
from lightning.pytorch import LightningDataModule
from torch.utils.data import DataLoader, Dataset

from interp_train.data.image_arrays import ImageArrays
from interp_train.data.mnist import MnistData
from interp_train.data.split_loaders import training_loader, validation_loader
from interp_train.structures import Batch, DataInfo


class RemadeImages(Dataset[Batch], ABC):
    """Makes whole batches of images, anew in each epoch.

    Args:
        singles: the images.
        seed: of what is drawn.
    """

    def __init__(self, singles: ImageArrays, seed: int) -> None:
        self.singles, self.seed = singles, seed
        self.sample_ids = singles.sample_ids
        # Shared, so that worker processes that live on also see the epoch.
        self._epoch = torch.zeros((), dtype=torch.long).share_memory_()  # type: ignore[no-untyped-call]

    @abstractmethod
    def __getitems__(self, indices: Sequence[int]) -> Batch:
        """The batch of images `indices` in this `epoch`."""

    @final
    def __getitem__(self, index: int) -> Batch:
        """A batch of the one image `index`."""
        return self.__getitems__([index])

    @final
    def __len__(self) -> int:
        """Number of images."""
        return len(self.singles)

    @property
    @final
    def epoch(self) -> int:
        """The latest one that was set; 0 at first."""
        return int(self._epoch)

    @final
    def set_epoch(self, epoch: int) -> None:
        """Make the batches of `epoch` from now on, in worker processes too."""
        self._epoch.fill_(epoch)


class RemadeMnist(LightningDataModule, ABC):
    """Makes other batches of the images of a `MnistData`.

    Args:
        singles: gives the images, and the sizes of batches, loader processes and seed.
        prefix: of the data's name.
        mark: how they are remade; two that differ have different fingerprints.
    """

    def __init__(self, singles: MnistData, prefix: str, mark: str) -> None:
        super().__init__()
        self.singles, self.seed = singles, singles.seed
        self._prefix, self._mark = prefix, mark
        self._datasets: dict[str, Any] = {}

    @abstractmethod
    def remade(self, split: str, singles: ImageArrays) -> Any:
        """The data set of a split, which makes whole batches of these images."""

    @property
    @final
    def info(self) -> DataInfo:
        """See `ArrayData.info`."""
        info = self.singles.info
        fingerprint = hashlib.sha256(f"{info.fingerprint} {self._mark}".encode()).hexdigest()[:16]
        return info._replace(name=f"{self._prefix}_{info.name}", fingerprint=fingerprint)

    @final
    def dataset(self, split: str) -> Any:
        """The images of a split, ``"train"`` or ``"val"``."""
        if split not in self._datasets:
            self._datasets[split] = self.remade(split, self.singles.dataset(split))
        return self._datasets[split]

    @final
    def train_dataloader(self) -> DataLoader[Any]:
        """Batches in an order that follows from (seed, epoch)."""
        singles = self.singles
        return training_loader(
            self.dataset("train"),
            batch_size=singles.batch_size,
            num_workers=singles.num_workers,
            seed=singles.seed,
        )

    @final
    def val_dataloader(self) -> DataLoader[Any]:
        """Every validation image exactly once over all processes."""
        singles = self.singles
        return validation_loader(
            self.dataset("val"), batch_size=singles.batch_size, num_workers=singles.num_workers
        )

    @final
    def test_dataloader(self) -> DataLoader[Any]:
        """The validation images."""
        return self.val_dataloader()
