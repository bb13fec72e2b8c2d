"""COCO's layout; mistakes name the annotation."""

import pytest

from interp_train.data.coco_detection import CocoDetectionData
from tests.data.fake_scenes import write_coco

CAT = {"image_id": 10, "category_id": 3, "bbox": [4, 5.5, 10, 20]}
DOG = {"image_id": 10, "category_id": 7, "bbox": [0, 0, 64, 48], "iscrowd": 1}


def small(root, **options):
    return CocoDetectionData(str(root), **{"image_size": 64, "flip": False, **options})


def test_objects_are_read(tmp_path):
    data = small(write_coco(tmp_path, [CAT, DOG]))
    assert data.info.class_names == ("cat", "dog")  # in the order of their numbers
    (batch,) = data.val_dataloader()
    assert batch.sample_ids.tolist() == [10, 11]
    assert batch.boxes[0].tolist() == [[4, 5.5, 14, 25.5], [0, 0, 64, 48]]
    assert batch.labels[0].tolist() == [0, 1]
    assert batch.ignored[0].tolist() == [False, True]
    assert len(batch.boxes[1]) == 0


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"image_id": 99}, "must belong to an image of its file, but annotation 1 .* image 99"),
        ({"category_id": 5}, "must name a category of its file, but annotation 1 .* names 5"),
        ({"bbox": [1, 2, 3]}, "bbox of four numbers, but annotation 1"),
        ({"bbox": [1, 2, 0, 3]}, "width and a height above 0, but image 10 of .*train2017.json"),
        ({"bbox": [99, 2, 5, 3]}, "must lie on its photo, but that of image 10"),
    ],
)
def test_mistakes_are_named_or_left_out(tmp_path, entry, message):
    write_coco(tmp_path, [CAT, {**DOG, **entry}, DOG])
    with pytest.raises(ValueError, match=message):
        small(tmp_path).setup()
    data = small(tmp_path, on_error="skip")
    assert data.dataset("train")[0].labels[0].tolist() == [0, 1]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "annotations must be JSON"),
        ("[]", "has no 'images'"),
        ('{"images": [], "annotations": []}', "has no 'categories'"),
    ],
)
def test_a_broken_file_is_named(tmp_path, text, message):
    write_coco(tmp_path, [CAT])
    (tmp_path / "annotations" / "instances_val2017.json").write_text(text)
    with pytest.raises(ValueError, match=message):
        small(tmp_path).setup()


def test_missing_files_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"instances_train2017.json' is missing"):
        small(tmp_path).setup()
    write_coco(tmp_path, [CAT, DOG])
    (tmp_path / "train2017" / "1.png").unlink()
    with pytest.raises(ValueError, match=r"1.png' .image 11 of .* does not"):
        small(tmp_path).setup()
