"""Any segmented photos as a probe set: a folder of photos, a folder of label maps, a list of names.

The layout of CamVid (G. J. Brostow, J. Fauqueur, R. Cipolla, "Semantic object classes in video",
2009) and of many other segmentation sets: photo ``images/<stem>.jpg``, label map
``labels/<stem>.png`` of whole numbers or of colours, names one per line. Folders may hold folders,
and file names may end differently (``<stem>_leftImg8bit.png``, ``<stem>_gtFine_labelIds.png``).
"""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import final

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torchvision.datasets.folder import IMG_EXTENSIONS

from interp_train.checks import check_range
from interp_train.data.photo_data import IMAGENET_MEAN, IMAGENET_STD, data_folder
from interp_train.data.probe_images import ProbeImages, at_centres, covering, name_hash
from interp_train.structures import ConceptBatch


@final
class SegmentationFolder(ProbeImages):
    """Photos with one label map each, shown whole, stretched to the network's square input.

    Example:
        probe = SegmentationFolder(
            "camvid", images="val", labels="valannot", ignored=["Unlabelled"]
        )
        Trainer(callbacks=[Dissection(["layer4"], probe_set=probe)])

    Args:
        root: the folder, or its name below ``$INTERP_TRAIN_DATA``; it has no default.
        images: folder of the photos below `root`.
        labels: folder of the label maps below `root`: image files without loss whose values are
            whole numbers (grey values or palette indices), or colours where the names have some.
        names: file below `root` with one name per line, with or without the value before it
            (without: the number of the line, from 0), or with three: red, green and blue.
        listed: file below `root` with the stems to take, one per line; None takes all, and then no
            photo and no label map may stand alone.
        image_ending: what the photos' names have after the stem, before the suffix.
        label_ending: what the label maps' names have there; other files are left alone.
        ignored: names that stand for no concept, e.g. ``["Unlabelled"]``.
        category: what the concepts are.
        image_size: side of the network's input, in pixels.
        label_size: side of the concept maps, in pixels.
        max_images: takes those whose names' hashes are smallest; None takes all.
        least_per_concept: with `max_images`, takes at least so many with each concept, or all that
            it has; 0 does not look. Otherwise all label maps are read at the start.
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
        listed: str | None = None,
        image_ending: str = "",
        label_ending: str = "",
        ignored: Sequence[str] = (),
        category: str = "object",
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
        folder = _folder(root)
        known, self._in_colours = _read_names(folder / names)
        kept = _without(known, ignored, names)
        self.concept_names, self.concept_layers = {category: kept}, {category: 1}
        self._values = np.array(sorted(known))
        self._labels = _labels_of([known[value] for value in sorted(known)], kept)
        pairs = _pairs(
            _files(folder, images, image_ending),
            _files(folder, labels, label_ending),
            None if listed is None else _lines(folder / listed, "listed"),
        )
        self._stems = self._chosen(pairs, max_images, least_per_concept)
        self.pairs = [pairs[stem] for stem in self._stems]

    def __len__(self) -> int:
        """Number of photos."""
        return len(self.pairs)

    def __getitems__(self, indices: Sequence[int]) -> ConceptBatch:
        """The batch of photos `indices`; labels are `BACKGROUND`."""
        chosen = [self.pairs[index] for index in indices]
        stems = [self._stems[index] for index in indices]
        maps = [self._concepts(path)[None] for _, path in chosen]
        return self.batch_of([photo for photo, _ in chosen], stems, maps)

    def _chosen(
        self, pairs: Mapping[str, tuple[Path, Path]], max_images: int | None, least: int
    ) -> list[str]:
        stems = sorted(pairs, key=name_hash)
        if max_images is None or not least:
            return stems[:max_images]
        (names,) = self.concept_names.values()
        presence = np.zeros((len(stems), len(names) + 1), dtype=bool)
        for index, stem in enumerate(stems):
            presence[index, np.unique(self._concepts(pairs[stem][1]))] = True
        return [stems[index] for index in covering(presence[:, 1:], least, max_images)]

    def _concepts(self, path: Path) -> NDArray[np.int16]:
        """The label at the centre of each pixel of the smaller map."""
        values = at_centres(self._whole_numbers(path), self.label_size)
        places = np.searchsorted(self._values, values).clip(max=len(self._values) - 1)
        unknown = values[self._values[places] != values]
        if len(unknown):
            examples = [self._written(value) for value in np.unique(unknown).tolist()[:8]]
            raise ValueError(
                f"each value of a label map must have a name, but {str(path)!r} has {examples}. "
                f"Add it to the file of names, and to `ignored` if it is no concept."
            )
        found: NDArray[np.int16] = self._labels[places]
        return found

    def _whole_numbers(self, path: Path) -> NDArray[np.int64]:
        with Image.open(path) as image:
            values = np.asarray(image.convert("RGB") if self._in_colours else image)
        if self._in_colours:
            values = values.astype(np.int64) @ np.array([1, 2**8, 2**16])
        if values.ndim != 2 or values.dtype.kind not in "iu":
            raise ValueError(
                f"each label map must hold one whole number per pixel, but {str(path)!r} has "
                f"{values.dtype} {values.shape}. Give the names their colours: 'red green blue "
                f"name'."
            )
        return values

    def _written(self, value: int) -> object:
        """A value as the file of names would have it."""
        return [value >> shift & 255 for shift in (0, 8, 16)] if self._in_colours else value


def _folder(root: str | None) -> Path:
    if root is None:
        raise ValueError("`root` must be the folder of the photos, but got None.")
    base = os.environ.get("INTERP_TRAIN_DATA")
    below = base is not None and not Path(root).expanduser().is_dir()
    return data_folder(str(Path(base or "", root)) if below else root)


def _lines(path: Path, argument: str) -> list[str]:
    if not path.is_file():
        raise FileNotFoundError(
            f"`{argument}` must be a file with one name per line, but {str(path)!r} is missing."
        )
    return [line.strip() for line in path.read_text("utf-8").splitlines() if line.strip()]


def _read_names(path: Path) -> tuple[dict[int, str], bool]:
    """Value -> name, and whether the values are colours."""
    lines = _lines(path, "names")
    fields = [line.split(maxsplit=3) for line in lines]
    in_colours = all(
        len(found) == 4 and all(text.isdecimal() and int(text) < 256 for text in found[:3])
        for found in fields
    )
    known: dict[int, str] = {}
    for number, line in enumerate(lines):
        first, *rest = line.split(maxsplit=1)
        if in_colours:
            red, green, blue, name = fields[number]
            value = int(red) + 2**8 * int(green) + 2**16 * int(blue)
        else:
            value, name = (int(first), rest[0]) if first.isdecimal() and rest else (number, line)
        if value in known or name in known.values() or value >= 2**31:
            raise ValueError(
                f"each line of `names` must have a value and a name of its own, but {path.name} "
                f"repeats {line!r}, or its value is too large. Correct the line."
            )
        known[value] = name
    return known, in_colours


def _without(known: Mapping[int, str], ignored: Sequence[str], file: str) -> tuple[str, ...]:
    """The names that are concepts."""
    foreign = [name for name in ignored if name not in known.values()]
    if foreign:
        raise ValueError(
            f"`ignored` must hold names of {file}, but {', '.join(foreign)} is none of "
            f"{', '.join(known.values())}."
        )
    return tuple(name for name in known.values() if name not in ignored)


def _labels_of(names: Sequence[str], kept: Sequence[str]) -> NDArray[np.int16]:
    """Label of each name; 0 for those that are no concept."""
    labels = {name: label for label, name in enumerate(kept, 1)}
    return np.array([labels.get(name, 0) for name in names], np.int16)


def _files(root: Path, folder: str, ending: str) -> dict[str, Path]:
    """Image files of a folder and those in it: path without suffix and ending -> file."""
    if not (root / folder).is_dir():
        raise FileNotFoundError(
            f"`images` and `labels` must be folders below `root`, but {str(root / folder)!r} is "
            f"missing."
        )
    found = {}
    for path in sorted((root / folder).rglob("*")):
        stem = path.relative_to(root / folder).with_suffix("").as_posix()
        if path.suffix.lower() in IMG_EXTENSIONS and stem.endswith(ending):
            found[stem.removesuffix(ending)] = path
    return found


def _pairs(
    photos: Mapping[str, Path], maps: Mapping[str, Path], listed: Sequence[str] | None
) -> dict[str, tuple[Path, Path]]:
    """Photo and label map of each stem."""
    both = photos.keys() & maps.keys()
    wanted = photos.keys() | maps.keys() if listed is None else set(listed)
    alone = sorted(wanted - both)
    if alone or not wanted:
        raise ValueError(
            f"each photo must have a label map of the same name, but {len(alone)} of "
            f"{len(photos)} photos and {len(maps)} label maps stand alone ({', '.join(alone[:3])})."
        )
    return {stem: (photos[stem], maps[stem]) for stem in wanted}
