"""Faces with 68 landmarks, in the order of the 300-W annotations.

C. Sagonas, G. Tzimiropoulos, S. Zafeiriou, M. Pantic, "300 Faces in-the-Wild Challenge", 2013. Read
from a csv file of one face per row: ``file, x0, y0 ... x67, y67``, in the photo's pixels; an empty
field is not annotated. File names begin with ``tr<person>_``; a person is in one split only.
"""

import re
from pathlib import Path
from typing import final

import numpy as np

from interp_train.checks import check_range
from interp_train.data.annotation_files import Mistakes, number, records_of
from interp_train.data.photo_data import Collection, data_folder
from interp_train.data.photos import UNKNOWN_SIZE, Photo

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
COLUMNS = ("file", *(f"{axis}{index}" for index in range(NUM_LANDMARKS) for axis in "xy"))


@final
class Faces68:
    """Reads the landmarks; shows whole photos, whose object box is that of the landmarks.

    Args:
        root: folder with training_keypoints.csv and training/; None: below ``$INTERP_TRAIN_DATA``.
        num_folds: every so-many-th person is of the split ``"val"``.
        on_error: ``"raise"`` at mistakes in the file, or ``"skip"`` them.

    Raises:
        ValueError: for a number of folds below 2.
    """

    def __init__(
        self, root: str | None = None, *, num_folds: int = 5, on_error: str = "raise"
    ) -> None:
        check_range("num_folds", num_folds, 2)
        self.root, self.num_folds = root, num_folds
        self.mistakes = Mistakes(on_error)

    def read(self) -> Collection:
        """Read the csv file."""
        folder = data_folder(self.root, "faces68")
        splits: dict[str, list[Photo]] = {"train": [], "val": []}
        for where, row in records_of(folder / "training_keypoints.csv", COLUMNS, self.mistakes):
            with self.mistakes.noted():
                person = _person(row["file"], where)
                face = _face(folder / "training", row, where)
                splits["train" if person % self.num_folds else "val"].append(face)
        return Collection(
            name="faces68",
            splits=splits,
            class_names=("face",),
            part_names=PART_NAMES,
            part_groups=PART_GROUPS,
            licence="Stills of YouTube Faces: research only; landmarks, never to recognise anyone.",
        )


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
    return Photo(
        path=folder / row["file"],
        label=0,
        sample_id=int(where.rpartition(":")[2]),  # the line, so that it never changes
        size=UNKNOWN_SIZE,
        region=None,
        box=(float(left), float(top), float(right), float(bottom)),
        part_locations=points,
        part_boxes=np.full((NUM_LANDMARKS, 4), np.nan),
        where=where,
    )
