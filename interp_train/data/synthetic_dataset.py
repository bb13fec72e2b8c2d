"""Creatures as a data set: ground truth in memory, batches made at once."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from interp_train.data.creatures.composition import Drawing, Recipe, draw, visible_boxes
from interp_train.data.creatures.species import PART_NAMES
from interp_train.data.random_sources import random_key, random_source
from interp_train.data.synthetic_changes import PictureAugmentation, draw_change
from interp_train.structures import ConceptBatch, PartBatch

# Mean and standard deviation of the channels over the default training set.
MEAN = (0.51, 0.55, 0.57)
STD = (0.25, 0.23, 0.25)


class Truth(NamedTuple):
    """Ground truth of one split, in memory; see `composition.Drawing`."""

    images: NDArray[np.uint8]
    shape_maps: NDArray[np.uint8]
    concepts: NDArray[np.uint8]
    scenes: NDArray[np.int64]
    boxes: NDArray[np.float32]
    part_locations: NDArray[np.float32]
    part_boxes: NDArray[np.float32]


class SyntheticDataset(Dataset[PartBatch]):
    """One split, drawn once into memory when it is first used.

    An item is a batch of one; `__getitems__` makes a whole batch at once, which a `DataLoader`
    with `collate_fn=whole_batch` hands on as it is.

    Args:
        species: species of each picture, or `BACKGROUND`.
        labels: category of each picture.
        first_sample_id: sample id of the first picture.
        seed: with the sample id, the source of all randomness.
        recipe: how to compose.
        loose_species: loose parts come from the first so many species.
        augmentation: None for none.
    """

    def __init__(
        self,
        species: Sequence[int],
        labels: Sequence[int],
        *,
        first_sample_id: int,
        seed: int,
        recipe: Recipe,
        loose_species: int,
        augmentation: PictureAugmentation | None = None,
    ) -> None:
        self.species = tuple(species)
        self.labels = torch.tensor(labels, dtype=torch.long)
        self.first_sample_id = first_sample_id
        self.seed = seed
        self.recipe = recipe
        self.loose_species = loose_species
        self.augmentation = augmentation
        # Shared, so that worker processes that live on also see the epoch.
        self._epoch = torch.zeros((), dtype=torch.long).share_memory_()  # type: ignore[no-untyped-call]
        self._truth: Truth | None = None

    def __len__(self) -> int:
        """Number of pictures."""
        return len(self.species)

    @property
    def epoch(self) -> int:
        """Epoch whose augmentation is drawn."""
        return int(self._epoch)

    def set_epoch(self, epoch: int) -> None:
        """Draw the augmentation of `epoch` from now on, in worker processes too."""
        self._epoch.fill_(epoch)

    @property
    def truth(self) -> Truth:
        """Pictures and ground truth, drawn on first use."""
        if self._truth is None:
            self._truth = _stack([self.drawing(index) for index in range(len(self))])
        return self._truth

    def drawing(self, index: int) -> Drawing:
        """Draw one picture; it depends on the seed and the sample id only."""
        key = random_key(self.seed, self.first_sample_id + index)
        return draw(self.species[index], key, self.recipe, self.loose_species)

    def __getitem__(self, index: int) -> PartBatch:
        """A batch of the one picture `index`."""
        return self.__getitems__([index])

    def __getitems__(self, indices: Sequence[int]) -> PartBatch:
        """The batch of pictures `indices`."""
        truth, chosen = self.truth, list(indices)
        images, shape_maps = truth.images[chosen], truth.shape_maps[chosen]
        boxes, locations = truth.boxes[chosen], truth.part_locations[chosen]
        part_boxes = truth.part_boxes[chosen]
        part_maps = _look_up(truth.concepts[chosen, 1], shape_maps)
        gains, offsets = np.ones((len(chosen), 3)), np.zeros((len(chosen), 3))
        if self.augmentation is not None:
            for row, index in enumerate(chosen):
                source = random_source(self.seed, self.first_sample_id + index, self.epoch + 1)
                change = draw_change(source, self.augmentation)
                images[row] = change.move(images[row])
                part_maps[row] = change.move_map(part_maps[row])
                locations[row] = change.move_points(locations[row], images.shape[1])
                moved = visible_boxes(part_maps[row])
                boxes[row], part_boxes[row] = moved[0], moved[1:]
                gains[row], offsets[row] = change.gains, change.offsets
        return PartBatch(
            images=_normalised(images, gains, offsets),
            labels=self.labels[chosen],
            sample_ids=torch.tensor(chosen) + self.first_sample_id,
            boxes=torch.from_numpy(boxes),
            prefix_activations=torch.zeros(len(chosen), 0, 0, 0),
            part_locations=torch.from_numpy(locations),
            part_boxes=torch.from_numpy(part_boxes),
            part_masks=_masks(part_maps),
        )

    def concept_batch(self, indices: Sequence[int]) -> ConceptBatch:
        """The pictures `indices`, not augmented, with one concept map per category.

        The categories are those of `CONCEPT_NAMES`, in its order.
        """
        truth, chosen = self.truth, list(indices)
        neutral = np.ones((len(chosen), 3)), np.zeros((len(chosen), 3))
        return ConceptBatch(
            images=_normalised(truth.images[chosen], *neutral),
            labels=self.labels[chosen],
            sample_ids=torch.tensor(chosen) + self.first_sample_id,
            concept_maps=self.concept_maps(chosen),
        )

    def concept_maps(self, indices: Sequence[int]) -> Tensor:
        """One map per category for each of the pictures `indices`, uint8 ``(N, M, H, W)``."""
        truth, chosen = self.truth, list(indices)
        concepts, shape_maps = truth.concepts[chosen], truth.shape_maps[chosen]
        maps = [_look_up(concepts[:, category], shape_maps) for category in range(4)]
        scenes = np.broadcast_to(1 + truth.scenes[chosen, None, None], shape_maps.shape)
        return torch.from_numpy(np.stack([*maps, scenes.astype(np.uint8)], axis=1))


def _stack(drawings: Sequence[Drawing]) -> Truth:
    return Truth(
        images=np.stack([drawing.image for drawing in drawings]),
        shape_maps=np.stack([drawing.shape_map for drawing in drawings]),
        concepts=np.stack([drawing.concepts for drawing in drawings]),
        scenes=np.array([drawing.scene for drawing in drawings], dtype=np.int64),
        boxes=np.stack([drawing.box for drawing in drawings]),
        part_locations=np.stack([drawing.part_locations for drawing in drawings]),
        part_boxes=np.stack([drawing.part_boxes for drawing in drawings]),
    )


def _look_up(tables: NDArray[np.uint8], shape_maps: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Value of each pixel's shape; tables ``(N, 256)``, maps ``(N, H, W)``."""
    maps = [table.take(shapes) for table, shapes in zip(tables, shape_maps, strict=True)]
    return np.stack(maps)


def _masks(part_maps: NDArray[np.uint8]) -> Tensor:
    codes = torch.arange(1, 1 + len(PART_NAMES), dtype=torch.uint8)
    return torch.from_numpy(part_maps)[:, None] == codes[:, None, None]


def _normalised(
    images: NDArray[np.uint8], gains: NDArray[np.float64], offsets: NDArray[np.float64]
) -> Tensor:
    """Pictures ``(N, H, W, 3)`` -> network input ``(N, 3, H, W)``."""
    std = np.array(STD)
    scale = torch.from_numpy(gains / (255 * std)).float()[:, :, None, None]
    shift = torch.from_numpy((offsets - np.array(MEAN)) / std).float()[:, :, None, None]
    pixels = torch.from_numpy(images).permute(0, 3, 1, 2).float()
    return torch.addcmul(shift, pixels, scale).contiguous()
