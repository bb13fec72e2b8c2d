"""Drawn pictures: determinism, and ground truth against slow oracles."""

import math
import random

import numpy as np
import pytest

from interp_train.data.creatures.anatomy import Sculptor, parts_of
from interp_train.data.creatures.composition import (
    CONCEPT_NAMES,
    Recipe,
    draw,
    visible_boxes,
)
from interp_train.data.creatures.outlines import NUM_VERTICES, polygon
from interp_train.data.creatures.painter import compose
from interp_train.data.creatures.palette import (
    COLOUR_NAMES,
    TEXTURE_NAMES,
    Palette,
    colour_indices,
    oklch,
)
from interp_train.data.creatures.scenery import SCENE_NAMES
from interp_train.data.creatures.species import (
    INSTABILITY_PARTS,
    PART_GROUPS,
    PART_NAMES,
    SPECIES,
    SPECIES_NAMES,
)
from interp_train.structures import BACKGROUND

RECIPE = Recipe(image_size=64)


@pytest.fixture(scope="module")
def drawings():
    return [draw(index % len(SPECIES), index, RECIPE) for index in range(80)]


def part_map_of(drawing):
    return drawing.concepts[1][drawing.shape_map]


def slow_box(mask):
    """Outer edges of a mask's pixels, pixel by pixel."""
    box = [math.inf, math.inf, -math.inf, -math.inf]
    for y in range(mask.shape[0]):
        for x in range(mask.shape[1]):
            if mask[y, x]:
                box = [min(box[0], x - 0.5), min(box[1], y - 0.5),
                       max(box[2], x + 0.5), max(box[3], y + 0.5)]  # fmt: skip
    return [math.nan] * 4 if box[0] == math.inf else box


def slow_placed_points(drawn_species, seed):
    """Vertices of every piece in creature coordinates, one by one, and the landmarks."""
    figure = Sculptor(random.Random(seed)).creature(SPECIES[drawn_species])
    vertices = [
        (x + px * ax + py * bx, y + px * ay + py * by)
        for piece in figure.pieces
        for x, y, ax, ay, bx, by in [piece.matrix]
        for px, py in piece.outline.tolist()
    ]
    return vertices, figure.landmarks


def test_equal_seeds_give_equal_pictures_in_any_order(drawings):
    for index in (7, 0, 33):
        again = draw(index % len(SPECIES), index, RECIPE)
        for first, second in zip(again, drawings[index], strict=True):
            np.testing.assert_array_equal(first, second)


def test_other_seeds_give_other_pictures(drawings):
    pictures = {drawing.image.tobytes() for drawing in drawings}
    assert len(pictures) == len(drawings)


def test_random_state_outside_is_neither_used_nor_changed():
    random.seed(5)
    np.random.seed(5)  # noqa: NPY002
    before = random.getstate(), np.random.get_state()[1].tolist()  # noqa: NPY002
    first = draw(0, 1, RECIPE).image
    assert (random.getstate(), np.random.get_state()[1].tolist()) == before  # noqa: NPY002
    random.seed(6)
    np.testing.assert_array_equal(draw(0, 1, RECIPE).image, first)


def test_boxes_are_the_extents_of_the_visible_pixels(drawings):
    for drawing in drawings[:10]:
        part_map = part_map_of(drawing)
        np.testing.assert_array_equal(drawing.box, slow_box(part_map > 0))
        for part in range(len(PART_NAMES)):
            np.testing.assert_array_equal(drawing.part_boxes[part], slow_box(part_map == 1 + part))


def test_box_of_one_pixel_by_hand():
    part_map = np.zeros((5, 5), dtype=np.uint8)
    part_map[3, 1] = 10
    boxes = visible_boxes(part_map)
    assert boxes[0].tolist() == [0.5, 2.5, 1.5, 3.5]
    assert boxes[10].tolist() == [0.5, 2.5, 1.5, 3.5]
    assert np.isnan(boxes[1:10]).all()


def test_landmarks_lie_on_the_visible_part(drawings):
    on_part = []
    for drawing in drawings:
        part_map = part_map_of(drawing)
        for part, (x, y) in enumerate(drawing.part_locations):
            if not math.isnan(x):
                on_part.append(part_map[round(float(y)), round(float(x))] == 1 + part)
                left, top, right, bottom = drawing.part_boxes[part]
                assert left <= x <= right
                assert top <= y <= bottom
    assert len(on_part) > 500
    assert all(on_part)


