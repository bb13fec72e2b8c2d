"""Any folder of photos: one sub-folder per category, no annotations needed."""

import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import final

import numpy as np
from torchvision.datasets.folder import IMG_EXTENSIONS

from interp_train.checks import check_range
from interp_train.data.annotation_files import box_of, records_of
from interp_train.data.photo_data import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    SPLITS,
    Collection,
    PhotoData,
    data_folder,
)
from interp_train.data.photos import UNKNOWN_SIZE, Photo, large_enough
from interp_train.data.views import Box, check_augmentation
from interp_train.structures import BACKGROUND

BOX_COLUMNS = ("file", "xmin", "ymin", "xmax", "ymax")


@final
class ImageFolderData(PhotoData):
    """Your own photos.

    The folder holds either ``train/<category>/*`` and ``val/<category>/*``, or
    ``<category>/*``, which is then split by a hash of the file names.

    Args:
        root: the folder; it has no default.
        val_share: share of the photos that is validated, without a val folder.
        background: category folder whose photos belong to no category; None for none.
        boxes: csv file, relative to `root`, with the columns file (relative to `root`), xmin,
            ymin, xmax, ymax, in pixels of the upright photo. Photos are cropped to their box,
            those without one are shown whole. None: no boxes.
        image_size: see `PhotoData`.
        batch_size: see `PhotoData`.
        num_workers: see `PhotoData`.
        seed: see `PhotoData`; the split does not depend on it.
        min_area: see `PhotoData`.
        margin: see `PhotoData`.
        flip: see `ViewAugmentation`.
        scale: see `ViewAugmentation`.
        aspect: see `ViewAugmentation`.
        shift: see `ViewAugmentation`.
        rotation: see there.
        mean: see `PhotoData`.
        std: see `PhotoData`.
        in_memory: see `PhotoData`.
        on_error: see `PhotoData`.
        views_per_photo: see `PhotoData`.
        augment_validation: see `PhotoData`.

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
        min_area: float = 0.0,
        margin: float = 0.0,
        flip: bool = True,
        scale: Sequence[float] = (0.8, 1.0),
        aspect: float = 0.1,
        shift: float = 0.1,
        rotation: float = 0.0,
        mean: Sequence[float] = IMAGENET_MEAN,
        std: Sequence[float] = IMAGENET_STD,
        in_memory: bool = False,
        on_error: str = "raise",
        views_per_photo: int = 1,
        augment_validation: bool = False,
    ) -> None:
        super().__init__(
            image_size=image_size, batch_size=batch_size, num_workers=num_workers, seed=seed,
            min_area=min_area, margin=margin,
            augmentation=check_augmentation(flip, scale, aspect, shift, rotation), mean=mean,
            std=std, in_memory=in_memory, on_error=on_error, views_per_photo=views_per_photo,
            augment_validation=augment_validation,
        )  # fmt: skip
        check_range("val_share", val_share, 0.01, 0.99)
        self.root, self.val_share, self.background, self.boxes = root, val_share, background, boxes

    def read(self) -> Collection:
        """List the files; read the boxes."""
        if self.root is None:
            raise ValueError(
                "`root` must be the folder of your photos, but got None. Set data.root=<folder>."
            )
        folder = data_folder(self.root)
        roots = {split: folder / split for split in SPLITS if (folder / split).is_dir()}
        if len(roots) == 1:
            raise ValueError(
                f"`root` must hold both train/ and val/, or neither, but {str(folder)!r} has only "
                f"{next(iter(roots))}/. Add the other one, or put the categories directly there."
            )
        divided = bool(roots)
        names = _category_names(roots["train"] if divided else folder)
        self._check_names(names, _category_names(roots["val"]) if divided else names)
        categories = tuple(name for name in names if name != self.background)
        if divided:
            files = {split: list(_images(root, names)) for split, root in roots.items()}
        else:
            files = self._split(folder, list(_images(folder, names)))
        boxes = self._read_boxes(folder)
        splits = {
            split: [self._photo(folder, path, categories, boxes) for path in paths]
            for split, paths in files.items()
        }
        splits = {split: large_enough(photos, self.min_area) for split, photos in splits.items()}
        return Collection(name=folder.name, splits=splits, class_names=categories)

    def _check_names(self, trained: Sequence[str], validated: Sequence[str]) -> None:
        foreign = [name for name in validated if name not in trained]
        if foreign:
            raise ValueError(
                f"each category of `val` must be one of `train`, but {', '.join(foreign)} is not. "
                f"Rename the folder, or add training photos."
            )
        if self.background is not None and self.background not in trained:
            raise ValueError(
                f"`background` must name a category folder, but got {self.background!r}. There "
                f"are {', '.join(trained)}."
            )

    def _split(self, folder: Path, paths: Iterable[Path]) -> dict[str, list[Path]]:
        """The `val_share` of each category whose names' hashes are smallest is validated."""
        by_category: dict[str, list[Path]] = {}
        for path in paths:
            by_category.setdefault(path.relative_to(folder).parts[0], []).append(path)
        splits: dict[str, list[Path]] = {"train": [], "val": []}
        for members in by_category.values():
            ordered = sorted(members, key=lambda path: _hash(path.relative_to(folder).as_posix()))
            validated = max(1, round(self.val_share * len(ordered)))
            splits["val"] += sorted(ordered[:validated])
            splits["train"] += sorted(ordered[validated:])
        return splits

    def _read_boxes(self, folder: Path) -> dict[str, tuple[str, Box]]:
        """File name -> place of its line, and box."""
        if self.boxes is None:
            return {}
        found: dict[str, tuple[str, Box]] = {}
        for where, row in records_of(folder / self.boxes, BOX_COLUMNS, self.mistakes):
            with self.mistakes.noted():
                name = row["file"]
                if name in found or not (folder / name).is_file():
                    raise ValueError(
                        f"each line of `boxes` must name a photo of its own, but {where} has "
                        f"{name!r}, which is missing or occurs twice. Correct the line."
                    )
                found[name] = where, box_of(row, BOX_COLUMNS[1:], where)
        return found

    def _photo(
        self,
        folder: Path,
        path: Path,
        categories: Sequence[str],
        boxes: dict[str, tuple[str, Box]],
    ) -> Photo:
        name = path.relative_to(folder).as_posix()
        parts = path.relative_to(folder).parts
        category = parts[1] if parts[0] in SPLITS and len(parts) > 2 else parts[0]
        where, box = boxes.get(name, (f"category {category}", None))
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
            upright=True,
        )


def _category_names(folder: Path) -> list[str]:
    folders = [path for path in folder.iterdir() if path.is_dir()]
    names = sorted(path.name for path in folders if not path.name.startswith("."))
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
