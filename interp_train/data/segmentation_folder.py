"""Any segmented photos as a probe set: a folder of photos, a folder of label maps, a list of names.

The layout of CamVid (G. J. Brostow, J. Fauqueur, R. Cipolla, "Semantic object classes in video",
2009) and of many other segmentation sets: photo ``images/<stem>.jpg``, label map
``labels/<stem>.png`` of whole numbers, names one per line.
"""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import final

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision.datasets.folder import IMG_EXTENSIONS
from torchvision.transforms.v2 import functional as transforms

from interp_train.checks import check_range
from interp_train.data.photo_data import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    check_normalisation,
    data_folder,
)
from interp_train.data.photos import whole_batch
from interp_train.data.samplers import ShardedValidationSampler
from interp_train.data.views import View
from interp_train.structures import BACKGROUND, ConceptBatch


@final
class SegmentationFolder(Dataset[ConceptBatch]):
    """Photos with one label map each, shown whole, stretched to the network's square input.

    Example:
        probe = SegmentationFolder(
            "camvid", images="val", labels="valannot", ignored=["Unlabelled"]
        )
        Trainer(callbacks=[Dissection(["layer4"], probe_set=probe)])

    Args:
        root: the folder; it has no default.
        images: folder of the photos below `root`.
        labels: folder of the label maps below `root`: image files without loss whose values are
            whole numbers (grey values or palette indices).
        names: file below `root` with one name per line, with or without the value before it
            (without: the number of the line, from 0).
        ignored: names that stand for no concept, e.g. ``["Unlabelled"]``.
        category: what the concepts are.
        image_size: side of the network's input, in pixels.
        label_size: side of the concept maps, in pixels.
        max_images: takes those whose names' hashes are smallest; None takes all.
        batch_size: photos per batch and process.
        num_workers: loader processes.
        mean: see `PhotoData`.
        std: see `PhotoData`.

    Attributes:
        concept_names: the category and its names.

    Raises:
        FileNotFoundError: if a folder or the file of names is missing.
        ValueError: if a photo or label map is missing, or names do not fit.
    """

    def __init__(
        self,
        root: str | None = None,
        *,
        images: str = "images",
        labels: str = "labels",
        names: str = "classes.txt",
        ignored: Sequence[str] = (),
        category: str = "object",
        image_size: int = 224,
        label_size: int = 112,
        max_images: int | None = None,
        batch_size: int = 32,
        num_workers: int = 0,
        mean: Sequence[float] = IMAGENET_MEAN,
        std: Sequence[float] = IMAGENET_STD,
    ) -> None:
        if root is None:
            raise ValueError("`root` must be the folder of the photos, but got None.")
        check_range("image_size", image_size, 1)
        check_range("label_size", label_size, 1)
        check_range("batch_size", batch_size, 1)
        check_normalisation(mean, std)
        folder = data_folder(root)
        self.image_size, self.label_size = image_size, label_size
        self.batch_size, self.num_workers = batch_size, num_workers
        self.mean, self.std = tuple(mean), tuple(std)
        known = _read_names(folder / names)
        foreign = [name for name in ignored if name not in known.values()]
        if foreign:
            raise ValueError(
                f"`ignored` must hold names of {names}, but {', '.join(foreign)} is none of "
                f"{', '.join(known.values())}."
            )
        kept = [name for name in known.values() if name not in ignored]
        self.concept_names = {category: tuple(kept)}
        self._label_of = np.full(2**16, -1, dtype=np.int16)  # -1: a value without a name
        for value, name in known.items():
            self._label_of[value] = kept.index(name) + 1 if name in kept else 0
        self.pairs = _pairs(folder, images, labels)[:max_images]

    def __len__(self) -> int:
        """Number of photos."""
        return len(self.pairs)

    def __getitem__(self, index: int) -> ConceptBatch:
        """A batch of the one photo `index`."""
        return self.__getitems__([index])

    def __getitems__(self, indices: Sequence[int]) -> ConceptBatch:
        """The batch of photos `indices`; labels are `BACKGROUND`."""
        chosen = [self.pairs[index] for index in indices]
        pixels = torch.stack([self._photo(photo) for photo, _ in chosen])
        maps = np.stack([self._concepts(path) for _, path in chosen])
        return ConceptBatch(
            images=transforms.normalize(pixels.float() / 255, list(self.mean), list(self.std)),
            labels=torch.full((len(chosen),), BACKGROUND),
            sample_ids=torch.tensor([_hash(path.stem) % 2**40 for _, path in chosen]),
            concept_maps=torch.from_numpy(maps)[:, None],
        )

    def concept_dataloader(self) -> DataLoader[ConceptBatch]:
        """Every photo once over all processes, in one order."""
        return DataLoader(
            self,
            batch_size=self.batch_size,
            num_workers=self.num_workers,
            sampler=ShardedValidationSampler(self),
            collate_fn=whole_batch,
        )

    def _photo(self, path: Path) -> Tensor:
        with Image.open(path) as image:
            photo = torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1)
        return View(0, 0, photo.shape[2], photo.shape[1]).render(photo, self.image_size)

    def _concepts(self, path: Path) -> NDArray[np.int16]:
        """The label at the centre of each pixel of the smaller map."""
        with Image.open(path) as image:
            values = np.asarray(image)
        if values.ndim != 2 or values.dtype.kind not in "iu" or values.max() >= 2**16:
            raise ValueError(
                f"each label map must hold one whole number in 0 .. 65535 per pixel, but "
                f"{str(path)!r} has {values.dtype} {values.shape}. Convert colours to indices."
            )
        rows, columns = (
            ((np.arange(self.label_size) + 0.5) * length / self.label_size).astype(int)
            for length in values.shape
        )
        found: NDArray[np.int16] = self._label_of[values[rows[:, None], columns]]
        if (found < 0).any():
            unknown = np.unique(values[rows[:, None], columns][found < 0]).tolist()
            raise ValueError(
                f"each value of a label map must have a name, but {str(path)!r} has {unknown}. "
                f"Add it to the file of names, and to `ignored` if it is no concept."
            )
        return found


