"""Synthetic creatures: pictures with exact ground truth for objects, parts, colours, textures.

Several species, made of the same ten articulated parts, appear in random pose, size, position,
colours and textures on scenes with plants, rocks and loose parts. Only the shapes of the parts
tell the species apart, and a part alone proves nothing, since copies of all parts lie around.
Every picture follows from (seed, sample id) alone.
"""

import hashlib
import json
import time
from collections.abc import Sequence
from typing import Any

from lightning.pytorch import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader

from interp_train.checks import check_choice, check_name, check_range
from interp_train.data.creatures.composition import CONCEPT_NAMES, Recipe, draw
from interp_train.data.creatures.species import (
    INSTABILITY_PARTS,
    PART_GROUPS,
    PART_NAMES,
    SPECIES_NAMES,
)
from interp_train.data.samplers import ShardedValidationSampler
from interp_train.data.split_loaders import training_loader, validation_loader
from interp_train.data.synthetic_changes import PictureAugmentation
from interp_train.data.synthetic_dataset import MEAN, STD, SyntheticDataset
from interp_train.structures import BACKGROUND, ConceptBatch, DataInfo, PartBatch

TASKS = ("species", "creature_vs_background")

# Raised whenever a change of the drawing changes the pictures.
DRAWING_VERSION = 1

# Sample ids of the splits do not overlap, so the splits share no picture.
FIRST_SAMPLE_ID = {"train": 0, "val": 1_000_000}

LICENCE = "Drawn by interp_train (MIT licence); contains no third-party material."


