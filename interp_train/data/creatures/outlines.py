"""Closed outlines from which every creature, plant and rock is put together.

An outline is drawn in its own frame, x along its length and y upwards: a limb-like outline starts
at the joint ``(0, 0)`` and ends near ``x = 1``, its half-width is near 1; a disc-like outline is
centred on the origin. All have `NUM_VERTICES` vertices, so that a whole image is placed by one
matrix product.
"""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

NUM_VERTICES = 32

Outline = NDArray[np.float32]
Points = Sequence[tuple[float, float]]


def padded(points: NDArray[np.float64]) -> Outline:
    """The points of a closed polygon, the last one repeated up to `NUM_VERTICES`."""
    rest = np.repeat(points[-1:], NUM_VERTICES - len(points), axis=0)
    return np.concatenate([points, rest]).astype(np.float32)


def polygon(points: Points) -> Outline:
    """An outline with sharp corners."""
    return padded(np.asarray(points, dtype=np.float64))


def smooth(points: Points) -> Outline:
    """A closed Catmull-Rom curve through `points`; a point given twice makes a corner."""
    controls = np.asarray(points, dtype=np.float64)
    position = np.arange(NUM_VERTICES) * len(controls) / NUM_VERTICES
    start = position.astype(int)
    t = (position - start)[:, None]
    before, first, second, after = (
        controls[(start + shift) % len(controls)] for shift in (-1, 0, 1, 2)
    )
    curve = 0.5 * (
        2 * first
        + (second - before) * t
        + (2 * before - 5 * first + 4 * second - after) * t**2
        + (3 * first - before - 3 * second + after) * t**3
    )
    return np.asarray(curve, dtype=np.float32)


def disc(squareness: float = 2.0, taper: float = 0.0) -> Outline:
    """A super-ellipse around the origin; `taper` > 0 makes the front (x > 0) slimmer."""
    angle = np.arange(NUM_VERTICES) * (2 * math.pi / NUM_VERTICES)
    power = 2 / squareness
    x = np.sign(np.cos(angle)) * np.abs(np.cos(angle)) ** power
    y = np.sign(np.sin(angle)) * np.abs(np.sin(angle)) ** power
    return np.stack([x, y * (1 - taper * x)], axis=1).astype(np.float32)


def limb(end: float = 0.65, bulge: float = 0.0) -> Outline:
    """A rounded bar from the origin to x = 1, of half-width 1 at the start and `end` at its end."""
    middle = (1 + end) / 2 + bulge
    upper = [(-0.04, 0.75), (0.08, 1.0), (0.5, middle), (0.92, end), (1.02, 0.7 * end)]
    lower = [(x, -y) for x, y in reversed(upper)]
    return smooth([*upper, (1.05, 0.0), *lower, (-0.08, 0.0)])


def burst(spikes: int, inner: float) -> Outline:
    """A star around the origin, tips at radius 1."""
    angles = np.arange(2 * spikes) * math.pi / spikes
    radius = np.where(np.arange(2 * spikes) % 2 == 0, 1.0, inner)
    return padded(np.stack([radius * np.cos(angles), radius * np.sin(angles)], axis=1))


def _doubled(*points: tuple[float, float]) -> list[tuple[float, float]]:
    return [point for point in points for _ in range(2)]


# fmt: off
BODIES = {
    "egg": disc(2.0, 0.16),
    "barrel": disc(2.5, -0.06),
    "slender": disc(2.2, -0.16),
    "round": disc(2.0, 0.05),
}

HEADS = {
    "round": disc(2.0),
    "wedge": disc(2.2, 0.25),
    "oval": disc(2.3, 0.1),
}

MUZZLES = {
    "hooked_beak": smooth([(0, 0.75), (0.45, 0.72), (0.85, 0.35), *_doubled((1.0, -0.75)),
        (0.72, -0.32), (0.4, -0.5), (0, -0.7)]),
    "cone_beak": polygon([(0, 0.8), (0.45, 0.5), (1.0, -0.05), (0.45, -0.55), (0, -0.8)]),
    "dagger_beak": polygon([(0, 0.8), (0.3, 0.45), (1.0, -0.1), (0.3, -0.5), (0, -0.7)]),
    "snout": smooth([(0, 0.8), (0.5, 0.45), (0.78, 0.75), (0.98, 0.5), (1.02, -0.1),
        (0.7, -0.5), (0.3, -0.75), (0, -0.85)]),
    "blunt": smooth([(0, 0.85), (0.55, 0.6), (0.95, 0.65), (1.08, 0.0), (0.95, -0.7),
        (0.6, -0.75), (0.3, -0.7), (0, -0.9)]),
    "pointed": smooth([(0, 0.9), (0.55, 0.25), (0.95, 0.28), (1.06, 0.0), (0.9, -0.3),
        (0.45, -0.6), (0, -0.9)]),
    "trunk": smooth([(0, 0.75), (0.3, 0.72), (0.52, 0.2), (0.6, -0.9), (0.78, -1.55),
        (1.08, -1.3), (1.14, -1.75), (0.8, -2.15), (0.42, -1.75), (0.28, -0.95), (0.16, -0.7),
        (0, -0.7)]),
    "button": disc() * np.float32(0.55) + np.array([0.35, -0.1], dtype=np.float32),
}

