"""Samples of a drawn picture against loops, and their means against Pillow's."""

import numpy as np
from PIL import Image

from interp_train.data.creatures.samples import OVERSAMPLING, Samples, means
from interp_train.data.creatures.scenery import IDENTITY

SIZE = 7
SIDE = SIZE * OVERSAMPLING


def patches(seed):
    """A map of shapes with large patches, thin lines and single samples."""
    rng = np.random.default_rng(seed)
    shapes = np.zeros((SIDE, SIDE), dtype=np.uint8)
    for index in range(1, 6):
        top, left = rng.integers(0, SIDE, 2)
        height, width = rng.integers(1, 9, 2)
        shapes[top : top + height, left : left + width] = index
    return shapes


def test_solid_pixels_show_one_shape():
    for seed in range(20):
        shapes = patches(seed)
        solid = Samples(shapes, IDENTITY).solid
        for y in range(SIZE):
            for x in range(SIZE):
                block = shapes[3 * y : 3 * y + 3, 3 * x : 3 * x + 3]
                assert solid[y, x] == (len(set(block.ravel().tolist())) == 1)


def test_borders_have_a_neighbour_of_another_group():
    groups = np.array([0, 1, 1, 2, 3, 3] + [0] * 250, dtype=np.uint8)
    for seed in range(20):
        shapes = patches(seed)
        found = Samples(shapes, IDENTITY).borders(groups).reshape(SIDE, SIDE)
        for y in range(SIDE):
            for x in range(SIDE):
                near = [(y - 1, x), (y + 1, x), (y, x - 1), (y, x + 1)]
                inside = [at for at in near if min(at) >= 0 and max(at) < SIDE]
                expected = any(groups[shapes[at]] != groups[shapes[y, x]] for at in inside)
                assert found[y, x] == expected


def test_samples_of_a_pixel_and_their_places_by_hand():
    """The camera shows the right lower quarter, so that pixel 0 begins at (0.5, 0.5)."""
    camera = (-1.0, -1.0, 2.0, 0.0, 0.0, 2.0)
    indices, x, y = Samples(patches(0), camera).of(np.array([0, SIZE + 2]))
    assert indices[:, :, 0].tolist() == [[0, 1, 2], [21, 22, 23], [42, 43, 44]]
    assert indices[0, 0, 1] == 3 * SIDE + 6
    np.testing.assert_allclose(x[0, :, 0], 0.5 + np.array([0.5, 1.5, 2.5]) / 42, rtol=1e-6)
    np.testing.assert_allclose(y[:, 0, 1], 0.5 + np.array([3.5, 4.5, 5.5]) / 42, rtol=1e-6)


def test_means_are_those_of_pillow():
    """Every sum that nine samples can have, and random ones."""
    rng = np.random.default_rng(0)
    ramp = np.minimum(np.maximum(np.arange(2296)[None] - 255 * np.arange(9)[:, None], 0), 255)
    samples = np.concatenate([ramp, rng.integers(0, 256, (9, 500))], axis=1)
    picture = samples.T.reshape(-1, 3, 3).transpose(1, 0, 2).reshape(3, -1).astype(np.uint8)
    expected = np.asarray(Image.fromarray(picture).reduce(3))[0]
    np.testing.assert_array_equal(means(samples[None].astype(np.float32))[0], expected)
