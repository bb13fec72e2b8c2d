"""Composes one picture: a scene, loose parts, a creature, what stands in front; and its truth."""

import math
import random
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from interp_train.data.creatures.anatomy import Figure, Matrix, Piece, Sculptor
from interp_train.data.creatures.outlines import SCENERY
from interp_train.data.creatures.painter import Canvas
from interp_train.data.creatures.palette import COLOUR_NAMES, TEXTURE_NAMES, Palette
from interp_train.data.creatures.scenery import (
    IDENTITY,
    SCENE_NAMES,
    SCENERY_NAMES,
    Scene,
    random_scene,
)
from interp_train.data.creatures.species import PART_NAMES, SPECIES, SPECIES_NAMES
from interp_train.structures import BACKGROUND

CONCEPT_NAMES: dict[str, tuple[str, ...]] = {
    "object": (*SPECIES_NAMES, *SCENERY_NAMES, "loose part", "thing"),
    "part": PART_NAMES,
    "colour": COLOUR_NAMES,
    "texture": TEXTURE_NAMES,
    "scene": SCENE_NAMES,
}
"""Concept category -> names; concept map value v > 0 stands for name v - 1."""

# Value of a part map -> a bit of its own; and the bits of any part, then of each part.
_PART_FLAGS = np.concatenate([[0], 1 << np.arange(len(PART_NAMES))]).astype(np.uint16)
_PART_FLAGS_OR_ANY = np.concatenate([[0xFFFF], _PART_FLAGS[1:]]).astype(np.uint16)[:, None, None]

_FIRST_SCENERY = 1 + len(SPECIES_NAMES)
_LOOSE_PART = _FIRST_SCENERY + len(SCENERY_NAMES)
_THING = _LOOSE_PART + 1

_THING_OUTLINES = ("disc", "disc", "star", "gem", "bar", "leaf", "blade", "cloud", "flower")


class Recipe(NamedTuple):
    """How pictures are composed.

    Attributes:
        image_size: side of the square picture in pixels.
        object_size: range of the creature's larger extent, as a share of the scene's side.
        num_distractors: range of the number of loose parts and things that lie around.
        num_occluders: range of the number of things in front of the creature.
        crop_margin: None shows the whole scene; otherwise the view is a square around the
            creature, this share of the creature's larger extent wider on each side.
        crop_jitter: with `crop_margin`, how far the view's centre may move and its side change, as
            a share of its side.
    """

    image_size: int = 96
    object_size: tuple[float, float] = (0.55, 0.9)
    num_distractors: tuple[int, int] = (2, 6)
    num_occluders: tuple[int, int] = (0, 2)
    crop_margin: float | None = None
    crop_jitter: float = 0.1


class Drawing(NamedTuple):
    """A picture and everything that is known about it.

    Attributes:
        image: uint8 ``(H, W, 3)``.
        shape_map: index of the visible shape at each pixel's centre, uint8 ``(H, W)``.
        concepts: rows object, part, colour, texture: value of each shape, uint8 ``(4, 256)``.
        scene: index into `SCENE_NAMES`.
        box: box of the creature's visible pixels, outer edges, ``(4,)``; NaN without creature.
        part_locations: ``(P, 2)``; NaN where the part is missing or its landmark is hidden.
        part_boxes: box of each part's visible pixels, outer edges, ``(P, 4)``; NaN where hidden.
    """

    image: NDArray[np.uint8]
    shape_map: NDArray[np.uint8]
    concepts: NDArray[np.uint8]
    scene: int
    box: NDArray[np.float32]
    part_locations: NDArray[np.float32]
    part_boxes: NDArray[np.float32]


