"""Scenes in the layout of Pascal VOC: one XML file of labelled boxes per photo."""

import hashlib
import xml.etree.ElementTree as ElementTree
from collections.abc import Sequence
from pathlib import Path
from typing import final

from interp_train.checks import check_range
from interp_train.data.annotation_files import number, table_of
from interp_train.data.detection_data import (
    DetectionData,
    SceneCollection,
    chosen_categories,
    fold_of,
)
from interp_train.data.photo_data import IMAGENET_MEAN, IMAGENET_STD, data_folder
from interp_train.data.scenes import Annotation, photo_of, scene_of
from interp_train.data.voc_download import download_voc

_CORNERS = ("xmin", "ymin", "xmax", "ymax")
_SUFFIXES = (".jpg", ".jpeg", ".png")


@final
class VocDetectionData(DetectionData):
    """Photos in ``JPEGImages``, boxes in ``Annotations``, splits in ``ImageSets/Main``.

    VOC counts pixels from 1 and includes the last; here a box reaches from one edge to the other,
    so that its width is ``xmax - xmin + 1``, as in VOC's own measures. Difficult objects are
    neither learned nor counted. A photo may have no object.

    Args:
        root: the folder that holds ``Annotations``; a relative one is also looked for below
            ``$INTERP_TRAIN_DATA``.
        train: name of the file with the ids of the training photos, without ``.txt``.
        val: of the validation photos.
        download: fetch Pascal VOC itself where its files are missing; `root` must end with
            ``VOCdevkit/VOC2007`` or ``VOCdevkit/VOC2012``. Happens in `prepare_data`.
        fold: which fold of both together is validated, 0 .. `num_folds` - 1; None keeps the
            files' own split.
        num_folds: number of folds.
        split_seed: of the division into folds; unlike `seed`, equal in all runs of a study.
        categories: see `DetectionData`; None takes all, in alphabetical order.
        other_categories: see `DetectionData`.
        image_size: see `DetectionData`.
        batch_size: see `DetectionData`.
        num_workers: see `DetectionData`.
        seed: see `DetectionData`.
        flip: see `DetectionData`.
        mean: see `DetectionData`.
        std: see `DetectionData`.
        in_memory: see `DetectionData`.
        on_error: see `DetectionData`.

    Raises:
        FileNotFoundError: for a missing folder or file.
        ValueError: for a mistake in a file; names it.
    """

    def __init__(
        self,
        root: str | None = None,
        *,
        train: str = "train",
        val: str = "val",
        download: bool = False,
        fold: int | None = None,
        num_folds: int = 4,
        split_seed: int = 0,
        categories: Sequence[str] | None = None,
        other_categories: str = "raise",
        image_size: int = 600,
        batch_size: int = 2,
        num_workers: int = 0,
        seed: int = 0,
        flip: bool = True,
        mean: Sequence[float] = IMAGENET_MEAN,
        std: Sequence[float] = IMAGENET_STD,
        in_memory: bool = True,
        on_error: str = "raise",
    ) -> None:
        super().__init__(
            categories=categories,
            other_categories=other_categories,
            image_size=image_size,
            batch_size=batch_size,
            num_workers=num_workers,
            seed=seed,
            flip=flip,
            mean=mean,
            std=std,
            in_memory=in_memory,
            on_error=on_error,
        )
        check_range("num_folds", num_folds, 2)
        if fold is not None:
            check_range("fold", fold, 0, num_folds - 1)
        self.root, self.download, self.files = root, download, {"train": train, "val": val}
        self.fold, self.num_folds, self.split_seed = fold, num_folds, split_seed

    def prepare_data(self) -> None:
        """Fetch what is missing, if `download` allows it; to be called by one process."""
        if self.download:
            download_voc(self.root, list(self.files.values()))

    def read(self) -> SceneCollection:
        """Read the lists and the XML files."""
        folder = self._folder()
        ids = {split: self._ids(folder, name) for split, name in self.files.items()}
        if self.fold is not None:
            united = sorted({*ids["train"], *ids["val"]})
            ids = fold_of(united, self.fold, self.num_folds, self.split_seed)
        annotations: dict[str, list[Annotation]] = {}
        for key in dict.fromkeys(ids["train"] + ids["val"]):
            with self.mistakes.noted():
                annotations[key] = read_annotations(folder / "Annotations" / f"{key}.xml")
        found = sorted({entry.name for listed in annotations.values() for entry in listed})
        names = chosen_categories(self.categories, found)
        splits = {
            split: [
                scene_of(
                    photo_of(_image(folder, key), _number_of(key), f"{key}.xml"),
                    annotations[key],
                    names,
                    self.leave_out,
                    self.mistakes,
                )
                for key in members
                if key in annotations
            ]
            for split, members in ids.items()
        }
        return SceneCollection(folder.name, splits, names)

    def _folder(self) -> Path:
        try:
            return found_folder(self.root, "VOCdevkit/VOC2007", "VOC2007")
        except FileNotFoundError as error:
            way = (
                "Call prepare_data() first, in one process."
                if self.download
                else "Pascal VOC itself is fetched by data.download=true with "
                "data.root=<folder>/VOCdevkit/VOC2007."
            )
            raise FileNotFoundError(f"{error} {way}") from error

    def _ids(self, folder: Path, name: str) -> list[str]:
        return list(table_of(folder / "ImageSets" / "Main" / f"{name}.txt", 1, self.mistakes))


def found_folder(root: str | None, *names: str) -> Path:
    """The folder of a data set; a relative `root` may lie below ``$INTERP_TRAIN_DATA``.

    Raises:
        FileNotFoundError: if there is none.
    """
    if root is None or Path(root).expanduser().is_dir():
        return data_folder(root, *names)
    return data_folder(None, root)


def read_annotations(path: Path) -> list[Annotation]:
    """The objects of one XML file.

    Raises:
        FileNotFoundError: if it is missing.
        ValueError: if it is no XML, or an object lacks its name or a corner.
    """
    if not path.is_file():
        raise FileNotFoundError(
            f"each photo must have its annotations, but {str(path)!r} is missing. Complete the "
            f"folder, or take the photo out of the list."
        )
    try:
        tree = ElementTree.parse(path).getroot()
    except ElementTree.ParseError as error:
        raise ValueError(
            f"annotations must be XML, but {path} is not: {error}. Replace the file."
        ) from error
    return [_annotation(entry, str(path)) for entry in tree.findall("object")]


def _annotation(entry: ElementTree.Element, where: str) -> Annotation:
    name, box = (entry.findtext("name") or "").strip(), entry.find("bndbox")
    if not name or box is None:
        raise ValueError(
            f"each object must have a name and a bndbox, but one in {where} lacks "
            f"{'its bndbox' if name else 'its name'}. Complete it."
        )
    left, top, right, bottom = (number(box.findtext(key) or "", key, where) for key in _CORNERS)
    difficult = (entry.findtext("difficult") or "0").strip() == "1"
    return Annotation(name, (left - 1, top - 1, right, bottom), difficult)


def _image(folder: Path, key: str) -> Path:
    """The photo of an id; where none exists, the name it should have."""
    paths = [folder / "JPEGImages" / f"{key}{suffix}" for suffix in _SUFFIXES]
    return next((path for path in paths if path.is_file()), paths[0])


def _number_of(key: str) -> int:
    """A sample id that depends on the photo's name alone."""
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:5], "big")