def test_landmarks_lie_inside_an_outline_of_their_part():
    """By crossing number in the creature's own frame: the landmark is inside some piece of it."""
    for seed in range(20):
        figure = Sculptor(random.Random(seed)).creature(SPECIES[seed % len(SPECIES)])
        for part, (x, y) in figure.landmarks.items():
            pieces = [piece for piece in figure.pieces if piece.part == part]
            assert any(is_inside(piece, x, y) for piece in pieces), (seed, PART_NAMES[part])


def is_inside(piece, x, y):
    ox, oy, ax, ay, bx, by = piece.matrix
    points = [(ox + u * ax + v * bx, oy + u * ay + v * by) for u, v in piece.outline.tolist()]
    inside = False
    for (x1, y1), (x2, y2) in zip(points, points[1:] + points[:1], strict=True):
        if (y1 > y) != (y2 > y) and x < x1 + (y - y1) * (x2 - x1) / (y2 - y1):
            inside = not inside
    return inside


def test_concept_maps_of_a_creature_agree():
    """With nothing else around, patterned shapes are the creature and the rest is scenery."""
    recipe = RECIPE._replace(num_distractors=(0, 0), num_occluders=(0, 0))
    drawing = draw(1, 3, recipe)
    part_map = part_map_of(drawing)
    assert (drawing.concepts[0][drawing.shape_map] == 2)[part_map > 0].all()
    plain = drawing.concepts[3][drawing.shape_map] == 0
    np.testing.assert_array_equal(plain, part_map == 0)


def test_missing_parts_have_neither_landmark_nor_pixel(drawings):
    for index, drawing in enumerate(drawings):
        present = parts_of(SPECIES[index % len(SPECIES)])
        for part in set(range(len(PART_NAMES))) - set(present):
            assert np.isnan(drawing.part_locations[part]).all()
            assert np.isnan(drawing.part_boxes[part]).all()


def test_all_parts_species_scenes_textures_and_colours_occur(drawings):
    assert {name for group in PART_GROUPS.values() for name in group} == set(range(10))
    assert set(INSTABILITY_PARTS) <= set(range(10))
    parts = np.concatenate([np.unique(part_map_of(drawing)) for drawing in drawings])
    assert set(parts.tolist()) == set(range(1 + len(PART_NAMES)))
    assert {drawing.scene for drawing in drawings} == set(range(len(SCENE_NAMES)))
    maps = [drawing.concepts[:, np.unique(drawing.shape_map)] for drawing in drawings]
    seen = [set(np.concatenate([values[row] for values in maps]).tolist()) for row in range(4)]
    assert set(range(1, 1 + len(SPECIES_NAMES))) <= seen[0]
    assert max(seen[0]) == len(CONCEPT_NAMES["object"])
    assert set(range(1, 1 + len(TEXTURE_NAMES))) <= seen[3]
    assert max(seen[2]) <= len(COLOUR_NAMES)
    assert len(seen[2]) > 8


def test_most_parts_are_visible(drawings):
    visible = [
        not np.isnan(drawing.part_locations[part, 0])
        for index, drawing in enumerate(drawings)
        for part in parts_of(SPECIES[index % len(SPECIES)])
    ]
    assert 0.75 < np.mean(visible) < 0.99


def test_without_creature_there_are_loose_parts_but_no_part():
    drawing = draw(BACKGROUND, 1, RECIPE)
    assert np.isnan(drawing.box).all()
    assert np.isnan(drawing.part_locations).all()
    assert np.isnan(drawing.part_boxes).all()
    objects = drawing.concepts[0][drawing.shape_map]
    assert objects.min() > len(SPECIES_NAMES)
    assert (objects >= CONCEPT_NAMES["object"].index("loose part")).any()


def test_facing_size_and_position_vary(drawings):
    boxes = np.stack([drawing.box for drawing in drawings])
    centres = (boxes[:, :2] + boxes[:, 2:]) / 2
    assert (centres.std(axis=0) > 4).all()
    sizes = (boxes[:, 2:] - boxes[:, :2]).max(axis=1)
    assert sizes.std() > 4
    locations = np.stack([drawing.part_locations for drawing in drawings])
    right = locations[:, PART_NAMES.index("head"), 0] > locations[:, PART_NAMES.index("body"), 0]
    assert 0.3 < right.mean() < 0.7


