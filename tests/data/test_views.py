"""Views of photos: what is drawn into a photo is found where the view says it is."""

import math
import random

import numpy as np
import pytest
import torch
from torchvision.transforms.v2 import functional as transforms

from interp_train.data.backgrounds import background_box, is_background
from interp_train.data.random_sources import random_source
from interp_train.data.views import (
    View,
    ViewAugmentation,
    check_augmentation,
    normalised,
    random_view,
    turned,
    view_of,
)

WIDTH, HEIGHT, SIZE = 120, 90, 64
JITTER = ViewAugmentation(flip=True, scale=(0.7, 1.4), aspect=0.3, shift=0.2)


def some_views():
    source = random.Random(0)
    box = (20.0, 15.0, 95.0, 75.0)
    return [random_view(box, (WIDTH, HEIGHT), 0.05, JITTER, source) for _ in range(12)]


def centre_of(view):
    """Weighted mean position of the bright pixels."""
    rows, columns = np.mgrid[: view.shape[0], : view.shape[1]]
    return np.array([(view * columns).sum(), (view * rows).sum()]) / view.sum()


@pytest.mark.parametrize("view", some_views())
def test_a_dot_is_found_where_its_landmark_moves(view):
    source = random.Random(1)
    found = 0
    for _ in range(80):
        x, y = source.randrange(2, WIDTH - 2), source.randrange(2, HEIGHT - 2)
        photo = torch.zeros(3, HEIGHT, WIDTH, dtype=torch.uint8)
        photo[:, y - 1 : y + 2, x - 1 : x + 2] = 255
        moved = view.move_points(np.array([[x, y]], dtype=float), SIZE)[0]
        drawn = view.render(photo, SIZE)[0].double().numpy()
        inside = view.left + 4 <= x < view.left + view.width - 4
        inside &= view.top + 4 <= y < view.top + view.height - 4
        if inside:
            found += 1
            np.testing.assert_allclose(moved, centre_of(drawn), atol=0.15)
        elif drawn.sum() == 0:
            assert np.isnan(moved).all()
    assert found > 5


@pytest.mark.parametrize("view", some_views())
def test_a_filled_box_is_found_where_it_moves(view):
    left, top, right, bottom = 40, 30, 99, 65  # the pixels 40..98 and 30..64
    photo = torch.zeros(3, HEIGHT, WIDTH, dtype=torch.uint8)
    photo[:, top:bottom, left:right] = 255
    box = np.array([left - 0.5, top - 0.5, right - 0.5, bottom - 0.5])
    moved = view.move_boxes(box, SIZE)
    rows, columns = (view.render(photo, SIZE)[0] > 127).nonzero(as_tuple=True)
    extent = [columns.min() - 0.5, rows.min() - 0.5, columns.max() + 0.5, rows.max() + 0.5]
    np.testing.assert_allclose(moved, [float(side) for side in extent], atol=0.76)


@pytest.mark.parametrize("angle", [-70.0, -15.0, 30.0, 90.0, 180.0])
@pytest.mark.parametrize("flip", [False, True])
def test_turned_dots_and_boxes_are_found_where_they_move(angle, flip):
    view = View(10, 5, 100, 70, flip, angle)
    left, top, right, bottom = 50, 32, 71, 47
    source = random.Random(1)
    for _ in range(20):  # away from the border, which the corners repeat
        x, y = source.randrange(left, right), source.randrange(top, bottom)
        photo = torch.zeros(3, HEIGHT, WIDTH, dtype=torch.uint8)
        photo[:, y - 1 : y + 2, x - 1 : x + 2] = 255
        drawn = view.render(photo, SIZE)[0].double().numpy()
        moved = view.move_points(np.array([[x, y]], dtype=float), SIZE)[0]
        np.testing.assert_allclose(moved, centre_of(drawn), atol=0.15)
        np.testing.assert_allclose(view.transform(SIZE) @ [x, y, 1], moved, atol=1e-9)
    photo = torch.zeros(3, HEIGHT, WIDTH, dtype=torch.uint8)
    photo[:, top:bottom, left:right] = 255
    box = np.array([left - 0.5, top - 0.5, right - 0.5, bottom - 0.5])
    rows, columns = (view.render(photo, SIZE)[0] > 60).nonzero(as_tuple=True)
    extent = [columns.min() - 0.5, rows.min() - 0.5, columns.max() + 0.5, rows.max() + 0.5]
    moved = view.move_boxes(box, SIZE)
    np.testing.assert_allclose(moved, [float(side) for side in extent], atol=1.1)
    assert np.isnan(view.move_boxes(np.array([np.nan] * 4), SIZE)).all()


