"""Image files as network input: whole or centred, upright, named when they are wrong."""

import numpy as np
import pytest
import torch
from PIL import Image

from interp_train.data.image_files import image_paths, read_images
from interp_train.structures import DataInfo


def info(size=4, channels=3, mean=(0.5,) * 3, std=(0.25,) * 3):
    return DataInfo("x", (), (), {}, (), size, channels, mean, std, "", "")


@pytest.fixture
def wide(tmp_path):
    """Left half black, the next quarter white, the last quarter grey."""
    pixels = np.zeros((4, 8, 3), np.uint8)
    pixels[:, 4:6] = 255
    pixels[:, 6:] = 100
    path = tmp_path / "wide.png"
    Image.fromarray(pixels).save(path)
    return path


def test_the_whole_photo_is_stretched(wide):
    (image,) = read_images([wide], info())
    row = image[0, 0] * 0.25 + 0.5
    assert row.tolist()[:1] == pytest.approx([0.0], abs=0.05)
    assert row[2] > 0.8
    assert row[3] == pytest.approx(100 / 255, abs=0.1)
    assert torch.equal(image[:, 0], image[:, 3])


def test_the_centre_is_the_largest_square(wide):
    (image,) = read_images([wide], info(), fit="centre")
    expected = torch.tensor([0.0, 0, 1, 1])
    torch.testing.assert_close(image[1, 2] * 0.25 + 0.5, expected)


def test_normalisation_by_hand(wide):
    (image,) = read_images([wide], info(8, mean=(0.5, 0.4, 0.3), std=(0.1, 0.2, 0.5)))
    assert image[:, 0, 5].tolist() == pytest.approx([5.0, 3.0, 1.4])


def test_one_channel_and_a_turned_photo(tmp_path):
    pixels = np.zeros((4, 4), np.uint8)
    pixels[0] = 200
    image = Image.fromarray(pixels)
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: the first row is the last column
    image.save(tmp_path / "turned.png", exif=exif)
    (found,) = read_images([tmp_path / "turned.png"], info(4, 1, (0.0,), (1.0,)))
    assert found.shape == (1, 4, 4)
    assert found[0, :, 3].tolist() == pytest.approx([200 / 255] * 4)
    assert found[0, :, :3].abs().max() == 0


def test_folders_stand_for_their_images(wide, tmp_path):
    (tmp_path / "notes.txt").write_text("no image")
    Image.new("RGB", (2, 2)).save(tmp_path / "a.JPG", format="JPEG")
    assert [path.name for path in image_paths([tmp_path, wide])] == [
        "a.JPG",
        "wide.png",
        "wide.png",
    ]
    assert image_paths(str(wide)) == [wide]


def test_errors(wide, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.png").write_text("no image")
    with pytest.raises(ValueError, match="`images` must name at least one"):
        image_paths([])
    with pytest.raises(FileNotFoundError, match="must name files or folders that exist.*nowhere"):
        image_paths([tmp_path / "nowhere.png"])
    with pytest.raises(FileNotFoundError, match="in .*empty.* there is none"):
        image_paths([tmp_path / "empty"])
    with pytest.raises(ValueError, match="must name readable images, but .*text.png.* is none"):
        read_images([tmp_path / "text.png"], info())
    with pytest.raises(ValueError, match="`fit` must be one of 'stretch', 'centre'"):
        read_images([wide], info(), fit="crop")
