"""Colours and textures of creatures and loose parts, drawn at random, tied to nothing.

Colours are taken from a grid of lightness, chroma and hue in Oklab (Ottosson 2020, "A perceptual
color space for image processing"), where equal steps look equal, so that random palettes are
harmonious.
"""

import math
import random
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Colour = tuple[float, float, float]
"""Red, green, blue in [0, 255]."""

TEXTURE_NAMES = ("plain", "striped", "spotted", "chequered", "graded", "zigzag")

# Share of paints without a pattern.
PLAIN_SHARE = 0.55

NUM_HUES = 20
# (lightness, chroma) of the tones every hue comes in.
TONES = ((0.86, 0.085), (0.74, 0.135), (0.62, 0.15), (0.5, 0.12), (0.93, 0.03), (0.38, 0.075))


class Paint(NamedTuple):
    """How a shape is coloured.

    Attributes:
        base: main colour.
        second: colour of the pattern.
        texture: index into `TEXTURE_NAMES`.
        frequency: periods of the pattern per unit length of a creature.
    """

    base: Colour
    second: Colour
    texture: int = 0
    frequency: float = 6.0


def oklch(lightness: float, chroma: float, hue: float) -> Colour:
    """Red, green, blue (0-255, clipped) of a colour in Oklab's polar form; hue in radians."""
    a, b = chroma * math.cos(hue), chroma * math.sin(hue)
    long = (lightness + 0.3963377774 * a + 0.2158037573 * b) ** 3
    medium = (lightness - 0.1055613458 * a - 0.0638541728 * b) ** 3
    short = (lightness - 0.0894841775 * a - 1.2914855480 * b) ** 3
    return (
        _gamma(4.0767416621 * long - 3.3077115913 * medium + 0.2309699292 * short),
        _gamma(-1.2684380046 * long + 2.6097574011 * medium - 0.3413193965 * short),
        _gamma(-0.0041960863 * long - 0.7034186147 * medium + 1.7076147010 * short),
    )


def _gamma(linear: float) -> float:
    value = min(max(linear, 0.0), 1.0)
    return 255 * (12.92 * value if value <= 0.0031308 else 1.055 * value ** (1 / 2.4) - 0.055)


COLOUR_GRID = tuple(
    tuple(oklch(lightness, chroma, 2 * math.pi * hue / NUM_HUES) for lightness, chroma in TONES)
    for hue in range(NUM_HUES)
)

COLOUR_NAMES = (
    "red", "orange", "yellow", "green", "turquoise", "blue", "purple", "pink", "brown", "white",
    "grey", "black",
)  # fmt: skip

# Upper end of each chromatic name's range on the hue circle of HSV, in degrees.
_HUE_ENDS = np.array([14.0, 45.0, 68.0, 160.0, 195.0, 255.0, 295.0, 345.0])
_HUE_NAMES = np.array([0, 1, 2, 3, 4, 5, 6, 7, 0])
_BROWN, _WHITE, _GREY, _BLACK = range(8, 12)


def colour_indices(colours: NDArray[np.float64]) -> NDArray[np.int64]:
    """Index into `COLOUR_NAMES` of the everyday name of each colour.

    Args:
        colours: red, green, blue in [0, 255], ``(K, 3)``.
    """
    red, green, blue = np.ascontiguousarray(colours.T)
    value = np.maximum(np.maximum(red, green), blue)
    spread = np.maximum(value - np.minimum(np.minimum(red, green), blue), 1e-6)
    hue = np.where(value == green, (blue - red) / spread + 2, (red - green) / spread + 4)
    hue = np.where(value == red, (green - blue) / spread % 6, hue)
    names = _HUE_NAMES.take(np.searchsorted(_HUE_ENDS, 60 * hue, side="right"))
    names[(names <= 2) & (value < 173)] = _BROWN
    names = np.where(spread < 0.16 * value, np.where(value > 209, _WHITE, _GREY), names)
    names[value < 51] = _BLACK
    return names


def scaled(colour: Colour, factor: float) -> Colour:
    """The colour made darker (`factor` < 1) or lighter (> 1), within range."""
    red, green, blue = colour
    return min(red * factor, 255.0), min(green * factor, 255.0), min(blue * factor, 255.0)


def mixed(first: Colour, second: Colour, share: float) -> Colour:
    """The point `share` of the way from `first` to `second`."""
    (red, green, blue), (red_2, green_2, blue_2) = first, second
    return (
        red + share * (red_2 - red),
        green + share * (green_2 - green),
        blue + share * (blue_2 - blue),
    )


class Palette:
    """The few colours of one creature: two or three related hues in several tones.

    Args:
        rng: source of randomness.
    """

    def __init__(self, rng: random.Random) -> None:
        first = int(rng.random() * NUM_HUES)
        shift = (1, 2, 3, 7, 10, 13)[int(rng.random() * 6)]
        hues = (first, (first + shift) % NUM_HUES, (first - 1) % NUM_HUES)
        start = int(rng.random() * len(TONES))
        self._tones = [COLOUR_GRID[hue] for hue in hues]
        self._start = start

    def paint(self, rng: random.Random) -> Paint:
        """A random paint of this palette; the same rule for every part of every species."""
        hue = self._tones[(0, 0, 0, 1, 1, 2)[int(rng.random() * 6)]]
        other = self._tones[int(rng.random() * 3)]
        tone = (self._start + (0, 0, 1, 5)[int(rng.random() * 4)]) % len(TONES)
        contrast = (tone + 2 + int(rng.random() * 3)) % len(TONES)
        texture = (
            0 if rng.random() < PLAIN_SHARE else 1 + int(rng.random() * (len(TEXTURE_NAMES) - 1))
        )
        return Paint(hue[tone], other[contrast], texture, 4.0 + 4.0 * rng.random())
