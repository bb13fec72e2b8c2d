"""Folders of one's own photos: categories, splits, boxes, all kinds of image files."""

import numpy as np
import pytest
import torch
from PIL import Image

from interp_train.data.image_folder import ImageFolderData
from interp_train.structures import BACKGROUND, ImageBatch
from tests.data.fake_photos import write_folder, write_photo

PLAIN = {"flip": False, "scale": (1.0, 1.0), "aspect": 0.0, "shift": 0.0}


def small(root, **options):
    root = None if root is None else str(root)
    return ImageFolderData(root=root, **{"image_size": 32, "batch_size": 4, **PLAIN, **options})


def files_of(data, split):
    return {photo.path.relative_to(data.root).as_posix() for photo in data.photos(split).photos}


def test_categories_are_divided_evenly_and_for_ever(tmp_path):
    folder = write_folder(tmp_path / "a", {"cat": 10, "dog": 5, ".hidden": 2})
    (folder / "dog" / "notes.txt").write_text("no image")
    data = small(folder)
    assert data.info.class_names == ("cat", "dog")
    assert data.info.part_names == ()
    train, val = files_of(data, "train"), files_of(data, "val")
    assert len(train | val) == 15
    assert not train & val
    assert [sum(name.startswith(kind) for name in val) for kind in ("cat", "dog")] == [2, 1]
    ids = {p.path: p.sample_id for s in ("train", "val") for p in data.photos(s).photos}
    assert len(set(ids.values())) == 15
    write_folder(folder, {"bird": 3})
    larger = small(folder, seed=7)
    assert val < files_of(larger, "val")
    assert {p.path: p.sample_id for p in larger.photos("val").photos}.items() >= {
        path: key for path, key in ids.items() if path in {folder / name for name in val}
    }.items()


def test_batches(tmp_path):
    folder = write_folder(tmp_path, {"train/cat": 4, "train/dog": 4, "val/cat": 1, "val/dog": 2})
    data = small(folder)
    batch = next(iter(data.val_dataloader()))
    assert isinstance(batch, ImageBatch)
    assert batch.labels.tolist() == [0, 1, 1]
    assert torch.isnan(batch.boxes).all()
    photo = data.photos("val").photos[0]
    with Image.open(photo.path) as image:
        expected = np.asarray(image.resize((32, 32), Image.Resampling.BILINEAR), dtype=np.float32)
    restored = batch.images[0] * torch.tensor(data.info.std)[:, None, None]
    restored = 255 * (restored + torch.tensor(data.info.mean)[:, None, None])
    np.testing.assert_allclose(restored.permute(1, 2, 0), expected, atol=1.01)
    seen = [key for b in data.train_dataloader() for key in b.sample_ids.tolist()]
    assert sorted(seen) == sorted(photo.sample_id for photo in data.photos("train").photos)


def test_background_folder(tmp_path):
    write_folder(tmp_path, {"bird": 5, "forest": 5})
    data = small(tmp_path, background="forest")
    assert data.info.class_names == ("bird",)
    labels = {photo.path.parent.name: photo.label for photo in data.photos("train").photos}
    assert labels == {"bird": 0, "forest": BACKGROUND}
    with pytest.raises(ValueError, match="`background` must name .* got 'sea'.*bird, forest"):
        small(tmp_path, background="sea").setup()


