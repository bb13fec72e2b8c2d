"""The abstract data module of photo collections: splits, loaders, cached prefix activations."""

import hashlib
import logging
import os
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, final

from lightning.pytorch import LightningDataModule
from torch.utils.data import DataLoader, Dataset

from interp_train.checks import check_name, check_range
from interp_train.data.annotation_files import Mistakes
from interp_train.data.cached_activations import CachedActivations, FrozenPrefix
from interp_train.data.photos import Appearance, Photo, PhotoDataset, checked_photos
from interp_train.data.split_loaders import training_loader, validation_loader
from interp_train.data.views import ViewAugmentation
from interp_train.structures import BACKGROUND, Batch, DataInfo

logger = logging.getLogger(__name__)

SPLITS = ("train", "val")
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


class Collection(NamedTuple):
    """What a subclass of `PhotoData` reads from its files.

    Attributes:
        name: see `DataInfo`.
        splits: ``"train"`` and ``"val"`` -> photos.
        class_names: see `DataInfo`.
        part_names: see `DataInfo`.
        part_groups: see `DataInfo`.
        instability_parts: see `DataInfo`.
        flip_pairs: parts that change places when a photo is mirrored.
        licence: see `DataInfo`.
    """

    name: str
    splits: Mapping[str, Sequence[Photo]]
    class_names: tuple[str, ...]
    part_names: tuple[str, ...] = ()
    part_groups: Mapping[str, tuple[int, ...]] = {}
    instability_parts: tuple[int, ...] = ()
    flip_pairs: tuple[tuple[int, int], ...] = ()
    licence: str = "unknown: your own photos"


def data_folder(root: str | None, *names: str) -> Path:
    """The folder of a data set: `root`, or the first of `names` below ``$INTERP_TRAIN_DATA``.

    Raises:
        FileNotFoundError: if neither is there; names both ways.
    """
    base = os.environ.get("INTERP_TRAIN_DATA")
    if root is not None:
        candidates = [Path(root).expanduser()]
    else:
        candidates = [Path(base).expanduser() / name for name in names] if base else []
    for folder in candidates:
        if folder.is_dir():
            return folder
    received = ", ".join(repr(str(folder)) for folder in candidates)
    raise FileNotFoundError(
        f"the folder of the data set must exist, but got "
        f"{received or 'neither `root` nor INTERP_TRAIN_DATA'}. Set data.root=<folder>, or the "
        f"environment variable INTERP_TRAIN_DATA to the folder that holds {' or '.join(names)}."
    )


