"""MNIST under affine transforms, in validation (does a network generalise?) or in training.

After the affNIST experiment of Sabour, Frosst & Hinton, "Dynamic Routing Between Capsules", NIPS
2017, sec. 5.3. The images are made on the fly from MNIST, not those of affNIST, and the default
ranges are ours; whole batches are transformed at once.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple, final

import torch
from torch import Tensor
from torch.nn import functional

from interp_train.checks import check_choice, check_range
from interp_train.counter_random import uniform_numbers
from interp_train.data.image_arrays import ImageArrays
from interp_train.data.mnist import MnistData
from interp_train.data.remade_mnist import RemadeImages, RemadeMnist
from interp_train.structures import Batch


class AffineRanges(NamedTuple):
    """Ranges that transforms are drawn from, uniformly.

    Attributes:
        rotation: largest angle, in degrees, either way.
        shear: largest shear, in pixels per pixel, either way.
        scale: least and largest factor; one is drawn for each axis.
        shift: largest displacement along each axis, in pixels, either way.
    """

    rotation: float
    shear: float
    scale: tuple[float, float]
    shift: float


@final
class AffineImages(RemadeImages):
    """Images under transforms that follow from (seed, epoch, sample id), bilinear, black around.

    Args:
        singles: the images.
        ranges: of the transforms.
        seed: of the transforms.
    """

    def __init__(self, singles: ImageArrays, ranges: AffineRanges, seed: int = 0) -> None:
        super().__init__(singles, seed)
        self.ranges = ranges

    def __getitems__(self, indices: Sequence[int]) -> Batch:
        """The batch of images `indices`."""
        batch = self.singles.__getitems__(indices)
        black = self.singles.value_range[0]
        transforms = drawn_transforms(batch.sample_ids, self.ranges, self.seed, self.epoch)
        moved = transformed(batch.images - black, transforms) + black
        return batch._replace(images=moved)


def drawn_transforms(ids: Tensor, ranges: AffineRanges, *key: int) -> Tensor:
    """Matrices that take a point (x, y, 1), in pixels from the centre, ``(N, 2, 3)``.

    A point is scaled, then sheared along x, then turned (clockwise in the image), then moved.

    Args:
        ids: one per image, long ``(N,)``.
        ranges: to draw from.
        key: further whole numbers, such as a seed.
    """
    drawn = uniform_numbers(ids, 6, *key)
    either_way = 2 * drawn - 1
    angle = either_way[:, 0] * (ranges.rotation * math.pi / 180)
    shear = either_way[:, 1] * ranges.shear
    low, high = ranges.scale
    scale = low + (high - low) * drawn[:, 2:4]
    one, zero = torch.ones_like(angle), torch.zeros_like(angle)
    turns = _matrices(angle.cos(), -angle.sin(), angle.sin(), angle.cos())
    shears = _matrices(one, shear, zero, one)
    linear = turns @ shears @ torch.diag_embed(scale)
    return torch.cat([linear, either_way[:, 4:, None] * ranges.shift], 2)


def _matrices(*entries: Tensor) -> Tensor:
    return torch.stack(entries, 1).view(-1, 2, 2)


def transformed(images: Tensor, transforms: Tensor) -> Tensor:
    """Images under affine transforms, bilinear; 0 where nothing was.

    Args:
        images: square, ``(N, C, H, H)``.
        transforms: from where a point is to where it goes, as `drawn_transforms` gives them.
    """
    half = images.shape[-1] / 2
    back = torch.linalg.inv(transforms[:, :, :2])  # sampling asks where a point comes from
    offset = -back @ transforms[:, :, 2:] / half
    theta = torch.cat([back, offset], 2).to(images.dtype)
    grid = functional.affine_grid(theta, list(images.shape), align_corners=False)
    return functional.grid_sample(images, grid, align_corners=False)


@final
class AffineMnistData(RemadeMnist):
    """Digits of which those of one split are turned, sheared, scaled and moved.

    Args:
        root: see `MnistData`.
        name: see `MnistData`.
        transformed: ``"val"`` validates on transformed digits and trains on digits that are moved
            only, as the paper; ``"train"`` trains on digits that are transformed anew in each
            epoch and validates on digits as they are.
        split: see `MnistData`.
        num_train: see `MnistData`.
        num_val: see `MnistData`.
        image_size: side of the images, in pixels.
        train_shift: largest displacement of training images that are moved only, along each axis,
            in pixels.
        rotation: see `AffineRanges`.
        shear: see `AffineRanges`.
        scale: see `AffineRanges`.
        shift: see `AffineRanges`.
        value_range: of the network's input, ``[0, 1]`` or ``[-1, 1]``.
        batch_size: images per batch and process.
        num_workers: loader processes.
        seed: of order, displacements and transforms.

    Raises:
        ValueError: if an argument is out of its range, or a file is broken.
        FileNotFoundError: if a file is missing.
    """

    def __init__(
        self,
        root: str | None = None,
        name: str = "mnist",
        *,
        transformed: str = "val",
        split: str = "official",
        num_train: int | None = None,
        num_val: int | None = None,
        image_size: int = 40,
        train_shift: int = 6,
        rotation: float = 20.0,
        shear: float = 0.2,
        scale: Sequence[float] = (0.8, 1.2),
        shift: float = 6.0,
        value_range: Sequence[float] = (0.0, 1.0),
        batch_size: int = 128,
        num_workers: int = 0,
        seed: int = 0,
    ) -> None:
        check_choice("transformed", transformed, ("val", "train"))
        self.transformed = transformed
        self.ranges = checked_ranges(rotation, shear, scale, shift)
        singles = MnistData(
            root, name, split=split, num_train=num_train, num_val=num_val, image_size=image_size,
            shift=train_shift if transformed == "val" else 0, value_range=value_range,
            batch_size=batch_size, num_workers=num_workers, seed=seed,
        )  # fmt: skip
        super().__init__(singles, "affine", f"{transformed} {self.ranges} {seed}")

    def remade(self, split: str, singles: ImageArrays) -> ImageArrays | AffineImages:
        """The images of a split."""
        changed = split == self.transformed
        return AffineImages(singles, self.ranges, self.seed) if changed else singles


def checked_ranges(
    rotation: float, shear: float, scale: Sequence[float], shift: float
) -> AffineRanges:
    """The ranges, if they are ranges.

    Raises:
        ValueError: naming what is not.
    """
    check_range("rotation", rotation, 0.0, 180.0)
    check_range("shear", shear, 0.0)
    check_range("shift", shift, 0.0)
    if len(scale) != 2 or not 0 < scale[0] <= scale[1]:
        raise ValueError(
            f"`scale` must be the least and the largest factor, both positive, but got "
            f"{list(scale)}. For example scale=[0.8,1.2]."
        )
    return AffineRanges(rotation, shear, (scale[0], scale[1]), shift)