class SyntheticData(LightningDataModule):
    """Creatures of the first `num_classes` species, drawn into memory once per process.

    Batches are `PartBatch` with boxes, part landmarks, part boxes and part masks.

    Args:
        num_train: number of training pictures.
        num_val: number of validation pictures; they do not depend on `num_train`.
        image_size: side of the pictures in pixels.
        num_classes: number of species, in the order of `SPECIES_NAMES`.
        task: ``"species"`` tells the species apart; ``"creature_vs_background"`` tells pictures
            with a creature of any of these species from scenes with loose parts only.
        seed: source of pictures, order and augmentation.
        batch_size: pictures per batch and process.
        num_workers: loader processes; 0 is fast, since the pictures lie in memory.
        object_size: range of the creature's larger extent, as a share of the scene's side.
        num_distractors: range of the number of loose parts and things.
        num_occluders: range of the number of things in front of the creature.
        crop_margin: None shows whole scenes; otherwise the view is a square around the creature,
            this share of its larger extent wider on each side.
        crop_jitter: with `crop_margin`, random displacement and scaling of the view.
        background_share: share of pictures without a creature, in the background task.
        flip: mirror half of the training pictures.
        shift: largest random displacement of training pictures, in pixels.
        colour_jitter: largest random change of each channel's gain in training.

    Attributes:
        info: what networks and measures must know.
        concept_names: concept category -> names, of `concept_dataloader` and `concept_maps`.

    Raises:
        ValueError: if an argument is out of its range.
    """

    concept_names = CONCEPT_NAMES

    def __init__(
        self,
        num_train: int = 2000,
        num_val: int = 600,
        image_size: int = 96,
        num_classes: int = 4,
        task: str = "species",
        *,
        seed: int = 0,
        batch_size: int = 32,
        num_workers: int = 0,
        object_size: Sequence[float] = (0.55, 0.9),
        num_distractors: Sequence[int] = (2, 6),
        num_occluders: Sequence[int] = (0, 2),
        crop_margin: float | None = 0.12,
        crop_jitter: float = 0.12,
        background_share: float = 0.5,
        flip: bool = True,
        shift: int = 4,
        colour_jitter: float = 0.15,
    ) -> None:
        super().__init__()
        self.num_pictures = {"train": num_train, "val": num_val}
        self.num_classes = num_classes
        self.task = task
        self.seed = seed
        self.batch_size = batch_size
        self.num_workers = num_workers
        self.background_share = background_share
        self.augmentation = PictureAugmentation(flip, shift, colour_jitter)
        ranges = (
            checked_pair("object_size", object_size, 0.1, 1.0),
            checked_pair("num_distractors", num_distractors, 0, 20),
            checked_pair("num_occluders", num_occluders, 0, 5),
        )
        self.recipe = Recipe(image_size, *ranges, crop_margin, crop_jitter)
        self._check()
        self.info = self._describe()
        self._datasets: dict[str, SyntheticDataset] = {}

    def setup(self, stage: str | None = None) -> None:
        """Draw the pictures that `stage` needs."""
        for split in ("train", "val") if stage == "fit" else ("val",):
            _ = self.dataset(split).truth

    def dataset(self, split: str) -> SyntheticDataset:
        """The data set of a split, ``"train"`` or ``"val"``; only the first is augmented."""
        check_name("split", split, self.num_pictures, "a split of the data")
        if split not in self._datasets:
            species = [self._species(index) for index in range(self.num_pictures[split])]
            self._datasets[split] = SyntheticDataset(
                species,
                [self._label(kind) for kind in species],
                first_sample_id=FIRST_SAMPLE_ID[split],
                seed=self.seed,
                recipe=self.recipe,
                loose_species=self.num_classes,
                augmentation=self.augmentation if split == "train" else None,
            )
        return self._datasets[split]

    def train_dataloader(self) -> DataLoader[PartBatch]:
        """Augmented batches in an order that follows from (seed, epoch)."""
        return training_loader(
            self.dataset("train"),
            batch_size=self.batch_size,
            num_workers=self.num_workers,
            seed=self.seed,
        )

    def val_dataloader(self) -> DataLoader[PartBatch]:
        """Every validation picture exactly once over all processes."""
        return validation_loader(
            self.dataset("val"), batch_size=self.batch_size, num_workers=self.num_workers
        )

    def test_dataloader(self) -> DataLoader[PartBatch]:
        """The validation pictures: no choice is made on them but by the user."""
        return self.val_dataloader()

    def concept_dataloader(self, split: str = "val") -> DataLoader[ConceptBatch]:
        """Pictures with dense concept labels, not augmented, each once over all processes."""
        dataset = self.dataset(split)
        indices: Any = list(ShardedValidationSampler(dataset))
        return DataLoader(
            indices,
            batch_size=self.batch_size,
            num_workers=self.num_workers,
            collate_fn=dataset.concept_batch,
        )

    def concept_maps(self, sample_ids: Tensor) -> Tensor:
        """Concept maps of validation pictures, uint8 ``(N, M, H, W)`` on the CPU.

        Raises:
            ValueError: if a picture is no validation picture (training pictures are augmented).
        """
        indices = sample_ids.cpu() - FIRST_SAMPLE_ID["val"]
        if len(indices) and not 0 <= int(indices.min()) <= int(indices.max()) < len(
            self.dataset("val")
        ):
            raise ValueError(
                f"`sample_ids` must be those of validation pictures, but got "
                f"{sample_ids.tolist()}. Take the batches of `val_dataloader`."
            )
        return self.dataset("val").concept_maps(indices.tolist())

    def _species(self, index: int) -> int:
        """Species of picture `index` of a split; all, and the background, evenly spread."""
        if self.task == "species":
            return index % self.num_classes
        creatures = int((index + 1) * (1 - self.background_share) + 1e-9)
        before = int(index * (1 - self.background_share) + 1e-9)
        return before % self.num_classes if creatures > before else BACKGROUND

    def _label(self, species: int) -> int:
        return species if self.task == "species" or species == BACKGROUND else 0

    def _class_names(self) -> tuple[str, ...]:
        if self.task == "species":
            return SPECIES_NAMES[: self.num_classes]
        return ("creature",) if self.num_classes > 1 else SPECIES_NAMES[:1]

    def _check(self) -> None:
        check_choice("task", self.task, TASKS)
        smallest = 2 if self.task == "species" else 1
        check_range("num_classes", self.num_classes, smallest, len(SPECIES_NAMES))
        check_range("image_size", self.recipe.image_size, 32, 512)
        for split, count in self.num_pictures.items():
            check_range(f"num_{split}", count, 1, FIRST_SAMPLE_ID["val"])
        check_range("seed", self.seed, 0, 2**40 - 1)
        check_range("batch_size", self.batch_size, 1)
        check_range("background_share", self.background_share, 0.0, 0.99)
        check_range("crop_jitter", self.recipe.crop_jitter, 0.0, 0.5)
        check_range("shift", self.augmentation.shift, 0, self.recipe.image_size // 4)
        check_range("colour_jitter", self.augmentation.colour_jitter, 0.0, 1.0)

    def _describe(self) -> DataInfo:
        content = (
            DRAWING_VERSION, self.seed, self.task, self.num_classes, self.background_share,
            self.num_pictures, self.recipe,
        )  # fmt: skip
        return DataInfo(
            name="synthetic",
            class_names=self._class_names(),
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


def images_per_second(num_images: int = 200, image_size: int = 96) -> float:
    """Pictures with ground truth drawn per second of processor time, on one core."""
    recipe = Recipe(image_size=image_size)
    draw(0, 0, recipe)
    start = time.process_time()
    for index in range(num_images):
        draw(index % len(SPECIES_NAMES), index, recipe)
    return num_images / (time.process_time() - start)


def checked_pair(argument: str, values: Sequence[Any], low: float, high: float) -> Any:
    """A range as a tuple, checked."""
    if len(values) != 2 or not low <= values[0] <= values[1] <= high:
        raise ValueError(
            f"`{argument}` must be a pair [smallest, largest] within {low} and {high}, "
            f"but got {list(values)}."
        )
    return values[0], values[1]
