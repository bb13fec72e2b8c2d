"""Sprites: factors, splits and broken archives."""

import numpy as np
import pytest
import torch

from interp_train.data.sprites_factors import SpritesFactorsData, reduced
from interp_train.structures import FactorBatch
from tests.contracts.options import built


def write_archive(folder, **changes):
    """All combinations of 3 and 4 values as images whose pixels tell them."""
    factors = np.stack(np.meshgrid(range(3), range(4), indexing="ij"), -1).reshape(-1, 2)
    images = np.zeros((12, 8, 8, 3), np.uint8)
    images[..., 0], images[..., 1] = (10 * factors.T)[:, :, None, None]
    content = {
        "imgs": images, "factors": factors.astype(np.uint8),
        "factor_names": np.array(["shape", "colour"]), "factor_sizes": np.array([3, 4]), **changes,
    }  # fmt: skip
    np.savez(folder / "some.npz", **{key: v for key, v in content.items() if v is not None})
    return factors


def small(folder, **options):
    return SpritesFactorsData(
        str(folder), **{"label": "colour", "image_size": 8, "batch_size": 5, **options}
    )


def test_batches_carry_the_factors(tmp_path):
    factors = write_archive(tmp_path)
    data = small(tmp_path, value_range=[0, 1])
    assert data.info.class_names == ("colour 0", "colour 1", "colour 2", "colour 3")
    assert data.factor_names == ("shape", "colour")
    assert data.factor_sizes == (3, 4)
    batches = list(data.val_dataloader())
    assert all(isinstance(batch, FactorBatch) for batch in batches)
    assert torch.cat([batch.factors for batch in batches]).tolist() == factors.tolist()
    assert torch.cat([batch.labels for batch in batches]).tolist() == factors[:, 1].tolist()
    for batch in data.train_dataloader():
        values = (batch.images[:, :2] * 25.5).round()
        assert torch.equal(values, batch.factors[:, :, None, None].expand_as(values).float())


def test_held_out_combinations_do_not_train(tmp_path):
    write_archive(tmp_path)
    data = small(tmp_path, val_share=0.4)
    train, val = (set(data.dataset(split).sample_ids.tolist()) for split in ("train", "val"))
    assert val
    assert train | val == set(range(12))
    assert not train & val


def test_smaller_images_are_means_over_squares():
    images = np.arange(16, dtype=np.uint8).reshape(1, 1, 4, 4)
    assert reduced(images, 2)[0, 0].tolist() == [[2, 4], [10, 12]]
    assert reduced(images, 4).tolist() == images.tolist()
    with pytest.raises(ValueError, match="`image_size` must divide the size of the images, 4"):
        reduced(images, 3)


def test_what_is_wrong_with_an_archive_is_said(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"one .npz file, but .* has 0"):
        _ = small(tmp_path).info
    write_archive(tmp_path, factor_names=None)
    with pytest.raises(ValueError, match="lacks factor_names"):
        _ = small(tmp_path).info
    write_archive(tmp_path, factor_sizes=np.array([3, 3]))
    with pytest.raises(ValueError, match=r"values below \[3, 3\], but .* up to \[2, 3\]"):
        _ = small(tmp_path).info
    write_archive(tmp_path)
    with pytest.raises(ValueError, match="`label` must name a factor of the data"):
        _ = small(tmp_path, label="size").info


def test_the_real_archive(data_folder):
    data_folder("sprites_factors")
    data = built("data", "sprites_factors")
    assert len(data.dataset("train")) == len(data.dataset("val")) == np.prod(data.factor_sizes)
    assert data.factor_names == ("body", "bottomwear", "topwear", "hair", "direction", "pose")
    assert data.info.image_size == 64