CRESTS = {
    "pointed_ear": smooth([(0, 0.85), (0.5, 0.8), *_doubled((1.0, 0.1)), (0.5, -0.65),
        (0, -0.8)]),
    "long_ear": smooth([(0, 0.5), (0.35, 0.9), (0.8, 0.75), (1.02, 0.0), (0.8, -0.6),
        (0.3, -0.7), (0, -0.45)]),
    "big_ear": smooth([(0, 0.55), (0.4, 1.1), (0.9, 0.9), (1.05, 0.1), (0.85, -0.75),
        (0.4, -0.95), (0, -0.5)]),
    "horn": smooth([(0, 0.75), (0.4, 0.62), (0.75, 0.05), *_doubled((1.02, -1.2)), (0.6, -0.85),
        (0.3, -0.65), (0, -0.75)]),
    "antler": polygon([(0, 0.16), (0.3, 0.16), (0.46, 0.85), (0.56, 0.8), (0.46, 0.2),
        (0.66, 0.22), (0.9, 0.75), (1.0, 0.66), (0.84, 0.06), (1.02, -0.5), (0.92, -0.58),
        (0.7, -0.1), (0.42, -0.14), (0.36, -0.62), (0.26, -0.6), (0.26, -0.16), (0, -0.16)]),
    "plume": polygon([(0, 0.4), (0.45, 0.5), (0.9, 1.0), (0.72, 0.4), (1.08, 0.15),
        (0.7, -0.05), (0.9, -0.75), (0.42, -0.45), (0, -0.4)]),
    "mane": smooth([(0.1, 0.7), (0.5, 0.95), (0.85, 0.6), (0.95, -0.1), (0.65, -0.35),
        (0.75, -1.1), (0.4, -1.05), (0.35, -1.8), (0.0, -1.5), (-0.15, -0.4)]),
}

WINGS = {
    "feathered": smooth([(0, 0.3), (0.3, 0.62), (0.7, 0.6), *_doubled((1.05, 0.3)),
        (0.82, 0.18), *_doubled((0.98, -0.12)), (0.7, -0.1), *_doubled((0.82, -0.5)),
        (0.55, -0.35), *_doubled((0.6, -0.8)), (0.36, -0.55), *_doubled((0.34, -0.95)),
        (0.12, -0.55), (-0.06, -0.1)]),
    "membrane": polygon([(-0.02, 0.12), (0.34, 0.74), (0.42, 0.64), (0.8, 0.62), (1.06, 0.2),
        (0.9, 0.14), (0.8, -0.06), (0.8, -0.34), (0.62, -0.24), (0.54, -0.42), (0.52, -0.78),
        (0.38, -0.56), (0.26, -0.56), (0.14, -0.86), (0.08, -0.4), (-0.04, -0.1)]),
    "fin": smooth([(-0.02, 0.3), (0.35, 0.4), *_doubled((1.0, 0.1)), (0.6, -0.25), (0.25, -0.4),
        (-0.04, -0.25)]),
}

TAIL_TIPS = {
    "arrow": polygon([(-0.1, 0.15), (-0.3, 1.0), (1.0, 0.0), (-0.3, -1.0), (-0.1, -0.15)]),
    "tuft": smooth([(-0.15, 0.2), (0.3, 0.95), *_doubled((1.05, 0.0)), (0.3, -0.95),
        (-0.15, -0.2)]),
    "flow": smooth([(-0.1, 0.3), (0.25, 0.95), (0.6, 0.55), *_doubled((1.0, 0.85)), (0.85, 0.2),
        *_doubled((1.12, -0.25)), (0.7, -0.35), *_doubled((0.8, -0.9)), (0.25, -0.75),
        (-0.1, -0.3)]),
    "fan": smooth([(0, 0.22), (0.55, 0.75), *_doubled((0.92, 1.05)), (0.85, 0.62),
        *_doubled((1.05, 0.4)), (0.9, 0.1), *_doubled((1.05, -0.3)), (0.82, -0.55),
        *_doubled((0.9, -1.0)), (0.5, -0.7), (0, -0.22)]),
    "brush": smooth([(0, 0.35), (0.3, 0.95), (0.65, 0.9), *_doubled((1.08, 0.1)), (0.7, -0.7),
        (0.3, -0.85), (0, -0.35)]),
    "puff": burst(11, 0.78) * np.float32(0.8) + np.array([0.5, 0.0], dtype=np.float32),
    "stub": smooth([(0, 0.5), (0.4, 0.75), *_doubled((1.0, 0.2)), (0.5, -0.6), (0, -0.55)]),
    "fork": polygon([(0, 0.25), (0.4, 0.4), (1.05, 1.05), (0.72, 0.0), (1.05, -1.05),
        (0.4, -0.4), (0, -0.25)]),
}

