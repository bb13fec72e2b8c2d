"""Broden, the probe set of network dissection, or any folder in its layout.

D. Bau, B. Zhou, A. Khosla, A. Oliva, A. Torralba: Network Dissection, CVPR 2017, sec. 2.1. Files:

* ``category.csv``: the categories (column ``name``);
* ``c_<category>.csv``: the concepts of a category (``number``, ``name``);
* ``label.csv``: every concept (``number``, ``name``), and the categories that it occurs in with its
  frequency there (``category``, e.g. ``object(812);material(17)``);
* ``index.csv``: one image per row (``image``, ``split``) and what it shows in each category (a
  column of its name): nothing, or entries parted by ``;``. A whole number stands for the whole
  image (scenes, textures); anything else is a label map whose value is red + 256 green;
* ``images/``: images and label maps.

An image with several entries in a category has several labels per pixel there. As in the released
programs a concept of two categories counts in the one where it is most frequent (`primary_only`).
"""

import csv
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from interp_train.checks import check_name, check_range
from interp_train.data.photo_data import IMAGENET_MEAN, IMAGENET_STD, data_folder
from interp_train.data.probe_images import (
    ProbeImages,
    at_centres,
    balanced_order,
    covering,
)
from interp_train.structures import ConceptBatch

FOLDERS = ("broden1_224", "broden1_227", "broden1_384", "broden")


class _Entry(NamedTuple):
    """One row of index.csv: category -> entries, a number for the whole image or a file."""

    image: str
    shows: dict[str, tuple[int | str, ...]]


@final
class Broden(ProbeImages):
    """Images with several categories of concepts, shown whole, stretched to the square input.

    Images are chosen by the hash of their name, evenly over what is annotated (the data sets that
    Broden was made of differ in that).

    Args:
        root: folder with index.csv and the rest; None: below ``$INTERP_TRAIN_DATA``.
        split: ``"train"`` or ``"val"``, as in index.csv; None takes all.
        categories: of concepts; None takes all.
        primary_only: whether a concept counts in one category alone, that where it is most
            frequent.
        image_size: side of the network's input, in pixels.
        label_size: side of the concept maps, in pixels.
        max_images: takes at most so many; None takes all.
        least_per_concept: see `SegmentationFolder`.
        batch_size: images per batch and process.
        num_workers: loader processes.
        mean: see `PhotoData`.
        std: see `PhotoData`.

    Raises:
        FileNotFoundError: for a missing folder or file.
        ValueError: for files that disagree.
    """

    def __init__(
        self,
        root: str | None = None,
        *,
        split: str | None = None,
        categories: Sequence[str] | None = None,
        primary_only: bool = True,
        image_size: int = 224,
        label_size: int = 112,
        max_images: int | None = None,
        least_per_concept: int = 0,
        batch_size: int = 32,
        num_workers: int = 0,
        mean: Sequence[float] = IMAGENET_MEAN,
        std: Sequence[float] = IMAGENET_STD,
    ) -> None:
        super().__init__(
            image_size=image_size, label_size=label_size, batch_size=batch_size,
            num_workers=num_workers, mean=mean, std=std,
        )  # fmt: skip
        check_range("least_per_concept", least_per_concept, 0)
        self.folder = data_folder(root, *FOLDERS)
        known = [row["name"] for row in _rows(self.folder / "category.csv", "name")]
        for category in categories or ():
            check_name("categories", category, known, "a category of category.csv")
        kept = known if categories is None else list(categories)
        primary = _primary_categories(self.folder) if primary_only else None
        named = {category: _concepts_of(self.folder, category, primary) for category in kept}
        named = {category: found for category, found in named.items() if found[0]}
        self.concept_names = {category: names for category, (names, _) in named.items()}
        self._label_of = {category: labels for category, (_, labels) in named.items()}
        entries = _index(self.folder, tuple(named), split)
        self.entries = self._chosen(entries, max_images, least_per_concept)
        self.concept_layers = {
            category: max(1, *(len(entry.shows[category]) for entry in self.entries))
            for category in named
        }

    def __len__(self) -> int:
        """Number of images."""
        return len(self.entries)

    def __getitems__(self, indices: Sequence[int]) -> ConceptBatch:
        """The batch of images `indices`."""
        chosen = [self.entries[index] for index in indices]
        photos = [self.folder / "images" / entry.image for entry in chosen]
        maps = [
            np.concatenate([self._maps(entry, category) for category in self.concept_names])
            for entry in chosen
        ]
        return self.batch_of(photos, [entry.image for entry in chosen], maps)

    def _chosen(
        self, entries: Sequence[_Entry], max_images: int | None, least: int
    ) -> list[_Entry]:
        names = [entry.image for entry in entries]
        strata = [tuple(c for c, shown in entry.shows.items() if shown) for entry in entries]
        order = balanced_order(names, strata)
        if max_images is None or not least:
            return [entries[index] for index in order[:max_images]]
        presence = np.stack([self._presence(entries[index]) for index in order])
        return [entries[order[place]] for place in covering(presence, least, max_images)]

    def _presence(self, entry: _Entry) -> NDArray[np.bool_]:
        """Which concepts an image shows, ``(C,)``."""
        found = []
        for category, names in self.concept_names.items():
            shown = np.zeros(len(names) + 1, dtype=bool)
            for item in entry.shows[category]:
                shown[np.unique(self._labels(item, category))] = True
            found.append(shown[1:])
        return np.concatenate(found)

    def _maps(self, entry: _Entry, category: str) -> NDArray[np.int16]:
        """All maps of a category; a label that an earlier map has at a pixel is left out."""
        maps = np.zeros((self.concept_layers[category], self.label_size, self.label_size), np.int16)
        for layer, item in enumerate(entry.shows[category]):
            labels = self._labels(item, category)
            maps[layer] = np.where((maps[:layer] == labels).any(0), 0, labels)
        return maps

    def _labels(self, item: int | str, category: str) -> NDArray[np.int16]:
        """One entry as a map of labels."""
        if isinstance(item, int):
            numbers = np.full((self.label_size, self.label_size), item)
        else:
            numbers = at_centres(_numbers(self.folder / "images" / item), self.label_size)
        label_of = self._label_of[category]
        labels = np.where(
            numbers < len(label_of), label_of[numbers.clip(max=len(label_of) - 1)], -1
        )
        if (labels < 0).any():
            unknown = np.unique(numbers[labels < 0]).tolist()
            raise ValueError(
                f"each number in the category {category!r} must have a name in c_{category}.csv, "
                f"but {item!r} has {unknown}. Add a line, or leave the image out."
            )
        return labels.astype(np.int16)


