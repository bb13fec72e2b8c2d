"""Parts as concepts: discs around landmarks and boxes, of any data set that annotates parts.

Landmarks have no extent, so a disc stands for it, as large as a share of the object, so that its
size follows the object's. The part's own box is taken where it has one.
"""

import math
from collections.abc import Sequence
from typing import Protocol, final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from interp_train.checks import check_choice, check_range
from interp_train.data.annotation_files import Mistakes
from interp_train.data.photo_data import IMAGENET_MEAN, IMAGENET_STD, Collection
from interp_train.data.photos import Appearance, Photo, PhotoDataset, checked_photos
from interp_train.data.probe_images import ProbeImages, balanced_order
from interp_train.structures import BACKGROUND, ConceptBatch, PartBatch

SPLITS = ("train", "val", "all")


class PartReader(Protocol):
    """What reads annotated photos, such as any `PhotoData` with parts.

    Attributes:
        mistakes: what to do with bad images.
    """

    mistakes: Mistakes

    def read(self) -> Collection:
        """The photos with their annotations."""


@final
class PartProbe(ProbeImages):
    """Photos with parts as concepts, and the object's box with the name of its category.

    The categories of concepts are ``"part"`` and ``"object"``. Where parts overlap, a pixel belongs
    to each of them: the category has several maps. Photos are chosen by the hash of their file
    name, and evenly over the categories of objects.

    Example:
        probe = PartProbe(CubData(task="species"), unite_groups=True)
        Trainer(callbacks=[Dissection(["layer4"], probe_set=probe)])

    Args:
        data: reads the photos; only what it reads counts, not its image size, crops' margin,
            normalisation or augmentation.
        split: ``"train"``, ``"val"`` or ``"all"``.
        crop: whether photos are cropped as `data` says (to the object); False shows them whole.
        margin: with `crop`, see `PhotoData`; a box without margin fills the picture.
        radius: of the discs, as a share of the diagonal of the object's box in the network's input
            (of the whole input where an object has no box).
        part_boxes: whether a part's box is its region where it has one; False takes discs.
        unite_groups: whether the parts of a group are one concept of the group's name.
        object_boxes: whether the objects' boxes are concepts, too.
        image_size: side of the network's input, in pixels.
        label_size: side of the concept maps, in pixels.
        max_images: takes at most so many; None takes all.
        batch_size: photos per batch and process.
        num_workers: loader processes.
        mean: see `PhotoData`.
        std: see `PhotoData`.

    Raises:
        FileNotFoundError: for a missing folder or file.
        ValueError: if an argument is out of its range, or the data annotate no parts.
    """

    def __init__(
        self,
        data: PartReader,
        *,
        split: str = "val",
        crop: bool = True,
        margin: float = 0.0,
        radius: float = 0.06,
        part_boxes: bool = True,
        unite_groups: bool = False,
        object_boxes: bool = True,
        image_size: int = 224,
        label_size: int = 112,
        max_images: int | None = None,
        batch_size: int = 32,
        num_workers: int = 0,
        mean: Sequence[float] = IMAGENET_MEAN,
        std: Sequence[float] = IMAGENET_STD,
    ) -> None:
        super().__init__(
            image_size=image_size, label_size=label_size, batch_size=batch_size,
            num_workers=num_workers, mean=mean, std=std,
        )  # fmt: skip
        check_choice("split", split, SPLITS)
        check_range("margin", margin, 0.0, 2.0)
        check_range("radius", radius, 0.0, 1.0)
        self.radius, self.part_boxes, self.object_boxes = radius, part_boxes, object_boxes
        collection = _with_parts(data)
        self.concepts = _united(collection) if unite_groups else _single(collection)
        photos = checked_photos(_chosen(collection, split, max_images), data.mistakes)
        if not crop:
            photos = [photo._replace(region=None) for photo in photos]
        look = Appearance(image_size, margin, self.mean, self.std)
        self.photos = PhotoDataset(photos, look, in_memory=False)
        objects = {"object": collection.class_names} if object_boxes else {}
        self.concept_names = {"part": tuple(self.concepts), **objects}
        self.concept_layers = {"part": self._most_parts_of_a_pixel(), **dict.fromkeys(objects, 1)}

    def __len__(self) -> int:
        """Number of photos."""
        return len(self.photos)

    def __getitems__(self, indices: Sequence[int]) -> ConceptBatch:
        """The batch of photos `indices`."""
        batch = self.photos.__getitems__(indices)
        assert isinstance(batch, PartBatch)
        maps = torch.stack([self._maps(batch, row) for row in range(len(indices))])
        return ConceptBatch(batch.images, batch.labels, batch.sample_ids, maps)

    def _most_parts_of_a_pixel(self) -> int:
        """How many maps the parts need; no image is read."""
        most = 1
        for index in range(len(self)):
            view = self.photos.view(index, 0)
            batch = self.photos.batch([index], [view], torch.zeros(1, 3, 0, 0))
            assert isinstance(batch, PartBatch)
            most = max(most, int(self._part_masks(batch, 0).sum(0).max()))
        return most

    def _maps(self, batch: PartBatch, row: int) -> Tensor:
        maps = stacked(self._part_masks(batch, row), self.concept_layers["part"])
        if not self.object_boxes:
            return maps
        box = box_regions(batch.boxes[row], self.image_size, self.label_size)
        label = int(batch.labels[row])
        objects = box.short() * (label + 1 if label != BACKGROUND else 0)
        return torch.cat([maps, objects[None]])

    def _part_masks(self, batch: PartBatch, row: int) -> Tensor:
        """Region of each concept, bool ``(concepts, label_size, label_size)``."""
        size, labels = self.image_size, self.label_size
        box = batch.boxes[row]
        diagonal = float((box[2:] - box[:2]).square().sum().sqrt())
        diagonal = math.hypot(size, size) if math.isnan(diagonal) else diagonal
        masks = disc_regions(batch.part_locations[row], self.radius * diagonal, size, labels)
        boxed = ~batch.part_boxes[row].isnan().any(1)
        if self.part_boxes and boxed.any():
            regions = box_regions(batch.part_boxes[row], size, labels)
            masks = torch.where(boxed[:, None, None], regions, masks)
        return torch.stack([masks[list(parts)].any(0) for parts in self.concepts.values()])


