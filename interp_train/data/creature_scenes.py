"""Synthetic creatures in whole scenes, with exact boxes of objects and parts, for detectors.

Pictures are those of `interp_train.data.synthetic` without the crop around the creature; some
have no creature at all.
"""

import hashlib
import json
from collections.abc import Sequence
from typing import final

import numpy as np
import torch
from lightning.pytorch import LightningDataModule
from torch.utils.data import DataLoader, Dataset

from interp_train.checks import check_range
from interp_train.data.creatures.composition import Recipe
from interp_train.data.creatures.species import (
    INSTABILITY_PARTS,
    PART_GROUPS,
    PART_NAMES,
    SPECIES_NAMES,
)
from interp_train.data.scenes import flipped_at_random
from interp_train.data.split_loaders import training_loader, validation_loader
from interp_train.data.synthetic import (
    DRAWING_VERSION,
    FIRST_SAMPLE_ID,
    LICENCE,
    checked_pair,
)
from interp_train.data.synthetic_dataset import MEAN, STD, SyntheticDataset
from interp_train.structures import BACKGROUND, DataInfo, DetectionBatch


@final
class CreatureScenes(Dataset[DetectionBatch]):
    """Drawn scenes as detection batches.

    Args:
        pictures: drawn scenes with their truth, not augmented.
        flip: mirror half of the pictures.
    """

    def __init__(self, pictures: SyntheticDataset, flip: bool) -> None:
        self.pictures, self.flip = pictures, flip

    def __len__(self) -> int:
        """Number of pictures."""
        return len(self.pictures)

    def set_epoch(self, epoch: int) -> None:
        """Draw the augmentation of `epoch` from now on."""
        self.pictures.set_epoch(epoch)

    def __getitem__(self, index: int) -> DetectionBatch:
        """A batch of the one picture `index`."""
        return self.__getitems__([index])

    def __getitems__(self, indices: Sequence[int]) -> DetectionBatch:
        """The batch of pictures `indices`."""
        truth, labels = self.pictures.truth, self.pictures.labels[list(indices)]
        # No object: a scene without a creature, or one that is hidden altogether.
        shown = [slice(0, int(not np.isnan(truth.boxes[index, 0]))) for index in indices]
        pairs = list(zip(indices, shown, strict=True))
        boxes = [torch.from_numpy(truth.boxes[[i]]).float()[some] + 0.5 for i, some in pairs]
        parts = [torch.from_numpy(truth.part_boxes[[i]]).float()[some] + 0.5 for i, some in pairs]
        batch = DetectionBatch(
            images=tuple(
                torch.from_numpy(truth.images[index]).permute(2, 0, 1).float() / 255
                for index in indices
            ),
            labels=tuple(label[None][some] for label, some in zip(labels, shown, strict=True)),
            sample_ids=torch.tensor(list(indices)) + self.pictures.first_sample_id,
            boxes=tuple(boxes),
            ignored=tuple(torch.zeros(len(entry), dtype=torch.bool) for entry in boxes),
            part_boxes=tuple(parts),
        )
        seed, epoch = self.pictures.seed, self.pictures.epoch
        return flipped_at_random(batch, seed, epoch) if self.flip else batch


@final
class CreatureScenesData(LightningDataModule):
    """Scenes with one creature of `num_classes` species, or none, drawn once per process.

    Args:
        num_train: number of training pictures.
        num_val: number of validation pictures; they do not depend on `num_train`.
        image_size: side of the pictures in pixels.
        num_classes: number of species.
        seed: source of pictures, order and augmentation.
        batch_size: pictures per batch and process.
        num_workers: loader processes; 0 is fast, since the pictures lie in memory.
        object_size: range of the creature's larger extent, as a share of the scene's side.
        num_distractors: range of the number of loose parts and things.
        num_occluders: range of the number of things in front of the creature.
        background_share: share of pictures without a creature.
        flip: mirror half of the training pictures.

    Attributes:
        info: what networks and measures must know.

    Raises:
        ValueError: if an argument is out of its range.
    """

    def __init__(
        self,
        num_train: int = 1000,
        num_val: int = 200,
        image_size: int = 160,
        num_classes: int = 4,
        *,
        seed: int = 0,
        batch_size: int = 4,
        num_workers: int = 0,
        object_size: Sequence[float] = (0.35, 0.7),
        num_distractors: Sequence[int] = (2, 6),
        num_occluders: Sequence[int] = (0, 1),
        background_share: float = 0.1,
        flip: bool = True,
    ) -> None:
        super().__init__()
        self.num_pictures = {"train": num_train, "val": num_val}
        for split, count in self.num_pictures.items():
            check_range(f"num_{split}", count, 1, FIRST_SAMPLE_ID["val"])
        check_range("image_size", image_size, 32, 512)
        check_range("num_classes", num_classes, 1, len(SPECIES_NAMES))
        check_range("seed", seed, 0, 2**40 - 1)
        check_range("batch_size", batch_size, 1)
        check_range("background_share", background_share, 0.0, 0.9)
        self.num_classes, self.seed, self.flip = num_classes, seed, flip
        self.batch_size, self.num_workers = batch_size, num_workers
        self.background_share = background_share
        ranges = (
            checked_pair("object_size", object_size, 0.1, 1.0),
            checked_pair("num_distractors", num_distractors, 0, 20),
            checked_pair("num_occluders", num_occluders, 0, 5),
        )
        self.recipe = Recipe(image_size, *ranges, crop_margin=None)
        self._datasets: dict[str, CreatureScenes] = {}
        self.info = self._describe()

    def dataset(self, split: str) -> CreatureScenes:
        """The data set of a split, ``"train"`` or ``"val"``; only the first is augmented."""
        if split not in self._datasets:
            species = [self._species(index) for index in range(self.num_pictures[split])]
            pictures = SyntheticDataset(
                species,
                species,
                first_sample_id=FIRST_SAMPLE_ID[split],
                seed=self.seed,
                recipe=self.recipe,
                loose_species=self.num_classes,
            )
            self._datasets[split] = CreatureScenes(pictures, self.flip and split == "train")
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
        """The validation scenes: no choice is made on them but by the user."""
        return self.val_dataloader()

    def _species(self, index: int) -> int:
        """Species of picture `index`; all, and scenes without a creature, evenly spread."""
        share = 1 - self.background_share
        creatures, before = (int(number * share + 1e-9) for number in (index + 1, index))
        return before % self.num_classes if creatures > before else BACKGROUND

    def _describe(self) -> DataInfo:
        content = (
            DRAWING_VERSION, self.seed, self.num_classes, self.background_share,
            self.num_pictures, self.recipe,
        )  # fmt: skip
        return DataInfo(
            name="creature_scenes",
            class_names=SPECIES_NAMES[: self.num_classes],
            part_names=PART_NAMES,
            part_groups=PART_GROUPS,
            instability_parts=INSTABILITY_PARTS,
            image_size=self.recipe.image_size,
            channels=3,
            mean=MEAN,
            std=STD,
            fingerprint=hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16],
            licence=LICENCE,
        )
