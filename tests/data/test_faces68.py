"""Faces: crops to the box of the landmarks, persons in one split only, mirrored landmarks."""

import csv

import numpy as np
import pytest
import torch

from interp_train.data.background_samples import BACKGROUND_ID_STEP
from interp_train.data.backgrounds import is_background
from interp_train.data.faces68 import COLUMNS, FLIP_PAIRS, NUM_LANDMARKS, Faces68Data
from interp_train.structures import BACKGROUND
from tests.data.fake_photos import write_photo


@pytest.fixture
def folder(tmp_path):
    """Ten persons with two photos each; landmarks spread over a box at (8 + person, 10)."""
    rows = []
    for number in range(20):
        person = number // 2
        file = f"tr{person:04d}_{number:05d}.jpg"
        write_photo(tmp_path / "training" / file, 64, 64, seed=number)
        source = np.random.default_rng(number)
        points = source.uniform(0, 1, (NUM_LANDMARKS, 2)) * [16, 20] + [8 + person, 10]
        rows.append([file, *(f"{value:.2f}" for value in points.ravel())])
    with (tmp_path / "training_keypoints.csv").open("w", newline="") as file:
        csv.writer(file).writerows([COLUMNS, *rows])
    return tmp_path


def small(root, **options):
    return Faces68Data(str(root), **{"image_size": 32, "batch_size": 4, "flip": False, **options})


def persons(data, split):
    return {int(photo.path.name[2:6]) for photo in data.photos(split).photos}


def test_a_person_is_in_one_split(folder):
    data = small(folder)
    assert persons(data, "val") == {0, 5}
    assert persons(data, "train") == {1, 2, 3, 4, 6, 7, 8, 9}
    data = small(folder, split="tuning")
    assert persons(data, "val") == {1, 6}
    assert persons(data, "train") == {2, 3, 4, 7, 8, 9}
    assert persons(small(folder, num_folds=2), "val") == {0, 2, 4, 6, 8}
    data = small(folder, split="training", num_folds=2)
    assert persons(data, "train") == persons(data, "val") == {1, 3, 5, 7, 9}


def test_crops_fill_the_picture_and_backgrounds_avoid_the_face(folder):
    data = small(folder, backgrounds_per_photo=2)
    photos = data.photos("train").photos
    faces = [photo for photo in photos if photo.label == 0]
    crops = [photo for photo in photos if photo.label == BACKGROUND]
    assert len(faces) == 16
    assert {crop.sample_id % BACKGROUND_ID_STEP for crop in crops} <= {f.sample_id for f in faces}
    assert all(is_background(crop.region, crop.avoided) for crop in crops)
    assert len({photo.sample_id for photo in photos}) == len(photos)
    batch = data.dataset("train")[photos.index(faces[0])]
    points = batch.part_locations[0]
    # Landmarks reach the picture's edge, up to the whole pixels that a crop takes.
    assert np.nanmin(points, 0).max() < 3
    assert np.nanmax(points, 0).min() > 28
    assert torch.isnan(data.dataset("train")[photos.index(crops[0])].part_locations).all()


def test_mirrored_faces_swap_their_landmarks(folder):
    pairs = np.array(FLIP_PAIRS)
    assert len(pairs) == 29
    assert len(set(pairs.ravel().tolist())) == 58  # ten lie on the middle line
    train = small(folder, flip=True).photos("train")
    partner = np.arange(NUM_LANDMARKS)
    partner[pairs[:, 0]], partner[pairs[:, 1]] = pairs[:, 1], pairs[:, 0]
    plain = small(folder).photos("train")
    seen = set()
    for index, photo in enumerate(train.photos):
        if photo.label == 0 and train.view(index, 0).flip:
            seen.add(index)
            expected = plain[index].part_locations[0][partner]
            expected[:, 0] = 31 - expected[:, 0]
            np.testing.assert_allclose(train[index].part_locations[0], expected, atol=1e-3)
    assert seen


def test_errors(folder):
    with pytest.raises(ValueError, match="one of 'folds', 'tuning', 'training', but got 'val'"):
        small(folder, split="val")
    with pytest.raises(ValueError, match="`num_folds` must be >= 3, but got 2"):
        small(folder, split="tuning", num_folds=2)
    with pytest.raises(ValueError, match="must hold background images"):
        small(folder, backgrounds_per_photo=0).setup()


def test_the_mean_real_face_is_its_own_mirror_image(data_folder):
    data = Faces68Data(str(data_folder("faces68")))
    photos = [photo for photo in data.read().splits["train"] if photo.label == 0]
    mean = np.mean([_in_box(photo) for photo in photos], axis=0)
    mirrored = mean.copy()
    for one, other in FLIP_PAIRS:
        mirrored[[one, other]] = mean[[other, one]]
    mirrored[:, 0] = 1 - mirrored[:, 0]
    assert np.abs(mirrored - mean).max() < 0.05  # the next landmark is .06 away or more
    assert np.abs(mirrored - mean).mean() < 0.015


def _in_box(photo):
    left, top, right, bottom = photo.box
    return (photo.part_locations - [left, top]) / [right - left, bottom - top]
