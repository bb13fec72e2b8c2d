"""CUB folders: what the text files say is what the batches hold; mistakes are told by line."""

import logging
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from interp_train.data.background_samples import BACKGROUND_ID_STEP
from interp_train.data.backgrounds import is_background
from interp_train.data.cub import CubData
from interp_train.structures import BACKGROUND, PartBatch
from tests.data.fake_photos import PART_NAMES, replace_line, write_cub


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    return write_cub(tmp_path_factory.mktemp("cub"))


@pytest.fixture
def folder(stored, tmp_path):
    return shutil.copytree(stored, tmp_path / "cub")


def small(root, **options):
    return CubData(root=str(root), **{"image_size": 32, "batch_size": 4, "flip": False, **options})


def slow_truth(folder, key, size, mirrored=False):
    """Box and landmarks of an image, by reading the text files line by line."""
    for line in (folder / "bounding_boxes.txt").read_text().splitlines():
        if line.split()[0] == str(key):
            x, y, width, height = map(float, line.split()[1:])
    for line in (folder / "images.txt").read_text().splitlines():
        if line.split()[0] == str(key):
            with Image.open(folder / "images" / line.split()[1]) as photo:
                photo_width, photo_height = photo.size
    # The crop takes the whole pixels nearest to the box, inside the photo.
    left, top = max(0, round(x + 0.5)), max(0, round(y + 0.5))
    right = min(photo_width, round(x + width + 0.5))
    bottom = min(photo_height, round(y + height + 0.5))
    landmarks = [[np.nan, np.nan] for _ in PART_NAMES]
    for line in (folder / "parts" / "part_locs.txt").read_text().splitlines():
        image, part, part_x, part_y, visible = line.split()
        if image == str(key) and visible == "1":
            at_x = (float(part_x) + 0.5 - left) / (right - left) * size - 0.5
            at_y = (float(part_y) + 0.5 - top) / (bottom - top) * size - 0.5
            if -0.5 <= at_x <= size - 0.5 and -0.5 <= at_y <= size - 0.5:
                name = PART_NAMES[int(part) - 1]
                if mirrored:
                    at_x = size - 1 - at_x
                    swap = {"left": "right", "right": "left"}
                    name = " ".join(swap.get(word, word) for word in name.split())
                landmarks[PART_NAMES.index(name)] = [at_x, at_y]
    return np.array([left, top, right, bottom]), np.array(landmarks)


def test_batches_hold_what_the_files_say(folder):
    data = small(folder)
    batch = data.dataset("val").__getitems__(range(len(data.dataset("val"))))
    assert isinstance(batch, PartBatch)
    birds = batch.labels == 0
    assert batch.sample_ids[birds].tolist() == [1, 3, 5, 7]
    for key, landmarks, box in zip(
        batch.sample_ids[birds].tolist(), batch.part_locations[birds], batch.boxes[birds],
        strict=True,
    ):  # fmt: skip
        _, expected = slow_truth(folder, key, 32)
        np.testing.assert_allclose(landmarks, expected, atol=1e-4)
        assert not torch.isnan(box).any()
        assert float(box.min()) >= -0.5
        assert float(box.max()) <= 31.5
    assert torch.isnan(batch.part_locations[~birds]).all()
    assert torch.isnan(batch.boxes[~birds]).all()


def test_images_are_the_crops_resized(folder):
    data = small(folder)
    batch = data.dataset("val")[0]
    corners, _ = slow_truth(folder, 1, 32)
    name = (folder / "images.txt").read_text().split()[1]
    with Image.open(folder / "images" / name) as photo:
        crop = photo.crop(tuple(corners.tolist()))
    expected = np.asarray(crop.resize((32, 32), Image.Resampling.BILINEAR), dtype=np.float32)
    restored = batch.images[0] * torch.tensor(data.info.std)[:, None, None]
    restored = 255 * (restored + torch.tensor(data.info.mean)[:, None, None])
    np.testing.assert_allclose(restored.permute(1, 2, 0), expected, atol=1.01)


def test_mirrored_birds_swap_left_and_right(folder):
    data = small(folder, flip=True)
    train = data.photos("train")
    seen = set()
    for epoch in range(4):
        train.set_epoch(epoch)
        for index, photo in enumerate(train.photos):
            if photo.label == BACKGROUND:
                continue
            mirrored = train.view(index, epoch).flip
            seen.add(mirrored)
            _, expected = slow_truth(folder, photo.sample_id, 32, mirrored)
            np.testing.assert_allclose(train[index].part_locations[0], expected, atol=1e-4)
    assert seen == {False, True}


