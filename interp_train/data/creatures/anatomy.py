"""Puts creatures together from jointed parts in a random pose, and makes loose parts.

Coordinates are those of the creature: body length 1, facing right, y upwards, origin at the centre
of the body. Angles are counter-clockwise, in radians; ranges of joint angles are in degrees.
"""

import math
import random
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from interp_train.data.creatures.outlines import (
    BODIES,
    CRESTS,
    FEET,
    HEADS,
    LIMBS,
    MUZZLES,
    SCENERY,
    TAIL_TIPS,
    WINGS,
    Outline,
)
from interp_train.data.creatures.palette import Paint, Palette, mixed, oklch, scaled
from interp_train.data.creatures.species import PART_NAMES, Leg, Species

Matrix = tuple[float, float, float, float, float, float]
"""Origin x, y; x-axis x, y; y-axis x, y of an outline's frame."""

CREST, MUZZLE, EYE, HEAD, NECK, BODY, WING, FRONT_LEG, BACK_LEG, TAIL = range(len(PART_NAMES))

# Parts of the far side lie in shadow.
FAR_SHADE = 0.7

LOOSE_PARTS = (CREST, MUZZLE, HEAD, HEAD, WING, WING, FRONT_LEG, BACK_LEG, TAIL, TAIL)


class Piece(NamedTuple):
    """One outline of a figure.

    Attributes:
        outline: see `outlines`.
        matrix: places the outline.
        part: index into `PART_NAMES`.
        paint: colours and texture.
        roundness: how strongly the piece is shaded like a ball, 0 to 1.
        group: pieces of one group are not separated by a contour line.
    """

    outline: Outline
    matrix: Matrix
    part: int
    paint: Paint
    roundness: float
    group: int


class Figure(NamedTuple):
    """Pieces from back to front, and the landmark of each part that is there."""

    pieces: list[Piece]
    landmarks: dict[int, tuple[float, float]]


class Frame(NamedTuple):
    """A joint: where it is and where its x-axis points."""

    x: float
    y: float
    angle: float

    def at(self, x: float, y: float, turn: float = 0.0) -> "Frame":
        """The frame at local position ``(x, y)``, turned by `turn`."""
        cos, sin = math.cos(self.angle), math.sin(self.angle)
        return Frame(self.x + x * cos - y * sin, self.y + x * sin + y * cos, self.angle + turn)

    def matrix(self, length: float, width: float) -> Matrix:
        """The matrix of an outline of this length and half-width; a negative width mirrors."""
        cos, sin = math.cos(self.angle), math.sin(self.angle)
        return (self.x, self.y, length * cos, length * sin, -width * sin, width * cos)


def _degrees(rng: random.Random, low: float, high: float) -> float:
    return math.radians(low + (high - low) * rng.random())


