"""The Animal-Part csv: boxes, parts, folds; mistakes are told by line."""

import csv
import shutil
from collections import Counter

import numpy as np
import pytest
import torch

from interp_train.data.animal_part import AnimalPartData
from interp_train.structures import PartBatch, ViewBatch
from tests.data.fake_photos import replace_line, write_animals


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    return write_animals(tmp_path_factory.mktemp("animals"))


@pytest.fixture
def folder(stored, tmp_path):
    return shutil.copytree(stored, tmp_path / "animals")


def small(root, **options):
    return AnimalPartData(
        root=str(root), **{"image_size": 32, "batch_size": 4, "flip": False, **options}
    )


def rows_of_csv(folder):
    with (folder / "annotations.csv").open() as file:
        return list(csv.DictReader(file))


def slow_place(value, first, past, size):
    """View coordinate of a photo coordinate, cut at the view's edge."""
    return min(max((float(value) + 0.5 - first) / (past - first) * size - 0.5, -0.5), size - 0.5)


def check_against_csv(row, batch, photo_size, size):
    """Compare one unmirrored sample with its row."""
    left, top = (max(0, round(float(row[side]) + 0.5)) for side in ("xmin", "ymin"))
    right = min(photo_size[0], round(float(row["xmax"]) + 0.5))
    bottom = min(photo_size[1], round(float(row["ymax"]) + 0.5))
    for part, prefix in enumerate(("head_", "legs_")):
        if not row[prefix + "xmin"]:
            assert torch.isnan(batch.part_boxes[0, part]).all()
            assert torch.isnan(batch.part_locations[0, part]).all()
            continue
        sides = [float(row[prefix + side]) for side in ("xmin", "ymin", "xmax", "ymax")]
        expected = [
            slow_place(sides[0], left, right, size), slow_place(sides[1], top, bottom, size),
            slow_place(sides[2], left, right, size), slow_place(sides[3], top, bottom, size),
        ]  # fmt: skip
        np.testing.assert_allclose(batch.part_boxes[0, part], expected, atol=1e-3)
        centre = [(sides[0] + sides[2]) / 2, (sides[1] + sides[3]) / 2]
        x = slow_place(centre[0], left, right, size)
        y = slow_place(centre[1], top, bottom, size)
        np.testing.assert_allclose(batch.part_locations[0, part], [x, y], atol=1e-3)


def test_samples_hold_what_the_csv_says(folder):
    data, rows = small(folder), rows_of_csv(folder)
    seen = []
    for split, name in (("train", "train"), ("val", "test")):
        for index in range(len(data.dataset(split))):
            sample = data.dataset(split)[index]
            row = rows[int(sample.sample_ids) - 2]  # ids are lines, below the header
            assert row["split"] == name
            assert data.info.class_names[int(sample.labels)] == row["name"]
            check_against_csv(row, sample, (64, 48), 32)
            seen.append(int(sample.sample_ids))
    assert sorted(seen) == list(range(2, 22))


def test_folds_validate_every_animal_once_with_equal_shares(folder):
    validated = []
    for fold in range(5):
        data = small(folder, fold=fold)
        ids = {s: {p.sample_id for p in data.photos(s).photos} for s in ("train", "val")}
        assert not ids["train"] & ids["val"]
        assert len(ids["train"] | ids["val"]) == 20
        assert Counter(p.label for p in data.photos("val").photos) == {0: 2, 1: 2}
        validated += ids["val"]
    assert sorted(validated) == list(range(2, 22))
    again = {p.sample_id for p in small(folder, fold=4, seed=9).photos("val").photos}
    assert again == ids["val"]


def ids_of(data, split):
    return {photo.sample_id for photo in data.photos(split).photos}


