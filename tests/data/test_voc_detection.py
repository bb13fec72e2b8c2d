"""Pascal VOC's layout: boxes, splits, folds, mirrored images; mistakes name their file."""

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from interp_train.data.photos import read_photo
from interp_train.data.voc_detection import VocDetectionData
from tests.data.fake_scenes import voc_scenes, write_objects


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    return voc_scenes(tmp_path_factory.mktemp("voc"))


@pytest.fixture
def folder(stored, tmp_path):
    return shutil.copytree(stored, tmp_path / "voc")


def small(root, **options):
    return VocDetectionData(str(root), **{"image_size": 64, "flip": False, **options})


def test_boxes_reach_from_edge_to_edge_and_images_are_the_files(folder):
    data = small(folder)
    assert data.info.class_names == ("cat", "dog")
    dataset = data.dataset("train")
    batch = dataset.__getitems__([3, 0])
    assert batch.boxes[0].tolist() == [[7, 6, 33, 40], [0, 0, 20, 20]]
    assert [labels.tolist() for labels in batch.labels] == [[0, 1], [0]]
    assert [ignored.tolist() for ignored in batch.ignored] == [[False, True], [False]]
    assert [tuple(parts.shape) for parts in batch.part_boxes] == [(2, 0, 4), (1, 0, 4)]
    pixels = read_photo(dataset.scenes[3].photo)
    torch.testing.assert_close(batch.images[0], pixels / 255)
    assert batch.images[0].shape == (3, 48, 64)


def test_a_photo_without_objects_is_a_scene(folder):
    (batch,) = small(folder).val_dataloader()
    assert [len(boxes) for boxes in batch.boxes] == [1, 0]
    assert batch.boxes[1].shape == (0, 4)
    assert batch.labels[1].dtype == torch.long


def test_mirrored_images_keep_their_objects(folder):
    data = small(folder, flip=True, batch_size=6)
    plain, seen = small(folder).dataset("train"), set()
    dataset = data.dataset("train")
    for epoch in range(4):
        dataset.set_epoch(epoch)
        batch = dataset.__getitems__(range(6))
        for index in range(6):
            before = plain[index]
            flipped = not torch.equal(batch.images[index], before.images[0])
            seen.add(flipped)
            (x0, y0, x1, y1), (a0, b0, a1, b1) = batch.boxes[index][0], before.boxes[0][0]
            crop = batch.images[index][:, int(y0) : int(y1), int(x0) : int(x1)]
            expected = before.images[0][:, int(b0) : int(b1), int(a0) : int(a1)]
            torch.testing.assert_close(crop, expected.flip(-1) if flipped else expected)
        again = dataset.__getitems__([5, 2])  # neither order nor batch decides
        assert torch.equal(again.images[1], batch.images[2])
    assert seen == {True, False}
    (first, *_) = data.val_dataloader()
    assert torch.equal(first.images[0], small(folder).dataset("val")[0].images[0])


def test_folds_divide_all_photos_and_do_not_depend_on_the_run(folder):
    tested = []
    for fold in range(4):
        splits = {
            split: {scene.where for scene in _photos(small(folder, fold=fold, seed=fold), split)}
            for split in ("train", "val")
        }
        assert not splits["train"] & splits["val"]
        assert len(splits["train"] | splits["val"]) == 8
        tested.append(splits["val"])
    assert set.union(*tested) == {f"scene_{index}.xml" for index in range(8)}
    assert sum(map(len, tested)) == 8
    other = {photo.where for photo in _photos(small(folder, fold=0, split_seed=1), "val")}
    assert other != tested[0]


def _photos(data, split):
    return [scene.photo for scene in data.dataset(split).scenes]


def test_categories_can_be_chosen(folder):
    data = small(folder, categories=["dog"], other_categories="leave_out")
    assert [scene.labels.tolist() for scene in data.dataset("train").scenes] == [
        [], [0], [], [0], [], [0],
    ]  # fmt: skip
    with pytest.raises(ValueError, match="known category .dog., but .*'cat'.*leave_out"):
        small(folder, categories=["dog"]).setup()
    with pytest.raises(ValueError, match="`categories` must name a category of .*'bird'.*'cat'"):
        small(folder, categories=["bird"]).setup()


def test_boxes_are_cut_at_the_edge_of_the_photo(folder):
    write_objects(folder, "scene_0", [("cat", (0, 10, 99, 20), False)])
    assert small(folder).dataset("train")[0].boxes[0].tolist() == [[0, 9, 64, 20]]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("<annotation><object>", "annotations must be XML, but .*scene_0.xml is not: "),
        ("<annotation><object><name>cat</name></object></annotation>", "lacks its bndbox"),
        ("<annotation><object><bndbox/></object></annotation>", "lacks its name"),
        (
            "<annotation><object><name>cat</name><bndbox/></object></annotation>",
            "xmin must be a number, but .*scene_0.xml has ''",
        ),
    ],
)
def test_a_broken_file_is_named(folder, text, message):
    (folder / "Annotations" / "scene_0.xml").write_text(text)
    with pytest.raises(ValueError, match=message):
        small(folder).setup()
    data = small(folder, on_error="skip")
    assert len(data.dataset("train")) == 5


@pytest.mark.parametrize(
    ("box", "message"),
    [
        ((9, 9, 8, 20), r"width and a height above 0, but scene_0.xml has one from \(8, 8\)"),
        ((70, 1, 80, 9), "must lie on its photo, but that of scene_0.xml, .* outside 64 x 48"),
    ],
)
def test_a_degenerate_box_is_named_or_left_out(folder, box, message):
    write_objects(folder, "scene_0", [("cat", box, False), ("dog", (1, 1, 9, 9), False)])
    with pytest.raises(ValueError, match=message):
        small(folder).setup()
    assert small(folder, on_error="skip").dataset("train")[0].labels[0].tolist() == [1]


def test_missing_files_and_bad_arguments_are_named(folder):
    (folder / "Annotations" / "scene_1.xml").unlink()
    with pytest.raises(FileNotFoundError, match="scene_1.xml' is missing"):
        small(folder).setup()
    with pytest.raises(FileNotFoundError, match="'trainval.txt'"):
        small(folder, train="trainval").setup()
    with pytest.raises(ValueError, match="`fold` must be >= 0 and <= 3"):
        small(folder, fold=4)
    with pytest.raises(ValueError, match="`other_categories` must be one of"):
        small(folder, other_categories="keep")


def test_each_category_must_be_learned(folder):
    for index in (1, 3, 5):
        write_objects(folder, f"scene_{index}", [("cat", (1, 1, 9, 9), False)])
    write_objects(folder, "scene_6", [("dog", (1, 1, 9, 9), False)])
    with pytest.raises(ValueError, match="must occur in the training scenes, but dog does not"):
        small(folder).setup()


@pytest.mark.data
@pytest.mark.skipif(
    not (Path(os.environ.get("INTERP_TRAIN_DATA", "")) / "bccd_voc").is_dir(),
    reason="needs bccd_voc below INTERP_TRAIN_DATA",
)
def test_blood_cells_are_read():
    data = VocDetectionData("bccd_voc/VOCdevkit/VOC2007", in_memory=False)
    assert data.info.class_names == ("Platelets", "RBC", "WBC")
    assert [len(data.dataset(split)) for split in ("train", "val")] == [205, 87]
    counts = np.bincount(np.concatenate([s.labels for s in data.dataset("val").scenes]))
    assert counts.sum() > 87