def test_info(folder):
    info = small(folder).info
    assert info.class_names == ("bird",)
    assert info.part_names == PART_NAMES
    assert [PART_NAMES[part] for part in info.instability_parts] == ["back", "forehead", "tail"]
    named = {group: {PART_NAMES[p] for p in parts} for group, parts in info.part_groups.items()}
    assert sorted(part for parts in named.values() for part in parts) == sorted(PART_NAMES)
    assert named["legs"] == {"left leg", "right leg"}
    assert small(folder, task="species").info.class_names == (
        "Red tailed Bird1", "Red tailed Bird2",
    )  # fmt: skip


def test_species(folder):
    data = small(folder, task="species")
    batch = data.dataset("train").__getitems__(range(4))
    assert batch.sample_ids.tolist() == [2, 4, 6, 8]
    assert batch.labels.tolist() == [0, 0, 1, 1]


def test_backgrounds_are_of_the_same_split_and_off_the_bird(folder):
    data = small(folder, backgrounds_per_photo=2, flip=True, scale=(0.7, 1.5), shift=0.3)
    other = small(folder, backgrounds_per_photo=2, seed=5)
    for split, keys in (("train", {2, 4, 6, 8}), ("val", {1, 3, 5, 7})):
        dataset = data.photos(split)
        crops = [photo for photo in dataset.photos if photo.label == BACKGROUND]
        assert {photo.sample_id % BACKGROUND_ID_STEP for photo in crops} == keys
        assert len({photo.sample_id for photo in crops}) == len(crops) == 8
        regions = [p.region for p in other.photos(split).photos if p.label == BACKGROUND]
        assert [photo.region for photo in crops] == regions
        for epoch in range(5):
            for index, photo in enumerate(dataset.photos):
                if photo.label == BACKGROUND:
                    assert is_background(dataset.view(index, epoch).box(), photo.avoided)


def test_augmentation_and_order_do_not_depend_on_the_number_of_workers(folder):
    options = {"flip": True, "scale": (0.8, 1.2), "shift": 0.1}
    alone, workers = small(folder, **options), small(folder, num_workers=2, **options)
    loader, reference = workers.train_dataloader(), alone.train_dataloader()
    for epoch in (0, 1, 2):
        loader.sampler.set_epoch(epoch)
        reference.sampler.set_epoch(epoch)
        for batch, expected in zip(loader, reference, strict=True):
            for one, two in zip(batch, expected, strict=True):
                torch.testing.assert_close(one, two, rtol=0, atol=0, equal_nan=True)


def test_memory_changes_nothing(folder, monkeypatch):
    options = {"flip": True, "scale": (0.8, 1.2)}
    kept, fresh = (small(folder, in_memory=memory, **options) for memory in (True, False))
    for split in ("train", "val"):
        for _ in range(2):
            one = kept.dataset(split).__getitems__(range(4))
            assert torch.equal(one.images, fresh.dataset(split).__getitems__(range(4)).images)
    monkeypatch.setattr("interp_train.data.photo_data.machine_memory", lambda: 1000)
    cramped = small(folder)
    cramped.setup()
    assert not cramped.photos("train").in_memory


def test_the_folder_is_found_with_and_without_its_last_part(folder, tmp_path, monkeypatch):
    expected = small(folder).info
    above = tmp_path / "above"
    above.mkdir()
    folder.rename(above / "CUB_200_2011")
    assert small(above).info == expected
    monkeypatch.setenv("INTERP_TRAIN_DATA", str(above))
    assert CubData(image_size=32).info.fingerprint == expected.fingerprint


def test_missing_folders(monkeypatch, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"got '/nowhere'\. Set data\.root=<folder>, or"):
        small("/nowhere").setup()
    monkeypatch.delenv("INTERP_TRAIN_DATA", raising=False)
    with pytest.raises(FileNotFoundError, match="got neither `root` nor INTERP_TRAIN_DATA"):
        CubData().setup()
    with pytest.raises(FileNotFoundError, match=r"must hold parts/parts\.txt"):
        small(tmp_path).setup()


