"""MNIST and its kin: files, splits, displacements, and what is said about broken files."""

import gzip
import struct

import numpy as np
import pytest
import torch

from interp_train.data.idx_files import read_idx
from interp_train.data.image_arrays import padded, shifted
from interp_train.data.mnist import MnistData
from interp_train.structures import ImageBatch
from tests.contracts.options import built

IMAGES, LABELS = "{}-images-idx3-ubyte", "{}-labels-idx1-ubyte"


def idx(values, kind=8):
    header = bytes([0, 0, kind, values.ndim]) + struct.pack(f">{values.ndim}I", *values.shape)
    return header + values.astype(np.uint8).tobytes()


def write_files(folder, counts=(40, 12), side=6, packed=()):
    """Random images of `side` pixels; those of `packed` are gzipped."""
    folder.mkdir(parents=True, exist_ok=True)
    source = np.random.default_rng(0)
    made = {}
    for part, count in zip(("train", "t10k"), counts, strict=True):
        made[part] = source.integers(0, 256, (count, side, side)), np.arange(count) % 3
        for pattern, values in zip((IMAGES, LABELS), made[part], strict=True):
            name, content = pattern.format(part), idx(values)
            if name in packed:
                (folder / f"{name}.gz").write_bytes(gzip.compress(content))
            else:
                (folder / name).write_bytes(content)
    return made


def small(root, **options):
    return MnistData(str(root), "own", **{"image_size": 6, "batch_size": 4, **options})


@pytest.mark.parametrize("place", ["", "raw", "MNIST/raw"])
def test_images_are_those_of_the_files(tmp_path, place):
    made = write_files(tmp_path / place, packed=[IMAGES.format("train"), LABELS.format("t10k")])
    data = small(tmp_path)
    assert data.info.class_names == ("0", "1", "2")
    assert (data.info.image_size, data.info.channels) == (6, 1)
    batches = list(data.val_dataloader())
    assert all(isinstance(batch, ImageBatch) for batch in batches)
    found = torch.cat([batch.images for batch in batches])
    assert torch.equal((found[:, 0] * 255).round().long(), torch.from_numpy(made["t10k"][0]))
    assert torch.cat([batch.labels for batch in batches]).tolist() == made["t10k"][1].tolist()
    assert torch.cat([batch.sample_ids for batch in batches]).tolist() == list(range(40, 52))
    seen = [key for batch in data.train_dataloader() for key in batch.sample_ids.tolist()]
    assert sorted(seen) == list(range(40))


def test_symmetric_values_are_undone_by_the_normalisation_that_is_stated(tmp_path):
    write_files(tmp_path)
    plain, symmetric = small(tmp_path), small(tmp_path, value_range=[-1, 1])
    one, other = (data.dataset("val")[3].images for data in (plain, symmetric))
    assert plain.info.mean == (0,)
    assert plain.info.std == (1,)
    torch.testing.assert_close(2 * one - 1, other)
    torch.testing.assert_close(other * symmetric.info.std[0] + symmetric.info.mean[0], one)


def slow_shift(image, x, y):
    moved = np.zeros_like(image)
    for row in range(image.shape[0]):
        for column in range(image.shape[1]):
            if 0 <= row - y < image.shape[0] and 0 <= column - x < image.shape[1]:
                moved[row, column] = image[row - y, column - x]
    return moved


def test_displacements_against_a_slow_version():
    images = torch.randint(1, 255, (6, 2, 5, 7), dtype=torch.uint8)
    by = torch.tensor([[0, 0], [1, 0], [0, -1], [2, 2], [-2, 1], [9, 0]])
    found = shifted(images, by)
    for index, (x, y) in enumerate(by.tolist()):
        for channel in range(2):
            expected = slow_shift(images[index, channel].numpy(), x, y)
            assert found[index, channel].numpy().tolist() == expected.tolist()


def test_displacements_follow_from_seed_epoch_and_sample(tmp_path):
    write_files(tmp_path)
    data = small(tmp_path, shift=2)
    train = data.dataset("train")
    first = train.__getitems__([3, 5, 7]).images
    assert torch.equal(first[1:], train.__getitems__([5, 7]).images)
    train.set_epoch(1)
    assert not torch.equal(first, train.__getitems__([3, 5, 7]).images)
    other = small(tmp_path, shift=2, seed=1).dataset("train")
    assert not torch.equal(first, other.__getitems__([3, 5, 7]).images)
    still = small(tmp_path).dataset("val").__getitems__([0, 1])
    assert torch.equal(data.dataset("val").__getitems__([0, 1]).images, still.images)


def test_images_stand_in_the_middle_of_a_larger_square():
    image = np.full((1, 1, 2, 3), 7, np.uint8)
    found = padded(image, 5)[0, 0]
    assert found.shape == (5, 5)
    assert found[1:3, 1:4].tolist() == [[7, 7, 7], [7, 7, 7]]
    assert found.sum() == 42
    with pytest.raises(ValueError, match=r"`image_size` must be at least .* 2 x 3, but got 2"):
        padded(image, 2)


def test_fewer_images_are_the_first_ones(tmp_path):
    write_files(tmp_path)
    data = small(tmp_path, num_train=8, num_val=5)
    assert [len(data.dataset(split)) for split in ("train", "val")] == [8, 5]
    assert data.dataset("val").sample_ids.tolist() == [40, 41, 42, 43, 44]
    with pytest.raises(ValueError, match=r"`num_val` must be >= 1 and <= 12, but got 13"):
        _ = small(tmp_path, num_val=13).info


def test_what_is_wrong_with_files_is_said(tmp_path):
    with pytest.raises(FileNotFoundError, match="train-images-idx3-ubyte"):
        _ = small(tmp_path).info
    write_files(tmp_path)
    (tmp_path / LABELS.format("train")).write_bytes(idx(np.zeros(39)))
    with pytest.raises(ValueError, match=r"one label per image, but .* has 40 and .* 39"):
        _ = small(tmp_path).info
    with pytest.raises(ValueError, match="`split` must be one of"):
        small(tmp_path, split="half")
    with pytest.raises(ValueError, match=r"`value_range` must be \[0, 1\] or \[-1, 1\]"):
        small(tmp_path, value_range=[0, 255])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"hello", "does not begin with two zero bytes"),
        (idx(np.zeros(3)), "has 1 axes, not 3"),
        (idx(np.zeros((2, 2, 2)), kind=13), "type 13, not 8"),
        (idx(np.zeros((2, 2, 2)))[:-1], r"announces \[2, 2, 2\] values, but holds 7"),
        (gzip.compress(idx(np.zeros((2, 2, 2))), mtime=0)[:-9], "cannot be unpacked"),
    ],
)
def test_broken_files_are_refused(tmp_path, content, message):
    path = tmp_path / "file"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message):
        read_idx(path, 3)


@pytest.mark.parametrize("name", ["mnist", "fashion_mnist"])
def test_the_real_files(data_folder, name):
    data_folder(name)
    data = built("data", name, split="tuning")
    assert len(data.info.class_names) == 10
    labels = data.dataset("train").labels
    assert len(labels) == 50_000
    assert len(data.dataset("val")) == 10_000
    if name == "mnist":
        assert labels[:10].tolist() == [5, 0, 4, 1, 9, 2, 1, 3, 1, 4]
        # The mean of all training images is known: 0.1307.
        pixels = torch.cat([data.dataset(split).images for split in ("train", "val")])
        assert pixels.float().mean().item() / 255 == pytest.approx(0.1307, abs=5e-5)
