"""Photos with annotations as a data set: whole batches at once, checked before they are used."""

import contextlib
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, final

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps
from torch import Tensor
from torch.utils.data import Dataset

from interp_train.data.annotation_files import Mistakes
from interp_train.data.backgrounds import is_background
from interp_train.data.random_sources import random_source
from interp_train.data.views import (
    Box,
    View,
    ViewAugmentation,
    mirrored_in_turn,
    normalised,
    random_view,
    view_of,
)
from interp_train.structures import Batch, ImageBatch, PartBatch, ViewBatch

logger = logging.getLogger(__name__)

UNKNOWN_SIZE = (0, 0)
_TRIES = 20
_VIEW_STEP = 2**30  # epochs between the random numbers of two views of one epoch


class Photo(NamedTuple):
    """One sample: a region of a photo with its annotations, in the photo's pixels.

    Attributes:
        path: image file.
        label: category index or `BACKGROUND`.
        sample_id: unique in the data set.
        size: width and height of the photo; `UNKNOWN_SIZE` until `checked_photos` has read it.
        region: box that the view shows; None is the whole photo.
        box: object box; None where there is no object.
        part_locations: ``(P, 2)``, NaN where not visible.
        part_boxes: ``(P, 4)``, NaN where not annotated.
        where: file and line of the annotation, for messages.
        upright: whether the photo is turned as its camera noted (EXIF).
        avoided: box of an object that a background crop must not show; None for objects.
    """

    path: Path
    label: int
    sample_id: int
    size: tuple[int, int]
    region: Box | None
    box: Box | None
    part_locations: NDArray[np.float64]
    part_boxes: NDArray[np.float64]
    where: str
    upright: bool = False
    avoided: Box | None = None


class Appearance(NamedTuple):
    """How photos become network input.

    Attributes:
        image_size: side of the square input, in pixels.
        margin: share of the region's extent that is added on each side.
        mean: see `DataInfo`.
        std: see `DataInfo`.
        flip_pairs: parts that change places when a view is mirrored.
        with_parts: whether batches are `PartBatch`.
    """

    image_size: int
    margin: float
    mean: tuple[float, ...]
    std: tuple[float, ...]
    flip_pairs: tuple[tuple[int, int], ...] = ()
    with_parts: bool = True


def read_photo(photo: Photo) -> Tensor:
    """The whole image file as uint8 ``(3, H, W)``.

    Raises:
        ValueError: if the file is no readable image; names the file and the annotation's line.
    """
    with _opened(photo) as image:
        pixels = np.array(image.convert("RGB"))
    return torch.from_numpy(pixels).permute(2, 0, 1)


@contextlib.contextmanager
def _opened(photo: Photo) -> Iterator[Image.Image]:
    """The image of a file; whatever goes wrong in the block is told as the file's fault."""
    try:
        with Image.open(photo.path) as image:
            yield ImageOps.exif_transpose(image) if photo.upright else image
    except FileNotFoundError as error:
        raise ValueError(
            f"each annotated image must exist, but {str(photo.path)!r} ({photo.where}) does not. "
            f"Complete the folder."
        ) from error
    except Exception as error:  # decoders raise whatever they meet in a broken file
        raise ValueError(
            f"each image must be readable, but {str(photo.path)!r} ({photo.where}) is not: "
            f"{error}. Replace the file."
        ) from error


def checked_photos(photos: Sequence[Photo], mistakes: Mistakes) -> list[Photo]:
    """The photos with their sizes, each image file opened once, or decoded if mistakes are skipped.

    Args:
        photos: those that have a size already are not opened again.
        mistakes: takes unreadable images, boxes outside their photo and repeated sample ids.

    Raises:
        ValueError: for a mistake that is not skipped, or if no photo is left.
    """
    sizes: dict[Path, tuple[int, int] | None] = {}
    places: dict[int, str] = {}
    kept = []
    for photo in photos:
        if photo.path not in sizes:
            sizes[photo.path] = None
            with mistakes.noted():
                sizes[photo.path] = _size_of(photo, decode=mistakes.skip)
        size = sizes[photo.path]
        if size is None:
            continue
        with mistakes.noted():
            _check_annotation(photo, size, places)
            places[photo.sample_id] = photo.where
            kept.append(photo._replace(size=size))
    mistakes.report()
    if not kept:
        raise ValueError(f"the data must hold readable images, but none of {len(photos)} is.")
    return kept