@pytest.mark.parametrize(
    "name",
    ["images.txt", "classes.txt", "bounding_boxes.txt", "train_test_split.txt",
     "image_class_labels.txt", "parts/part_locs.txt", "parts/parts.txt"],
)  # fmt: skip
def test_a_missing_file_is_named(folder, name):
    (folder / name).unlink()
    with pytest.raises(FileNotFoundError, match=f"must hold '?{name.split('/')[-1]}|{name}"):
        small(folder).setup()


MISTAKES = [
    ("bounding_boxes.txt", 3, "3 4.0 x 24 30", r"a box must be a number, .*boxes.txt:3 has 'x'"),
    ("bounding_boxes.txt", 3, "3 4.0 7 24", r"must have 5 columns, but .*boxes.txt:3 has 4"),
    ("bounding_boxes.txt", 3, "3 4.0 7 -1 30", r"a box must be wider .*boxes.txt:3 has -1.0 x 30"),
    ("bounding_boxes.txt", 3, "3 99 7 24 30", r"a box must lie on its photo, .*images.txt:3"),
    ("bounding_boxes.txt", 3, None, r"bounding_boxes.txt must have a line for '3', .*images.txt:3"),
    ("image_class_labels.txt", 3, "2 1", r"must occur once, but .*labels.txt:3 repeats '2'"),
    ("train_test_split.txt", 3, "3 2", r"a split must be 1 .* or 0 .*split.txt:3 has '2'"),
    ("images.txt", 3, "3.5 a.jpg", r"must have a line for '3.5', which .*images.txt:3 names"),
    ("images.txt", 3, "3 nowhere.jpg", r"each annotated image must exist, but .*nowhere.jpg"),
    ("parts/part_locs.txt", 31, "3 16 1 1 1", r"a part id must be one .*part_locs.txt:31 has '16'"),
    ("parts/part_locs.txt", 31, "3 1 1 1 7", r"visible must be 0 or 1, .*part_locs.txt:31 has '7'"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "line", "text", "message"), MISTAKES)
def test_mistakes_are_told_with_file_and_line_or_skipped(folder, name, line, text, message, caplog):
    replace_line(folder / name, line, text)
    with pytest.raises(ValueError, match=message):
        small(folder).setup()
    data = small(folder, on_error="skip")
    with caplog.at_level(logging.WARNING):
        data.setup()
    assert "Left out for" in caplog.text
    shown = {photo.sample_id for split in ("train", "val") for photo in data.photos(split).photos}
    spoiled = 0 if "parts" in name else 1
    assert {1, 2, 4, 5, 6, 7, 8} <= shown
    assert (3 in shown) == (spoiled == 0)


def test_unreadable_images(folder, caplog):
    broken = folder / "images" / "001.Red_tailed_Bird1" / "bird_2.jpg"
    broken.write_bytes(broken.read_bytes()[:200])
    with pytest.raises(ValueError, match=r"must be readable, but .*bird_2\.jpg.*images\.txt:2"):
        small(folder).dataset("train").__getitems__(range(4))
    data = small(folder, on_error="skip")
    with caplog.at_level(logging.WARNING):
        keys = [photo.sample_id for photo in data.photos("train").photos]
    assert [key for key in keys if key < 100] == [4, 6, 8]
    assert "Left out for 1 mistakes" in caplog.text
    assert "bird_2.jpg" in caplog.text
    broken.write_bytes(b"no image at all")
    with pytest.raises(ValueError, match=r"must be readable, but .*bird_2\.jpg.*on_error=skip"):
        small(folder).setup()


def test_a_wrong_class_matters_where_species_are_told_apart(folder):
    replace_line(folder / "image_class_labels.txt", 3, "3 9")
    small(folder).setup()
    with pytest.raises(ValueError, match=r"classes.txt must have a line for '9', .*labels.txt:3"):
        small(folder, task="species").setup()


def test_small_objects_are_left_out(folder, caplog):
    replace_line(folder / "bounding_boxes.txt", 3, "3 4.0 7 10 10")
    with caplog.at_level(logging.INFO):
        keys = {photo.sample_id for photo in small(folder, min_area=101).photos("val").photos}
    assert not keys & {3, 3 + BACKGROUND_ID_STEP}
    assert "Left out 1 objects smaller than 101" in caplog.text
    assert 3 in {photo.sample_id for photo in small(folder, min_area=100).photos("val").photos}


