"""Views of a photo: a crop, resized to the network's input, perhaps mirrored and turned.

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
from torch import Tensor, nn
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
        angle: by how much the network's input is then turned about its middle, in degrees,
            clockwise; the corners that come in show the view's border once more, mirrored.
    """

    left: int
    top: int
    width: int
    height: int
    flip: bool = False
    angle: float = 0.0

    def render(self, photo: Tensor, size: int) -> Tensor:
        """The view, uint8 ``(C, size, size)``, of a photo ``(C, H, W)``; resized with antialias."""
        cropped = transforms.crop(photo, self.top, self.left, self.height, self.width)
        if self.flip:
            cropped = transforms.horizontal_flip(cropped)
        resized: Tensor = transforms.resize(
            cropped, [size, size], interpolation=InterpolationMode.BILINEAR, antialias=True
        )
        return turned(resized, self.angle) if self.angle else resized

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
        straight = np.column_stack([np.diag(scale), shift])
        if not self.angle:
            return straight
        both: NDArray[np.float64] = self._turn(size) @ np.vstack([straight, [0, 0, 1]])
        return both

    def move_points(self, points: NDArray[np.float64], size: int) -> NDArray[np.float64]:
        """Photo coordinates ``(..., 2)`` -> view coordinates; NaN where outside the view."""
        moved = self._scaled(points, size)
        outside = ((moved < -0.5) | (moved > size - 0.5)).any(axis=-1)
        moved[outside] = np.nan
        return moved

    def move_boxes(self, boxes: NDArray[np.float64], size: int) -> NDArray[np.float64]:
        """Boxes ``(..., 4)`` in the view, cut at its edge; NaN where nothing is left.

        Of a box that is turned, the upright box around it.
        """
        ends = boxes.reshape(*boxes.shape[:-1], 2, 2)
        around = np.stack([ends[..., [0, 0, 1, 1], 0], ends[..., [0, 1, 0, 1], 1]], axis=-1)
        around = self._scaled(around, size)
        extent = np.stack([around.min(axis=-2), around.max(axis=-2)], axis=-2)
        corners: NDArray[np.float64] = np.clip(extent, -0.5, size - 0.5)
        gone = (corners[..., 1, :] - corners[..., 0, :] <= 0).any(axis=-1)
        corners[gone] = np.nan
        return corners.reshape(boxes.shape)

    def _scaled(self, points: NDArray[np.float64], size: int) -> NDArray[np.float64]:
        corner = np.array([self.left, self.top], dtype=np.float64)
        extent = np.array([self.width, self.height], dtype=np.float64)
        moved = (points + 0.5 - corner) * (size / extent) - 0.5
        if self.flip:
            moved[..., 0] = size - 1 - moved[..., 0]
        if self.angle:
            turn = self._turn(size)
            moved[...] = moved @ turn[:, :2].T + turn[:, 2]
        return moved

    def _turn(self, size: int) -> NDArray[np.float64]:
        """Matrix ``(2, 3)`` that turns the upright view's coordinates."""
        angle, middle = math.radians(self.angle), (size - 1) / 2
        turn = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
        return np.column_stack([turn, middle - turn @ [middle, middle]])


def turned(pixels: Tensor, angle: float) -> Tensor:
    """Square uint8 pixels ``(C, size, size)`` turned about their middle, in degrees, clockwise."""
    turn = math.radians(angle)
    cos, sin = math.cos(turn), math.sin(turn)
    back = torch.tensor([[[cos, sin, 0.0], [-sin, cos, 0.0]]])
    grid = nn.functional.affine_grid(back, [1, *pixels.shape], align_corners=False)
    found = nn.functional.grid_sample(
        pixels[None].float(), grid, padding_mode="reflection", align_corners=False
    )
    return found[0].round().to(pixels.dtype)


class ViewAugmentation(NamedTuple):
    """Random changes of a training view: where the photo is cropped, before it is resized.

    Attributes:
        flip: mirror half of the views.
        scale: the crop's extent is multiplied by a log-uniform number of this range.
        aspect: largest relative change of width against height.
        shift: largest displacement of the crop, as a share of the object box.
        rotation: largest turn in either direction, in degrees; half of the views stay upright,
            since those that a network is measured on are.
    """

    flip: bool = False
    scale: tuple[float, float] = (1.0, 1.0)
    aspect: float = 0.0
    shift: float = 0.0
    rotation: float = 0.0


def check_augmentation(
    flip: bool, scale: Sequence[float], aspect: float, shift: float, rotation: float = 0.0
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
    check_range("rotation", rotation, 0.0, 180.0)
    return ViewAugmentation(flip, (scale[0], scale[1]), aspect, shift, rotation)


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
    """A random change of `view_of`; draws equally many random numbers each time."""
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
    turn = 2 * source.uniform(-1, 1) if augmentation.rotation else 0.0
    angle = math.copysign(max(abs(turn) - 1, 0.0), turn) * augmentation.rotation
    return _inside(crop, photo_size)._replace(flip=flip, angle=angle)


def mirrored_in_turn(view: View, first: View, number: int) -> View:
    """View `number` of a photo: mirrored like view 0 where even, the other way where odd."""
    return view._replace(flip=first.flip ^ (number % 2 == 1))


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
