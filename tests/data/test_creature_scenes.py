"""Creatures in whole scenes: boxes enclose what is drawn, mirrored scenes keep their truth."""

import numpy as np
import pytest
import torch

from interp_train.data.creature_scenes import CreatureScenesData


@pytest.fixture(scope="module")
def data():
    return CreatureScenesData(12, 10, 48, num_classes=3, batch_size=5, background_share=0.2)


def test_boxes_are_those_of_the_drawn_parts(data):
    dataset = data.dataset("val")
    truth, species = dataset.pictures.truth, dataset.pictures.species
    batches = list(data.val_dataloader())
    assert [len(batch.images) for batch in batches] == [5, 5]
    batch = dataset.__getitems__(range(10))
    for index in range(10):
        if species[index] < 0:
            assert batch.boxes[index].shape == (0, 4)
            assert batch.labels[index].tolist() == []
            continue
        concepts = truth.concepts[index, 1].take(truth.shape_maps[index])
        rows, columns = np.nonzero(concepts)
        expected = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
        assert batch.boxes[index].tolist() == [expected]
        assert batch.labels[index].tolist() == [species[index]]
        parts = batch.part_boxes[index][0]
        assert len(parts) == len(data.info.part_names)
        inside = parts[~parts.isnan().any(1)]
        assert (inside[:, :2] >= batch.boxes[index][0, :2]).all()
        assert (inside[:, 2:] <= batch.boxes[index][0, 2:]).all()
    assert sum(len(boxes) == 0 for boxes in batch.boxes) == 2


def test_mirrored_scenes_keep_their_truth(data):
    flipped = data.dataset("train")
    plain = CreatureScenesData(12, 10, 48, num_classes=3, background_share=0.2, flip=False)
    before = plain.dataset("train").__getitems__(range(12))
    seen = set()
    for epoch in range(3):
        flipped.set_epoch(epoch)
        batch = flipped.__getitems__(range(12))
        for index in range(12):
            mirrored = not torch.equal(batch.images[index], before.images[index])
            seen.add(mirrored)
            boxes, parts = before.boxes[index], before.part_boxes[index]
            if mirrored:
                boxes, parts = (
                    torch.stack([48 - b[..., 2], b[..., 1], 48 - b[..., 0], b[..., 3]], -1)
                    for b in (boxes, parts)
                )
            torch.testing.assert_close(batch.boxes[index], boxes)
            torch.testing.assert_close(batch.part_boxes[index], parts, equal_nan=True)
    assert seen == {True, False}


def test_bad_ranges_are_named():
    with pytest.raises(ValueError, match="`object_size` must be a pair"):
        CreatureScenesData(object_size=(0.5, 0.2))
    with pytest.raises(ValueError, match="`background_share` must be >= 0.0 and <= 0.9"):
        CreatureScenesData(background_share=1.0)
