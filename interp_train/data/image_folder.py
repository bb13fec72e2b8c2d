"""Any folder of photos: one sub-folder per category, no annotations needed."""

import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import final

import numpy as np
from torchvision.datasets.folder import IMG_EXTENSIONS

from interp_train.checks import check_range
from interp_train.data.annotation_files import number, records_of
from interp_train.data.photo_data import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    Collection,
    PhotoData,
    data_folder,
)
from interp_train.data.photos import UNKNOWN_SIZE, Photo
from interp_train.data.views import Box
from interp_train.structures import BACKGROUND

BOX_COLUMNS = ("file", "xmin", "ymin", "xmax", "ymax")


@final
class ImageFolderData(PhotoData):
    """Your own photos.

    The folder holds either ``train/<category>/*`` and ``val/<category>/*``, or
    ``<category>/*``, which is then split by a hash of the file names.

    Args:
        root: the folder.
        val_share: share of the photos that is validated, without a val folder.
        background: category folder whose photos belong to no category; None for none.
        boxes: csv file with the columns file (relative to `root`), xmin, ymin, xmax, ymax;
            photos are cropped to their box. None: whole photos.
        image_size: see `PhotoData`.
        batch_size: see `PhotoData`.
        num_workers: see `PhotoData`.
        seed: see `PhotoData`; the split does not depend on it.
        margin: see `PhotoData`.
        flip: see `PhotoData`.
        scale: see `PhotoData`.
        aspect: see `PhotoData`.
        shift: see `PhotoData`.
        mean: see `PhotoData`.
        std: see `PhotoData`.
        in_memory: see `PhotoData`.
        on_error: see `PhotoData`.

    Raises:
        FileNotFoundError: if the folder is missing.
        ValueError: if it holds no categories, or the boxes do not fit.
    """

    def __init__(
        self,
        root: str | None = None,
        *,
        val_share: float = 0.2,
        background: str | None = None,
        boxes: str | None = None,
        image_size: int = 224,
        batch_size: int = 32,
        num_workers: int = 0,
        seed: int = 0,
        margin: float = 0.0,
        flip: bool = True,
        scale: Sequence[float] = (0.8, 1.0),
        aspect: float = 0.1,
        shift: float = 0.1,
        mean: Sequence[float] = IMAGENET_MEAN,
        std: Sequence[float] = IMAGENET_STD,
        in_memory: bool = False,
        on_error: str = "raise",
    ) -> None:
        super().__init__(
            image_size=image_size,
            batch_size=batch_size,
            num_workers=num_workers,
            seed=seed,
            margin=margin,
            flip=flip,
            scale=scale,
            aspect=aspect,
            shift=shift,
            mean=mean,
            std=std,
            in_memory=in_memory,
            on_error=on_error,
        )
        check_range("val_share", val_share, 0.01, 0.99)
        self.root, self.val_share = root, val_share
        self.background, self.boxes = background, boxes

    def read(self) -> Collection:
        """List the files; read the boxes."""
        folder = data_folder(self.root, "your photos")
        divided = (folder / "train").is_dir() and (folder / "val").is_dir()
        roots = {split: folder / split for split in ("train", "val")} if divided else {}
        names = _category_names(roots.get("train", folder))
        if self.background is not None and self.background not in names:
            raise ValueError(
                f"`background` must name a category folder, but got {self.background!r}. "
                f"{str(folder)!r} has {', '.join(names)}."
            )
        categories = tuple(name for name in names if name != self.background)
        files = {split: list(_images(root, names)) for split, root in roots.items()}
        if not divided:
            files = self._split(folder, list(_images(folder, names)))
        boxes = self._read_boxes()
        splits = {
            split: [self._photo(folder, path, categories, boxes) for path in paths]
            for split, paths in files.items()
        }
        return Collection(name=folder.name, splits=splits, class_names=categories)

    def _split(self, folder: Path, paths: Iterable[Path]) -> dict[str, list[Path]]:
        """The `val_share` of each category whose names' hashes are smallest is validated."""
        by_category: dict[str, list[Path]] = {}
        for path in paths:
            by_category.setdefault(path.relative_to(folder).parts[0], []).append(path)
        splits: dict[str, list[Path]] = {"train": [], "val": []}
        for members in by_category.values():
            ordered = sorted(members, key=lambda path: _hash(str(path.relative_to(folder))))
            validated = max(1, round(self.val_share * len(ordered)))
            splits["val"] += sorted(ordered[:validated])
            splits["train"] += sorted(ordered[validated:])
        return splits

    def _read_boxes(self) -> dict[str, tuple[str, Box]]:
        if self.boxes is None:
            return {}
        found = {}
        for where, row in records_of(Path(self.boxes), BOX_COLUMNS):
            sides = [number(row[side], side, where) for side in BOX_COLUMNS[1:]]
            found[row["file"]] = (where, (sides[0], sides[1], sides[2], sides[3]))
        return found

    def _photo(
        self,
        folder: Path,
        path: Path,
        categories: Sequence[str],
        boxes: dict[str, tuple[str, Box]],
    ) -> Photo:
        name = str(path.relative_to(folder))
        parts = path.relative_to(folder).parts
        category = parts[1] if parts[0] in ("train", "val") else parts[0]
        where, box = boxes.get(name, (str(path), None))
        return Photo(
            path=path,
            label=BACKGROUND if category == self.background else categories.index(category),
            sample_id=_hash(name) % 2**40,
            size=UNKNOWN_SIZE,
            region=box,
            box=box,
            part_locations=np.zeros((0, 2)),
            part_boxes=np.zeros((0, 4)),
            where=where,
        )


def _category_names(folder: Path) -> list[str]:
    names = sorted(path.name for path in folder.iterdir() if path.is_dir())
    if not names:
        raise ValueError(
            f"`root` must hold one sub-folder per category, but {str(folder)!r} has none. Put the "
            f"photos of each category into a folder of its name."
        )
    return names


def _images(folder: Path, names: Sequence[str]) -> Iterable[Path]:
    """Image files of the categories, sorted."""
    for name in names:
        for path in sorted((folder / name).rglob("*")):
            if path.suffix.lower() in IMG_EXTENSIONS:
                yield path


def _hash(text: str) -> int:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")
