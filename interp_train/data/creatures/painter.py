"""Rasterises placed shapes: one map of shape indices, then colour, texture and light per pixel.

Shapes are filled back to front into a map of indices at `OVERSAMPLING` times the resolution, so
the cost of a shape is that of one polygon fill. A pixel that shows one shape of scenery has the
colour of that shape at its height; every other pixel is the mean over its samples, whose colours
are computed for all of them at once from tables of the shapes. The index at a pixel's centre is the
ground truth.
"""

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

from interp_train.data.creatures.anatomy import Matrix, Piece
from interp_train.data.creatures.outlines import NUM_VERTICES, Outline
from interp_train.data.creatures.palette import Colour, colour_indices
from interp_train.data.creatures.samples import (
    OVERSAMPLING,
    FloatArray,
    IndexArray,
    IndexMap,
    Samples,
    means,
)
from interp_train.data.creatures.scenery import Layer
from interp_train.data.creatures.shading import NUM_COEFFICIENTS, coefficients, piece_colours

SHADOW_STRENGTH = 80
CONTOUR_DARKNESS = 0.4

MAX_SHAPES = 255

# Kinds of shapes, for the painter.
_SCENERY, _PLAIN, _PATTERNED = range(3)

_GAINS = np.array([1.0, CONTOUR_DARKNESS], dtype=np.float32)  # of the light, on a contour

Planes = NDArray[np.uint8]
"""Red, green, blue and the share of scenery (255 = all), ``(4, H * W)``."""


class Painting(NamedTuple):
    """A finished picture and the index of the shape that is visible at each pixel's centre.

    Attributes:
        image: uint8 ``(H, W, 3)``.
        shape_map: uint8 ``(H, W)``.
    """

    image: NDArray[np.uint8]
    shape_map: IndexMap


