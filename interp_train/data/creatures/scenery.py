"""Scenes: graded skies, layered grounds and plants, and what may stand in front of a creature.

Coordinates are those of the image: the unit square, x to the right, y downwards.
"""

import math
import random
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from interp_train.data.creatures.anatomy import Matrix
from interp_train.data.creatures.outlines import NUM_VERTICES, SCENERY, Outline
from interp_train.data.creatures.palette import Colour, mixed, oklch, scaled

SCENERY_NAMES = (
    "sky", "sun", "star", "cloud", "hill", "ground", "water", "tree", "cactus", "rock", "grass",
    "flower", "branch", "mushroom",
)  # fmt: skip

IDENTITY: Matrix = (0.0, 0.0, 1.0, 0.0, 0.0, 1.0)

_X = np.linspace(-0.02, 1.02, NUM_VERTICES - 2)

_BARK = oklch(0.42, 0.05, 0.9)
_DARK_BARK = scaled(_BARK, 0.7)

_OCTAVES = (1.3, 2.9, 6.1)  # waves of a ridge over the width of the image


class Layer(NamedTuple):
    """One shape of a scene, graded from top to bottom.

    Attributes:
        outline: see `outlines`.
        matrix: places the outline in the unit square.
        top: colour of its upper end.
        bottom: colour of its lower end.
        concept: index into `SCENERY_NAMES`.
    """

    outline: Outline
    matrix: Matrix
    top: Colour
    bottom: Colour
    concept: int


class Scene(NamedTuple):
    """Layers from back to front.

    Attributes:
        name: index into `SCENE_NAMES`.
        layers: what lies behind everything else; the first covers the whole image.
        horizon: height of the horizon.
        occluder: makes the layers of one thing in front, given its place and size.
    """

    name: int
    layers: list[Layer]
    horizon: float
    occluder: Callable[[random.Random, float, float, float], list[Layer]]


def upright(x: float, y: float, width: float, height: float, turn: float = 0.0) -> Matrix:
    """The matrix of an outline centred at ``(x, y)``, turned clockwise by `turn` radians."""
    cos, sin = math.cos(turn), math.sin(turn)
    return (x, y, width * cos, width * sin, height * sin, -height * cos)


def _layer(outline: str, matrix: Matrix, top: Colour, bottom: Colour, *, concept: str) -> Layer:
    return Layer(SCENERY[outline], matrix, top, bottom, SCENERY_NAMES.index(concept))


def _ridge(rng: random.Random, height: float, amplitude: float, sharp: float = 0.0) -> Outline:
    """A horizon line over the whole width, closed along the lower edge of the image."""
    phases, rates = [], []
    for octave in _OCTAVES:
        phases.append([2 * math.pi * rng.random()])
        rates.append([2 * math.pi * octave * (0.8 + 0.4 * rng.random())])
    waves = np.sin(np.array(rates) * _X + np.array(phases))
    if sharp:
        waves += sharp * (1 - 2 * np.abs(waves))
    line = height
    for octave, wave in zip(_OCTAVES, waves, strict=True):
        line = line - amplitude / octave * wave
    outline = np.empty((NUM_VERTICES, 2), dtype=np.float32)
    outline[:-2, 0], outline[:-2, 1] = _X, line
    outline[-2:] = ((1.02, 1.02), (-0.02, 1.02))
    return outline


def _hill(
    rng: random.Random, height: float, colour: Colour, *, amplitude: float = 0.05,
    sharp: float = 0.0, concept: str = "hill", fade: float = 0.75,
) -> Layer:  # fmt: skip
    outline = _ridge(rng, height, amplitude, sharp)
    return Layer(outline, IDENTITY, colour, scaled(colour, fade), SCENERY_NAMES.index(concept))


def _sky(top: Colour, bottom: Colour) -> Layer:
    matrix = upright(0.5, 0.5, 0.53, 0.53)
    return _layer("bar", matrix, top, bottom, concept="sky")


def _clouds(rng: random.Random, count: int, colour: Colour, horizon: float) -> list[Layer]:
    layers = []
    for _ in range(count):
        width = 0.08 + 0.12 * rng.random()
        matrix = upright(rng.random(), horizon * (0.1 + 0.6 * rng.random()), width, 0.5 * width)
        layers.append(_layer("cloud", matrix, colour, scaled(colour, 0.9), concept="cloud"))
    return layers


def _sun(rng: random.Random, colour: Colour, halo: Colour, horizon: float) -> list[Layer]:
    x, y, radius = rng.random(), horizon * (0.15 + 0.6 * rng.random()), 0.04 + 0.05 * rng.random()
    return [
        _layer("disc", upright(x, y, 1.5 * radius, 1.5 * radius), halo, halo, concept="sun"),
        _layer("disc", upright(x, y, radius, radius), colour, colour, concept="sun"),
    ]


