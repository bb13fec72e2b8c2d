"""ILSVRC Animal-Part: animals with boxes of the object, the head and the front legs.

The data of Zhang, Wu & Zhu, "Interpretable Convolutional Neural Networks", CVPR 2018. Read from
a csv file with the columns of `COLUMNS`; an empty field is not annotated.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, final

import numpy as np
from numpy.typing import NDArray

from interp_train.checks import check_choice, check_range
from interp_train.data.annotation_files import box_of, records_of
from interp_train.data.photo_data import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    Collection,
    PhotoData,
    data_folder,
)
from interp_train.data.photos import UNKNOWN_SIZE, Photo, large_enough
from interp_train.data.views import Box, check_augmentation

SPLITS = ("official", "tuning", "training")
_TUNING_FOLDS = 5  # every fifth animal that is not tested validates, where settings are chosen
PART_NAMES = ("head", "front legs")
_BOX = ("xmin", "ymin", "xmax", "ymax")
_PART_PREFIXES = ("head_", "legs_")
COLUMNS = (
    "file",
    "name",
    "split",
    *_BOX,
    *(prefix + side for prefix in _PART_PREFIXES for side in _BOX),
)


class _Animal(NamedTuple):
    photo: Photo
    test: bool


@final
class AnimalPartData(PhotoData):
    """Animals cropped to their box, told apart by category.

    The landmark of a part is the centre of its box, as in the published measure.

    Args:
        root: folder with annotations.csv; None: below ``$INTERP_TRAIN_DATA``.
        fold: which fold is validated, 0 .. `num_folds` - 1; None takes the file's own split.
        num_folds: number of folds, each with the same share of every category.
        split: ``"official"``; or, to choose settings without a look at the validated animals, which
            are left out: ``"tuning"``, where every fifth of the others validates, or
            ``"training"``, where all others are trained on and validate as well.
        categories: names to keep; None keeps all.
        image_size: see `PhotoData`.
        batch_size: see `PhotoData`.
        num_workers: see `PhotoData`.
        seed: see `PhotoData`; the folds do not depend on it.
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
        FileNotFoundError: for a missing folder or file.
        ValueError: for a mistake in the file; names its line.
    """

    def __init__(
        self,
        root: str | None = None,
        *,
        fold: int | None = None,
        num_folds: int = 5,
        split: str = "official",
        categories: Sequence[str] | None = None,
        image_size: int = 224,
        batch_size: int = 32,
        num_workers: int = 0,
        seed: int = 0,
        min_area: float = 0.0,
        margin: float = 0.0,
        flip: bool = True,
        scale: Sequence[float] = (1.0, 1.0),
        aspect: float = 0.0,
        shift: float = 0.0,
        rotation: float = 0.0,
        mean: Sequence[float] = IMAGENET_MEAN,
        std: Sequence[float] = IMAGENET_STD,
        in_memory: bool = True,
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
        self.root, self.fold, self.num_folds, self.split = root, fold, num_folds, split
        self.categories = None if categories is None else tuple(categories)
        self._check_folds()

    def _check_folds(self) -> None:
        check_choice("split", self.split, SPLITS)
        check_range("num_folds", self.num_folds, 2)
        if self.fold is not None:
            check_range("fold", self.fold, 0, self.num_folds - 1)

    def read(self) -> Collection:
        """Read the csv file."""
        folder = data_folder(self.root, "animal_part")
        animals, names = [], list[str]()
        file = folder / "annotations.csv"
        for where, row in records_of(file, COLUMNS, self.mistakes):
            if self.categories is not None and row["name"] not in self.categories:
                continue
            if row["name"] not in names:
                names.append(row["name"])
            with self.mistakes.noted():
                animals.append(_animal(folder, row, where, names.index(row["name"])))
        self._check_categories(names)
        kept = large_enough([animal.photo for animal in animals], self.min_area)
        large = {photo.sample_id for photo in kept}
        animals = [animal for animal in animals if animal.photo.sample_id in large]
        return Collection(
            name="animal_part",
            splits=self._splits(animals),
            class_names=tuple(names),
            part_names=PART_NAMES,
            part_groups={name: (index,) for index, name in enumerate(PART_NAMES)},
            instability_parts=(0, 1),
            licence="ILSVRC photos: non-commercial research only; part annotations: MIT licence.",
        )

    def _splits(self, animals: Sequence[_Animal]) -> dict[str, list[Photo]]:
        tested = self._tested(animals)
        if self.split != "official":
            animals = [animal for animal, test in zip(animals, tested, strict=True) if not test]
            tested = _every(_TUNING_FOLDS, 0, animals)
        if self.split == "training":
            photos = [animal.photo for animal in animals]
            return {"train": photos, "val": list(photos)}
        splits: dict[str, list[Photo]] = {"train": [], "val": []}
        for animal, test in zip(animals, tested, strict=True):
            splits["val" if test else "train"].append(animal.photo)
        return splits

    def _tested(self, animals: Sequence[_Animal]) -> list[bool]:
        """Which animals are tested; folds take every `num_folds`-th of each category."""
        if self.fold is None:
            return [animal.test for animal in animals]
        return _every(self.num_folds, self.fold, animals)

    def _check_categories(self, names: Sequence[str]) -> None:
        missing = [name for name in self.categories or () if name not in names]
        if missing:
            raise ValueError(
                f"`categories` must name categories of annotations.csv, but got "
                f"{', '.join(missing)}. It has {', '.join(names) or 'none of them'}."
            )


def _every(number: int, remainder: int, animals: Sequence[_Animal]) -> list[bool]:
    """Which animals are every so-many-th of their category."""
    seen: dict[int, int] = {}
    chosen = []
    for animal in animals:
        rank = seen.get(animal.photo.label, 0)
        seen[animal.photo.label] = rank + 1
        chosen.append(rank % number == remainder)
    return chosen


def _animal(folder: Path, row: dict[str, str], where: str, label: int) -> _Animal:
    box = _box(row, "", where)
    if box is None:
        raise ValueError(f"each animal must have a box, but {where} has none. Add it.")
    parts = [_box(row, prefix, where) for prefix in _PART_PREFIXES]
    part_boxes: NDArray[np.float64] = np.array([part or (np.nan,) * 4 for part in parts])
    if row["split"] not in ("train", "test"):
        raise ValueError(
            f"`split` must be 'train' or 'test', but {where} has {row['split']!r}. Correct it."
        )
    photo = Photo(
        path=folder / row["file"],
        label=label,
        sample_id=int(where.rpartition(":")[2]),  # the line, so that it never changes
        size=UNKNOWN_SIZE,
        region=box,
        box=box,
        part_locations=(part_boxes[:, :2] + part_boxes[:, 2:]) / 2,
        part_boxes=part_boxes,
        where=where,
    )
    return _Animal(photo, row["split"] == "test")


def _box(row: dict[str, str], prefix: str, where: str) -> Box | None:
    """The box in the columns with a prefix; None where the first is empty."""
    if not row[prefix + _BOX[0]]:
        return None
    return box_of(row, tuple(prefix + side for side in _BOX), where)