def draw(species: int, seed: int, recipe: Recipe, loose_species: int | None = None) -> Drawing:
    """Draw one picture; equal arguments give equal pictures, in any process.

    Args:
        species: index into `SPECIES`, or `BACKGROUND` for a scene without a creature.
        seed: any whole number >= 0.
        recipe: how to compose.
        loose_species: loose parts come from the first so many species; None = all.
    """
    rng = random.Random(seed)
    scene = random_scene(rng)
    canvas = Canvas()
    canvas.add_layers(scene.layers, _FIRST_SCENERY)
    unit = _log_uniform(rng, recipe.object_size) / 2.4
    sources = loose_species or len(SPECIES)
    # Without a creature there are more loose parts, so that their number tells nothing.
    num_distractors = _count(rng, recipe.num_distractors) * (2 if species == BACKGROUND else 1)
    for _ in range(num_distractors):
        _add_distractor(canvas, rng, unit, sources)
    landmarks: dict[int, tuple[float, float]] = {}
    if species == BACKGROUND:
        extent = _empty_extent(rng, recipe)
    else:
        figure = Sculptor(rng).creature(SPECIES[species])
        placement, extent = _place(figure, rng, recipe)
        canvas.add_pieces(figure.pieces, placement, 1 + species, whole=True)
        landmarks = {part: _apply(placement, at) for part, at in figure.landmarks.items()}
    _add_occluders(canvas, scene, rng, extent, recipe.num_occluders)
    camera = IDENTITY if recipe.crop_margin is None else _crop(rng, extent, recipe)
    painting = canvas.paint(recipe.image_size, camera)
    concepts = canvas.concepts()
    part_map = concepts[1].take(painting.shape_map)
    boxes = visible_boxes(part_map)
    locations = _visible_locations(landmarks, part_map, camera)
    return Drawing(
        painting.image, painting.shape_map, concepts, scene.name, boxes[0], locations, boxes[1:]
    )


