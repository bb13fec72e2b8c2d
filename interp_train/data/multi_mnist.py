"""MultiMNIST: two digits of different categories on top of each other, made on the fly.

Sabour, Frosst & Hinton, "Dynamic Routing Between Capsules", NIPS 2017, sec. 6: each digit is moved
by up to 4 pixels on 36, and grey values are added up to white. Whole batches are made at once.
"""

from collections.abc import Sequence
from typing import final

import torch
from torch import Tensor

from interp_train.checks import check_range
from interp_train.counter_random import uniform_numbers, whole_numbers
from interp_train.data.image_arrays import ImageArrays, shifted
from interp_train.data.mnist import MnistData
from interp_train.data.remade_mnist import RemadeImages, RemadeMnist
from interp_train.structures import OverlapBatch

_FOR_PARTNERS, _FOR_PLACES = range(2)


@final
class OverlappingImages(RemadeImages):
    """Each image with another of a different category, drawn anew in each epoch.

    Partners and places follow from (seed, epoch, sample id of the first image).

    Args:
        singles: the images.
        shift: largest displacement of each along each axis, in pixels.
        seed: of partners and displacements.

    Raises:
        ValueError: if there are images of one category only.
    """

    def __init__(self, singles: ImageArrays, shift: int, seed: int = 0) -> None:
        super().__init__(singles, seed)
        self.shift = shift
        self.order = singles.labels.argsort(stable=True)
        self.counts = torch.bincount(singles.labels)
        if int((self.counts > 0).sum()) < 2:
            raise ValueError(
                f"the data must have images of at least two categories to overlap, but got "
                f"{self.counts.tolist()} images of each. Use more images (data.num_train)."
            )

    def __getitems__(self, indices: Sequence[int]) -> OverlapBatch:
        """The batch of pairs whose first images are `indices`."""
        first = torch.as_tensor(indices)
        number, ids = len(first), self.sample_ids[first]
        both = torch.stack([first, self._partners(first, ids)], 1)
        span = 2 * self.shift + 1
        by = whole_numbers(ids, 4, span, self.seed, self.epoch, _FOR_PLACES) - self.shift
        alone = shifted(self.singles.images[both.flatten()], by.view(-1, 2))
        alone = alone.view(number, 2, *alone.shape[1:])
        together = alone.sum(1, dtype=torch.long).clamp(max=255)
        labels = self.singles.labels[both]
        return OverlapBatch(
            self._scaled(together),
            labels[:, 0],
            ids,
            torch.full((number, 4), torch.nan),
            torch.zeros(number, 0, 0, 0),
            labels,
            self._scaled(alone),
        )

    def _partners(self, first: Tensor, ids: Tensor) -> Tensor:
        """An image of another category for each, all equally likely."""
        labels = self.singles.labels[first]
        own = self.counts[labels]
        begin = self.counts.cumsum(0)[labels] - own
        drawn = uniform_numbers(ids, 1, self.seed, self.epoch, _FOR_PARTNERS)[:, 0]
        place = (drawn.double() * (len(self) - own)).long()
        return self.order[torch.where(place >= begin, place + own, place)]

    def _scaled(self, images: Tensor) -> Tensor:
        low, high = self.singles.value_range
        return images.float() * ((high - low) / 255) + low


@final
class MultiMnistData(RemadeMnist):
    """Pairs of MNIST images as `OverlapBatch`; validation pairs stay the same.

    Args:
        root: see `MnistData`.
        name: see `MnistData`.
        split: see `MnistData`.
        num_train: see `MnistData`; as many pairs.
        num_val: see `MnistData`; as many pairs.
        image_size: side of the images, in pixels.
        shift: largest displacement of each digit along each axis, in pixels.
        value_range: of the network's input, ``[0, 1]`` or ``[-1, 1]``.
        batch_size: pairs per batch and process.
        num_workers: loader processes.
        seed: of order, pairs and displacements.

    Raises:
        ValueError: if an argument is out of its range, or a file is broken.
        FileNotFoundError: if a file is missing.
    """

    def __init__(
        self,
        root: str | None = None,
        name: str = "mnist",
        *,
        split: str = "official",
        num_train: int | None = None,
        num_val: int | None = None,
        image_size: int = 36,
        shift: int = 4,
        value_range: Sequence[float] = (0.0, 1.0),
        batch_size: int = 128,
        num_workers: int = 0,
        seed: int = 0,
    ) -> None:
        check_range("shift", shift, 0, 16)
        self.shift = shift
        singles = MnistData(
            root, name, split=split, num_train=num_train, num_val=num_val, image_size=image_size,
            value_range=value_range, batch_size=batch_size, num_workers=num_workers, seed=seed,
        )  # fmt: skip
        super().__init__(singles, "multi", f"overlapping {shift} {seed}")

    def remade(self, split: str, singles: ImageArrays) -> OverlappingImages:
        """The pairs of a split."""
        return OverlappingImages(singles, self.shift, self.seed)