@pytest.mark.parametrize("fold", [None, 2])
def test_tuning_leaves_the_validated_animals_out(folder, fold):
    plain, tuning = small(folder, fold=fold), small(folder, fold=fold, split="tuning")
    assert ids_of(tuning, "train") | ids_of(tuning, "val") == ids_of(plain, "train")
    assert not ids_of(tuning, "train") & ids_of(tuning, "val")
    rest = [photo for photo in plain.photos("train").photos if photo.label == 0]
    expected = {photo.sample_id for photo in rest[::5]}
    assert {p.sample_id for p in tuning.photos("val").photos if p.label == 0} == expected


@pytest.mark.parametrize("fold", [None, 2])
def test_training_shows_what_is_trained_on_and_no_other_animal(folder, fold):
    plain, training = small(folder, fold=fold), small(folder, fold=fold, split="training")
    assert ids_of(training, "train") == ids_of(training, "val") == ids_of(plain, "train")


def test_categories(folder):
    data = small(folder, categories=["lion", "dog"])
    assert data.info.class_names == ("dog", "lion")
    with pytest.raises(ValueError, match="data of one category must hold background images"):
        small(folder, categories=["lion"]).setup()
    with pytest.raises(ValueError, match=r"but got cat\. It has dog, lion"):
        small(folder, categories=["dog", "lion", "cat"]).setup()


def test_info(folder):
    info = small(folder).info
    assert info.part_names == ("head", "front legs")
    assert info.part_groups == {"head": (0,), "front legs": (1,)}
    assert info.instability_parts == (0, 1)


MISTAKES = [
    (5, "images/dog/00003.png,n0,dog,3,test,64,48,4,5", r"as many fields .*annotations\.csv:5"),
    (5, "{file},n0,dog,3,test,64,48,4,x,50,44,,,,,,,,", r"ymin must be a number, but .*csv:5 has"),
    (5, "{file},n0,dog,3,test,64,48,4,5,4,44,,,,,,,,", r"xmin < xmax and .*annotations\.csv:5"),
    (5, "{file},n0,dog,3,test,64,48,,,,,,,,,,,,", r"each animal must have a box, but .*csv:5"),
    (5, "{file},n0,dog,3,dev,64,48,4,5,50,44,,,,,,,,", r"must be 'train' or 'test', but .*csv:5"),
    (5, "none.png,n0,dog,3,test,64,48,4,5,50,44,,,,,,,,", r"must exist, but .*none\.png.*csv:5"),
]


@pytest.mark.parametrize(("line", "text", "message"), MISTAKES)
def test_mistakes_are_told_with_file_and_line_or_skipped(folder, line, text, message):
    text = text.format(file="images/dog/00003.png")
    replace_line(folder / "annotations.csv", line, text)
    with pytest.raises(ValueError, match=message):
        small(folder).setup()
    data = small(folder, on_error="skip")
    photos = [p for s in ("train", "val") for p in data.photos(s).photos]
    assert sorted(p.sample_id for p in photos) == [2, 3, 4, *range(6, 22)]


def test_bad_files(folder):
    replace_line(folder / "annotations.csv", 1, "file,name")
    with pytest.raises(ValueError, match=r"annotations\.csv:1 must name the columns .*lacks split"):
        small(folder).setup()
    (folder / "annotations.csv").unlink()
    with pytest.raises(FileNotFoundError, match=r"must hold 'annotations\.csv'"):
        small(folder).setup()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"fold": 5}, "`fold` must be >= 0 and <= 4, but got 5"),
        ({"num_folds": 1}, "`num_folds` must be >= 2"),
    ],
)
def test_bad_arguments(options, message):
    with pytest.raises(ValueError, match=message):
        small("/nowhere", **options)


def test_the_real_animals(data_folder):
    folder = data_folder("animal_part")
    data = AnimalPartData(root=str(folder), flip=False, in_memory=False)
    rows = rows_of_csv(folder)
    assert len(data.info.class_names) == 7
    for split, name in (("train", "train"), ("val", "test")):
        dataset = data.photos(split)
        assert len(dataset) == sum(row["split"] == name for row in rows)
        for index in range(0, len(dataset), 40):
            row = rows[dataset.photos[index].sample_id - 2]
            check_against_csv(row, dataset[index], (int(row["width"]), int(row["height"])), 224)