def visible_boxes(part_map: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Outer edges of the visible pixels of the whole creature and of each part.

    Args:
        part_map: 1 + index of the part, 0 elsewhere, uint8 ``(H, W)``.

    Returns:
        Boxes ``(1 + P, 4)``, row 0 the creature's; NaN where nothing is visible.
    """
    # One bit per part, so that one pass over the map along each axis serves all parts.
    flags = _PART_FLAGS.take(part_map)
    lines = np.stack([np.bitwise_or.reduce(flags, axis=axis) for axis in (0, 1)])
    shown = (lines & _PART_FLAGS_OR_ANY) != 0  # part, axis, column or row
    ends = shown.shape[2] - shown[:, :, ::-1].argmax(axis=2)
    boxes = (np.concatenate([shown.argmax(axis=2), ends], axis=1) - 0.5).astype(np.float32)
    boxes[~shown[:, 0].any(axis=1)] = np.nan
    return boxes


def _visible_locations(
    landmarks: dict[int, tuple[float, float]], part_map: NDArray[np.uint8], camera: Matrix
) -> NDArray[np.float32]:
    """Landmarks in pixels; NaN unless the part is what shows at its landmark's pixel."""
    size = len(part_map)
    locations = np.full((len(PART_NAMES), 2), np.nan, dtype=np.float32)
    for part, landmark in landmarks.items():
        x, y = (size * value - 0.5 for value in _apply(camera, landmark))
        column, row = round(x), round(y)
        inside = 0 <= column < size and 0 <= row < size
        if inside and part_map[row, column] == 1 + part:
            locations[part] = x, y
    return locations


def _place(
    figure: Figure, rng: random.Random, recipe: Recipe
) -> tuple[Matrix, tuple[float, float, float, float]]:
    """A random facing, size and position within the scene, and the resulting extent."""
    left, low, right, high = _extent(figure.pieces)
    scale = _log_uniform(rng, recipe.object_size) / max(right - left, high - low)
    facing = scale if rng.random() < 0.5 else -scale
    if facing < 0:
        left, right = -right, -left
    width, height = scale * (right - left), scale * (high - low)
    x, y = (1 - width) * rng.random(), (1 - height) * rng.random()
    placement = (x - scale * left, y + scale * high, facing, 0.0, 0.0, -scale)
    return placement, (x, y, x + width, y + height)


def _empty_extent(rng: random.Random, recipe: Recipe) -> tuple[float, float, float, float]:
    """Where a creature might have been."""
    size = _log_uniform(rng, recipe.object_size)
    x, y = (1 - size) * rng.random(), (1 - size) * rng.random()
    return x, y, x + size, y + size


def _extent(pieces: list[Piece]) -> tuple[float, float, float, float]:
    outlines = np.concatenate([piece.outline for piece in pieces])
    outlines = outlines.reshape(len(pieces), -1, 2)
    matrices = np.array([piece.matrix for piece in pieces], dtype=np.float32)
    points = outlines @ matrices[:, 2:].reshape(-1, 2, 2) + matrices[:, None, :2]
    x, y = points[..., 0], points[..., 1]
    return float(x.min()), float(y.min()), float(x.max()), float(y.max())


def _add_distractor(canvas: Canvas, rng: random.Random, unit: float, sources: int) -> None:
    """A loose part, as large as those of creatures, or a thing, anywhere in the scene."""
    x, y = rng.random(), rng.random()
    scale = unit * (0.75 + 0.5 * rng.random())
    facing = scale if rng.random() < 0.5 else -scale
    placement = (x, y, facing, 0.0, 0.0, -scale)
    if rng.random() < 0.7:
        figure = Sculptor(rng).loose_part(SPECIES[int(rng.random() * sources)])
        canvas.add_pieces(figure.pieces, placement, _LOOSE_PART, whole=False)
        return
    outline = SCENERY[_THING_OUTLINES[int(rng.random() * len(_THING_OUTLINES))]]
    length, width = 0.12 + 0.2 * rng.random(), 0.08 + 0.14 * rng.random()
    turn = 2 * math.pi * rng.random()
    cos, sin = math.cos(turn), math.sin(turn)
    matrix = (0.0, 0.0, length * cos, length * sin, -width * sin, width * cos)
    piece = Piece(outline, matrix, 0, Palette(rng).paint(rng), 0.9, 0)
    canvas.add_pieces([piece], placement, _THING, whole=False)


def _add_occluders(
    canvas: Canvas,
    scene: Scene,
    rng: random.Random,
    extent: tuple[float, float, float, float],
    num_occluders: tuple[int, int],
) -> None:
    left, top, right, bottom = extent
    for _ in range(_count(rng, num_occluders)):
        x = left + (right - left) * rng.random()
        # Plants and rocks stand rather low in front of a creature than high.
        y = top + (bottom - top) * (0.35 + 0.75 * rng.random())
        size = (0.1 + 0.1 * rng.random()) * max(right - left, bottom - top)
        canvas.add_layers(scene.occluder(rng, x, y, size), _FIRST_SCENERY)


def _crop(rng: random.Random, extent: tuple[float, float, float, float], recipe: Recipe) -> Matrix:
    """The camera that shows a square around the creature, within the scene."""
    left, top, right, bottom = extent
    margin, jitter = recipe.crop_margin or 0.0, recipe.crop_jitter
    side = max(right - left, bottom - top) * (1 + 2 * margin)
    side = min(side * (1 + jitter * (2 * rng.random() - 1)), 1.0)
    x = (left + right) / 2 + side * (jitter * (2 * rng.random() - 1) - 0.5)
    y = (top + bottom) / 2 + side * (jitter * (2 * rng.random() - 1) - 0.5)
    x, y = (min(max(value, 0.0), 1.0 - side) for value in (x, y))
    return (-x / side, -y / side, 1 / side, 0.0, 0.0, 1 / side)


def _apply(matrix: Matrix, at: tuple[float, float]) -> tuple[float, float]:
    x, y, ax, ay, bx, by = matrix
    return x + at[0] * ax + at[1] * bx, y + at[0] * ay + at[1] * by


def _count(rng: random.Random, bounds: tuple[int, int]) -> int:
    low, high = bounds
    return low + int(rng.random() * (high - low + 1))


def _log_uniform(rng: random.Random, bounds: tuple[float, float]) -> float:
    low, high = bounds
    return low * math.exp(rng.random() * math.log(high / low))
