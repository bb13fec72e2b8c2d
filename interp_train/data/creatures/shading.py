"""Colours of the pieces of creatures and loose parts: texture, and light as on a rounded body.

Every piece has its coefficients in a table. With the places of the samples they give the phases p,
along the piece, and q, across it; these give light and pattern.
"""

import math

import numpy as np

from interp_train.data.creatures.anatomy import Matrix, Piece
from interp_train.data.creatures.samples import FloatArray, IndexArray

# Direction towards the light (x, y downwards).
LIGHT = (-0.5, -0.8)

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

# Columns of a row: phases p and q (constant, slopes along x and y), light (slope and curvature
# along p, along q, constant), the pattern, base colour, difference of the second colour.
_P, _Q, _LIGHT = slice(3), slice(3, 6), slice(6, 11)
_PATTERN, _BASE, _CHANGE = slice(11, 17), slice(17, 20), slice(20, 23)

NUM_COEFFICIENTS = 23


def coefficients(piece: Piece, matrix: Matrix, unit: float) -> tuple[float, ...]:
    """The row of a piece in the table of `piece_colours`.

    Args:
        piece: texture, colours and roundness.
        matrix: places its outline in the unit square.
        unit: length, there, of the unit of the piece's own figure.
    """
    x, y, ax, ay, bx, by = matrix
    length, width = math.hypot(ax, ay), math.hypot(bx, by)
    ax, ay, bx, by = ax / length, ay / length, bx / width, by / width
    base, second, texture, frequency = piece.paint
    roundness = piece.roundness
    rate = 2 * math.pi * frequency / unit
    to_length, to_width = 1 / (rate * length), 1 / (rate * width)
    # Discs are round along both axes, limbs only across.
    round_along = roundness if roundness > 0.8 else 0.0
    return (
        -rate * (x * ax + y * ay), rate * ax, rate * ay,
        -rate * (x * bx + y * by), rate * bx, rate * by,
        0.24 * round_along * (LIGHT[0] * ax + LIGHT[1] * ay) * to_length,
        0.2 * round_along * to_length**2,
        0.24 * roundness * (LIGHT[0] * bx + LIGHT[1] * by) * to_width,
        0.2 * roundness * to_width**2,
        1.0 + 0.1 * roundness,
        *_PATTERNS[texture], 0.5 * to_width,
        *base,
        second[0] - base[0], second[1] - base[1], second[2] - base[2],
    )  # fmt: skip


def piece_colours(
    table: FloatArray,
    shapes: IndexArray,
    num_plain: int,
    places: tuple[FloatArray, FloatArray],
    gain: FloatArray,
) -> FloatArray:
    """Red, green, blue of samples of pieces, ``(3, ..., K)``.

    Args:
        table: `coefficients` of each shape, one column per shape.
        shapes: shape of the samples, ``(K,)``; those without a pattern first.
        num_plain: how many have no pattern.
        places: x and y of the samples in the unit square, ``(..., K)``.
        gain: factor of the light, ``(..., K)``.
    """
    x, y = places
    p, q = (
        constant + along * x + down * y
        for constant, along, down in (
            table[_P].take(shapes, axis=1),
            table[_Q].take(shapes, axis=1),
        )
    )
    slope_p, curve_p, slope_q, curve_q, constant = table[_LIGHT].take(shapes, axis=1)
    light = constant + (slope_p - curve_p * p) * p + (slope_q - curve_q * q) * q
    light *= gain
    textured = shapes[num_plain:]
    pattern = _pattern(
        table[_PATTERN].take(textured, axis=1), p[..., num_plain:], q[..., num_plain:]
    )
    colours = np.empty((3, *light.shape), dtype=np.float32)
    for colour, base, change in zip(colours, table[_BASE], table[_CHANGE], strict=True):
        colour[:] = base.take(shapes)
        colour[..., num_plain:] += change.take(textured) * pattern
        colour *= light
    return np.minimum(colours, 255.0, out=colours)


def _pattern(columns: FloatArray, p: FloatArray, q: FloatArray) -> FloatArray:
    """Share of the second colour at each sample, see `_PATTERNS`."""
    zigzag, constant, product, threshold, grade, slope = columns
    wave = q * np.float32(1 / math.pi)
    wave = np.abs(wave - 2 * np.floor(0.5 * wave) - 1)
    value = np.sin(p + zigzag * wave) * (constant + product * np.sin(q))
    height = np.minimum(np.maximum(0.5 + slope * q, 0.0), 1.0)
    result: FloatArray = (value > threshold) + grade * height
    return result