def _check_annotation(photo: Photo, size: tuple[int, int], places: dict[int, str]) -> None:
    box = photo.box or (0.0, 0.0, 1.0, 1.0)
    if box[0] >= size[0] or box[1] >= size[1] or box[2] <= 0 or box[3] <= 0:
        raise ValueError(
            f"a box must lie on its photo, but that of {str(photo.path)!r} ({photo.where}), "
            f"{box}, lies outside {size[0]} x {size[1]} pixels. Correct it."
        )
    if photo.sample_id in places:
        raise ValueError(
            f"each sample must have an id of its own, but {photo.where} repeats "
            f"{photo.sample_id} of {places[photo.sample_id]}. Remove one of them."
        )


def _size_of(photo: Photo, decode: bool) -> tuple[int, int]:
    if photo.size != UNKNOWN_SIZE:
        return photo.size
    with _opened(photo) as image:
        if decode:
            image.load()
        return image.size


def large_enough(photos: Sequence[Photo], min_area: float) -> list[Photo]:
    """The photos whose object box has at least `min_area` square pixels; says how many have not."""
    kept = [photo for photo in photos if photo.box is None or _area(photo.box) >= min_area]
    if len(kept) < len(photos):
        count = len(photos) - len(kept)
        logger.info("Left out %d objects smaller than %g square pixels", count, min_area)
    return kept


def _area(box: Box) -> float:
    return (box[2] - box[0]) * (box[3] - box[1])