class Canvas:
    """Collects shapes from back to front and paints them.

    Shapes of scenery are graded from top to bottom; the pieces of creatures and loose parts have
    texture, rounded light, a contour line and a soft shadow.
    """

    def __init__(self) -> None:
        self._outlines: list[Outline] = []
        self._matrices: list[Matrix] = []
        self._groups: list[int] = []
        self._colours: list[Colour] = []
        self._codes: list[tuple[int, int, int]] = []  # object, part, texture
        self._grades: list[tuple[float, ...]] = []
        self._grade_rows: list[int] = []
        self._coefficients: list[tuple[float, ...]] = []
        self._piece_rows: list[int] = []
        self._next_group = 1

    def __len__(self) -> int:
        """Number of shapes so far."""
        return len(self._outlines)

    def add_layers(self, layers: list[Layer], first_object: int) -> None:
        """Add scenery; its object concept is `first_object` + its index in `SCENERY_NAMES`."""
        for layer in layers[: MAX_SHAPES - len(self)]:
            self._grade_rows.append(len(self))
            self._grades.append((*layer.top, *layer.bottom))
            self._outlines.append(layer.outline)
            self._matrices.append(layer.matrix)
            self._groups.append(0)
            self._colours.append(layer.top)
            self._codes.append((first_object + layer.concept, 0, 0))

    def add_pieces(
        self, pieces: list[Piece], placement: Matrix, concept: int, *, whole: bool
    ) -> None:
        """Add the pieces of one figure.

        Args:
            pieces: from back to front.
            placement: from the figure's coordinates to the unit square.
            concept: their object concept.
            whole: whether they are parts of a creature, or lie around loose.
        """
        unit = math.hypot(*placement[2:4])
        for piece in pieces[: MAX_SHAPES - len(self)]:
            matrix = compose(placement, piece.matrix)
            self._piece_rows.append(len(self))
            self._coefficients.append(coefficients(piece, matrix, unit))
            self._outlines.append(piece.outline)
            self._matrices.append(matrix)
            self._groups.append((self._next_group + piece.group) % 255 + 1)
            self._colours.append(piece.paint.base)
            part = 1 + piece.part if whole else 0
            self._codes.append((concept, part, 1 + piece.paint.texture))
        self._next_group += 1 + max((piece.group for piece in pieces), default=0)

    def concepts(self) -> NDArray[np.uint8]:
        """Rows object, part, colour, texture: value of each shape, ``(4, 256)``; 0 = none."""
        table = np.zeros((4, 256), dtype=np.uint8)
        table[(0, 1, 3), : len(self)] = np.array(self._codes, dtype=np.uint8).T
        table[2, : len(self)] = 1 + colour_indices(np.array(self._colours))
        return table

    def paint(self, image_size: int, camera: Matrix) -> Painting:
        """Paint everything.

        Args:
            image_size: side of the square picture in pixels.
            camera: from the unit square to the visible unit square.
        """
        samples = Samples(self._rasterise(image_size * OVERSAMPLING, camera), camera)
        grades = self._graded(image_size)
        address = np.multiply(samples.shape_map, image_size, dtype=np.intp)
        address += np.arange(image_size)[:, None]
        planes = np.empty((4, image_size, image_size), dtype=np.uint8)
        for plane, grade in zip(planes, grades, strict=True):
            grade.take(address, out=plane, mode="clip")
        self._paint_pieces(planes.reshape(4, -1), samples, grades)
        picture = _shadowed(planes) if self._piece_rows else planes[:3]
        return Painting(np.ascontiguousarray(picture.transpose(1, 2, 0)), samples.shape_map)

    def _rasterise(self, side: int, camera: Matrix) -> IndexMap:
        outlines = np.concatenate(self._outlines).reshape(-1, NUM_VERTICES, 2)
        matrices = np.array(self._matrices, dtype=np.float32)
        points = outlines @ matrices[:, 2:].reshape(-1, 2, 2) + matrices[:, None, :2]
        points *= np.float32(camera[2] * side)
        points += np.array(camera[:2], dtype=np.float32) * side - 0.5
        self._tops, self._bottoms = points[:, :, 1].min(axis=1), points[:, :, 1].max(axis=1)
        image = Image.new("L", (side, side))  # shape 0, the sky, is everywhere
        draw = ImageDraw.Draw(image)
        vertices = np.rint(points).reshape(len(outlines), -1).tolist()
        for index, polygon in enumerate(vertices[1:], 1):
            draw.polygon(polygon, fill=index)
        return np.asarray(image)

    def _graded(self, image_size: int) -> NDArray[np.uint8]:
        """Colour of each shape of scenery in each row of pixels, ``(4, shapes, H)``.

        The fourth is 255, the share of scenery; pieces are 0.
        """
        rows = np.array(self._grade_rows)
        grades = np.array(self._grades, dtype=np.float32).T[:, :, None]
        top, bottom = self._tops[rows, None], self._bottoms[rows, None]
        # Rows of pixels, not of samples: gradients are smooth.
        lines = np.arange(image_size, dtype=np.float32) * OVERSAMPLING + 1
        height = np.minimum(np.maximum((lines - top) / np.maximum(bottom - top, 1.0), 0.0), 1.0)
        table = np.zeros((4, len(self), image_size), dtype=np.uint8)
        table[:3, rows] = grades[:3] + (grades[3:] - grades[:3]) * height
        table[3, rows] = 255
        return table

    def _paint_pieces(self, planes: Planes, samples: Samples, grades: NDArray[np.uint8]) -> None:
        """Paint the pixels that show a piece, or several shapes."""
        table = np.zeros((len(self), NUM_COEFFICIENTS), dtype=np.float32)
        if self._piece_rows:
            table[self._piece_rows] = self._coefficients
        kinds, groups = np.zeros((2, 256), dtype=np.uint8)
        kinds[: len(self)] = np.minimum([texture for _, _, texture in self._codes], _PATTERNED)
        groups[: len(self)] = self._groups
        look = _Look(np.ascontiguousarray(table.T), kinds, samples.borders(groups))
        _paint_solid(planes, samples, look)
        _paint_mixed(planes, samples, look, grades)