def test_quarter_turns_lose_nothing():
    pixels = torch.randint(0, 256, (3, 17, 17), dtype=torch.uint8)
    for quarters in range(4):
        assert torch.equal(turned(pixels, 90.0 * quarters), pixels.rot90(-quarters, (1, 2)))


def test_turns_stay_within_their_range_and_leave_the_other_changes_alone():
    box = (20.0, 15.0, 95.0, 75.0)
    turns = []
    for seed in range(300):
        plain = random_view(box, (WIDTH, HEIGHT), 0.05, JITTER, random.Random(seed))
        turning = JITTER._replace(rotation=30.0)
        view = random_view(box, (WIDTH, HEIGHT), 0.05, turning, random.Random(seed))
        assert view._replace(angle=0.0) == plain
        turns.append(view.angle)
    assert -30 <= min(turns) < -27
    assert 27 < max(turns) <= 30
    turned = [turn for turn in turns if turn]
    assert 130 < len(turned) < 170  # half of them stay upright
    assert abs(sum(abs(turn) for turn in turned) / len(turned) - 15) < 2


def test_hand_numbers():
    view = View(left=10, top=0, width=20, height=40)
    points = np.array([[10.0, 0.0], [29.0, 39.0], [9.0, 5.0], [np.nan, np.nan]])
    # The first column's centre lies half a photo pixel, one view pixel, right of the edge -0.5.
    expected = [[0.5, 0.0], [38.5, 39.0], [np.nan, np.nan], [np.nan, np.nan]]
    np.testing.assert_allclose(view.move_points(points, 40), expected)
    mirrored = view._replace(flip=True)
    np.testing.assert_allclose(mirrored.move_points(points[:1], 40), [[38.5, 0.0]])
    boxes = np.array([[9.5, -0.5, 19.5, 9.5], [0.0, 0.0, 9.0, 9.0], [np.nan] * 4])
    np.testing.assert_allclose(view.move_boxes(boxes, 40)[0], [-0.5, -0.5, 19.5, 9.5])
    np.testing.assert_allclose(mirrored.move_boxes(boxes, 40)[0], [19.5, -0.5, 39.5, 9.5])
    assert np.isnan(view.move_boxes(boxes, 40)[1:]).all()
    assert view.box() == (9.5, -0.5, 29.5, 39.5)


def test_the_whole_photo_at_its_own_size_is_the_photo():
    photo = torch.randint(0, 256, (3, 32, 32), dtype=torch.uint8)
    view = view_of((-0.5, -0.5, 31.5, 31.5), (32, 32), 0.0)
    assert view == View(0, 0, 32, 32)
    assert torch.equal(view.render(photo, 32), photo)
    assert torch.equal(view._replace(flip=True).render(photo, 32), photo.flip(-1))
    points = np.array([[3.0, 30.0]])
    np.testing.assert_array_equal(view.move_points(points, 32), points)


def test_crops_have_a_margin_and_end_at_the_edge():
    # The box is 20 wide and 10 high: 2 and 1 pixels are added on each side.
    assert view_of((29.5, 39.5, 49.5, 49.5), (100, 100), 0.1) == View(28, 39, 24, 12)
    assert view_of((-9.0, 80.0, 30.0, 130.0), (100, 100), 0.0) == View(0, 80, 30, 20)
    assert view_of((98.9, 5.0, 98.95, 5.01), (100, 100), 0.0) == View(99, 6, 1, 1)


def test_random_views_stay_within_their_ranges():
    box, size = (200.0, 200.0, 300.0, 250.0), (1000, 1000)
    augmentation = ViewAugmentation(flip=True, scale=(0.8, 1.25), aspect=0.2, shift=0.1)
    source = random.Random(0)
    views = [random_view(box, size, 0.0, augmentation, source) for _ in range(500)]
    scales = [math.sqrt(view.width * view.height / (100 * 50)) for view in views]
    ratios = [view.width / view.height / 2 for view in views]
    shifts = [(view.left + view.width / 2 - 250) / 100 for view in views]
    # Whole pixels make the ranges fuzzy by some hundredths.
    assert 0.77 < min(scales) < 0.83
    assert 1.2 < max(scales) < 1.28
    assert 1 / 1.24 < min(ratios) < 0.87
    assert 1.16 < max(ratios) < 1.24
    assert -0.11 < min(shifts) < -0.09
    assert 0.09 < max(shifts) < 0.11
    assert 0.4 < np.mean([view.flip for view in views]) < 0.6