def disc_regions(centres: Tensor, radius: float, image_size: int, label_size: int) -> Tensor:
    """Pixels of label maps whose centre is at most `radius` from each centre.

    Args:
        centres: in pixels of the input, NaN for none, ``(P, 2)``.
        radius: in pixels of the input.
        image_size: side of the input.
        label_size: side of the label maps.

    Returns:
        Bool ``(P, label_size, label_size)``.
    """
    places = _label_places(image_size, label_size)
    x, y = centres[:, :, None, None].double().unbind(1)
    return (places - x) ** 2 + (places[:, None] - y) ** 2 <= radius**2


def box_regions(boxes: Tensor, image_size: int, label_size: int) -> Tensor:
    """Pixels of label maps whose centre lies in each box ``(..., 4)`` in pixels of the input.

    Returns:
        Bool ``(..., label_size, label_size)``; nothing for a box of NaN.
    """
    places = _label_places(image_size, label_size)
    left, top, right, bottom = boxes[..., None, None].double().unbind(-3)
    rows = (places[:, None] >= top) & (places[:, None] <= bottom)
    return rows & (places >= left) & (places <= right)


def stacked(masks: Tensor, layers: int) -> Tensor:
    """Masks that may overlap as label maps: at each pixel the n-th mask there is in the n-th map.

    Args:
        masks: bool ``(P, H, W)``.
        layers: number of maps, at least as many as masks meet at a pixel.

    Returns:
        Number of the mask, from 1, or 0, int16 ``(layers, H, W)``.
    """
    maps = torch.zeros(layers, *masks.shape[1:], dtype=torch.int16)
    mask, row, column = masks.nonzero().unbind(1)
    place = masks.cumsum(0)[mask, row, column] - 1
    maps[place, row, column] = (mask + 1).short()
    return maps


def _label_places(image_size: int, label_size: int) -> Tensor:
    """Where the centres of the pixels of a label map lie in the input, float64."""
    return (torch.arange(label_size).double() + 0.5) * (image_size / label_size) - 0.5


def _with_parts(data: PartReader) -> Collection:
    collection = data.read()
    if not collection.part_names:
        raise ValueError(
            f"`data` must annotate parts, but {collection.name!r} has none. Take another data set, "
            f"or a SegmentationFolder for label maps."
        )
    return collection


def _single(collection: Collection) -> dict[str, tuple[int, ...]]:
    return {name: (index,) for index, name in enumerate(collection.part_names)}


def _united(collection: Collection) -> dict[str, tuple[int, ...]]:
    """Groups, and the parts that are in none."""
    grouped = {index for parts in collection.part_groups.values() for index in parts}
    alone = {n: parts for n, parts in _single(collection).items() if not grouped & {*parts}}
    return {**collection.part_groups, **alone}


def _chosen(collection: Collection, split: str, max_images: int | None) -> list[Photo]:
    names = ("train", "val") if split == "all" else (split,)
    photos = [photo for name in names for photo in collection.splits[name]]
    keys = [f"{photo.path.name} {photo.sample_id}" for photo in photos]
    labels: NDArray[np.int64] = np.array([photo.label for photo in photos])
    order = balanced_order(keys, labels.tolist())
    return [photos[index] for index in order[:max_images]]