class PhotoData(LightningDataModule, ABC):
    """Photos with or without parts; a subclass says what lies in its files.

    Args:
        image_size: side of the network's input, in pixels.
        batch_size: samples per batch and process.
        num_workers: loader processes; with `in_memory` each keeps its own copy.
        seed: of order and augmentation.
        min_area: objects of a smaller box, in square pixels of the photo, are left out.
        margin: share of the object box that is added on each side of the crop.
        augmentation: of the training views.
        mean: see `DataInfo`.
        std: see `DataInfo`.
        in_memory: keep decoded photos, if they take less than half of the machine's memory.
        on_error: ``"raise"`` at unreadable images and inconsistent annotations, or ``"skip"``
            them, which decodes all images at the start and logs what was left out.
        views_per_photo: views of each training sample in a batch, which then holds so many
            times `batch_size` images and is a `ViewBatch`; for objectives that compare views.
        augment_validation: show one augmented view of each validation sample, the same for every
            network and epoch; for measures on objects that are not cut out exactly.
    """

    def __init__(
        self,
        *,
        image_size: int,
        batch_size: int,
        num_workers: int,
        seed: int,
        min_area: float,
        margin: float,
        augmentation: ViewAugmentation,
        mean: Sequence[float],
        std: Sequence[float],
        in_memory: bool,
        on_error: str,
        views_per_photo: int = 1,
        augment_validation: bool = False,
    ) -> None:
        super().__init__()
        check_range("views_per_photo", views_per_photo, 1)
        check_range("image_size", image_size, 16)
        check_range("batch_size", batch_size, 1)
        check_range("num_workers", num_workers, 0)
        check_range("seed", seed, 0, 2**40 - 1)
        check_range("min_area", min_area, 0.0)
        check_range("margin", margin, 0.0, 2.0)
        check_normalisation(mean, std)
        self.batch_size, self.num_workers, self.seed = batch_size, num_workers, seed
        self.image_size, self.margin, self.in_memory = image_size, margin, in_memory
        self.mean, self.std = tuple(mean), tuple(std)
        self.augmentation = augmentation
        self.mistakes = Mistakes(on_error)
        self.min_area = min_area
        self.views_per_photo, self.augment_validation = views_per_photo, augment_validation
        self._check_views()
        self._datasets: dict[str, Dataset[Batch]] = {}
        self._photo_sets: dict[str, PhotoDataset] = {}
        self._info: DataInfo | None = None

    @abstractmethod
    def read(self) -> Collection:
        """Read the annotation files; images are opened later."""

    @property
    @final
    def info(self) -> DataInfo:
        """What networks, measures and reports must know; read at first use."""
        if self._info is None:
            self._read_all()
        assert self._info is not None
        return self._info

    @final
    def setup(self, stage: str | None = None) -> None:
        """Read the annotation files and check the images, once."""
        _ = self.info

    @final
    def dataset(self, split: str) -> Dataset[Batch]:
        """The data set of a split, ``"train"`` or ``"val"``; only the first is augmented."""
        _ = self.info
        check_name("split", split, self._datasets, "a split of the data")
        return self._datasets[split]

    @final
    def photos(self, split: str) -> PhotoDataset:
        """The photos of a split, whether or not their activations are cached."""
        _ = self.info
        check_name("split", split, self._photo_sets, "a split of the data")
        return self._photo_sets[split]

    @final
    def enable_cache(
        self, network: FrozenPrefix, folder: str | Path, *, views: int = 1, dtype: str = "float16"
    ) -> None:
        """Compute the activations of the frozen prefix once, and train from them.

        Training batches then carry `prefix_activations` of one of `views` fixed augmented
        views and no pixels; validation batches carry both.

        Args:
            network: with a frozen prefix.
            folder: where caches lie; runs of the same setting share one.
            views: number of fixed views per training sample.
            dtype: ``"float16"``, ``"bfloat16"`` or ``"float32"``.
        """
        for split in SPLITS:
            self._datasets[split] = CachedActivations(
                self.photos(split),
                network,
                Path(folder),
                fingerprint=f"{self.info.fingerprint}-{split}",
                views=views if split == "train" else 1,
                dtype=dtype,
                with_pixels=split != "train",
            )

    def train_dataloader(self) -> DataLoader[Batch]:
        """Augmented views in an order that follows from (seed, epoch)."""
        return training_loader(
            self.dataset("train"),
            batch_size=self.batch_size,
            num_workers=self.num_workers,
            seed=self.seed,
        )

    def val_dataloader(self) -> DataLoader[Batch]:
        """Every validation sample exactly once over all processes."""
        return validation_loader(
            self.dataset("val"), batch_size=self.batch_size, num_workers=self.num_workers
        )

    def test_dataloader(self) -> DataLoader[Batch]:
        """The validation samples: these collections have two splits."""
        return self.val_dataloader()

    def _read_all(self) -> None:
        collection = self.read()
        appearance = Appearance(
            self.image_size,
            self.margin,
            self.mean,
            self.std,
            collection.flip_pairs,
            with_parts=bool(collection.part_names),
        )
        for split in SPLITS:
            photos = checked_photos(collection.splits[split], self.mistakes)
            check_labels(photos, collection.class_names, split)
            self._photo_sets[split] = PhotoDataset(
                photos,
                appearance,
                augmentation=self._augmentation(split),
                seed=self.seed if split == "train" else 0,
                in_memory=self.in_memory,
                views_per_photo=self.views_per_photo if split == "train" else 1,
            )
        self._limit_memory()
        self._datasets = dict(self._photo_sets)
        self._info = self._describe(collection)

    def _check_views(self) -> None:
        if self.views_per_photo > 1 and self.augmentation == ViewAugmentation():
            raise ValueError(
                f"`views_per_photo` must be 1 without augmentation, but got "
                f"{self.views_per_photo}: all views would be the same. Set data.flip, data.scale, "
                f"data.aspect or data.shift."
            )

    def _augmentation(self, split: str) -> ViewAugmentation | None:
        changes = self.augmentation != ViewAugmentation()
        shown = changes and (split == "train" or self.augment_validation)
        return self.augmentation if shown else None

    def _limit_memory(self) -> None:
        """Decode photos again in each epoch where keeping them takes too much memory."""
        needed = sum(photos.bytes_in_memory() for photos in self._photo_sets.values())
        needed *= max(1, self.num_workers)
        if self.in_memory and needed > machine_memory() / 2:
            logger.warning(
                "The decoded photos take %.1f GB, which is too much to keep them in memory: "
                "they are decoded again in each epoch",
                needed / 1e9,
            )
            for photos in self._photo_sets.values():
                photos.in_memory = False

    def _describe(self, collection: Collection) -> DataInfo:
        content = hashlib.sha256()
        for split in SPLITS:
            for photo in self._photo_sets[split].photos:
                file = (photo.path.name, photo.path.stat().st_size)
                content.update(repr((split, *file, *photo[1:6])).encode())
                content.update(photo.part_locations.tobytes() + photo.part_boxes.tobytes())
        return DataInfo(
            name=collection.name,
            class_names=collection.class_names,
            part_names=collection.part_names,
            part_groups=collection.part_groups,
            instability_parts=collection.instability_parts,
            image_size=self.image_size,
            channels=3,
            mean=self.mean,
            std=self.std,
            fingerprint=content.hexdigest()[:16],
            licence=collection.licence,
        )


def machine_memory() -> int:
    """Bytes of memory of this machine."""
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def check_normalisation(mean: Sequence[float], std: Sequence[float]) -> None:
    """Raise ValueError unless there are three means and three positive deviations."""
    if len(mean) != 3 or len(std) != 3 or not min(std) > 0:
        raise ValueError(
            f"`mean` and `std` must be three numbers each, the latter > 0, but got {list(mean)} "
            f"and {list(std)}. See conf/data for those of ImageNet."
        )


def check_labels(photos: Sequence[Photo], class_names: Sequence[str], split: str) -> None:
    """Raise ValueError unless the photos of a split can teach, or test, a distinction."""
    counts = Counter(photo.label for photo in photos)
    empty = [name for index, name in enumerate(class_names) if not counts[index]]
    if empty:
        raise ValueError(
            f"each category must occur in the split {split!r}, but {', '.join(empty)} does not. "
            f"Add images of it or leave the category out."
        )
    if len(class_names) == 1 and not counts[BACKGROUND]:
        raise ValueError(
            f"data of one category must hold background images, but the split {split!r} has only "
            f"{class_names[0]!r}. Add a second category or background images."
        )
