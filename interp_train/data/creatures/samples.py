"""Samples of a picture: where they lie, which shapes they show, and their means per pixel."""

import numpy as np
from numpy.typing import NDArray

from interp_train.data.creatures.anatomy import Matrix

# Samples per pixel along each axis. Odd, so that one lies at each pixel's centre.
OVERSAMPLING = 3

FloatArray = NDArray[np.float32]
IndexArray = NDArray[np.intp]
IndexMap = NDArray[np.uint8]

_STEPS = np.arange(OVERSAMPLING)


class Samples:
    """What a camera sees of a canvas, as a map of shapes with `OVERSAMPLING`² samples per pixel.

    Args:
        shapes: index of the shape at each sample, uint8 ``(S * size, S * size)``.
        camera: from the unit square to the visible unit square.

    Attributes:
        shapes: see above.
        shape_map: index of the shape at each pixel's centre, uint8 ``(size, size)``.
        solid: whether all samples of a pixel show one shape, bool ``(size, size)``.
    """

    def __init__(self, shapes: IndexMap, camera: Matrix) -> None:
        self.shapes = shapes
        centre = OVERSAMPLING // 2
        self.shape_map = np.ascontiguousarray(shapes[centre::OVERSAMPLING, centre::OVERSAMPLING])
        self.solid = _is_solid(shapes)
        zoom = np.float32(1 / (camera[2] * len(shapes)))
        line = (np.arange(len(shapes), dtype=np.float32) + 0.5) * zoom
        self._x, self._y = (
            (line - np.float32(start / camera[2])).reshape(-1, OVERSAMPLING).T
            for start in camera[:2]
        )

    def of(self, pixels: IndexArray) -> tuple[IndexArray, FloatArray, FloatArray]:
        """The samples of M pixels, rows by columns of samples by pixels.

        Args:
            pixels: flat indices of the pixels, ``(M,)``.

        Returns:
            Flat indices into `shapes`, ``(S, S, M)``; x and y in the unit square, ``(1, S, M)``
            and ``(S, 1, M)``.
        """
        row, column = np.divmod(pixels, len(self.shape_map))
        side = len(self.shapes)
        first = (row * side + column) * OVERSAMPLING
        indices = first + (_STEPS[:, None] * side + _STEPS)[:, :, None]
        return indices, self._x.take(column, axis=1)[None], self._y.take(row, axis=1)[:, None]

    def borders(self, groups: NDArray[np.uint8]) -> NDArray[np.bool_]:
        """Whether each sample has a neighbour of another group, flat.

        Args:
            groups: group of each shape, ``(256,)``.
        """
        shapes, side = self.shapes.ravel(), len(self.shapes)
        border = np.zeros(len(shapes), dtype=bool)
        for step in (1, side):
            changes = shapes[step:] != shapes[:-step]
            if step == 1:
                changes[side - 1 :: side] = False  # from the end of a row to the next one
            at = np.flatnonzero(changes)
            at = at[groups.take(shapes.take(at)) != groups.take(shapes.take(at + step))]
            border[at] = border[at + step] = True
        return border


def _is_solid(shapes: IndexMap) -> NDArray[np.bool_]:
    size = len(shapes) // OVERSAMPLING
    rows = shapes.reshape(size, OVERSAMPLING, -1)
    first = rows[:, 0]
    same = rows[:, 1] == first
    for row in range(2, OVERSAMPLING):
        same &= rows[:, row] == first
    solid: NDArray[np.bool_] = same[:, ::OVERSAMPLING].copy()
    for column in range(1, OVERSAMPLING):
        solid &= same[:, column::OVERSAMPLING]
        solid &= first[:, column::OVERSAMPLING] == first[:, ::OVERSAMPLING]
    return solid


def means(colours: FloatArray) -> NDArray[np.uint8]:
    """Mean over the samples of each pixel, rounded as by Pillow's ``Image.reduce``.

    Args:
        colours: 0 to 255, of which the whole part counts, ``(C, S * S, M)``.

    Returns:
        ``(C, M)``.
    """
    count = colours.shape[1]
    sums = colours.astype(np.uint16).sum(axis=1, dtype=np.uint16).astype(np.uint32)
    rounded = (sums + count // 2) * np.uint32(2**32 // (256 * count)) >> 24
    found: NDArray[np.uint8] = rounded.astype(np.uint8)
    return found