class _Look(NamedTuple):
    """What pieces look like.

    Attributes:
        table: see `piece_colours`.
        kinds: of shapes, ``(256,)``.
        borders: whether a sample lies on a contour, flat.
    """

    table: FloatArray
    kinds: NDArray[np.uint8]
    borders: NDArray[np.bool_]

    def gains(self, indices: IndexArray) -> FloatArray:
        """Factor of the light at samples, by their flat indices."""
        gains: FloatArray = _GAINS.take(self.borders.take(indices).view(np.uint8), mode="clip")
        return gains


def _paint_solid(planes: Planes, samples: Samples, look: _Look) -> None:
    """Paint the pixels that show one piece: all samples of a pixel share its coefficients."""
    kind = look.kinds.take(samples.shape_map) * samples.solid  # else 0, as scenery
    plain, patterned = np.flatnonzero(kind == _PLAIN), np.flatnonzero(kind == _PATTERNED)
    pixels = np.concatenate([plain, patterned])
    indices, x, y = samples.of(pixels)
    shapes = samples.shape_map.ravel().take(pixels).astype(np.intp)
    gains = look.gains(indices)
    colours = piece_colours(look.table, shapes, len(plain), (x, y), gains)
    for plane, mean in zip(planes, means(colours.reshape(3, OVERSAMPLING**2, -1)), strict=False):
        plane[pixels] = mean


def _paint_mixed(planes: Planes, samples: Samples, look: _Look, grades: NDArray[np.uint8]) -> None:
    """Paint the pixels that show several shapes, sample by sample."""
    pixels, size = np.flatnonzero(~samples.solid), grades.shape[2]
    indices, x, y = samples.of(pixels)
    shapes = samples.shapes.ravel().take(indices.ravel()).astype(np.intp)
    kind = look.kinds.take(shapes)
    plain, patterned, scenery = (
        np.flatnonzero(kind == wanted) for wanted in (_PLAIN, _PATTERNED, _SCENERY)
    )
    pieces = np.concatenate([plain, patterned])
    x, y = (np.broadcast_to(line, indices.shape).ravel().take(pieces) for line in (x, y))
    gains = look.gains(indices.ravel().take(pieces))
    colours = piece_colours(look.table, shapes.take(pieces), len(plain), (x, y), gains)
    painted = np.zeros((4, len(shapes)), dtype=np.float32)
    for channel, colour in zip(painted, colours, strict=False):
        channel[pieces] = colour
    address = shapes.take(scenery) * size + (pixels // size).take(scenery % len(pixels))
    for channel, grade in zip(painted, grades, strict=True):
        channel[scenery] = grade.take(address)
    for plane, mean in zip(planes, means(painted.reshape(4, OVERSAMPLING**2, -1)), strict=True):
        plane[pixels] = mean


def compose(outer: Matrix, inner: Matrix) -> Matrix:
    """The matrix that applies `inner` first, then `outer`."""
    x, y, ax, ay, bx, by = outer
    ix, iy, iax, iay, ibx, iby = inner
    return (
        x + ix * ax + iy * bx, y + ix * ay + iy * by,
        iax * ax + iay * bx, iax * ay + iay * by,
        ibx * ax + iby * bx, ibx * ay + iby * by,
    )  # fmt: skip


def _shadowed(planes: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The picture ``(3, H, W)`` with a soft shadow of its figures on the scenery."""
    scenery, size = planes[3], planes.shape[1]
    blur = ImageFilter.BoxBlur(size / 45)
    soft = np.asarray(Image.fromarray(255 - scenery).filter(blur).filter(blur))
    down = round(size / 40)
    aside = down // 2
    strength = np.zeros(scenery.shape, dtype=np.uint32)
    strength[down:, aside:] = soft[: size - down, : size - aside]
    strength *= scenery
    light = (256 - (strength * SHADOW_STRENGTH >> 16)).astype(np.uint16)
    return (planes[:3] * light >> 8).astype(np.uint8)
