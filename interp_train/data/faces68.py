"""Faces with 68 landmarks, in the order of the 300-W annotations.

C. Sagonas, G. Tzimiropoulos, S. Zafeiriou, M. Pantic, "300 Faces in-the-Wild Challenge", 2013. Read
from a csv file of one face per row: ``file, x0, y0 ... x67, y67``, in the photo's pixels; an empty
field is not annotated. File names begin with ``tr<person>_``; a person is in one split only.
"""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import final

import numpy as np

from interp_train.checks import check_choice, check_range
from interp_train.data.annotation_files import number, records_of
from interp_train.data.background_samples import with_backgrounds
from interp_train.data.photo_data import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    Collection,
    PhotoData,
    data_folder,
)
from interp_train.data.photos import UNKNOWN_SIZE, Photo, checked_photos, large_enough
from interp_train.data.views import check_augmentation

SPLITS = ("folds", "tuning", "training")

NUM_LANDMARKS = 68
_RANGES = {
    "jaw": (0, 17),
    "right eyebrow": (17, 22),  # the person's right
    "left eyebrow": (22, 27),
    "nose": (27, 36),
    "right eye": (36, 42),
    "left eye": (42, 48),
    "mouth": (48, 68),
}
PART_GROUPS = {group: tuple(range(*ends)) for group, ends in _RANGES.items()}
PART_NAMES = tuple(
    f"{group} {count + 1}"
    for group, members in PART_GROUPS.items()
    for count in range(len(members))
)
INSTABILITY_PARTS = (8, 30, 36, 45, 48, 54)  # chin, tip of the nose, corners of eyes and mouth

# Landmarks that mirror each other, as (first, last) of a run and the partner of its first.
_MIRRORED = (
    (0, 7, 16), (17, 21, 26), (31, 32, 35), (36, 39, 45), (40, 41, 47), (48, 50, 54), (58, 59, 56),
    (60, 61, 64), (67, 67, 65),
)  # fmt: skip
FLIP_PAIRS = tuple(
    (first + step, partner - step)
    for first, last, partner in _MIRRORED
    for step in range(last - first + 1)
)
COLUMNS = ("file", *(f"{axis}{index}" for index in range(NUM_LANDMARKS) for axis in "xy"))


@final
class Faces68Data(PhotoData):
    """Faces cropped to the box of their landmarks, against background crops of the same photos.

    Args:
        root: folder with training_keypoints.csv and training/; None: below ``$INTERP_TRAIN_DATA``.
        split: ``"folds"``: every `num_folds`-th person is validated; or, to choose settings
            without a look at those, which are left out: ``"tuning"``, where as many others
            validate, or ``"training"``, where all others are trained on and validate as well.
        num_folds: see `split`; at least 3 for tuning.
        backgrounds_per_photo: background crops of each photo, where its face leaves room; 0 for
            probe sets.
        image_size: see `PhotoData`.
        batch_size: see `PhotoData`.
        num_workers: see `PhotoData`.
        seed: see `PhotoData`; the background crops do not depend on it.
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
        split: str = "folds",
        num_folds: int = 5,
        backgrounds_per_photo: int = 1,
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
        check_choice("split", split, SPLITS)
        check_range("num_folds", num_folds, 3 if split == "tuning" else 2)
        check_range("backgrounds_per_photo", backgrounds_per_photo, 0, 100)
        self.root, self.split, self.num_folds = root, split, num_folds
        self.backgrounds_per_photo = backgrounds_per_photo

    def read(self) -> Collection:
        """Read the csv file and draw the background crops."""
        folder = data_folder(self.root, "faces68")
        faces, persons = [], dict[int, int]()
        for where, row in records_of(folder / "training_keypoints.csv", COLUMNS, self.mistakes):
            with self.mistakes.noted():
                face = _face(folder / "training", row, where)
                persons[face.sample_id] = _person(row["file"], where)
                faces.append(face)
        splits: dict[str, list[Photo]] = {"train": [], "val": []}
        for face in checked_photos(large_enough(faces, self.min_area), self.mistakes):
            for split in self._splits_of(persons[face.sample_id]):
                splits[split] += with_backgrounds(face, self.backgrounds_per_photo)
        return Collection(
            name="faces68",
            splits=splits,
            class_names=("face",),
            part_names=PART_NAMES,
            part_groups=PART_GROUPS,
            instability_parts=INSTABILITY_PARTS,
            flip_pairs=FLIP_PAIRS,
            licence="Stills of YouTube Faces: research only; landmarks, never to recognise anyone.",
        )

    def _splits_of(self, person: int) -> tuple[str, ...]:
        """``"train"``, ``"val"``, or both; none for those that are left out."""
        fold = person % self.num_folds
        if self.split == "folds":
            return ("val",) if fold == 0 else ("train",)
        if fold == 0:
            return ()
        if self.split == "training":
            return ("train", "val")
        return ("val",) if fold == 1 else ("train",)


def _person(file: str, where: str) -> int:
    found = re.match(r"[a-z]+(\d+)_", file)
    if found is None:
        raise ValueError(
            f"`file` must begin with 'tr<number of the person>_', but {where} has {file!r}. Rename "
            f"the file."
        )
    return int(found[1])


def _face(folder: Path, row: dict[str, str], where: str) -> Photo:
    texts = [row[column] for column in COLUMNS[1:]]
    values = [number(text, "a landmark", where) if text else np.nan for text in texts]
    points = np.array(values).reshape(NUM_LANDMARKS, 2)
    if np.isnan(points).any(1).all():
        raise ValueError(f"each face must have a landmark, but {where} has none. Add it.")
    (left, top), (right, bottom) = np.nanmin(points, 0), np.nanmax(points, 0)
    box = (float(left), float(top), float(right), float(bottom))
    return Photo(
        path=folder / row["file"],
        label=0,
        sample_id=int(where.rpartition(":")[2]),  # the line, so that it never changes
        size=UNKNOWN_SIZE,
        region=box,
        box=box,
        part_locations=points,
        part_boxes=np.full((NUM_LANDMARKS, 4), np.nan),
        where=where,
    )
