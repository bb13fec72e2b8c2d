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
from interp_train.data.annotation_files import entry, number, rows_of
from interp_train.data.backgrounds import background_box
from interp_train.data.photo_data import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    Collection,
    PhotoData,
    data_folder,
)
from interp_train.data.photos import UNKNOWN_SIZE, Photo, checked_photos
from interp_train.data.views import random_source
from interp_train.structures import BACKGROUND

TASKS = ("bird_vs_background", "species")

PART_GROUPS = {
    "head": ("beak", "crown", "forehead", "left eye", "nape", "right eye", "throat"),
    "breast-belly": ("belly", "breast"),
    "back-wings": ("back", "left wing", "right wing"),
    "legs": ("left leg", "right leg"),
    "tail": ("tail",),
}
INSTABILITY_PARTS = ("back", "forehead", "tail")  # parts 1, 6 and 14 of the published measure
FLIP_PAIRS = (("left eye", "right eye"), ("left leg", "right leg"), ("left wing", "right wing"))

# Sample ids of background crops: that of the photo, plus this for each crop of it.
BACKGROUND_ID_STEP = 1_000_000
_CROP_STREAM = 71  # keeps the crops' random numbers apart from those of the augmentation


class _Bird(NamedTuple):
    photo: Photo
    train: bool


@final
class CubData(PhotoData):
    """Birds cropped to their box, against background crops of the same photos or by species.

    Args:
        root: folder with images.txt and the rest; None: below ``$INTERP_TRAIN_DATA``.
        task: ``"bird_vs_background"`` (one category) or ``"species"``.
        backgrounds_per_photo: background crops of each photo, where its bird leaves room.
        image_size: see `PhotoData`.
        batch_size: see `PhotoData`.
        num_workers: see `PhotoData`.
        seed: see `PhotoData`; the background crops do not depend on it.
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
        FileNotFoundError: for a missing folder or file.
        ValueError: for files that disagree; names file and line.
    """

    def __init__(
        self,
        root: str | None = None,
        *,
        task: str = "bird_vs_background",
        backgrounds_per_photo: int = 1,
        image_size: int = 224,
        batch_size: int = 32,
        num_workers: int = 0,
        seed: int = 0,
        margin: float = 0.0,
        flip: bool = True,
        scale: Sequence[float] = (1.0, 1.0),
        aspect: float = 0.0,
        shift: float = 0.0,
        mean: Sequence[float] = IMAGENET_MEAN,
        std: Sequence[float] = IMAGENET_STD,
        in_memory: bool = True,
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
        check_choice("task", task, TASKS)
        check_range("backgrounds_per_photo", backgrounds_per_photo, 1, 100)
        self.root, self.task, self.backgrounds_per_photo = root, task, backgrounds_per_photo

    def read(self) -> Collection:
        """Read the text files and draw the background crops."""
        folder = data_folder(self.root, "CUB_200_2011_40")
        if not (folder / "images.txt").is_file() and (folder / "CUB_200_2011").is_dir():
            folder = folder / "CUB_200_2011"
        part_names = _part_names(folder / "parts" / "parts.txt")
        class_names, birds = _read_birds(folder, len(part_names), self.task)
        readable = {
            photo.sample_id: photo
            for photo in checked_photos([bird.photo for bird in birds], self.on_error)
        }
        splits: dict[str, list[Photo]] = {"train": [], "val": []}
        for bird in birds:
            if bird.photo.sample_id in readable:
                splits["train" if bird.train else "val"] += self._samples(
                    readable[bird.photo.sample_id]
                )
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
        if self.task == "species":
            return [bird]
        assert bird.box is not None
        samples = [bird]
        nothing = np.full_like(bird.part_locations, np.nan)
        for crop in range(self.backgrounds_per_photo):
            source = random_source(_CROP_STREAM, crop, bird.sample_id)
            region = background_box(bird.size, bird.box, source)
            if region is not None:
                samples.append(
                    bird._replace(
                        label=BACKGROUND,
                        sample_id=bird.sample_id + (crop + 1) * BACKGROUND_ID_STEP,
                        region=region,
                        box=None,
                        part_locations=nothing,
                        part_boxes=np.full((len(nothing), 4), np.nan),
                    )
                )
        return samples


def _read_birds(folder: Path, num_parts: int, task: str) -> tuple[tuple[str, ...], list[_Bird]]:
    """Category names, and one bird per line of images.txt."""
    names = {key: name for _, (key, name) in rows_of(folder / "classes.txt", 2)}
    boxes = {row[0]: (where, row[1:]) for where, row in rows_of(folder / "bounding_boxes.txt", 5)}
    classes = {row[0]: row[1] for _, row in rows_of(folder / "image_class_labels.txt", 2)}
    train = {row[0]: row[1] == "1" for _, row in rows_of(folder / "train_test_split.txt", 2)}
    locations = _part_locations(folder / "parts" / "part_locs.txt", num_parts)
    species = {key: index for index, key in enumerate(names)}
    birds = []
    for where, (key, path) in rows_of(folder / "images.txt", 2):
        box_place, fields = entry(boxes, key, "the image's box", where)
        left, top, width, height = (number(text, "a box", box_place) for text in fields)
        label = entry(species, entry(classes, key, "its class", where), "a class", where)
        box = (left, top, left + width, top + height)
        photo = Photo(
            path=folder / "images" / path,
            label=label if task == "species" else 0,
            sample_id=int(number(key, "an image id", where)),
            size=UNKNOWN_SIZE,
            region=box,
            box=box,
            part_locations=entry(locations, key, "the image's parts", where),
            part_boxes=np.full((num_parts, 4), np.nan),
            where=where,
        )
        birds.append(_Bird(photo, entry(train, key, "the image's split", where)))
    plain = tuple(name.split(".", 1)[-1].replace("_", " ") for name in names.values())
    return (plain if task == "species" else ("bird",)), birds


def _part_names(path: Path) -> tuple[str, ...]:
    if not path.is_file():
        raise FileNotFoundError(
            f"the data set must hold parts/parts.txt, but {str(path)!r} is missing. Complete the "
            f"folder, or set data.root to the right one."
        )
    lines = path.read_text(encoding="utf-8").splitlines()
    return tuple(line.split(maxsplit=1)[1].strip() for line in lines if line.strip())


def _part_locations(path: Path, num_parts: int) -> dict[str, NDArray[np.float64]]:
    """Image id -> landmarks ``(P, 2)``, NaN where not visible."""
    found: dict[str, NDArray[np.float64]] = {}
    for where, (key, part, x, y, visible) in rows_of(path, 5):
        index = int(number(part, "a part id", where)) - 1
        if not 0 <= index < num_parts:
            raise ValueError(
                f"a part id must be one of parts.txt (1 to {num_parts}), but {where} has {part}. "
                f"The files disagree."
            )
        points = found.setdefault(key, np.full((num_parts, 2), np.nan))
        if visible == "1":
            points[index] = number(x, "a location", where), number(y, "a location", where)
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
