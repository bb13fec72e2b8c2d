"""Random changes of a training picture that keep its landmarks and part map exact.

A picture is mirrored and displaced by whole pixels and keeps its size, so every pixel and every
label of the part map is one of the drawing. A `View` of a photo (`interp_train.data.views`) is
cropped and resized instead, which a map of labels does not survive exactly.
"""

import random
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray


class PictureAugmentation(NamedTuple):
    """Random changes of a training picture.

    Attributes:
        flip: mirror half of the pictures.
        shift: largest displacement along each axis, in pixels.
        colour_jitter: largest relative change of each channel's gain, and of its offset.
    """

    flip: bool = True
    shift: int = 4
    colour_jitter: float = 0.15


class Change(NamedTuple):
    """One picture's augmentation.

    Attributes:
        flip: whether left and right are exchanged.
        shift: displacement along x and y, in pixels, after the flip.
        gains: factor of each channel.
        offsets: added to each channel, in [0, 1] units.
    """

    flip: bool
    shift: tuple[int, int]
    gains: tuple[float, float, float]
    offsets: tuple[float, float, float]

    def move(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """The moved picture ``(H, W, ...)``; its edge is repeated where nothing was."""
        size = image.shape[0]
        rows, columns = (np.clip(np.arange(size) - by, 0, size - 1) for by in self.shift[::-1])
        if self.flip:
            columns = size - 1 - columns
        return image.take(rows, axis=0).take(columns, axis=1)

    def move_map(self, part_map: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """The moved map ``(H, W)``; 0 where nothing was."""
        moved, (x, y) = self.move(part_map), self.shift
        size = moved.shape[0]
        moved[: max(y, 0)] = moved[size + min(y, 0) :] = 0
        moved[:, : max(x, 0)] = moved[:, size + min(x, 0) :] = 0
        return moved

    def move_points(self, points: NDArray[np.float32], size: int) -> NDArray[np.float32]:
        """The moved landmarks ``(P, 2)``; NaN where they leave the picture."""
        moved = points.copy()
        if self.flip:
            moved[:, 0] = size - 1 - moved[:, 0]
        moved += np.array(self.shift, dtype=np.float32)
        outside = ((moved < -0.5) | (moved > size - 0.5)).any(axis=1)
        moved[outside] = np.nan
        return moved


def draw_change(rng: random.Random, augmentation: PictureAugmentation) -> Change:
    """A random change within the bounds of `augmentation`."""
    flip = augmentation.flip and rng.random() < 0.5
    span = 2 * augmentation.shift + 1
    shift = tuple(int(rng.random() * span) - augmentation.shift for _ in range(2))
    jitter = augmentation.colour_jitter
    gains = tuple(1 + jitter * (2 * rng.random() - 1) for _ in range(3))
    offsets = tuple(0.5 * jitter * (2 * rng.random() - 1) for _ in range(3))
    return Change(flip, shift, gains, offsets)  # type: ignore[arg-type]
