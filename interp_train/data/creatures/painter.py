"""Rasterises placed shapes: one map of shape indices, then colour, texture and light per pixel.

Shapes are filled back to front into a map of indices at `OVERSAMPLING` times the resolution, so
the cost of a shape is that of one polygon fill; colours are computed for all pixels at once from
tables with one row per shape, and averaged over each pixel. The index at a pixel's centre is the
ground truth.
"""

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

from interp_train.data.creatures.anatomy import Matrix, Piece
from interp_train.data.creatures.outlines import Outline
from interp_train.data.creatures.palette import Colour, Paint, colour_indices
from interp_train.data.creatures.scenery import Layer

# Odd, so that one sample lies at each pixel's centre.
OVERSAMPLING = 3

# Direction towards the light (x, y downwards).
LIGHT = (-0.5, -0.8)

SHADOW_STRENGTH = 80
CONTOUR_DARKNESS = 0.4

MAX_SHAPES = 255

_BAND = 48

FloatArray = NDArray[np.float32]
IndexMap = NDArray[np.uint8]

# Texture -> coefficients (zigzag, constant, product, threshold, grade) of the pattern
#   sin(p + zigzag * wave(q)) * (constant + product * sin(q)) > threshold, or grade * height.
_PATTERNS = (
    (0.0, 0.0, 0.0, 9.0, 0.0),
    (0.0, 1.0, 0.0, 0.1, 0.0),
    (0.0, 0.0, 1.0, 0.4, 0.0),
    (0.0, 0.0, 1.0, 0.0, 0.0),
    (0.0, 0.0, 0.0, 9.0, 1.0),
    (2.8, 1.0, 0.0, 0.1, 0.0),
)


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

    Attributes:
        parts: per shape, 1 + index of the creature's part, 0 for anything else.
        objects: per shape, index of its object concept; see `add_layers` and `add_pieces`.
        textures: per shape, 1 + index into `palette.TEXTURE_NAMES`; 0 for scenery.
    """

    def __init__(self) -> None:
        self.parts: list[int] = []
        self.objects: list[int] = []
        self.textures: list[int] = []
        self._outlines: list[Outline] = []
        self._matrices: list[Matrix] = []
        self._groups: list[int] = []
        self._colours: list[Colour] = []
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
            self._grades.append((*layer.top, 255.0, *layer.bottom, 255.0))
            self._outlines.append(layer.outline)
            self._matrices.append(layer.matrix)
            self._groups.append(0)
            self.parts.append(0)
            self.objects.append(first_object + layer.concept)
            self._colours.append(layer.top)
            self.textures.append(0)

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
        for piece in pieces[: MAX_SHAPES - len(self)]:
            matrix = compose(placement, piece.matrix)
            self._piece_rows.append(len(self))
            self._coefficients.append(_shading(piece, matrix, math.hypot(*placement[2:4])))
            self._outlines.append(piece.outline)
            self._matrices.append(matrix)
            self._groups.append((self._next_group + piece.group) % 255 + 1)
            self.parts.append(1 + piece.part if whole else 0)
            self.objects.append(concept)
            self._colours.append(piece.paint.base)
            self.textures.append(1 + piece.paint.texture)
        self._next_group += 1 + max((piece.group for piece in pieces), default=0)

    def concepts(self) -> NDArray[np.uint8]:
        """Rows object, part, colour, texture: value of each shape, ``(4, 256)``; 0 = none."""
        table = np.zeros((4, 256), dtype=np.uint8)
        colours = 1 + colour_indices(np.array(self._colours))
        table[:, : len(self)] = (self.objects, self.parts, colours, self.textures)
        return table

    def paint(self, image_size: int, camera: Matrix) -> Painting:
        """Paint everything.

        Args:
            image_size: side of the square picture in pixels.
            camera: from the unit square to the visible unit square.
        """
        side = image_size * OVERSAMPLING
        raster = self._rasterise(side, camera)
        shapes = np.asarray(raster)
        pixels = self._paint_scenery(shapes)
        if self._piece_rows:
            where = np.flatnonzero(pixels[:, :, 3] == 0)
            self._paint_pieces(pixels, shapes, where, camera, self._contour(raster))
        picture = Image.frombuffer("RGBX", (side, side), pixels, "raw", "RGBX", 0, 1)
        small = np.asarray(picture.reduce(OVERSAMPLING))
        centre = OVERSAMPLING // 2
        return Painting(
            _shadowed(small) if self._piece_rows else np.ascontiguousarray(small[:, :, :3]),
            np.ascontiguousarray(shapes[centre::OVERSAMPLING, centre::OVERSAMPLING]),
        )

    def _rasterise(self, side: int, camera: Matrix) -> Image.Image:
        outlines = np.stack(self._outlines)
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
        return image

    def _paint_scenery(self, shapes: IndexMap) -> NDArray[np.uint8]:
        """Colours of the scenery, ``(side, side, 4)``; all four 0 where a piece is visible."""
        side = len(shapes)
        rows = np.array(self._grade_rows)
        grades = np.array(self._grades, dtype=np.float32)
        top, bottom = self._tops[rows, None], self._bottoms[rows, None]
        # Rows of pixels, not of samples: gradients are smooth.
        lines = np.arange(side // OVERSAMPLING, dtype=np.float32) * OVERSAMPLING + 1
        height = np.clip((lines - top) / np.maximum(bottom - top, 1.0), 0.0, 1.0)[:, :, None]
        table = np.zeros((len(self), len(lines), 4), dtype=np.uint8)
        table[rows] = grades[:, None, :4] + (grades[:, None, 4:] - grades[:, None, :4]) * height
        colours = table.view(np.uint32).ravel()
        line_of = (np.arange(side) // OVERSAMPLING)[:, None]
        pixels = np.empty((side, side), dtype=np.uint32)
        for start in range(0, side, _BAND):  # bands stay in the processor's cache
            band = slice(start, start + _BAND)
            address = np.multiply(shapes[band], len(lines), dtype=np.intp)
            address += line_of[band]
            colours.take(address, out=pixels[band], mode="clip")
        return pixels.view(np.uint8).reshape(side, side, 4)

    def _contour(self, raster: Image.Image) -> NDArray[np.bool_]:
        """Samples on either side of a border between two groups."""
        groups = np.asarray(raster.point(self._groups + [0] * (256 - len(self))))
        edge = np.zeros(groups.shape, dtype=bool)
        across, down = groups[:, 1:] != groups[:, :-1], groups[1:] != groups[:-1]
        edge[:, 1:] |= across
        edge[:, :-1] |= across
        edge[1:] |= down
        edge[:-1] |= down
        return edge

    def _paint_pieces(
        self,
        pixels: NDArray[np.uint8],
        shapes: IndexMap,
        where: NDArray[np.intp],
        camera: Matrix,
        contour: NDArray[np.bool_],
    ) -> None:
        side = len(pixels)
        table = np.zeros((len(self), len(self._coefficients[0])), dtype=np.float32)
        table[self._piece_rows] = self._coefficients
        columns = np.ascontiguousarray(table.T)  # one row per coefficient
        shape = shapes.ravel().take(where).astype(np.intp)
        zoom = np.float32(1 / (camera[2] * side))
        samples = where.astype(np.float32)
        row = np.floor((samples + 0.5) * np.float32(1 / side))
        x = (samples - row * side + 0.5) * zoom - np.float32(camera[0] / camera[2])
        y = (row + 0.5) * zoom - np.float32(camera[1] / camera[2])

        def of(column: int) -> FloatArray:
            values: FloatArray = columns[column].take(shape)
            return values

        p = of(0) + of(1) * x + of(2) * y
        q = of(3) + of(4) * x + of(5) * y
        pattern = np.zeros_like(p)
        textured = np.flatnonzero((table[:, 9] < 9.0).take(shape) | (table[:, 10] > 0).take(shape))
        pattern[textured] = _pattern(
            p.take(textured), q.take(textured), columns[6:12], shape.take(textured)
        )
        light = of(12) + (of(13) - of(14) * p) * p + (of(15) - of(16) * q) * q
        light[contour.ravel().take(where)] *= CONTOUR_DARKNESS
        colours = np.zeros((len(where), 4), dtype=np.uint8)
        for channel in range(3):
            colour = (of(17 + channel) + of(20 + channel) * pattern) * light
            colours[:, channel] = np.minimum(colour, 255.0, out=colour)
        pixels.view(np.uint32).ravel()[where] = colours.view(np.uint32).ravel()


def compose(outer: Matrix, inner: Matrix) -> Matrix:
    """The matrix that applies `inner` first, then `outer`."""
    x, y, ax, ay, bx, by = outer
    ix, iy, iax, iay, ibx, iby = inner
    return (
        x + ix * ax + iy * bx, y + ix * ay + iy * by,
        iax * ax + iay * bx, iax * ay + iay * by,
        ibx * ax + iby * bx, ibx * ay + iby * by,
    )  # fmt: skip


def _shading(piece: Piece, matrix: Matrix, unit: float) -> tuple[float, ...]:
    """The row of a piece in the table of `Canvas._paint_pieces`.

    Columns: pattern phase p and q (3 each, affine in x and y), `_PATTERNS` (5) and the slope of
    the grade, light (constant; slope, curvature in p; the same in q), base colour (3), difference
    of the second colour (3).
    """
    x, y, ax, ay, bx, by = matrix
    length, width = math.hypot(ax, ay), math.hypot(bx, by)
    along, across = (ax / length, ay / length), (bx / width, by / width)
    paint: Paint = piece.paint
    rate = 2 * math.pi * paint.frequency / unit
    p = (-rate * (x * along[0] + y * along[1]), rate * along[0], rate * along[1])
    q = (-rate * (x * across[0] + y * across[1]), rate * across[0], rate * across[1])
    to_length, to_width = 1 / (rate * length), 1 / (rate * width)
    # Discs are round along both axes, limbs only across.
    round_along = piece.roundness if piece.roundness > 0.8 else 0.0
    slope_p = 0.24 * round_along * (LIGHT[0] * along[0] + LIGHT[1] * along[1]) * to_length
    slope_q = 0.24 * piece.roundness * (LIGHT[0] * across[0] + LIGHT[1] * across[1]) * to_width
    light = (
        1.0 + 0.1 * piece.roundness, slope_p, 0.2 * round_along * to_length**2,
        slope_q, 0.2 * piece.roundness * to_width**2,
    )  # fmt: skip
    change = (second - base for base, second in zip(paint.base, paint.second, strict=True))
    return (
        *p, *q, *_PATTERNS[paint.texture], 0.5 * to_width, *light, *paint.base, *change,
    )  # fmt: skip


def _pattern(
    p: FloatArray, q: FloatArray, columns: FloatArray, shape: NDArray[np.intp]
) -> FloatArray:
    """Share of the second colour at each pixel, see `_PATTERNS`."""
    zigzag, constant, product, threshold, grade, slope = (c.take(shape) for c in columns)
    wave = q * np.float32(1 / math.pi)
    wave = np.abs(wave - 2 * np.floor(0.5 * wave) - 1)
    value = np.sin(p + zigzag * wave) * (constant + product * np.sin(q))
    graded = grade * np.clip(0.5 + slope * q, 0.0, 1.0)
    result: FloatArray = (value > threshold) + graded
    return result


def _shadowed(picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The picture with a soft shadow of its figures on the scenery.

    Args:
        picture: red, green, blue and the scenery's share of each pixel, ``(H, W, 4)``.
    """
    size = len(picture)
    scenery = np.ascontiguousarray(picture[:, :, 3])
    blur = ImageFilter.BoxBlur(size / 45)
    soft = np.asarray(Image.fromarray(255 - scenery).filter(blur).filter(blur))
    down = round(size / 40)
    aside = down // 2
    strength = scenery.astype(np.uint32)
    strength[:down] = strength[:, :aside] = 0
    strength[down:, aside:] *= soft[: size - down, : size - aside]
    light = 256 - (strength * SHADOW_STRENGTH >> 16)
    return (picture[:, :, :3] * light[:, :, None] >> 8).astype(np.uint8)