FEET = {
    "paw": smooth([(-0.5, 0.5), (0.2, 0.65), (0.8, 0.35), (1.0, -0.15), (0.9, -0.5),
        (0.0, -0.55), (-0.55, -0.45)]),
    "hoof": polygon([(-0.45, 0.6), (0.45, 0.6), (0.95, -0.55), (-0.6, -0.55)]),
    "claw": polygon([(-0.45, 0.6), (0.3, 0.62), (0.75, 0.2), (1.25, -0.55), (0.72, -0.25),
        (0.6, -0.6), (0.25, -0.2), (0.05, -0.6), (-0.2, -0.15), (-0.55, -0.5)]),
    "toes": polygon([(-0.25, 0.5), (0.2, 0.5), (0.45, -0.1), (1.3, -0.45), (0.45, -0.42),
        (0.3, -0.6), (0.0, -0.4), (-0.75, -0.6), (-0.2, -0.1)]),
    "pillar": polygon([(-0.6, 0.7), (0.6, 0.7), (0.75, -0.5), (-0.7, -0.5)]),
}

LIMBS = {
    "taper": limb(0.6),
    "slim": limb(0.85),
    "haunch": limb(0.5, 0.15),
    "neck": limb(0.75),
}

SCENERY = {
    "disc": disc(),
    "cloud": smooth([(-1.0, -0.35), (-0.95, 0.1), (-0.55, 0.2), (-0.4, 0.65), (0.05, 0.75),
        (0.35, 0.4), (0.75, 0.4), (1.0, 0.05), (0.95, -0.35), (0.0, -0.42)]),
    "rock": smooth([(-1.0, -0.5), (-0.9, 0.1), (-0.4, 0.65), (0.2, 0.75), (0.75, 0.35),
        (1.0, -0.5), (0.0, -0.6)]),
    "slab": polygon([(-1.0, -0.6), (-0.8, 0.2), (-0.2, 0.7), (0.5, 0.55), (1.0, -0.1),
        (0.9, -0.6)]),
    "conifer": polygon([(0, 1.0), (0.28, 0.45), (0.14, 0.45), (0.42, -0.05), (0.22, -0.05),
        (0.58, -0.6), (0.1, -0.6), (0.1, -1.0), (-0.1, -1.0), (-0.1, -0.6), (-0.58, -0.6),
        (-0.22, -0.05), (-0.42, -0.05), (-0.14, 0.45), (-0.28, 0.45)]),
    "crown": smooth([(-0.9, -0.2), (-0.8, 0.4), (-0.35, 0.6), (0.0, 1.0), (0.5, 0.7),
        (0.9, 0.35), (0.85, -0.25), (0.4, -0.6), (-0.4, -0.55)]),
    "trunk": polygon([(-0.8, -1.0), (-0.55, 0.0), (-0.6, 1.0), (0.6, 1.0), (0.55, 0.0),
        (0.9, -1.0)]),
    "cactus": smooth([(-0.22, -1.0), (-0.22, -0.25), (-0.62, -0.2), (-0.62, 0.5), (-0.4, 0.5),
        (-0.38, 0.05), (-0.22, 0.05), (-0.2, 0.9), (0.0, 1.02), (0.2, 0.9), (0.22, 0.25),
        (0.4, 0.28), (0.42, 0.7), (0.64, 0.7), (0.64, 0.02), (0.22, -0.05), (0.22, -1.0)]),
    "blade": polygon([(0, 1.0), (0.55, 0.75), (1.0, 0.0), (0.5, -0.2), (0, -1.0)]),
    "leaf": smooth([*_doubled((0, 0)), (0.3, 0.7), (0.75, 0.55), *_doubled((1.0, 0.0)),
        (0.7, -0.6), (0.3, -0.65)]),
    "mushroom": smooth([(-0.25, -1.0), (-0.2, -0.05), *_doubled((-1.0, 0.0)), (-0.7, 0.65),
        (0.0, 0.95), (0.7, 0.65), *_doubled((1.0, 0.0)), (0.2, -0.05), (0.25, -1.0)]),
    "star": burst(5, 0.45),
    "gem": polygon([(-1.0, 0.2), (-0.5, 0.8), (0.5, 0.8), (1.0, 0.2), (0.0, -1.0)]),
    "bar": polygon([(-1.0, 1.0), (1.0, 1.0), (1.0, -1.0), (-1.0, -1.0)]),
    "flower": burst(6, 0.55),
}
# fmt: on