class Sculptor:
    """Makes the parts of one figure.

    Args:
        rng: source of randomness for pose and paint.
    """

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.palette = Palette(rng)
        self.pieces: list[Piece] = []
        self.landmarks: dict[int, tuple[float, float]] = {}
        self._group = 0
        # Drawn for every figure; the colours follow from them where there is an eye.
        self._eye = rng.random(), rng.random()

    def creature(self, species: Species) -> Figure:
        """A whole creature in a random pose."""
        rng = self.rng
        paints = {part: self.palette.paint(rng) for part in range(len(PART_NAMES))}
        height = species.body_height * (0.88 + 0.24 * rng.random()) / 2
        root = Frame(0.0, 0.0, _degrees(rng, -32, 32))
        wing_turn = _degrees(rng, 75, 205)
        wing_root = root.at(0.12, 0.55 * height)
        wing_size = 0.85 + 0.3 * rng.random()
        if species.wing is not None:
            far = wing_root.at(0.05, 0.0, wing_turn - _degrees(rng, 12, 40))
            self.wing(far, species, _far(paints[WING]), wing_size)
        self._legs(root, species, height, paints, far=True)
        self.tail(root.at(-0.44, 0.25 * height, _degrees(rng, 130, 225)), species, paints[TAIL])
        # Necks and heads are jointed to the body; which overlaps which is a matter of chance.
        if rng.random() < 0.5:
            self._front(root, species, height, paints)
            self._body(root, species, height, paints[BODY])
        else:
            self._body(root, species, height, paints[BODY])
            self._front(root, species, height, paints)
        self._legs(root, species, height, paints, far=False)
        if species.wing is not None:
            self.wing(wing_root.at(0.0, 0.0, wing_turn), species, paints[WING], wing_size)
        return Figure(self.pieces, self.landmarks)

    def loose_part(self, species: Species) -> Figure:
        """One part of a species, lying around by itself."""
        rng = self.rng
        paint = self.palette.paint(rng)
        part = LOOSE_PARTS[int(rng.random() * len(LOOSE_PARTS))]
        frame = Frame(0.0, 0.0, _degrees(rng, -180, 180))
        leg = (species.front_leg or species.back_leg) if part == FRONT_LEG else species.back_leg
        if part == WING and species.wing is not None:
            self.wing(frame, species, paint, 1.0)
        elif part == TAIL:
            self.tail(frame, species, paint)
        elif part in (FRONT_LEG, BACK_LEG) and leg is not None:
            self.leg(frame, leg, part, paint)
        elif part == CREST:
            self._crest(frame, species, paint, near=True)
        elif part == MUZZLE:
            self._muzzle(frame, species, paint)
        else:
            self._loose_head(frame, species, paint)
        return Figure(self.pieces, self.landmarks)

    def wing(self, frame: Frame, species: Species, paint: Paint, size: float) -> None:
        """A wing that spreads from its root at `frame`, with a second row of feathers."""
        assert species.wing is not None
        kind, length, width = species.wing
        length, width = length * size, -width * size
        self._new_group()
        self._add(WINGS[kind], frame.matrix(length, width), WING, paint, 0.35)
        inner = paint._replace(base=mixed(paint.base, paint.second, 0.35), texture=0)
        self._new_group()
        self._add(WINGS[kind], frame.at(0.02, 0.0).matrix(0.55 * length, 0.6 * width), WING, inner,
                  0.35)  # fmt: skip
        self._mark(WING, frame.at(0.5 * length, 0.12 * width))

    def leg(self, frame: Frame, leg: Leg, part: int, paint: Paint) -> None:
        """Upper and lower leg and foot, hanging along the frame's x-axis."""
        rng = self.rng
        upper, lower = 0.56 * leg.length, 0.5 * leg.length
        sign = 1.0 if part == BACK_LEG else -1.0
        self._new_group()
        self._add(LIMBS[leg.limb], frame.matrix(upper, leg.width / 2), part, paint, 0.6)
        knee = frame.at(0.92 * upper, 0.0, -sign * _degrees(rng, 0, 55))
        self._add(LIMBS["slim"], knee.matrix(lower, 0.32 * leg.width), part, paint, 0.6)
        ankle = knee.at(0.97 * lower, 0.0, math.pi / 2 + _degrees(rng, -25, 25))
        size = 0.3 * leg.width + 0.04
        self._add(FEET[leg.foot], ankle.matrix(size, size), part, paint, 0.5)
        self._mark(part, knee.at(0.9 * lower, 0.0))

    def tail(self, frame: Frame, species: Species, paint: Paint) -> None:
        """A bent stalk and the tip by which species differ."""
        kind, stalk, width, tip, tip_width = species.tail
        segments = max(1, round(stalk / 0.18))
        bend = _degrees(self.rng, -75, 75) / segments
        self._new_group()
        for index in range(segments):
            half_width = width * (1 - 0.45 * index / segments) / 2
            matrix = frame.matrix(stalk / segments, half_width)
            self._add(LIMBS["slim"], matrix, TAIL, paint, 0.5)
            frame = frame.at(0.95 * stalk / segments, 0.0, bend)
        flip = 1.0 if self.rng.random() < 0.5 else -1.0
        self._add(TAIL_TIPS[kind], frame.matrix(tip, flip * tip_width / 2), TAIL, paint, 0.4)
        self._mark(TAIL, frame.at(0.42 * tip, 0.0))

    def _body(self, root: Frame, species: Species, height: float, paint: Paint) -> None:
        self._new_group()
        self._add(BODIES[species.body], root.matrix(0.5, height), BODY, paint, 1.0)
        self._mark(BODY, root.at(0.02, -0.62 * height))

    def _front(
        self, root: Frame, species: Species, height: float, paints: dict[int, Paint]
    ) -> None:
        rng = self.rng
        length, width = species.neck
        length *= 0.85 + 0.3 * rng.random()
        neck = root.at(0.36, 0.25 * height, _degrees(rng, 10, 95))
        self._new_group()
        self._add(LIMBS["neck"], neck.matrix(length + 0.1, width / 2), NECK, paints[NECK], 0.7)
        self._mark(NECK, neck.at(0.62 * length + 0.02, 0.0))
        joint = neck.at(length + 0.1, 0.0)
        head = Frame(joint.x, joint.y, 0.5 * root.angle + _degrees(rng, -50, 35))
        self._head(head.at(0.2 * species.head[1], 0.0), species, paints)

    def _head(self, frame: Frame, species: Species, paints: dict[int, Paint]) -> None:
        kind, length, height = species.head
        top = frame.at(-0.22 * length, 0.3 * height, math.radians(species.crest[3]))
        turn = _degrees(self.rng, -18, 18)
        self._crest(top.at(0.0, 0.0, turn - 0.35), species, _far(paints[CREST]), near=False)
        muzzle = frame.at(0.34 * length, -0.12 * height, _degrees(self.rng, -10, 10))
        self._muzzle(muzzle, species, paints[MUZZLE])
        self._new_group()
        self._add(HEADS[kind], frame.matrix(length / 2, height / 2), HEAD, paints[HEAD], 0.9)
        self._mark(HEAD, frame.at(-0.02 * length, -0.22 * height))
        self._eyeball(frame.at(0.17 * length, 0.14 * height), 0.2 * height)
        self._crest(top.at(0.0, 0.0, turn), species, paints[CREST], near=True)

    def _loose_head(self, frame: Frame, species: Species, paint: Paint) -> None:
        kind, length, height = species.head
        self._new_group()
        self._add(HEADS[kind], frame.matrix(length / 2, height / 2), HEAD, paint, 0.9)
        if self.rng.random() < 0.5:
            self._eyeball(frame.at(0.17 * length, 0.14 * height), 0.2 * height)
        else:
            self._muzzle(
                frame.at(0.34 * length, -0.12 * height), species, self.palette.paint(self.rng)
            )

    def _muzzle(self, frame: Frame, species: Species, paint: Paint) -> None:
        kind, length, width = species.muzzle
        self._new_group()
        self._add(MUZZLES[kind], frame.matrix(length, width / 2), MUZZLE, paint, 0.5)
        self._mark(MUZZLE, frame.at(0.45 * length, -0.05 * width))

    def _crest(self, frame: Frame, species: Species, paint: Paint, *, near: bool) -> None:
        kind, length, width, _ = species.crest
        if not near and kind in ("mane", "plume"):
            return
        self._new_group()
        self._add(CRESTS[kind], frame.matrix(length, -width / 2), CREST, paint, 0.35)
        self._mark(CREST, frame.at(0.52 * length, 0.0))

    def _eyeball(self, frame: Frame, radius: float) -> None:
        ball, iris, pupil, glint = _eye_paints(*self._eye)
        disc = SCENERY["disc"]
        self._new_group()
        self._add(disc, frame.matrix(radius, radius), EYE, ball, 0.3)
        gaze = frame.at(0.18 * radius, 0.0)
        self._add(disc, gaze.matrix(0.72 * radius, 0.72 * radius), EYE, iris, 0.0)
        self._add(disc, gaze.matrix(0.45 * radius, 0.45 * radius), EYE, pupil, 0.0)
        spark = Frame(gaze.x + 0.1 * radius, gaze.y + 0.3 * radius, 0.0)
        self._add(disc, spark.matrix(0.24 * radius, 0.24 * radius), EYE, glint, 0.0)
        self._mark(EYE, frame)

    def _legs(
        self, root: Frame, species: Species, height: float, paints: dict[int, Paint], *, far: bool
    ) -> None:
        for leg, part, x in _legs_of(species):
            side = 0.07 if far else 0.0
            hip = root.at(x + side, -0.35 * height)
            swing = Frame(
                hip.x, hip.y, 0.4 * root.angle - math.pi / 2 + _degrees(self.rng, -38, 38)
            )
            self.leg(swing, leg, part, _far(paints[part]) if far else paints[part])

    def _new_group(self) -> None:
        self._group += 1

    def _add(
        self, outline: Outline, matrix: Matrix, part: int, paint: Paint, roundness: float
    ) -> None:
        self.pieces.append(Piece(outline, matrix, part, paint, roundness, self._group))

    def _mark(self, part: int, frame: Frame) -> None:
        # The near one of a pair is made last and keeps the landmark.
        self.landmarks[part] = (frame.x, frame.y)