def _rows(path: Path, *columns: str) -> list[dict[str, str]]:
    """Rows of a csv file that must have some columns."""
    if not path.is_file():
        raise FileNotFoundError(
            f"the data set must hold {path.name!r}, but {str(path)!r} is missing. Complete the "
            f"folder, or give the right `root`."
        )
    with path.open(encoding="utf-8", newline="") as file:
        reader = csv.DictReader(file)
        missing = [name for name in columns if name not in (reader.fieldnames or ())]
        if missing:
            raise ValueError(
                f"{path.name} must name the columns {', '.join(columns)}, but lacks "
                f"{', '.join(missing)}. Correct the header."
            )
        return list(reader)


def _primary_categories(folder: Path) -> dict[int, str]:
    """Number of each concept -> the category in which it is most frequent; the first of equals."""
    found = {}
    for row in _rows(folder / "label.csv", "number", "name", "category"):
        pairs = re.findall(r"([^;()]+)\((\d+)\)", row["category"])
        if not pairs:
            raise ValueError(
                f"`category` of label.csv must read 'object(12);part(3)', but {row['name']!r} has "
                f"{row['category']!r}. Correct the row, or set primary_only=False."
            )
        found[int(row["number"])] = max(pairs, key=lambda pair: int(pair[1]))[0]
    return found


def _concepts_of(
    folder: Path, category: str, primary: Mapping[int, str] | None
) -> tuple[tuple[str, ...], NDArray[np.int16]]:
    """Names of a category, and number -> label: 0 for none, -1 for a number without a name."""
    rows = _rows(folder / f"c_{category}.csv", "number", "name")
    numbers = [int(row["number"]) for row in rows]
    label_of = np.full(max([0, *numbers]) + 1, -1, np.int16)
    names = []
    for number, row in zip(numbers, rows, strict=True):
        label_of[number] = 0
        if number and (primary is None or primary.get(number, category) == category):
            names.append(row["name"])
            label_of[number] = len(names)
    label_of[0] = 0
    return tuple(names), label_of


def _index(folder: Path, categories: Sequence[str], split: str | None) -> list[_Entry]:
    """The images of a split."""
    rows = _rows(folder / "index.csv", "image", "split", *categories)
    if split is not None:
        check_name("split", split, {row["split"] for row in rows}, "a split of index.csv")
        rows = [row for row in rows if row["split"] == split]
    if not rows:
        raise ValueError(f"index.csv must list an image, but {str(folder)!r} has none.")
    return [
        _Entry(
            row["image"],
            {
                category: tuple(
                    int(item) if item.isdecimal() else item
                    for item in row[category].split(";")
                    if item
                )
                for category in categories
            },
        )
        for row in rows
    ]


def _numbers(path: Path) -> NDArray[np.int64]:
    with Image.open(path) as image:
        pixels = np.asarray(image.convert("RGB")).astype(np.int64)
    return pixels[:, :, 0] + 256 * pixels[:, :, 1]