def test_fingerprint_follows_annotations_files_and_choice(folder):
    first = small(folder).info.fingerprint
    assert small(folder, batch_size=2, seed=4, flip=True).info.fingerprint == first
    assert small(folder, task="species").info.fingerprint != first
    replace_line(folder / "parts" / "part_locs.txt", 2, "1 2 7 7 1")
    assert small(folder).info.fingerprint != first


def test_one_class_without_backgrounds(folder):
    for number in range(1, 9):
        replace_line(folder / "bounding_boxes.txt", number, f"{number} 0 0 64 48")
    with pytest.raises(ValueError, match="data of one category must hold background images"):
        small(folder).setup()


def test_a_species_without_training_birds(folder):
    for number in range(5, 9):
        replace_line(folder / "train_test_split.txt", number, f"{number} 0")
    with pytest.raises(ValueError, match="must occur in the split 'train', but Red tailed Bird2"):
        small(folder, task="species").setup()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"task": "cats"}, "`task` must be one of 'bird_vs_background', 'species', but got 'cats'"),
        ({"backgrounds_per_photo": 0}, "`backgrounds_per_photo` must be >= 1"),
        ({"on_error": "ignore"}, "`on_error` must be one of 'raise', 'skip'"),
        ({"image_size": 4}, "`image_size` must be >= 16"),
        ({"seed": -1}, "`seed` must be >= 0"),
        ({"std": (1, 0, 1)}, "`mean` and `std` must be three numbers"),
        ({"margin": -0.1}, "`margin` must be >= 0"),
    ],
)
def test_bad_arguments(options, message):
    with pytest.raises(ValueError, match=message):
        small("/nowhere", **options)


def test_training_shows_what_is_trained_on_upright_and_no_other_bird(folder):
    data = small(folder, split="training", rotation=45, shift=0.2)
    trained, shown = data.photos("train").photos, data.photos("val").photos
    assert [photo.sample_id for photo in trained] == [photo.sample_id for photo in shown]
    plain = small(folder, flip=False)
    kept = {photo.sample_id for photo in plain.photos("train").photos}
    assert {photo.sample_id for photo in shown} == kept
    first = plain.photos("train").photos[0].sample_id
    place = [photo.sample_id for photo in shown].index(first)
    assert torch.equal(data.dataset("val")[place].images, plain.dataset("train")[0].images)


def test_unknown_split(folder):
    with pytest.raises(ValueError, match="`split` must name a split of the data, but got 'dev'"):
        small(folder).dataset("dev")


def test_the_real_birds(data_folder):
    folder = data_folder("CUB_200_2011_40")
    data = CubData(root=str(folder), flip=False, in_memory=False)
    sizes = {}
    for split, expected in (("train", 1200), ("val", 1090)):
        photos = data.photos(split).photos
        birds = [index for index, photo in enumerate(photos) if photo.label == 0]
        sizes[split] = len(birds)
        assert len(photos) - len(birds) > 0.7 * len(birds)
        for index in birds[::150]:
            key = photos[index].sample_id
            _, landmarks = slow_truth(folder / "CUB_200_2011", key, 224)
            found = data.dataset(split)[index].part_locations[0]
            np.testing.assert_allclose(found, landmarks, atol=1e-3)
        assert len(birds) == expected
    assert sum(sizes.values()) == 2290
    visible = sum(
        int((~np.isnan(photo.part_locations[:, 0])).sum())
        for split in sizes
        for photo in data.photos(split).photos
    )
    text = (folder / "CUB_200_2011" / "parts" / "part_locs.txt").read_text().splitlines()
    images = (folder / "CUB_200_2011" / "images.txt").read_text().splitlines()
    known = {line.split()[0] for line in images}
    assert visible == sum(line.split()[4] == "1" and line.split()[0] in known for line in text)


def test_settings_are_tuned_without_the_test_birds(folder):
    official = small(folder)
    tuning = small(folder, split="tuning")

    def birds(data, split):
        photos = data.photos(split).photos
        return [photo.sample_id for photo in photos if photo.label != BACKGROUND]

    trained = birds(official, "train")
    assert birds(tuning, "val") == trained[::5]
    assert sorted(birds(tuning, "train") + birds(tuning, "val")) == sorted(trained)
    assert not set(birds(official, "val")) & set(birds(tuning, "train") + birds(tuning, "val"))
    with pytest.raises(ValueError, match="`split` must be"):
        small(folder, split="test")
