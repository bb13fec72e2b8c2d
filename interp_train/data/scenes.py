"""Photos with any number of labelled boxes as a data set for detectors."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from interp_train.data.annotation_files import Mistakes
from interp_train.data.photos import UNKNOWN_SIZE, Photo, checked_photos, read_photo
from interp_train.data.random_sources import random_source
from interp_train.structures import BACKGROUND, DetectionBatch


class Scene(NamedTuple):
    """One photo and its objects.

    Attributes:
        photo: the file; it has neither region nor box.
        labels: category of each object, ``(M,)``.
        boxes: of each object, ``(M, 4)``, as in `DetectionBatch`.
        ignored: see `DetectionBatch`, ``(M,)``.
    """

    photo: Photo
    labels: NDArray[np.int64]
    boxes: NDArray[np.float64]
    ignored: NDArray[np.bool_]


class Annotation(NamedTuple):
    """One object as a file says it.

    Attributes:
        name: of its category.
        box: xmin, ymin, xmax, ymax, as in `DetectionBatch`.
        ignored: see `DetectionBatch`.
    """

    name: str
    box: tuple[float, float, float, float]
    ignored: bool


def photo_of(path: Path, sample_id: int, where: str) -> Photo:
    """A whole photo, to be opened later."""
    return Photo(
        path=path,
        label=BACKGROUND,
        sample_id=sample_id,
        size=UNKNOWN_SIZE,
        region=None,
        box=None,
        part_locations=np.zeros((0, 2)),
        part_boxes=np.zeros((0, 4)),
        where=where,
    )


def scene_of(
    photo: Photo,
    annotations: Sequence[Annotation],
    class_names: Sequence[str],
    leave_out: bool,
    mistakes: Mistakes,
) -> Scene:
    """A photo with the objects of known categories.

    Args:
        photo: the file.
        annotations: its objects.
        class_names: the known categories.
        leave_out: whether objects of other categories are left out; else they are mistakes.
        mistakes: takes objects of unknown categories and empty boxes.
    """
    kept: list[Annotation] = []
    for entry in annotations:
        with mistakes.noted():
            if entry.name not in class_names:
                if leave_out:
                    continue
                raise ValueError(
                    f"each object must be of a known category ({', '.join(class_names)}), but "
                    f"{photo.where} has {entry.name!r}. Add it to data.categories, or set "
                    f"data.other_categories=leave_out."
                )
            check_box(entry.box, photo.where)
            kept.append(entry)
    return Scene(
        photo,
        np.array([class_names.index(entry.name) for entry in kept], dtype=np.int64),
        np.array([entry.box for entry in kept], dtype=np.float64).reshape(-1, 4),
        np.array([entry.ignored for entry in kept], dtype=np.bool_),
    )


def check_box(box: tuple[float, float, float, float], where: str) -> None:
    """Raise ValueError unless a box has a positive width and height."""
    if not (box[2] > box[0] and box[3] > box[1]):  # also false for NaN
        raise ValueError(
            f"a box must have a width and a height above 0, but {where} has one from "
            f"({box[0]:g}, {box[1]:g}) to ({box[2]:g}, {box[3]:g}). Correct it."
        )


def checked_scenes(scenes: Sequence[Scene], mistakes: Mistakes) -> list[Scene]:
    """The scenes with their sizes and with boxes cut at the edges of their photos.

    Raises:
        ValueError: for a mistake that is not skipped: an image that is missing or none, a
            repeated sample id, a box outside its photo; or if no scene is left.
    """
    photos = checked_photos([scene.photo for scene in scenes], mistakes)
    sizes = {photo.sample_id: photo for photo in photos}
    kept = []
    for scene in scenes:
        photo = sizes.get(scene.photo.sample_id)
        if photo is not None and photo.where == scene.photo.where:
            kept.append(_inside(scene._replace(photo=photo), mistakes))
    mistakes.report()
    return kept


def _inside(scene: Scene, mistakes: Mistakes) -> Scene:
    width, height = scene.photo.size
    boxes = np.clip(scene.boxes, 0, np.array([width, height, width, height]))
    shown = (boxes[:, 2:] > boxes[:, :2]).all(axis=1)
    with mistakes.noted():
        if not shown.all():
            outside = scene.boxes[~shown][0].tolist()
            raise ValueError(
                f"a box must lie on its photo, but that of {scene.photo.where}, {outside}, lies "
                f"outside {width} x {height} pixels. Correct it."
            )
    return scene._replace(
        labels=scene.labels[shown], boxes=boxes[shown], ignored=scene.ignored[shown]
    )


@final
class SceneDataset(Dataset[DetectionBatch]):
    """One split of scenes.

    An item is a batch of one; `__getitems__` makes a whole batch at once, which a `DataLoader`
    with `collate_fn=whole_batch` hands on as it is.

    Args:
        scenes: from `checked_scenes`.
        flip: mirror half of the images.
        seed: with the epoch and the sample id, the source of augmentation.
        in_memory: keep decoded photos.
    """

    def __init__(
        self, scenes: Sequence[Scene], *, flip: bool = False, seed: int = 0, in_memory: bool = True
    ) -> None:
        self.scenes = tuple(scenes)
        self.flip, self.seed, self.in_memory = flip, seed, in_memory
        # Shared, so that worker processes that live on also see the epoch.
        self._epoch = torch.zeros((), dtype=torch.long).share_memory_()  # type: ignore[no-untyped-call]
        self._kept: dict[int, Tensor] = {}

    def __len__(self) -> int:
        """Number of scenes."""
        return len(self.scenes)

    def set_epoch(self, epoch: int) -> None:
        """Draw the augmentation of `epoch` from now on, in worker processes too."""
        self._epoch.fill_(epoch)

    def __getitem__(self, index: int) -> DetectionBatch:
        """A batch of the one scene `index`."""
        return self.__getitems__([index])

    def __getitems__(self, indices: Sequence[int]) -> DetectionBatch:
        """The batch of scenes `indices`, in the current epoch."""
        scenes = [self.scenes[index] for index in indices]
        images = [self._pixels(index).float() / 255 for index in indices]
        boxes = [torch.from_numpy(scene.boxes).float() for scene in scenes]
        no_parts = [torch.zeros(len(entry), 0, 4) for entry in boxes]
        sample_ids = torch.tensor([scene.photo.sample_id for scene in scenes])
        batch = DetectionBatch(
            images=tuple(images),
            labels=tuple(torch.from_numpy(scene.labels) for scene in scenes),
            sample_ids=sample_ids,
            boxes=tuple(boxes),
            ignored=tuple(torch.from_numpy(scene.ignored) for scene in scenes),
            part_boxes=tuple(no_parts),
        )
        return flipped_at_random(batch, self.seed, int(self._epoch)) if self.flip else batch

    def _pixels(self, index: int) -> Tensor:
        if not self.in_memory:
            return read_photo(self.scenes[index].photo)
        if index not in self._kept:
            self._kept[index] = read_photo(self.scenes[index].photo)
        return self._kept[index]

    def bytes_in_memory(self) -> int:
        """What `in_memory` takes once all is decoded."""
        sizes = (scene.photo.size for scene in self.scenes)
        return sum(3 * width * height for width, height in sizes)

    def __getstate__(self) -> dict[str, Any]:
        """Without decoded photos, which each worker process decodes for itself."""
        return {**self.__dict__, "_kept": {}}


def flipped_at_random(batch: DetectionBatch, seed: int, epoch: int) -> DetectionBatch:
    """Half of the images mirrored; which ones follows from (seed, epoch, sample id)."""
    flips = [
        random_source(seed, epoch, int(sample_id)).random() < 0.5 for sample_id in batch.sample_ids
    ]
    return mirrored(batch, flips)


def mirrored(batch: DetectionBatch, flips: Sequence[bool]) -> DetectionBatch:
    """The batch with left and right exchanged in those images where `flips` says so."""
    images, boxes, part_boxes = list(batch.images), list(batch.boxes), list(batch.part_boxes)
    for index, flip in enumerate(flips):
        if flip:
            width = images[index].shape[-1]
            images[index] = images[index].flip(-1)
            boxes[index] = mirrored_boxes(boxes[index], width)
            part_boxes[index] = mirrored_boxes(part_boxes[index], width)
    return batch._replace(images=tuple(images), boxes=tuple(boxes), part_boxes=tuple(part_boxes))


def mirrored_boxes(boxes: Tensor, width: float) -> Tensor:
    """Boxes ``(..., 4)`` in the mirrored image, which is `width` wide."""
    left, top, right, bottom = boxes.unbind(-1)
    return torch.stack([width - right, top, width - left, bottom], dim=-1)