def _conifer(rng: random.Random, x: float, base: float, size: float, colour: Colour) -> list[Layer]:
    matrix = upright(x, base - size, size, size)
    return [_layer("conifer", matrix, scaled(colour, 1.15), scaled(colour, 0.7), concept="tree")]


def _broadleaf(
    rng: random.Random, x: float, base: float, size: float, colour: Colour
) -> list[Layer]:
    trunk = upright(x, base - 0.5 * size, 0.12 * size, 0.55 * size)
    crown = upright(x, base - 1.35 * size, 0.72 * size, 0.75 * size, rng.random() - 0.5)
    return [
        _layer("trunk", trunk, _BARK, _DARK_BARK, concept="tree"),
        _layer("crown", crown, scaled(colour, 1.2), scaled(colour, 0.75), concept="tree"),
    ]


def _grass(rng: random.Random, x: float, y: float, size: float, colour: Colour) -> list[Layer]:
    layers = []
    for _ in range(5 + int(3 * rng.random())):
        lean = (rng.random() - 0.5) * 1.3
        length = size * (0.9 + 0.9 * rng.random())
        foot = x + size * (rng.random() - 0.5)
        matrix = (foot, y + 0.5 * size, length * math.sin(lean), -length * math.cos(lean),
                  0.09 * size, 0.0)  # fmt: skip
        tone = scaled(colour, 0.75 + 0.5 * rng.random())
        layers.append(_layer("blade", matrix, scaled(tone, 1.15), scaled(tone, 0.7),
                             concept="grass"))  # fmt: skip
    return layers


def _rock(rng: random.Random, x: float, y: float, size: float, colour: Colour) -> list[Layer]:
    flip = 1.0 if rng.random() < 0.5 else -1.0
    outline = "rock" if rng.random() < 0.5 else "slab"
    matrix = upright(x, y, flip * size * (0.8 + 0.4 * rng.random()), 0.8 * size)
    return [_layer(outline, matrix, scaled(colour, 1.15), scaled(colour, 0.6), concept="rock")]


def _branch(rng: random.Random, x: float, y: float, size: float, colour: Colour) -> list[Layer]:
    bark, turn = oklch(0.4, 0.05, 0.9), (rng.random() - 0.5) * 1.6
    length = 2.2 * size
    layers = [_layer("bar", upright(x, y, length, 0.07 * size, turn), bark, scaled(bark, 0.7),
                     concept="branch")]  # fmt: skip
    for index in range(5):
        place = length * (rng.random() * 1.8 - 0.9)
        angle = turn + (1 if index % 2 else -1) * (0.6 + 0.7 * rng.random())
        matrix = upright(x + place * math.cos(turn), y + place * math.sin(turn),
                         size * (0.5 + 0.3 * rng.random()), 0.24 * size, angle)  # fmt: skip
        tone = scaled(colour, 0.8 + 0.4 * rng.random())
        layers.append(_layer("leaf", matrix, scaled(tone, 1.15), scaled(tone, 0.8),
                             concept="branch"))  # fmt: skip
    return layers


def _flower(rng: random.Random, x: float, y: float, size: float, colour: Colour) -> list[Layer]:
    stem, petal = oklch(0.6, 0.13, 2.3), oklch(0.72, 0.15, 2 * math.pi * rng.random())
    lean = (rng.random() - 0.5) * 0.5
    tip = (x + size * math.sin(lean), y + 0.5 * size - size * math.cos(lean))
    stalk = (x, y + 0.5 * size, tip[0] - x, tip[1] - y - 0.5 * size, 0.06 * size, 0.0)
    heart = oklch(0.85, 0.14, 1.6)
    return [
        _layer("blade", stalk, stem, stem, concept="flower"),
        _layer("flower", upright(*tip, 0.36 * size, 0.36 * size, lean), petal, scaled(petal, 0.85),
               concept="flower"),
        _layer("disc", upright(*tip, 0.14 * size, 0.14 * size), heart, heart, concept="flower"),
    ]  # fmt: skip


def _cactus(rng: random.Random, x: float, y: float, size: float, colour: Colour) -> list[Layer]:
    green = oklch(0.52, 0.1, 2.45)
    flip = 1.0 if rng.random() < 0.5 else -1.0
    matrix = upright(x, y - 0.5 * size, flip * size, 1.3 * size)
    return [_layer("cactus", matrix, scaled(green, 1.2), scaled(green, 0.7), concept="cactus")]