def _legs_of(species: Species) -> Iterator[tuple[Leg, int, float]]:
    if species.back_leg is not None:
        yield species.back_leg, BACK_LEG, -0.3 if species.front_leg is not None else -0.1
    if species.front_leg is not None:
        yield species.front_leg, FRONT_LEG, 0.27


def _eye_paints(hue: float, whiteness: float) -> tuple[Paint, ...]:
    hue *= 2 * math.pi
    ball = (250.0, 250.0, 244.0) if whiteness < 0.6 else oklch(0.9, 0.08, hue + 2.5)
    iris, pupil = oklch(0.62, 0.15, hue), oklch(0.2, 0.03, hue)
    return tuple(Paint(colour, colour) for colour in (ball, iris, pupil, (255.0, 255.0, 255.0)))


def _far(paint: Paint) -> Paint:
    return paint._replace(
        base=scaled(paint.base, FAR_SHADE), second=scaled(paint.second, FAR_SHADE)
    )


def parts_of(species: Species) -> Sequence[int]:
    """Indices into `PART_NAMES` of the parts that a species has."""
    missing = {
        WING: species.wing is None,
        FRONT_LEG: species.front_leg is None,
        BACK_LEG: species.back_leg is None,
    }
    return [part for part in range(len(PART_NAMES)) if not missing.get(part, False)]