def test_boxes(tmp_path):
    write_folder(tmp_path, {"cat": 4, "dog": 4})
    rows = ["file,xmin,ymin,xmax,ymax", "cat/000.png,9.5,9.5,29.5,29.5", "dog/001.png,0,0,9,9"]
    (tmp_path / "boxes.csv").write_text("\n".join(rows))
    data = small(tmp_path, boxes="boxes.csv", margin=0.5)
    samples = {
        f"{photo.path.parent.name}/{photo.path.name}": data.dataset(split)[index]
        for split in ("train", "val")
        for index, photo in enumerate(data.photos(split).photos)
    }
    # The crop is twice as large as the box: the box fills the view's middle.
    expected = [7.5, 7.5, 23.5, 23.5]
    np.testing.assert_allclose(samples["cat/000.png"].boxes[0], expected, atol=1e-4)
    assert torch.isnan(samples["cat/001.png"].boxes).all()
    for line, message in [
        ("cat/009.png,0,0,9,9", r"each line of `boxes` .*boxes\.csv:4 has 'cat/009\.png'"),
        ("cat/000.png,0,0,9,9", r"boxes\.csv:4 has 'cat/000\.png', which is missing or occurs"),
        ("cat/001.png,9,0,9,9", r"xmin < xmax .*boxes\.csv:4"),
        ("cat/001.png,99,0,109,9", r"a box must lie on its photo, .*boxes\.csv:4"),
    ]:
        (tmp_path / "boxes.csv").write_text("\n".join([*rows, line]))
        with pytest.raises(ValueError, match=message):
            small(tmp_path, boxes="boxes.csv").setup()
        small(tmp_path, boxes="boxes.csv", val_share=0.5, on_error="skip").setup()


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "1", "CMYK", "I;16"])
def test_images_of_any_mode(tmp_path, mode):
    write_folder(tmp_path, {"cat": 2, "dog": 2})
    suffix = "tiff" if mode == "CMYK" else "png"
    image = Image.fromarray(np.full((20, 30), 128, dtype=np.uint8))
    image = image.convert("RGB").convert(mode) if mode != "I;16" else Image.new("I;16", (30, 20))
    image.save(tmp_path / "cat" / f"other.{suffix}")
    data = small(tmp_path)
    for split in ("train", "val"):
        batch = data.dataset(split).__getitems__(range(len(data.dataset(split))))
        assert batch.images.shape[1:] == (3, 32, 32)
        assert torch.isfinite(batch.images).all()


def test_photos_stand_upright(tmp_path):
    write_folder(tmp_path, {"cat": 2, "dog": 2})
    write_photo(tmp_path / "plain.png")
    with Image.open(tmp_path / "plain.png") as image:
        noted = Image.Exif()
        noted[0x0112] = 6  # the camera was turned by 90 degrees
        image.save(tmp_path / "cat" / "turned.png", exif=noted)
        upright = image.transpose(Image.Transpose.ROTATE_270)
        upright.save(tmp_path / "cat" / "upright.png")
    data = small(tmp_path)
    found = {}
    for split in ("train", "val"):
        for index, photo in enumerate(data.photos(split).photos):
            found[photo.path.stem] = (photo.size, data.dataset(split)[index].images)
    assert found["turned"][0] == found["upright"][0] == (48, 64)
    assert torch.equal(found["turned"][1], found["upright"][1])


def test_broken_photos(tmp_path):
    write_folder(tmp_path, {"cat": 8, "dog": 8})
    for count, content in enumerate([b"", b"GIF89a", b"\x89PNG\r\n\x1a\n" + bytes(50)]):
        (tmp_path / "cat" / f"{count:03d}.png").write_bytes(content)
    with pytest.raises(ValueError, match=r"each image must be readable, but .*cat/00\d\.png"):
        small(tmp_path).setup()
    data = small(tmp_path, val_share=0.5, on_error="skip")
    names = files_of(data, "train") | files_of(data, "val")
    assert {f"cat/{count:03d}.png" for count in range(3)}.isdisjoint(names)
    assert len(names) == 13


def test_folders_that_cannot_teach(tmp_path):
    with pytest.raises(
        ValueError, match=r"`root` must be the folder of your photos, .*data\.root="
    ):
        small(None).setup()
    with pytest.raises(FileNotFoundError, match=r"must exist, but got '.*missing'"):
        small(tmp_path / "missing").setup()
    with pytest.raises(ValueError, match="`root` must hold one sub-folder per category"):
        small(tmp_path).setup()
    write_folder(tmp_path / "one", {"cat": 4})
    with pytest.raises(ValueError, match="data of one category must hold background images"):
        small(tmp_path / "one").setup()
    write_folder(tmp_path / "few", {"cat": 4, "dog": 1})
    with pytest.raises(ValueError, match="must occur in the split 'train', but dog does not"):
        small(tmp_path / "few").setup()
    write_folder(tmp_path / "half", {"train/cat": 4, "train/dog": 1})
    with pytest.raises(ValueError, match="must hold both train/ and val/, or neither"):
        small(tmp_path / "half").setup()
    write_folder(tmp_path / "half", {"val/cat": 4, "val/cow": 1})
    with pytest.raises(ValueError, match="each category of `val` must be one of `train`, but cow"):
        small(tmp_path / "half").setup()
    with pytest.raises(ValueError, match="`val_share` must be >= 0.01"):
        small(tmp_path, val_share=0)
