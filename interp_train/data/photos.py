"""Photos with annotations as a data set: whole batches at once, checked before they are used."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from interp_train.checks import check_choice
from interp_train.data.views import (
    Augmentation,
    Box,
    View,
    normalised,
    random_source,
    random_view,
    view_of,
)
from interp_train.structures import Batch, ImageBatch, PartBatch

logger = logging.getLogger(__name__)

ON_ERROR = ("raise", "skip")
UNKNOWN_SIZE = (0, 0)


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


def read_photo(path: Path, where: str) -> Tensor:
    """An image file as uint8 ``(3, H, W)``.

    Raises:
        ValueError: if the file is no readable image; names the file and the annotation's line.
    """
    try:
        with Image.open(path) as image:
            pixels = np.array(image.convert("RGB"))
    except (OSError, SyntaxError, ValueError) as error:
        raise ValueError(
            f"each image must be readable, but {str(path)!r} ({where}) is not: {error}. Replace "
            f"the file, or set `on_error: skip` to leave such images out."
        ) from error
    return torch.from_numpy(pixels).permute(2, 0, 1)


def checked_photos(photos: Sequence[Photo], on_error: str) -> list[Photo]:
    """The photos with their sizes, each image file opened once.

    Args:
        photos: those that have a size already are not opened again.
        on_error: ``"raise"`` at the first unreadable image; ``"skip"`` decodes every image, leaves
            out unreadable ones and reports them.

    Raises:
        ValueError: for an unreadable image, or if none is left.
    """
    check_choice("on_error", on_error, ON_ERROR)
    sizes: dict[Path, tuple[int, int] | ValueError] = {}
    kept, skipped = [], []
    for photo in photos:
        if photo.path not in sizes:
            known = photo.size if photo.size != UNKNOWN_SIZE else None
            sizes[photo.path] = known or _size_or_error(photo, decode=on_error == "skip")
        size = sizes[photo.path]
        if not isinstance(size, ValueError):
            kept.append(photo._replace(size=size))
        elif on_error == "raise":
            raise size
        else:
            skipped.append(f"{photo.path} ({photo.where})")
    if skipped:
        names = "\n  ".join(dict.fromkeys(skipped))
        logger.warning("Left out %d samples of unreadable images:\n  %s", len(skipped), names)
    if not kept:
        raise ValueError(f"the data must hold readable images, but none of {len(photos)} is.")
    return kept


def _size_or_error(photo: Photo, decode: bool) -> tuple[int, int] | ValueError:
    if not photo.path.is_file():
        return ValueError(
            f"each annotated image must exist, but {str(photo.path)!r} ({photo.where}) does not. "
            f"Complete the folder, or set `on_error: skip` to leave such images out."
        )
    try:
        with Image.open(photo.path) as image:
            if decode:
                image.load()
            return image.size
    except (OSError, SyntaxError, ValueError) as error:
        return ValueError(
            f"each image must be readable, but {str(photo.path)!r} ({photo.where}) is not: "
            f"{error}. Replace the file, or set `on_error: skip` to leave such images out."
        )


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
    """

    def __init__(
        self,
        photos: Sequence[Photo],
        appearance: Appearance,
        *,
        augmentation: Augmentation | None = None,
        seed: int = 0,
        in_memory: bool = True,
    ) -> None:
        self.photos = tuple(photos)
        self.appearance = appearance
        self.augmentation = augmentation
        self.seed = seed
        self.in_memory = in_memory
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
        views = [self.view(index, self.epoch) for index in indices]
        return self.batch(indices, views, self.pixels(indices, views))

    def view(self, index: int, epoch: int) -> View:
        """What of the photo is shown in `epoch`."""
        photo = self.photos[index]
        region = photo.region or (-0.5, -0.5, photo.size[0] - 0.5, photo.size[1] - 0.5)
        if self.augmentation is None:
            return view_of(region, photo.size, self.appearance.margin)
        source = random_source(self.seed, epoch, photo.sample_id)
        return random_view(region, photo.size, self.appearance.margin, self.augmentation, source)

    def pixels(self, indices: Sequence[int], views: Sequence[View]) -> Tensor:
        """Network input of views of the samples, float ``(N, 3, H, W)``."""
        drawn = [self._drawn(index, view) for index, view in zip(indices, views, strict=True)]
        return normalised(torch.stack(drawn), self.appearance.mean, self.appearance.std)

    def batch(
        self, indices: Sequence[int], views: Sequence[View], images: Tensor
    ) -> ImageBatch | PartBatch:
        """Images and annotations of views of the samples; no pixels are read here."""
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
            return view.render(read_photo(photo.path, photo.where), size)
        if self.augmentation is None:
            if index not in self._kept:
                self._kept[index] = view.render(read_photo(photo.path, photo.where), size)
            return self._kept[index]
        if photo.path not in self._kept:
            self._kept[photo.path] = read_photo(photo.path, photo.where)
        return view.render(self._kept[photo.path], size)


def whole_batch(batch: Any) -> Any:
    """Collate function of loaders whose data sets make whole batches."""
    return batch
