"""Views of a photo: a crop, resized to the network's input and perhaps mirrored.

One `View` moves the pixels and every coordinate alike, so that landmarks and boxes stay on what
they mark. Coordinates have pixel centres at integers, so that the photo reaches from -0.5 to
width - 0.5.
"""

import math
import random
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as transforms

from interp_train.checks import check_range

Box = tuple[float, float, float, float]


class View(NamedTuple):
    """A crop of a photo as the network sees it.

    Attributes:
        left: first column of the photo inside the crop.
        top: first row.
        width: columns of the crop.
        height: rows of the crop.
        flip: whether left and right are exchanged, after cropping.
    """

    left: int
    top: int
    width: int
    height: int
    flip: bool = False

    def render(self, photo: Tensor, size: int) -> Tensor:
        """The view, uint8 ``(C, size, size)``, of a photo ``(C, H, W)``; resized with antialias."""
        cropped = transforms.crop(photo, self.top, self.left, self.height, self.width)
        if self.flip:
            cropped = transforms.horizontal_flip(cropped)
        resized: Tensor = transforms.resize(
            cropped, [size, size], interpolation=InterpolationMode.BILINEAR, antialias=True
        )
        return resized

    def box(self) -> Box:
        """What the view shows, in the photo's pixels."""
        right, bottom = self.left + self.width - 0.5, self.top + self.height - 0.5
        return self.left - 0.5, self.top - 0.5, right, bottom

    def transform(self, size: int) -> NDArray[np.float64]:
        """Matrix ``(2, 3)`` that takes a photo coordinate ``(x, y, 1)`` to the view."""
        scale = size / np.array([self.width, self.height], dtype=np.float64)
        shift = (0.5 - np.array([self.left, self.top])) * scale - 0.5
        if self.flip:
            scale[0], shift[0] = -scale[0], size - 1 - shift[0]
        return np.column_stack([np.diag(scale), shift])

    def move_points(self, points: NDArray[np.float64], size: int) -> NDArray[np.float64]:
        """Photo coordinates ``(..., 2)`` -> view coordinates; NaN where outside the view."""
        moved = self._scaled(points, size)
        outside = ((moved < -0.5) | (moved > size - 0.5)).any(axis=-1)
        moved[outside] = np.nan
        return moved

    def move_boxes(self, boxes: NDArray[np.float64], size: int) -> NDArray[np.float64]:
        """Boxes ``(..., 4)`` in the view, cut at its edge; NaN where nothing is left."""
        corners = self._scaled(boxes.reshape(*boxes.shape[:-1], 2, 2), size)
        if self.flip:
            corners[..., 0] = corners[..., ::-1, 0].copy()
        corners = np.clip(corners, -0.5, size - 0.5)
        gone = (corners[..., 1, :] - corners[..., 0, :] <= 0).any(axis=-1)
        corners[gone] = np.nan
        return corners.reshape(boxes.shape)

    def _scaled(self, points: NDArray[np.float64], size: int) -> NDArray[np.float64]:
        corner = np.array([self.left, self.top], dtype=np.float64)
        extent = np.array([self.width, self.height], dtype=np.float64)
        moved = (points + 0.5 - corner) * (size / extent) - 0.5
        if self.flip:
            moved[..., 0] = size - 1 - moved[..., 0]
        return moved


class ViewAugmentation(NamedTuple):
    """Random changes of a training view: where the photo is cropped, before it is resized.

    Attributes:
        flip: mirror half of the views.
        scale: the crop's extent is multiplied by a log-uniform number of this range.
        aspect: largest relative change of width against height.
        shift: largest displacement of the crop, as a share of the object box.
    """

    flip: bool = False
    scale: tuple[float, float] = (1.0, 1.0)
    aspect: float = 0.0
    shift: float = 0.0


def check_augmentation(
    flip: bool, scale: Sequence[float], aspect: float, shift: float
) -> ViewAugmentation:
    """A `ViewAugmentation` of checked numbers.

    Raises:
        ValueError: for a number out of its range.
    """
    if len(scale) != 2 or not 0 < scale[0] <= scale[1]:
        raise ValueError(
            f"`scale` must be a pair 0 < smallest <= largest, but got {list(scale)}. "
            f"[1, 1] leaves the size of the crop alone."
        )
    check_range("aspect", aspect, 0.0, 1.0)
    check_range("shift", shift, 0.0, 1.0)
    return ViewAugmentation(flip, (scale[0], scale[1]), aspect, shift)


def view_of(box: Box, photo_size: tuple[int, int], margin: float) -> View:
    """The crop around a box, `margin` times its extent wider on each side, inside the photo.

    Args:
        box: in the photo's pixels.
        photo_size: width and height.
        margin: share of the box's own width (height), added on each side.
    """
    width, height = box[2] - box[0], box[3] - box[1]
    return _inside(
        (
            box[0] - margin * width,
            box[1] - margin * height,
            box[2] + margin * width,
            box[3] + margin * height,
        ),
        photo_size,
    )


def random_view(
    box: Box,
    photo_size: tuple[int, int],
    margin: float,
    augmentation: ViewAugmentation,
    source: random.Random,
) -> View:
    """A random change of `view_of`; always draws the same number of random numbers."""
    low, high = augmentation.scale
    scale = math.exp(source.uniform(math.log(low), math.log(high))) * (1 + 2 * margin)
    # Half of the change goes to the width, half to the height.
    aspect = math.exp(source.uniform(-1, 1) * math.log1p(augmentation.aspect) / 2)
    width, height = box[2] - box[0], box[3] - box[1]
    x = (box[0] + box[2]) / 2 + source.uniform(-1, 1) * augmentation.shift * width
    y = (box[1] + box[3]) / 2 + source.uniform(-1, 1) * augmentation.shift * height
    flip = augmentation.flip and source.random() < 0.5
    half_width, half_height = width * scale * aspect / 2, height * scale / aspect / 2
    crop = (x - half_width, y - half_height, x + half_width, y + half_height)
    return _inside(crop, photo_size)._replace(flip=flip)


def _inside(crop: Box, photo_size: tuple[int, int]) -> View:
    """The crop in whole pixels, cut at the photo's edge, at least one pixel wide."""
    width, height = photo_size
    left = min(max(round(crop[0] + 0.5), 0), width - 1)
    top = min(max(round(crop[1] + 0.5), 0), height - 1)
    right = min(max(round(crop[2] + 0.5), left + 1), width)
    bottom = min(max(round(crop[3] + 0.5), top + 1), height)
    return View(left, top, right - left, bottom - top)


def normalised(views: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """Network input ``(N, C, H, W)`` of uint8 views of the same shape."""
    scale = 1 / (255 * torch.tensor(std))
    shift = -torch.tensor(mean) / torch.tensor(std)
    return torch.addcmul(shift[:, None, None], views.float(), scale[:, None, None])
