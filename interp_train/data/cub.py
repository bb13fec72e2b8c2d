"""CUB-200-2011: birds with 15 landmarks, a box and an official split.

Wah, Branson, Welinder, Perona & Belongie, "The Caltech-UCSD Birds-200-2011 Dataset", 2011. Any
folder of the same layout is read, also with fewer classes.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, final

import numpy as np
from numpy.typing import NDArray

from interp_train.checks import check_choice, check_range
from interp_train.data.annotation_files import Mistakes, entry, number, rows_of, table_of
from interp_train.data.background_samples import BACKGROUND_ID_STEP, with_backgrounds
from interp_train.data.photo_data import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    Collection,
    PhotoData,
    data_folder,
)
from interp_train.data.photos import UNKNOWN_SIZE, Photo, checked_photos, large_enough
from interp_train.data.views import Box, check_augmentation

TASKS = ("bird_vs_background", "species")
SPLITS = ("official", "tuning", "training")
_TUNING_FOLDS = 5  # every fifth training bird validates, where settings are chosen

PART_GROUPS = {
    "head": ("beak", "crown", "forehead", "left eye", "nape", "right eye", "throat"),
    "breast-belly": ("belly", "breast"),
    "back-wings": ("back", "left wing", "right wing"),
    "legs": ("left leg", "right leg"),
    "tail": ("tail",),
}
INSTABILITY_PARTS = ("back", "forehead", "tail")  # parts 1, 6 and 14 of the published measure
FLIP_PAIRS = (("left eye", "right eye"), ("left leg", "right leg"), ("left wing", "right wing"))

# File of one line per image -> number of its columns.
_TABLES = {"bounding_boxes": 5, "image_class_labels": 2, "train_test_split": 2}


class _Bird(NamedTuple):
    photo: Photo
    train: bool


@final
class CubData(PhotoData):
    """Birds cropped to their box, against background crops of the same photos or by species.

    Args:
        root: folder with images.txt and the rest; None: below ``$INTERP_TRAIN_DATA``.
        task: ``"bird_vs_background"`` (one category) or ``"species"``.
        split: ``"official"``; or, to choose settings without a look at the test birds, which are
            left out: ``"tuning"``, where every fifth training bird validates, or ``"training"``,
            where all are trained on and validate as well, for measures that labels do not train.
        backgrounds_per_photo: background crops of each photo, where its bird leaves room.
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
        ValueError: for files that disagree; names file and line.
    """

    def __init__(
        self,
        root: str | None = None,
        *,
        task: str = "bird_vs_background",
        split: str = "official",
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
        self.root, self.task, self.split = root, task, split
        self.backgrounds_per_photo = backgrounds_per_photo
        self._check_options()

    def _check_options(self) -> None:
        check_choice("task", self.task, TASKS)
        check_choice("split", self.split, SPLITS)
        check_range("backgrounds_per_photo", self.backgrounds_per_photo, 1, 100)

    def read(self) -> Collection:
        """Read the text files and draw the background crops."""
        folder = data_folder(self.root, "CUB_200_2011", "CUB_200_2011_40")
        if not (folder / "images.txt").is_file() and (folder / "CUB_200_2011").is_dir():
            folder = folder / "CUB_200_2011"
        part_names = _part_names(folder / "parts" / "parts.txt")
        class_names, birds = _read_birds(folder, len(part_names), self.task, self.mistakes)
        if self.split == "tuning":
            birds = tuning_split(birds)
        elif self.split == "training":
            birds = [bird for bird in birds if bird.train]
        trained = {bird.photo.sample_id: bird.train for bird in birds}
        photos = large_enough([bird.photo for bird in birds], self.min_area)
        splits: dict[str, list[Photo]] = {"train": [], "val": []}
        for photo in checked_photos(photos, self.mistakes):
            splits["train" if trained[photo.sample_id] else "val"] += self._samples(photo)
        if self.split == "training":
            splits["val"] = list(splits["train"])
        return Collection(
            name="cub",
            splits=splits,
            class_names=class_names,
            part_names=part_names,
            part_groups=_part_groups(part_names),
            instability_parts=_indices(INSTABILITY_PARTS, part_names),
            flip_pairs=_flip_pairs(part_names),
            licence="CUB-200-2011, Caltech: images for non-commercial research and education.",
        )

    def _samples(self, bird: Photo) -> list[Photo]:
        """A bird, and in the task against background its background crops."""
        return with_backgrounds(bird, 0 if self.task == "species" else self.backgrounds_per_photo)


def tuning_split(birds: Sequence[_Bird]) -> list[_Bird]:
    """The training birds alone; every fifth of them, in the order of images.txt, validates."""
    trained = [bird for bird in birds if bird.train]
    return [bird._replace(train=index % _TUNING_FOLDS != 0) for index, bird in enumerate(trained)]


def _read_birds(
    folder: Path, num_parts: int, task: str, mistakes: Mistakes
) -> tuple[tuple[str, ...], list[_Bird]]:
    """Category names, and one bird per line of images.txt."""
    names = table_of(folder / "classes.txt", 2, mistakes)
    species = {key: index for index, key in enumerate(names)}
    tables = {
        name: table_of(folder / f"{name}.txt", columns, mistakes)
        for name, columns in _TABLES.items()
    }
    locations = _part_locations(folder / "parts" / "part_locs.txt", num_parts, mistakes)
    birds = []
    for key, (where, (path,)) in table_of(folder / "images.txt", 2, mistakes).items():
        with mistakes.noted():
            rows = {name: entry(table, key, f"{name}.txt", where) for name, table in tables.items()}
            class_place, (kind,) = rows["image_class_labels"]
            box = _box(*rows["bounding_boxes"])
            photo = Photo(
                path=folder / "images" / path,
                label=entry(species, kind, "classes.txt", class_place) if task == "species" else 0,
                sample_id=_image_id(key, where),
                size=UNKNOWN_SIZE,
                region=box,
                box=box,
                part_locations=entry(locations, key, "parts/part_locs.txt", where),
                part_boxes=np.full((num_parts, 4), np.nan),
                where=where,
            )
            birds.append(_Bird(photo, _is_train(*rows["train_test_split"])))
    plain = [name.split(".", 1)[-1].replace("_", " ") for _, (name,) in names.values()]
    return (tuple(plain) if task == "species" else ("bird",)), birds


def _box(where: str, fields: Sequence[str]) -> Box:
    left, top, width, height = (number(text, "a box", where) for text in fields)
    if width <= 0 or height <= 0:
        raise ValueError(
            f"a box must be wider and higher than 0, but {where} has {width} x {height}. "
            f"Correct the line."
        )
    return left, top, left + width, top + height


def _image_id(text: str, where: str) -> int:
    if not text.isdecimal() or int(text) >= BACKGROUND_ID_STEP:
        raise ValueError(
            f"an image id must be a whole number below {BACKGROUND_ID_STEP}, but {where} has "
            f"{text!r}. Correct the line."
        )
    return int(text)


def _is_train(where: str, fields: Sequence[str]) -> bool:
    if fields[0] not in ("0", "1"):
        raise ValueError(
            f"a split must be 1 (train) or 0 (test), but {where} has {fields[0]!r}. Correct it."
        )
    return fields[0] == "1"


def _part_names(path: Path) -> tuple[str, ...]:
    if not path.is_file():
        raise FileNotFoundError(
            f"the data set must hold parts/parts.txt, but {str(path)!r} is missing. Complete the "
            f"folder, or set data.root to the right one."
        )
    lines = path.read_text(encoding="utf-8").splitlines()
    return tuple(line.split(maxsplit=1)[1].strip() for line in lines if line.strip())


def _part_locations(
    path: Path, num_parts: int, mistakes: Mistakes
) -> dict[str, NDArray[np.float64]]:
    """Image id -> landmarks ``(P, 2)``, NaN where not visible."""
    found: dict[str, NDArray[np.float64]] = {}
    for where, (key, part, x, y, visible) in rows_of(path, 5, mistakes):
        points = found.setdefault(key, np.full((num_parts, 2), np.nan))
        with mistakes.noted():
            if part not in map(str, range(1, num_parts + 1)):
                raise ValueError(
                    f"a part id must be one of parts.txt (1 to {num_parts}), but {where} has "
                    f"{part!r}. The files disagree."
                )
            if visible not in ("0", "1"):
                raise ValueError(
                    f"visible must be 0 or 1, but {where} has {visible!r}. Correct the line."
                )
            if visible == "1":
                location = number(x, "a location", where), number(y, "a location", where)
                points[int(part) - 1] = location
    return found


def _indices(names: Sequence[str], part_names: Sequence[str]) -> tuple[int, ...]:
    """Indices of those `names` that the data set has."""
    return tuple(part_names.index(name) for name in names if name in part_names)


def _part_groups(part_names: Sequence[str]) -> dict[str, tuple[int, ...]]:
    groups = {group: _indices(parts, part_names) for group, parts in PART_GROUPS.items()}
    return {group: indices for group, indices in groups.items() if indices}


def _flip_pairs(part_names: Sequence[str]) -> tuple[tuple[int, int], ...]:
    pairs = (_indices(pair, part_names) for pair in FLIP_PAIRS)
    return tuple((pair[0], pair[1]) for pair in pairs if len(pair) == 2)
