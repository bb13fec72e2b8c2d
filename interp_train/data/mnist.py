"""MNIST, Fashion-MNIST, and whatever else comes in their four idx files."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, final

import numpy as np
from numpy.typing import NDArray

from interp_train.checks import check_choice, check_range
from interp_train.data.idx_files import FILES, idx_folder, idx_path, read_idx
from interp_train.data.image_arrays import ArrayData, Arrays, padded
from interp_train.data.photo_data import data_folder

# Name of the folder below $INTERP_TRAIN_DATA -> names of the categories.
CLASS_NAMES = {
    "mnist": tuple("0123456789"),
    "fashion_mnist": (
        "t-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag",
        "ankle boot",
    ),
}  # fmt: skip
LICENCES = {
    "mnist": "MNIST: Y. LeCun, C. Cortes, C. Burges; CC BY-SA 3.0",
    "fashion_mnist": "Fashion-MNIST: Zalando SE; MIT",
}
_TUNING = 10_000  # training images that validate, as many as the files have test images


@final
class MnistData(ArrayData):
    """Grey images ``(N, 1, image_size, image_size)`` with one label each.

    Args:
        root: folder of the files, also of torchvision's layout; None is the folder `name` below
            ``$INTERP_TRAIN_DATA``.
        name: of the data set; gives the names of the categories where it is known, else they are
            their numbers.
        split: ``"official"``, or ``"tuning"``: the last 10,000 training images validate and test
            images are left out.
        num_train: so many training images, from the first on; None takes all.
        num_val: the same for validation images.
        image_size: the images stand in the middle of black squares of this side, in pixels.
        shift: largest random displacement of training images, in pixels (2 for CapsNet).
        value_range: of the network's input, ``[0, 1]`` or ``[-1, 1]``.
        batch_size: images per batch and process.
        num_workers: loader processes.
        seed: of order and displacements.

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
        image_size: int = 28,
        shift: int = 0,
        value_range: Sequence[float] = (0.0, 1.0),
        batch_size: int = 128,
        num_workers: int = 0,
        seed: int = 0,
    ) -> None:
        super().__init__(
            value_range=value_range,
            shift=shift,
            batch_size=batch_size,
            num_workers=num_workers,
            seed=seed,
        )
        check_choice("split", split, ("official", "tuning"))
        self.root, self.data_name = root, name
        self.split, self.image_size = split, image_size
        self.numbers = {"train": num_train, "val": num_val}

    def read(self) -> tuple[dict[str, Arrays], Mapping[str, Any]]:
        """See `ArrayData`."""
        folder = idx_folder(data_folder(self.root, self.data_name))
        images, labels = _images_and_labels(folder, "train")
        first = np.arange(len(labels))
        if self.split == "tuning":
            check_range("number of training images for split='tuning'", len(labels), _TUNING + 1)
            cut = len(labels) - _TUNING
            parts = {"train": (images[:cut], labels[:cut], first[:cut])}
            parts["val"] = (images[cut:], labels[cut:], first[cut:])
        else:
            held_out, their_labels = _images_and_labels(folder, "test")
            ids = len(labels) + np.arange(len(their_labels))
            parts = {"train": (images, labels, first), "val": (held_out, their_labels, ids)}
        names = CLASS_NAMES.get(self.data_name, tuple(map(str, range(int(labels.max()) + 1))))
        arrays = {split: self._arrays(split, *part, names) for split, part in parts.items()}
        licence = LICENCES.get(self.data_name, "unknown: your own images")
        return arrays, {"name": self.data_name, "class_names": names, "licence": licence}

    def _arrays(
        self,
        split: str,
        images: NDArray[np.uint8],
        labels: NDArray[np.uint8],
        ids: NDArray[np.int64],
        names: Sequence[str],
    ) -> Arrays:
        number = self.numbers[split]
        if number is not None:
            check_range(f"num_{split}", number, 1, len(labels))
        if len(labels) and labels.max() >= len(names):
            raise ValueError(
                f"the labels of {self.data_name!r} must lie below {len(names)}, but the split "
                f"{split!r} has label {labels.max()}. Give the data another name."
            )
        chosen = padded(images[:number, None], self.image_size)
        few = labels[:number].astype(np.int64)
        return Arrays(chosen, few, ids[:number], np.zeros((len(few), 0), np.int64))


def _images_and_labels(folder: Path, part: str) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    names = FILES[part]
    images = read_idx(idx_path(folder, names[0]), 3)
    labels = read_idx(idx_path(folder, names[1]), 1)
    if len(images) != len(labels):
        raise ValueError(
            f"`root` must hold one label per image, but in {str(folder)!r} {names[0]} has "
            f"{len(images)} and {names[1]} {len(labels)}. Get both files again."
        )
    return images, labels