def _mushroom(rng: random.Random, x: float, y: float, size: float, colour: Colour) -> list[Layer]:
    cap = oklch(0.58, 0.15, 0.5 + 0.8 * rng.random())
    matrix = upright(x, y, 0.55 * size, 0.8 * size)
    return [_layer("mushroom", matrix, scaled(cap, 1.2), scaled(cap, 0.8), concept="mushroom")]


def _meadow(rng: random.Random) -> tuple[list[Layer], float]:
    hue, horizon = 4.3 + 0.4 * rng.random(), 0.35 + 0.25 * rng.random()
    green = oklch(0.74 + 0.06 * rng.random(), 0.13, 2.1 + 0.4 * rng.random())
    layers = [_sky(oklch(0.72, 0.1, hue), oklch(0.94, 0.03, hue))]
    layers += _clouds(rng, 3, (252.0, 252.0, 255.0), horizon)
    layers.append(_hill(rng, horizon, mixed(green, (150.0, 190.0, 220.0), 0.5)))
    layers.append(_hill(rng, horizon + 0.08, mixed(green, (150.0, 190.0, 220.0), 0.2)))
    for _ in range(2):
        layers += _broadleaf(rng, rng.random(), horizon + 0.12, 0.06 + 0.05 * rng.random(),
                             scaled(green, 0.75))  # fmt: skip
    layers.append(_hill(rng, horizon + 0.2, green, concept="ground", fade=0.7))
    for _ in range(3):
        layers += _flower(rng, rng.random(), 0.7 + 0.25 * rng.random(), 0.09, green)
    return layers, horizon


def _forest(rng: random.Random) -> tuple[list[Layer], float]:
    hue, horizon = 2.2 + 0.5 * rng.random(), 0.45 + 0.2 * rng.random()
    leaf = oklch(0.5, 0.09, hue)
    mist = oklch(0.88, 0.05, hue)
    layers = [_sky(mist, oklch(0.8, 0.07, hue))]
    for depth in range(3):
        tone = mixed(leaf, mist, 0.65 - 0.28 * depth)
        for _ in range(4):
            size = (0.13 + 0.06 * rng.random()) * (1 + 0.35 * depth)
            plant = _conifer if rng.random() < 0.6 else _broadleaf
            layers += plant(rng, rng.random(), horizon + 0.06 * depth + 0.06, size, tone)
        ground = mixed(oklch(0.58, 0.08, hue - 0.5), mist, 0.4 - 0.2 * depth)
        layers.append(_hill(rng, horizon + 0.08 * depth + 0.02, ground, amplitude=0.02,
                            concept="ground"))  # fmt: skip
    return layers, horizon


def _desert(rng: random.Random) -> tuple[list[Layer], float]:
    hue, horizon = 1.05 + 0.25 * rng.random(), 0.38 + 0.25 * rng.random()
    sand = oklch(0.82, 0.09, hue)
    layers = [_sky(oklch(0.75, 0.09, 4.2), oklch(0.95, 0.04, hue + 0.2))]
    layers += _sun(rng, (255.0, 246.0, 214.0), (252.0, 232.0, 190.0), horizon)
    layers.append(_hill(rng, horizon, oklch(0.68, 0.1, hue - 0.3), amplitude=0.07, sharp=0.4))
    layers.append(_hill(rng, horizon + 0.1, mixed(sand, (240.0, 200.0, 170.0), 0.5)))
    for _ in range(2):
        layers += _cactus(rng, rng.random(), horizon + 0.16, 0.05 + 0.03 * rng.random(), sand)
    layers.append(_hill(rng, horizon + 0.18, sand, concept="ground", fade=0.78))
    layers.append(_hill(rng, horizon + 0.36, scaled(sand, 1.05), concept="ground", fade=0.8))
    return layers, horizon


def _snow(rng: random.Random) -> tuple[list[Layer], float]:
    hue, horizon = 4.2 + 0.5 * rng.random(), 0.4 + 0.22 * rng.random()
    white = oklch(0.95, 0.015, hue)
    layers = [_sky(oklch(0.68, 0.07, hue), oklch(0.93, 0.03, hue))]
    layers.append(_hill(rng, horizon, oklch(0.8, 0.04, hue), amplitude=0.1, sharp=0.8, fade=0.9))
    for _ in range(5):
        layers += _conifer(rng, rng.random(), horizon + 0.14, 0.06 + 0.06 * rng.random(),
                           oklch(0.55, 0.05, hue - 1.0))  # fmt: skip
    layers.append(_hill(rng, horizon + 0.1, white, concept="ground", fade=0.88))
    layers.append(_hill(rng, horizon + 0.3, (252.0, 253.0, 255.0), concept="ground", fade=0.86))
    return layers, horizon


