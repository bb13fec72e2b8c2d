"""Pairs of digits: what lies on what, how partners are drawn, and one against two epochs."""

import pytest
import torch

from interp_train.data.multi_mnist import MultiMnistData, OverlappingImages
from interp_train.structures import OverlapBatch
from tests.data.test_mnist import slow_shift, small, write_files


@pytest.fixture
def singles(tmp_path):
    write_files(tmp_path)
    return small(tmp_path, image_size=8).dataset("train")


def test_images_are_added_up_to_white(singles):
    pairs = OverlappingImages(singles, shift=2)
    batch = pairs.__getitems__(range(20))
    assert isinstance(batch, OverlapBatch)
    assert batch.object_images.shape == (20, 2, 1, 8, 8)
    alone = (batch.object_images * 255).round()
    expected = (alone[:, 0] + alone[:, 1]).clamp(max=255) / 255
    torch.testing.assert_close(batch.images, expected)
    assert (batch.object_labels[:, 0] != batch.object_labels[:, 1]).all()
    assert torch.equal(batch.labels, singles.labels[:20])
    assert torch.equal(batch.labels, batch.object_labels[:, 0])


def test_each_is_one_of_the_images_displaced(singles):
    batch = OverlappingImages(singles, shift=1).__getitems__([3, 11])
    places = [(x, y) for x in (-1, 0, 1) for y in (-1, 0, 1)]
    for row in range(2):
        for place in range(2):
            label = batch.object_labels[row, place]
            found = (batch.object_images[row, place, 0] * 255).round().numpy()
            candidates = singles.images[singles.labels == label, 0].numpy()
            assert any((slow_shift(c, *by) == found).all() for c in candidates for by in places)


def test_partners_are_equally_likely_images_of_other_categories(singles):
    """Over many epochs each of the others comes up about equally often."""
    pairs = OverlappingImages(singles, shift=0)
    first = torch.arange(len(singles))
    counts = torch.zeros(len(singles), len(singles))
    for epoch in range(600):
        pairs.set_epoch(epoch)
        counts[first, pairs._partners(first, singles.sample_ids)] += 1
    same = singles.labels[:, None] == singles.labels
    assert counts[same].sum() == 0
    for row in range(len(singles)):
        expected = 600 / int((~same[row]).sum())
        others = counts[row][~same[row]]
        assert (others - expected).square().sum() / expected < 75  # chi-squared, 25 to 27 of them


def test_pairs_follow_from_seed_epoch_and_sample(singles, tmp_path):
    pairs = OverlappingImages(singles, shift=2)
    first = pairs.__getitems__([3, 5, 7]).images
    assert torch.equal(first[1:], pairs.__getitems__([5, 7]).images)
    pairs.set_epoch(1)
    assert not torch.equal(first, pairs.__getitems__([3, 5, 7]).images)
    other = OverlappingImages(singles, shift=2, seed=1)
    assert not torch.equal(first, other.__getitems__([3, 5, 7]).images)


def test_loaders_and_what_is_known_about_the_data(tmp_path):
    write_files(tmp_path)
    data = MultiMnistData(str(tmp_path), "own", image_size=8, shift=1, batch_size=5)
    assert data.info.name == "multi_own"
    assert data.info.image_size == 8
    others = [MultiMnistData(str(tmp_path), "own", image_size=8, **{"shift": 1, **change})
              for change in ({}, {"shift": 2}, {"seed": 1})]  # fmt: skip
    prints = [made.info.fingerprint for made in (data.singles, *others)]
    assert len(set(prints)) == 4
    assert prints[1] == data.info.fingerprint
    seen = [key for batch in data.train_dataloader() for key in batch.sample_ids.tolist()]
    assert sorted(seen) == list(range(40))
    one, again = (torch.cat([b.images for b in data.val_dataloader()]) for _ in range(2))
    assert one.shape == (12, 1, 8, 8)
    assert torch.equal(one, again)


def test_one_category_is_refused(tmp_path):
    write_files(tmp_path)
    data = MultiMnistData(str(tmp_path), "own", image_size=6, num_train=1)
    with pytest.raises(ValueError, match="images of at least two categories to overlap"):
        data.dataset("train")
    with pytest.raises(ValueError, match="`shift` must be >= 0"):
        MultiMnistData(shift=-1)
