"""The abstract data module of scenes with labelled boxes: splits and loaders."""

import hashlib
import random
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import NamedTuple, TypeVar, final

from lightning.pytorch import LightningDataModule
from torch.utils.data import DataLoader

from interp_train.checks import check_choice, check_name, check_range
from interp_train.data.annotation_files import Mistakes
from interp_train.data.photo_data import SPLITS, check_normalisation, machine_memory
from interp_train.data.scenes import Scene, SceneDataset, checked_scenes
from interp_train.data.split_loaders import training_loader, validation_loader
from interp_train.structures import DataInfo, DetectionBatch

OTHER_CATEGORIES = ("raise", "leave_out")

_T = TypeVar("_T")


class SceneCollection(NamedTuple):
    """What a subclass of `DetectionData` reads from its files.

    Attributes:
        name: see `DataInfo`.
        splits: ``"train"`` and ``"val"`` -> scenes.
        class_names: see `DataInfo`.
        licence: see `DataInfo`.
    """

    name: str
    splits: Mapping[str, Sequence[Scene]]
    class_names: tuple[str, ...]
    licence: str = "unknown: your own photos"


class DetectionData(LightningDataModule, ABC):
    """Scenes with labelled boxes; a subclass says what lies in its files.

    Args:
        categories: names of the categories, in the order of their labels; None takes all.
        other_categories: ``"raise"`` at objects of other categories, or ``"leave_out"``.
        image_size: longer side of the images inside the detector, in pixels.
        batch_size: images per batch and process.
        num_workers: loader processes; with `in_memory` each keeps its own copy.
        seed: of order and augmentation.
        flip: mirror half of the training images.
        mean: see `DataInfo`.
        std: see `DataInfo`.
        in_memory: keep decoded photos, if they take less than half of the machine's memory.
        on_error: ``"raise"`` at unreadable files and bad boxes, or ``"skip"`` them, which decodes
            all images at the start and logs what was left out.
    """

    def __init__(
        self,
        *,
        categories: Sequence[str] | None,
        other_categories: str,
        image_size: int,
        batch_size: int,
        num_workers: int,
        seed: int,
        flip: bool,
        mean: Sequence[float],
        std: Sequence[float],
        in_memory: bool,
        on_error: str,
    ) -> None:
        super().__init__()
        check_choice("other_categories", other_categories, OTHER_CATEGORIES)
        check_range("image_size", image_size, 32)
        check_range("batch_size", batch_size, 1)
        check_range("num_workers", num_workers, 0)
        check_range("seed", seed, 0, 2**40 - 1)
        check_normalisation(mean, std)
        self.categories = None if categories is None else tuple(categories)
        self.leave_out = other_categories == "leave_out"
        self.image_size, self.batch_size, self.num_workers = image_size, batch_size, num_workers
        self.seed, self.flip, self.in_memory = seed, flip, in_memory
        self.mean, self.std = tuple(mean), tuple(std)
        self.mistakes = Mistakes(on_error)
        self._datasets: dict[str, SceneDataset] = {}
        self._info: DataInfo | None = None

    @abstractmethod
    def read(self) -> SceneCollection:
        """Read the annotation files; images are opened later."""

    @property
    @final
    def info(self) -> DataInfo:
        """What networks, measures and reports must know; read at first use."""
        if self._info is None:
            collection = self.read()
            for split in SPLITS:
                self._datasets[split] = SceneDataset(
                    checked_scenes(collection.splits[split], self.mistakes),
                    flip=self.flip and split == "train",
                    seed=self.seed,
                    in_memory=self.in_memory,
                )
            self._check_objects(collection.class_names)
            self._limit_memory()
            self._info = self._describe(collection)
        return self._info

    @final
    def setup(self, stage: str | None = None) -> None:
        """Read the annotation files and check the images, once."""
        _ = self.info

    @final
    def dataset(self, split: str) -> SceneDataset:
        """The data set of a split, ``"train"`` or ``"val"``; only the first is augmented."""
        _ = self.info
        check_name("split", split, self._datasets, "a split of the data")
        return self._datasets[split]

    def train_dataloader(self) -> DataLoader[DetectionBatch]:
        """Augmented scenes in an order that follows from (seed, epoch)."""
        return training_loader(
            self.dataset("train"),
            batch_size=self.batch_size,
            num_workers=self.num_workers,
            seed=self.seed,
        )

    def val_dataloader(self) -> DataLoader[DetectionBatch]:
        """Every validation scene exactly once over all processes."""
        return validation_loader(
            self.dataset("val"), batch_size=self.batch_size, num_workers=self.num_workers
        )

    def test_dataloader(self) -> DataLoader[DetectionBatch]:
        """The validation scenes: these collections have two splits."""
        return self.val_dataloader()

    def _check_objects(self, class_names: Sequence[str]) -> None:
        labels = {int(x) for scene in self._datasets["train"].scenes for x in scene.labels}
        missing = [name for index, name in enumerate(class_names) if index not in labels]
        if missing:
            raise ValueError(
                f"each category must occur in the training scenes, but {', '.join(missing)} does "
                f"not. Add scenes with it, or leave it out of data.categories."
            )

    def _limit_memory(self) -> None:
        needed = sum(dataset.bytes_in_memory() for dataset in self._datasets.values())
        if needed * max(1, self.num_workers) > machine_memory() / 2:
            for dataset in self._datasets.values():
                dataset.in_memory = False

    def _describe(self, collection: SceneCollection) -> DataInfo:
        content = hashlib.sha256()
        for split in SPLITS:
            for scene in self._datasets[split].scenes:
                file = scene.photo.path
                content.update(repr((split, file.name, file.stat().st_size)).encode())
                content.update(scene.labels.tobytes() + scene.boxes.tobytes())
        return DataInfo(
            name=collection.name,
            class_names=collection.class_names,
            part_names=(),
            part_groups={},
            instability_parts=(),
            image_size=self.image_size,
            channels=3,
            mean=self.mean,
            std=self.std,
            fingerprint=content.hexdigest()[:16],
            licence=collection.licence,
        )


def fold_of(items: Sequence[_T], fold: int, num_folds: int, seed: int) -> dict[str, list[_T]]:
    """Training and validation items of one of several folds, which share no validation item.

    Args:
        items: in an order that does not change.
        fold: 0 .. `num_folds` - 1.
        num_folds: number of folds.
        seed: of the division.
    """
    check_range("num_folds", num_folds, 2, max(2, len(items)))
    check_range("fold", fold, 0, num_folds - 1)
    order = list(range(len(items)))
    random.Random(seed).shuffle(order)
    tested = set(order[fold::num_folds])
    return {
        "train": [item for index, item in enumerate(items) if index not in tested],
        "val": [item for index, item in enumerate(items) if index in tested],
    }


def chosen_categories(categories: Sequence[str] | None, found: Sequence[str]) -> tuple[str, ...]:
    """The categories asked for, or all that were found.

    Raises:
        ValueError: if a category that was asked for does not occur, or there is none.
    """
    for name in categories or ():
        check_name("categories", name, found, "a category of the annotations")
    chosen = tuple(found) if categories is None else tuple(categories)
    if not chosen:
        raise ValueError("the annotations must hold objects, but hold none. Check data.root.")
    return chosen