def _read_names(path: Path) -> dict[int, str]:
    """Value -> name."""
    if not path.is_file():
        raise FileNotFoundError(
            f"`names` must be a file with one name per line, but {str(path)!r} is missing."
        )
    found: dict[int, str] = {}
    lines = [line.strip() for line in path.read_text("utf-8").splitlines() if line.strip()]
    for number, line in enumerate(lines):
        first, _, rest = line.partition(" ")
        value, name = (int(first), rest.strip()) if first.isdigit() and rest else (number, line)
        if value in found or name in found.values() or value >= 2**16:
            raise ValueError(
                f"each line of `names` must have a value and a name of its own, but {path.name} "
                f"repeats {line!r}, or its value is > 65535. Correct the line."
            )
        found[value] = name
    return found


def _pairs(root: Path, images: str, labels: str) -> list[tuple[Path, Path]]:
    """Photo and label map of each stem, in the order of the stems' hashes."""
    files: list[dict[str, Path]] = []
    for name in (images, labels):
        if not (root / name).is_dir():
            raise FileNotFoundError(
                f"`images` and `labels` must be folders below `root`, but {str(root / name)!r} is "
                f"missing."
            )
        paths = sorted((root / name).iterdir())
        files.append({p.stem: p for p in paths if p.suffix.lower() in IMG_EXTENSIONS})
    photos, maps = files
    alone = sorted(photos.keys() ^ maps.keys())
    if alone or not photos:
        raise ValueError(
            f"each photo must have a label map of the same name, but {len(alone)} of "
            f"{len(photos)} photos and {len(maps)} label maps stand alone ({', '.join(alone[:3])})."
        )
    return [(photos[stem], maps[stem]) for stem in sorted(photos, key=_hash)]


def _hash(text: str) -> int:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")
