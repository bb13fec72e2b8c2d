"""Sprites with known factors of variation, each combination once, for disentanglement measures.

Characters of the Liberated Pixel Cup in all combinations of body, trousers, shirt, hair, direction
and pose, after Y. Li, S. Mandt, "Disentangled Sequential Autoencoder", ICML 2018. The file is a
numpy archive with ``imgs`` (N, H, W, 3), ``factors`` (N, F), ``factor_names`` and ``factor_sizes``.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, final

import numpy as np
import torch
from numpy.typing import NDArray

from interp_train.checks import check_name, check_range
from interp_train.counter_random import uniform_numbers
from interp_train.data.image_arrays import ArrayData, Arrays
from interp_train.data.photo_data import data_folder

_FIELDS = ("imgs", "factors", "factor_names", "factor_sizes")
LICENCE = "Liberated Pixel Cup artists; CC BY-SA 3.0 / GPL 3.0"


@final
class SpritesFactorsData(ArrayData):
    """Sprites as `FactorBatch`; the label of an image is the value of one factor.

    Args:
        root: folder with one ``.npz`` file; None is ``sprites_factors`` below
            ``$INTERP_TRAIN_DATA``.
        label: factor that labels tell.
        val_share: share of the images that validates and does not train; 0 validates on all of
            them, as measures over all combinations need.
        image_size: side of the images in pixels: their own, or that divided by a whole number
            (means over squares of pixels).
        value_range: of the network's input, ``[0, 1]`` or ``[-1, 1]``.
        batch_size: images per batch and process.
        num_workers: loader processes.
        seed: of order and split.

    Attributes:
        factor_names: name of each factor; known once `info` is.
        factor_sizes: number of its values.

    Raises:
        ValueError: if an argument is out of its range, or the file is broken.
        FileNotFoundError: if there is no file.
    """

    factor_names: tuple[str, ...] = ()
    factor_sizes: tuple[int, ...] = ()

    def __init__(
        self,
        root: str | None = None,
        label: str = "body",
        *,
        val_share: float = 0.0,
        image_size: int = 64,
        value_range: Sequence[float] = (-1.0, 1.0),
        batch_size: int = 64,
        num_workers: int = 0,
        seed: int = 0,
    ) -> None:
        super().__init__(
            value_range=value_range,
            shift=0,
            batch_size=batch_size,
            num_workers=num_workers,
            seed=seed,
        )
        check_range("val_share", val_share, 0.0, 0.9)
        self.root, self.label = root, label
        self.val_share, self.image_size = val_share, image_size

    def read(self) -> tuple[dict[str, Arrays], Mapping[str, Any]]:
        """See `ArrayData`."""
        path = _archive(data_folder(self.root, "sprites_factors"))
        images, factors = self._content(path)
        images = reduced(images.transpose(0, 3, 1, 2), self.image_size)
        check_name("label", self.label, self.factor_names, "a factor of the data")
        which = self.factor_names.index(self.label)
        whole = Arrays(images, factors[:, which], np.arange(len(images)), factors)
        names = tuple(f"{self.label} {value}" for value in range(self.factor_sizes[which]))
        described = {"name": "sprites_factors", "class_names": names, "licence": LICENCE}
        return self._splits(whole), described

    def _splits(self, whole: Arrays) -> dict[str, Arrays]:
        if not self.val_share:
            return {"train": whole, "val": whole}
        ids = torch.from_numpy(whole.sample_ids)
        held_out = (uniform_numbers(ids, 1, self.seed)[:, 0] < self.val_share).numpy()
        chosen = {"train": ~held_out, "val": held_out}
        return {split: Arrays(*(v[which] for v in whole)) for split, which in chosen.items()}

    def _content(self, path: Path) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
        with np.load(path, allow_pickle=False) as archive:
            missing = [field for field in _FIELDS if field not in archive.files]
            if missing:
                raise ValueError(
                    f"`root` must hold an archive with {', '.join(_FIELDS)}, but {str(path)!r} "
                    f"lacks {', '.join(missing)}."
                )
            images, factors, names, sizes = (archive[field] for field in _FIELDS)
        self.factor_names = tuple(map(str, names))
        self.factor_sizes = tuple(map(int, sizes))
        if len(images) != len(factors) or (factors.max(0) >= sizes).any():
            raise ValueError(
                f"the archive must hold one row of factors per image, with values below "
                f"{list(self.factor_sizes)}, but {str(path)!r} has {len(images)} images and "
                f"{len(factors)} rows with values up to {factors.max(0).tolist()}."
            )
        return images, factors.astype(np.int64)


def _archive(folder: Path) -> Path:
    found = sorted(folder.glob("*.npz"))
    if len(found) != 1:
        raise FileNotFoundError(
            f"`root` must be a folder with one .npz file, but {str(folder)!r} has {len(found)}."
        )
    return found[0]


def reduced(images: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    """Square images ``(N, C, H, H)`` of `side` pixels, as means over squares of pixels.

    Raises:
        ValueError: unless `side` divides their own.
    """
    own = images.shape[-1]
    if side < 1 or own % side:
        raise ValueError(
            f"`image_size` must divide the size of the images, {own} pixels, but got {side}."
        )
    if side == own:
        return np.ascontiguousarray(images)
    times = own // side
    squares = images.reshape(*images.shape[:2], side, times, side, times)
    means: NDArray[np.float32] = np.rint(squares.mean((3, 5), dtype=np.float32))
    return means.astype(np.uint8)
