"""MNIST under affine transforms, in validation (does a network generalise?) or in training.

After the affNIST experiment of Sabour, Frosst & Hinton, "Dynamic Routing Between Capsules", NIPS
2017, sec. 5.3. The images are made on the fly from MNIST, not those of affNIST, and the default
ranges are ours; whole batches are transformed at once.
"""

from collections.abc import Sequence
from typing import final

from interp_train.affine_transforms import (
    AffineRanges,
    checked_ranges,
    drawn_transforms,
    transformed,
)
from interp_train.checks import check_choice
from interp_train.data.image_arrays import ImageArrays
from interp_train.data.mnist import MnistData
from interp_train.data.remade_mnist import RemadeImages, RemadeMnist
from interp_train.structures import Batch


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