def _sea(rng: random.Random) -> tuple[list[Layer], float]:
    hue, horizon = 3.7 + 0.6 * rng.random(), 0.3 + 0.25 * rng.random()
    warm = oklch(0.9, 0.06, 0.4 + 1.2 * rng.random())
    layers = [_sky(oklch(0.75, 0.09, hue + 0.5), warm)]
    layers += _sun(rng, (255.0, 250.0, 230.0), mixed(warm, (255.0, 255.0, 240.0), 0.5), horizon)
    layers += _clouds(rng, 2, (255.0, 250.0, 246.0), horizon)
    for band in range(5):
        height = horizon + 0.1 + (1.0 - horizon) * 0.2 * band - 0.08
        tone = oklch(0.76 - 0.055 * band, 0.09, hue)
        layers.append(_hill(rng, height, tone, amplitude=0.012, concept="water", fade=0.94))
    return layers, horizon


def _night(rng: random.Random) -> tuple[list[Layer], float]:
    hue, horizon = 4.5 + 0.8 * rng.random(), 0.5 + 0.25 * rng.random()
    layers = [_sky(oklch(0.22, 0.07, hue), oklch(0.48, 0.1, hue + 0.5))]
    for _ in range(14):
        size = 0.004 + 0.007 * rng.random()
        matrix = upright(rng.random(), horizon * rng.random(), size, size)
        layers.append(_layer("disc", matrix, (250.0, 246.0, 220.0), (250.0, 246.0, 220.0),
                             concept="star"))  # fmt: skip
    layers += _sun(rng, (250.0, 244.0, 215.0), oklch(0.42, 0.08, hue + 0.3), horizon)
    layers.append(_hill(rng, horizon, oklch(0.36, 0.07, hue), sharp=0.4))
    for _ in range(3):
        layers += _conifer(rng, rng.random(), horizon + 0.14, 0.07 + 0.06 * rng.random(),
                           oklch(0.27, 0.05, hue - 0.5))  # fmt: skip
    layers.append(_hill(rng, horizon + 0.12, oklch(0.32, 0.06, hue - 0.6), concept="ground"))
    return layers, horizon


def _mountains(rng: random.Random) -> tuple[list[Layer], float]:
    hue, horizon = 5.2 + 1.2 * rng.random(), 0.4 + 0.2 * rng.random()
    glow = oklch(0.88, 0.08, hue + 1.3)
    layers = [_sky(oklch(0.62, 0.1, hue - 0.6), glow)]
    layers += _sun(rng, (255.0, 244.0, 214.0), mixed(glow, (255.0, 240.0, 220.0), 0.5), horizon)
    layers += _clouds(rng, 2, mixed(glow, (255.0, 255.0, 255.0), 0.4), horizon)
    for depth in range(4):
        tone = mixed(oklch(0.42, 0.07, hue - 0.8), glow, 0.62 - 0.18 * depth)
        layers.append(_hill(rng, horizon + 0.13 * depth, tone, amplitude=0.09 - 0.012 * depth,
                            sharp=0.8, fade=0.85))  # fmt: skip
    return layers, horizon


_SCENES: dict[str, tuple[Callable[[random.Random], tuple[list[Layer], float]],
                         tuple[Callable[..., list[Layer]], ...], Colour]] = {
    "meadow": (_meadow, (_grass, _grass, _flower, _rock), oklch(0.62, 0.14, 2.2)),
    "forest": (_forest, (_branch, _branch, _grass, _mushroom), oklch(0.55, 0.12, 2.3)),
    "desert": (_desert, (_rock, _rock, _cactus, _grass), oklch(0.66, 0.07, 1.0)),
    "snow": (_snow, (_rock, _branch, _conifer), oklch(0.72, 0.03, 4.4)),
    "sea": (_sea, (_rock, _rock, _grass), oklch(0.55, 0.06, 3.6)),
    "night": (_night, (_branch, _grass, _rock), oklch(0.36, 0.06, 4.4)),
    "mountains": (_mountains, (_rock, _branch, _grass), oklch(0.48, 0.06, 5.2)),
}  # fmt: skip

SCENE_NAMES = tuple(_SCENES)


def random_scene(rng: random.Random) -> Scene:
    """A scene of a random kind, with its own hues, horizon and plants."""
    name = int(rng.random() * len(SCENE_NAMES))
    painter, occluders, colour = _SCENES[SCENE_NAMES[name]]
    layers, horizon = painter(rng)

    def occluder(rng: random.Random, x: float, y: float, size: float) -> list[Layer]:
        kind = occluders[int(rng.random() * len(occluders))]
        return kind(rng, x, y, size, scaled(colour, 0.85 + 0.3 * rng.random()))

    return Scene(name, layers, horizon, occluder)