@final
class PhotoDataset(Dataset[Batch]):
    """One split of photos.

    An item is a batch of one; `__getitems__` makes a whole batch at once, which a `DataLoader`
    with `collate_fn=whole_batch` hands on as it is.

    Args:
        photos: from `checked_photos`.
        appearance: how they become network input.
        augmentation: None for none.
        seed: with the epoch and the sample id, the source of augmentation.
        in_memory: keep what was decoded: views without augmentation, else whole photos.
        views_per_photo: with more than 1, each sample comes in so many views of its own, one
            after the other, as a `ViewBatch`.
    """

    def __init__(
        self,
        photos: Sequence[Photo],
        appearance: Appearance,
        *,
        augmentation: ViewAugmentation | None = None,
        seed: int = 0,
        in_memory: bool = True,
        views_per_photo: int = 1,
    ) -> None:
        self.photos = tuple(photos)
        self.appearance = appearance
        self.augmentation = augmentation
        self.seed = seed
        self.in_memory = in_memory
        self.views_per_photo = views_per_photo
        # Shared, so that worker processes that live on also see the epoch.
        self._epoch = torch.zeros((), dtype=torch.long).share_memory_()  # type: ignore[no-untyped-call]
        self._kept: dict[object, Tensor] = {}

    def __len__(self) -> int:
        """Number of samples."""
        return len(self.photos)

    @property
    def epoch(self) -> int:
        """Epoch whose augmentation is drawn."""
        return int(self._epoch)

    def set_epoch(self, epoch: int) -> None:
        """Draw the augmentation of `epoch` from now on, in worker processes too."""
        self._epoch.fill_(epoch)

    def __getitem__(self, index: int) -> Batch:
        """A batch of the one sample `index`."""
        return self.__getitems__([index])

    def __getitems__(self, indices: Sequence[int]) -> Batch:
        """The batch of samples `indices`, in the current epoch."""
        repeated = [index for index in indices for _ in range(self.views_per_photo)]
        views: list[View] = []
        for index in indices:
            steps = [_VIEW_STEP * number for number in range(self.views_per_photo)]
            shown = [self.view(index, self.epoch + step) for step in steps]
            if self.mirrors_in_turn:
                shown = [mirrored_in_turn(view, shown[0], n) for n, view in enumerate(shown)]
            views += shown
        return self.batch(repeated, views, self.pixels(repeated, views))

    @property
    def mirrors_in_turn(self) -> bool:
        """Whether every second view of a photo is mirrored the other way than the first.

        Then two views tell left from right for sure, not in half of the pairs alone.
        """
        return self.views_per_photo > 1 and self.augmentation is not None and self.augmentation.flip

    def view(self, index: int, epoch: int, seed: int | None = None) -> View:
        """What of the photo is shown in `epoch`; `seed` None is that of the data set."""
        photo = self.photos[index]
        region = photo.region or (-0.5, -0.5, photo.size[0] - 0.5, photo.size[1] - 0.5)
        margin = 0.0 if photo.avoided else self.appearance.margin
        unchanged = view_of(region, photo.size, margin)
        if self.augmentation is None:
            return unchanged
        source = random_source(self.seed if seed is None else seed, epoch, photo.sample_id)
        for _ in range(_TRIES if photo.avoided else 1):
            view = random_view(region, photo.size, margin, self.augmentation, source)
            if photo.avoided is None or is_background(view.box(), photo.avoided):
                return view
        return unchanged._replace(flip=view.flip)

    def pixels(self, indices: Sequence[int], views: Sequence[View]) -> Tensor:
        """Network input of views of the samples, float ``(N, 3, H, W)``."""
        drawn = [self._drawn(index, view) for index, view in zip(indices, views, strict=True)]
        return normalised(torch.stack(drawn), self.appearance.mean, self.appearance.std)

    def batch(self, indices: Sequence[int], views: Sequence[View], images: Tensor) -> Batch:
        """Images and annotations of views of the samples; no pixels are read here.

        With several views per photo the annotations are their transforms and boxes, without
        parts: only training batches are of that kind.
        """
        photos = [self.photos[index] for index in indices]
        size = self.appearance.image_size
        nowhere = (np.nan,) * 4
        boxes = np.stack(
            [
                view.move_boxes(np.array(photo.box or nowhere), size)
                for photo, view in zip(photos, views, strict=True)
            ]
        )
        common = ImageBatch(
            images=images,
            labels=torch.tensor([photo.label for photo in photos]),
            sample_ids=torch.tensor([photo.sample_id for photo in photos]),
            boxes=torch.from_numpy(boxes).float(),
            prefix_activations=torch.zeros(len(photos), 0, 0, 0),
        )
        if self.views_per_photo > 1:
            transforms = np.stack([view.transform(size) for view in views])
            return ViewBatch(*common, view_transforms=torch.from_numpy(transforms).float())
        if not self.appearance.with_parts:
            return common
        moved = [self._parts(photo, view) for photo, view in zip(photos, views, strict=True)]
        return PartBatch(
            *common,
            part_locations=torch.from_numpy(np.stack([points for points, _ in moved])).float(),
            part_boxes=torch.from_numpy(np.stack([boxes for _, boxes in moved])).float(),
            part_masks=torch.zeros(len(photos), 0, 0, 0, dtype=torch.bool),
        )

    def _parts(self, photo: Photo, view: View) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Locations and boxes of the parts in the view; mirrored parts change their names."""
        order = np.arange(len(photo.part_locations))
        if view.flip:
            for left, right in self.appearance.flip_pairs:
                order[[left, right]] = right, left
        size = self.appearance.image_size
        locations = view.move_points(photo.part_locations, size)[order]
        return locations, view.move_boxes(photo.part_boxes, size)[order]

    def _drawn(self, index: int, view: View) -> Tensor:
        """One view as uint8 pixels, remembered where that saves work."""
        photo, size = self.photos[index], self.appearance.image_size
        if not self.in_memory:
            return view.render(read_photo(photo), size)
        if self.augmentation is None:
            if index not in self._kept:
                self._kept[index] = view.render(read_photo(photo), size)
            return self._kept[index]
        if photo.path not in self._kept:
            self._kept[photo.path] = read_photo(photo)
        return view.render(self._kept[photo.path], size)

    def bytes_in_memory(self) -> int:
        """What `in_memory` takes once all is decoded."""
        if self.augmentation is None:
            return 3 * self.appearance.image_size**2 * len(self)
        sizes = {photo.path: photo.size for photo in self.photos}
        return sum(3 * width * height for width, height in sizes.values())

    def __getstate__(self) -> dict[str, Any]:
        """Without decoded photos, which each worker process decodes for itself."""
        return {**self.__dict__, "_kept": {}}
