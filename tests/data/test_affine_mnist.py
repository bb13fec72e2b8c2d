"""Digits of one split are under transforms, those of the other are left alone."""

import pytest
import torch

from interp_train.affine_transforms import drawn_transforms, transformed
from interp_train.data.affine_mnist import AffineMnistData
from tests.data.test_mnist import write_files


def test_training_is_moved_and_validation_is_transformed(tmp_path):
    write_files(tmp_path)
    data = AffineMnistData(
        str(tmp_path), "own", image_size=10, train_shift=2, shift=1.0, batch_size=4
    )
    assert data.info.name == "affine_own"
    assert data.info.fingerprint != data.singles.info.fingerprint
    plain = data.singles.dataset("val").__getitems__(range(12))
    one, again = (torch.cat([b.images for b in data.val_dataloader()]) for _ in range(2))
    assert torch.equal(one, again)
    assert not torch.allclose(one, plain.images)
    wanted = transformed(plain.images, drawn_transforms(plain.sample_ids, data.ranges, 0, 0))
    torch.testing.assert_close(one, wanted)
    symmetric = AffineMnistData(
        str(tmp_path), "own", image_size=10, shift=1.0, value_range=[-1, 1], batch_size=12
    )
    (batch,) = symmetric.val_dataloader()
    torch.testing.assert_close(batch.images, 2 * one - 1, rtol=0, atol=1e-5)
    train = next(iter(data.train_dataloader()))
    pixels = (train.images * 255).round()
    torch.testing.assert_close(pixels / 255, train.images)  # whole pixels: moved only


def test_training_may_be_transformed_instead_anew_in_each_epoch(tmp_path):
    write_files(tmp_path)
    data = AffineMnistData(
        str(tmp_path), "own", transformed="train", image_size=10, shift=1.0, batch_size=4
    )
    plain = data.singles.dataset("val").__getitems__([2, 3])
    assert torch.equal(data.dataset("val").__getitems__([2, 3]).images, plain.images)
    train = data.dataset("train")
    first = train.__getitems__([3, 5, 7]).images
    torch.testing.assert_close(first[1:], train.__getitems__([5, 7]).images)
    train.set_epoch(1)
    assert not torch.allclose(first, train.__getitems__([3, 5, 7]).images)
    assert not torch.allclose(first, data.singles.dataset("train").__getitems__([3, 5, 7]).images)
    with pytest.raises(ValueError, match="`transformed` must be one of 'val', 'train'"):
        AffineMnistData(transformed="both")