def test_no_augmentation_is_the_plain_view():
    box = (20.0, 15.0, 95.0, 75.0)
    plain = view_of(box, (WIDTH, HEIGHT), 0.1)
    assert random_view(box, (WIDTH, HEIGHT), 0.1, ViewAugmentation(), random.Random(0)) == plain


def test_random_sources_differ_in_each_number():
    keys = [(0, 0, 1), (0, 1, 0), (1, 0, 0), (0, 0), (0, 1), (1, 1, 1)]
    assert len({random_source(*key).random() for key in keys}) == len(keys)
    assert random_source(1, 2, 3).random() == random_source(1, 2, 3).random()


def test_normalisation_agrees_with_torchvision():
    views = torch.randint(0, 256, (2, 3, 5, 5), dtype=torch.uint8)
    mean, std = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
    expected = transforms.normalize(views.float() / 255, mean, std)
    torch.testing.assert_close(normalised(views, mean, std), expected, atol=1e-6, rtol=1e-6)


def slow_shared_pixels(one, other):
    """Unit cells whose centres lie in both boxes."""
    return sum(
        all(b[0] <= x + 0.5 <= b[2] and b[1] <= y + 0.5 <= b[3] for b in (one, other))
        for x in range(100)
        for y in range(100)
    )


def test_background_boxes_stay_off_the_object():
    target, source = (20.0, 30.0, 60.0, 70.0), random.Random(0)
    for _ in range(20):
        box = background_box((100, 100), target, source)
        assert box[0] >= -0.5
        assert box[1] >= -0.5
        assert max(box[2:]) <= 99.5
        shared = slow_shared_pixels(box, target)
        area = (box[2] - box[0]) * (box[3] - box[1])
        # Counting cells is exact to about half the box's outline.
        assert shared <= 0.1 * min(area, 1600) + 60


def test_background_boxes_are_about_as_large_as_the_object():
    sides = []
    for seed in range(50):
        box = background_box((200, 200), (10.0, 10.0, 70.0, 70.0), random.Random(seed))
        sides.append(math.sqrt((box[2] - box[0]) * (box[3] - box[1])))
    assert 50 < np.median(sides) < 75


def test_background_needs_room():
    assert background_box((100, 100), (0.0, 0.0, 99.0, 99.0), random.Random(0)) is None
    assert is_background((0.0, 0.0, 10.0, 10.0), (9.0, 0.0, 30.0, 10.0))  # exactly a tenth
    assert not is_background((0.0, 0.0, 10.0, 10.0), (8.9, 0.0, 30.0, 10.0))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((True, (1.2, 0.8), 0.0, 0.0), r"`scale` must be a pair 0 < smallest <= largest, but got"),
        ((True, (0.0, 0.8), 0.0, 0.0), "`scale` must be a pair"),
        ((True, (1.0,), 0.0, 0.0), "`scale` must be a pair"),
        ((True, (1.0, 1.0), -0.1, 0.0), "`aspect` must be >= 0.0"),
        ((True, (1.0, 1.0), 0.0, 1.5), "`shift` must be .* <= 1.0, but got 1.5"),
        ((True, (1.0, 1.0), 0.0, 0.0, 200.0), "`rotation` must be .* <= 180.0, but got 200.0"),
    ],
)
def test_bad_augmentation(arguments, message):
    with pytest.raises(ValueError, match=message):
        check_augmentation(*arguments)


@pytest.mark.parametrize("view", some_views())
def test_the_matrix_moves_points_as_the_view_does(view):
    points = np.random.RandomState(0).uniform(0, 90, (30, 2))
    moved = view.move_points(points, SIZE)
    inside = np.isfinite(moved).all(1)
    assert inside.any()
    matrix = view.transform(SIZE)
    found = points @ matrix[:, :2].T + matrix[:, 2]
    np.testing.assert_allclose(found[inside], moved[inside], atol=1e-9)


def test_matrices_by_hand():
    """Pixel centres at integers: twice the size takes pixel 0 to .5."""
    assert View(0, 0, 32, 32).transform(64).tolist() == [[2, 0, 0.5], [0, 2, 0.5]]
    assert View(0, 0, 64, 64, flip=True).transform(64).tolist() == [[-1, 0, 63], [0, 1, 0]]