JITTER = {"flip": True, "scale": (0.8, 1.3), "aspect": 0.1, "shift": 0.1}


def test_views_of_one_photo_come_with_the_transforms_that_made_them(folder):
    data = small(folder, views_per_photo=2, **JITTER)
    batch = next(iter(data.train_dataloader()))
    assert isinstance(batch, ViewBatch)
    assert len(batch.images) == 8  # twice the batch size
    assert torch.equal(batch.sample_ids[0::2], batch.sample_ids[1::2])
    assert len(batch.sample_ids.unique()) == 4
    photos = data.photos("train")
    places = {photo.sample_id: index for index, photo in enumerate(photos.photos)}
    for row, key in enumerate(batch.sample_ids.tolist()):
        photo = photos.photos[places[key]]
        centre = np.array([(photo.box[0] + photo.box[2]) / 2, (photo.box[1] + photo.box[3]) / 2, 1])
        moved = batch.view_transforms[row].double().numpy() @ centre
        low, high = batch.boxes[row, :2].numpy(), batch.boxes[row, 2:].numpy()
        if (low > 0).all() and (high < 31).all():  # the whole box is in the view
            np.testing.assert_allclose(moved, (low + high) / 2, atol=1e-3)
    assert not torch.equal(batch.images[0], batch.images[1])
    assert isinstance(next(iter(data.val_dataloader())), PartBatch)


def test_the_first_view_is_that_of_a_run_without_pairs(folder):
    alone, paired = small(folder, **JITTER), small(folder, views_per_photo=2, **JITTER)
    for data in (alone, paired):
        data.dataset("train").set_epoch(3)
    first = alone.dataset("train").__getitems__([2, 0])
    both = paired.dataset("train").__getitems__([2, 0])
    assert torch.equal(both.images[0::2], first.images)
    assert torch.equal(both.boxes[0::2], first.boxes)


def test_views_of_one_photo_are_mirrored_in_turn(folder):
    data = small(folder, views_per_photo=3, **JITTER)
    dataset = data.dataset("train")
    seen = set()
    for epoch in range(4):
        dataset.set_epoch(epoch)
        mirrored = dataset.__getitems__(range(8)).view_transforms[:, 0, 0] < 0
        assert torch.equal(mirrored[1::3], ~mirrored[0::3])
        assert torch.equal(mirrored[2::3], mirrored[0::3])
        seen |= set(mirrored[0::3].tolist())
    assert seen == {False, True}
    upright = small(folder, views_per_photo=2, **{**JITTER, "flip": False})
    transforms = upright.dataset("train").__getitems__(range(8)).view_transforms
    assert (transforms[:, 0, 0] > 0).all()


def test_views_need_something_in_which_they_differ(folder):
    with pytest.raises(ValueError, match="`views_per_photo` must be 1 without augmentation"):
        small(folder, views_per_photo=2)


def test_validation_shows_one_augmented_view_that_no_seed_changes(folder):
    plain, moved = small(folder, **JITTER), small(folder, augment_validation=True, **JITTER)
    other = small(folder, augment_validation=True, seed=7, **JITTER)
    everything = range(len(plain.dataset("val")))
    still, first, second = (
        data.dataset("val").__getitems__(everything) for data in (plain, moved, other)
    )
    assert torch.equal(first.sample_ids, still.sample_ids)
    assert torch.equal(first.images, second.images)
    assert torch.equal(first.boxes, second.boxes)
    assert not torch.equal(first.images, still.images)
    known = ~still.boxes.isnan().any(1)
    assert not torch.allclose(first.boxes[known], still.boxes[known], atol=1)
    without = small(folder, augment_validation=True, flip=False)  # nothing to draw
    upright = small(folder, flip=False)
    assert torch.equal(without.dataset("val")[0].images, upright.dataset("val")[0].images)