def test_colour_is_not_tied_to_species_or_part():
    """Hue of the body over two species, and over two parts of one: the same distribution."""
    rng = random.Random(0)
    paints = [[Palette(rng).paint(rng).base for _ in range(400)] for _ in range(2)]
    counts = [np.bincount(colour_indices(np.array(group)), minlength=12) for group in paints]
    assert np.abs(counts[0] - counts[1]).max() < 60
    for species in SPECIES:
        assert not any("colour" in field for field in species._fields)


def test_crop_shows_the_creature_larger_and_landmarks_follow():
    whole = draw(2, 11, RECIPE)
    close = draw(2, 11, RECIPE._replace(crop_margin=0.1, crop_jitter=0.0))
    width, close_width = (d.box[2] - d.box[0] for d in (whole, close))
    zoom = close_width / width
    assert zoom > 1.02
    both = ~np.isnan(whole.part_locations[:, 0]) & ~np.isnan(close.part_locations[:, 0])
    gaps = np.diff(whole.part_locations[both], axis=0)
    close_gaps = np.diff(close.part_locations[both], axis=0)
    ratio = np.linalg.norm(close_gaps) / np.linalg.norm(gaps)
    np.testing.assert_allclose(close_gaps, gaps * ratio, atol=1e-3)
    assert ratio == pytest.approx(zoom, rel=0.06)


def test_higher_resolution_shows_the_same_scene():
    small, large = (draw(0, 4, RECIPE._replace(image_size=size)) for size in (64, 128))
    expected = 2 * small.part_locations + 0.5  # pixel centres at integers
    both = ~np.isnan(small.part_locations[:, 0]) & ~np.isnan(large.part_locations[:, 0])
    np.testing.assert_allclose(large.part_locations[both], expected[both], atol=1e-3)
    coarse = large.image.reshape(64, 2, 64, 2, 3).mean(axis=(1, 3))
    assert np.abs(coarse - small.image).mean() < 8


def test_extent_of_a_creature_is_that_of_its_vertices():
    """The creature, placed, fills its share of the scene: no vertex leaves the unit square."""
    vertices, landmarks = slow_placed_points(0, 9)
    x, y = np.array(vertices).T
    for at in landmarks.values():
        assert x.min() <= at[0] <= x.max()
        assert y.min() <= at[1] <= y.max()


@pytest.mark.parametrize(
    ("colour", "name"),
    [((255, 0, 0), "red"), ((0, 200, 0), "green"), ((20, 40, 250), "blue"),
     ((255, 255, 0), "yellow"), ((255, 140, 0), "orange"), ((120, 70, 20), "brown"),
     ((255, 255, 255), "white"),
     ((128, 128, 128), "grey"), ((5, 5, 5), "black"), ((255, 105, 190), "pink"),
     ((130, 40, 200), "purple"), ((30, 210, 200), "turquoise")],
)  # fmt: skip
def test_colour_names(colour, name):
    assert COLOUR_NAMES[colour_indices(np.array([colour], dtype=float))[0]] == name


def test_oklab_reference_values():
    """White and pure red in Oklab, after Ottosson 2020: L = 1; L, a, b = .628, .225, .126."""
    np.testing.assert_allclose(oklch(1.0, 0.0, 0.0), (255, 255, 255), atol=0.5)
    a, b = 0.2248, 0.1258
    red = oklch(0.628, math.hypot(a, b), math.atan2(b, a))
    np.testing.assert_allclose(red, (255, 0, 0), atol=3)


def test_compose_applies_the_inner_matrix_first():
    shift, double = (1.0, 2.0, 1.0, 0.0, 0.0, 1.0), (0.0, 0.0, 2.0, 0.0, 0.0, 2.0)
    assert compose(shift, double) == (1.0, 2.0, 2.0, 0.0, 0.0, 2.0)
    assert compose(double, shift) == (2.0, 4.0, 2.0, 0.0, 0.0, 2.0)


def test_outlines_keep_their_corners():
    square = [(0.0, 0.0), (1.0, 0.0), (1.0, 1.0), (0.0, 1.0)]
    outline = polygon(square)
    assert outline.shape == (NUM_VERTICES, 2)
    assert {tuple(point) for point in square} <= {tuple(point) for point in outline.tolist()}
