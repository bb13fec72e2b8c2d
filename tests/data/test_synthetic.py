"""The synthetic data module: splits, batches, augmentation, sharding, promised errors."""

import math
import random

import numpy as np
import pytest
import torch

from interp_train.data.creatures.composition import CONCEPT_NAMES, Recipe, visible_boxes
from interp_train.data.creatures.species import PART_NAMES, SPECIES_NAMES
from interp_train.data.synthetic import SyntheticData, images_per_second
from interp_train.data.synthetic_changes import Change, PictureAugmentation, draw_change
from interp_train.data.synthetic_dataset import MEAN, STD
from interp_train.structures import BACKGROUND, PartBatch

SMALL = {"num_train": 24, "num_val": 9, "image_size": 48, "batch_size": 8}


def small(**options):
    return SyntheticData(**{**SMALL, **options})


@pytest.fixture(scope="module")
def data():
    return small()


def assert_equal_batches(first, second):
    for one, other in zip(first, second, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0, equal_nan=True)


def test_a_batch_holds_what_part_batches_hold(data):
    batch = next(iter(data.val_dataloader()))
    assert isinstance(batch, PartBatch)
    shapes = [tuple(field.shape) for field in batch]
    parts = len(PART_NAMES)
    assert shapes == [(8, 3, 48, 48), (8,), (8,), (8, 4), (8, 0, 0, 0), (8, parts, 2),
                      (8, parts, 4), (8, parts, 48, 48)]  # fmt: skip
    assert batch.part_masks.dtype == torch.bool
    assert batch.labels.tolist() == [0, 1, 2, 3, 0, 1, 2, 3]


def test_every_picture_comes_once_and_splits_share_none(data):
    train = torch.cat([batch.sample_ids for batch in data.train_dataloader()])
    val = torch.cat([batch.sample_ids for batch in data.val_dataloader()])
    assert sorted(train.tolist()) == list(range(24))
    assert val.tolist() == list(range(1_000_000, 1_000_009))
    pictures = {data.dataset(split).drawing(i).image.tobytes() for split in ("train", "val")
                for i in range(9)}  # fmt: skip
    assert len(pictures) == 18


def test_validation_pictures_do_not_depend_on_the_training_set(data):
    other = small(num_train=30)
    assert_equal_batches(other.dataset("val")[5], data.dataset("val")[5])


def test_a_batch_is_its_pictures_one_by_one(data):
    dataset = data.dataset("train")
    whole = dataset.__getitems__([5, 2, 9])
    single = [dataset[index] for index in (5, 2, 9)]
    for position, field in enumerate(whole):
        parts = torch.cat([batch[position] for batch in single])
        torch.testing.assert_close(field, parts, rtol=0, atol=0, equal_nan=True)


def test_normalisation_undone_gives_the_drawing(data):
    dataset = data.dataset("val")
    restored = dataset[3].images[0] * torch.tensor(STD)[:, None, None]
    restored = 255 * (restored + torch.tensor(MEAN)[:, None, None])
    expected = torch.from_numpy(dataset.drawing(3).image.copy()).permute(2, 0, 1).float()
    torch.testing.assert_close(restored, expected, atol=0.01, rtol=0)


def test_masks_are_disjoint_and_boxes_are_their_extents(data):
    batch = data.dataset("train").__getitems__(range(12))
    assert int(batch.part_masks.sum(dim=1).max()) == 1
    for masks, box, part_boxes in zip(batch.part_masks, batch.boxes, batch.part_boxes, strict=True):
        for mask, expected in [(masks.any(dim=0), box), *zip(masks, part_boxes, strict=True)]:
            rows, columns = mask.nonzero(as_tuple=True)
            if len(rows) == 0:
                assert torch.isnan(expected).all()
                continue
            extent = [columns.min() - 0.5, rows.min() - 0.5, columns.max() + 0.5, rows.max() + 0.5]
            assert expected.tolist() == [float(value) for value in extent]


def test_landmarks_stay_on_their_masks_under_augmentation(data):
    dataset, hits = data.dataset("train"), []
    for epoch in range(3):
        dataset.set_epoch(epoch)
        batch = dataset.__getitems__(range(24))
        for masks, locations in zip(batch.part_masks, batch.part_locations, strict=True):
            for mask, (x, y) in zip(masks, locations.tolist(), strict=True):
                if not math.isnan(x):
                    hits.append(bool(mask[round(y), round(x)]))
    dataset.set_epoch(0)
    assert len(hits) > 400
    # A half pixel rounds the other way after a mirroring.
    assert np.mean(hits) > 0.98


def slow_move(image, change):
    """Pixel by pixel: mirror, then displace; None where nothing was."""
    size = image.shape[0]
    moved = {}
    for y in range(size):
        for x in range(size):
            source_x, source_y = x - change.shift[0], y - change.shift[1]
            if change.flip:
                source_x = size - 1 - source_x
            if 0 <= source_x < size and 0 <= source_y < size:
                moved[y, x] = image[source_y, source_x]
    return moved


@pytest.mark.parametrize("shift", [(0, 0), (2, 0), (-1, 3)])
@pytest.mark.parametrize("flip", [False, True])
def test_moves_of_pictures_maps_and_points_agree_with_a_slow_oracle(shift, flip):
    change = Change(flip, shift, (1.0, 1.0, 1.0), (0.0, 0.0, 0.0))
    part_map = np.arange(1, 50, dtype=np.uint8).reshape(7, 7)
    expected = slow_move(part_map, change)
    picture, moved = change.move(part_map), change.move_map(part_map)
    for y in range(7):
        for x in range(7):
            assert moved[y, x] == expected.get((y, x), 0)
            if (y, x) in expected:
                assert picture[y, x] == expected[y, x]
    points = np.array([[1.0, 5.0], [3.0, 0.0], [np.nan, np.nan]], dtype=np.float32)
    for before, after in zip(points, change.move_points(points, 7), strict=True):
        places = [
            at
            for at, value in expected.items()
            if not np.isnan(before[0]) and value == part_map[int(before[1]), int(before[0])]
        ]
        if places:
            assert (after[1], after[0]) == places[0]
        else:
            assert np.isnan(after).all()


def test_augmentation_follows_from_seed_epoch_and_sample_alone():
    first, second = small(), small()
    for module, order in ((first, (3, 4, 5)), (second, (5, 4, 3))):
        dataset = module.dataset("train")
        dataset.set_epoch(2)
        batches = {index: dataset[index] for index in order}
        if module is first:
            expected = batches
    for index, batch in batches.items():
        assert_equal_batches(batch, expected[index])
    dataset.set_epoch(3)
    assert not torch.equal(dataset[3].images, expected[3].images)


def test_no_augmentation_leaves_the_drawing():
    module = small(flip=False, shift=0, colour_jitter=0.0)
    train = module.dataset("train")
    np.testing.assert_array_equal(train[4].part_locations[0], train.truth.part_locations[4])
    change = draw_change(random.Random(0), PictureAugmentation(False, 0, 0.0))
    assert change == Change(False, (0, 0), (1.0, 1.0, 1.0), (0.0, 0.0, 0.0))


@pytest.mark.parametrize("num_workers", [0, 2])
def test_batches_do_not_depend_on_the_number_of_workers(num_workers, data):
    module = small(num_workers=num_workers)
    loader, reference = module.train_dataloader(), data.train_dataloader()
    for epoch in (0, 1):
        loader.sampler.set_epoch(epoch)
        reference.sampler.set_epoch(epoch)
        for batch, expected in zip(loader, reference, strict=True):
            assert_equal_batches(batch, expected)


def test_order_follows_from_seed_and_epoch(data):
    orders = []
    for module, epoch in ((data, 0), (data, 1), (small(), 0), (small(seed=1), 0)):
        sampler = module.train_dataloader().sampler
        sampler.set_epoch(epoch)
        orders.append(list(sampler))
    assert orders[0] == orders[2]
    assert len({tuple(order) for order in orders}) == 3


def test_background_task():
    module = small(task="creature_vs_background", num_classes=2)
    batch = next(iter(module.val_dataloader()))
    assert module.info.class_names == ("creature",)
    assert batch.labels.tolist() == [BACKGROUND, 0] * 4
    assert torch.isnan(batch.boxes[batch.labels == BACKGROUND]).all()
    assert not torch.isnan(batch.boxes[batch.labels == 0]).any()
    assert not batch.part_masks[batch.labels == BACKGROUND].any()
    drawn = [s for s in module.dataset("train").species if s != BACKGROUND]
    assert drawn[:4] == [0, 1, 0, 1]
    one = small(task="creature_vs_background", num_classes=1, background_share=0.25)
    assert one.info.class_names == SPECIES_NAMES[:1]
    assert one.dataset("train").species.count(BACKGROUND) == 6


def test_concept_maps_are_consistent_with_masks(data):
    batch = next(iter(data.concept_dataloader()))
    parts = data.dataset("val").__getitems__(range(8))
    names = list(data.concept_names)
    assert batch.concept_maps.shape == (8, len(names), 48, 48)
    torch.testing.assert_close(batch.images, parts.images)
    assert torch.equal(data.concept_maps(parts.sample_ids), batch.concept_maps)
    with pytest.raises(ValueError, match="`sample_ids` must be those of validation pictures"):
        data.concept_maps(data.dataset("train")[0].sample_ids)
    part_maps = batch.concept_maps[:, names.index("part")]
    for part in range(len(PART_NAMES)):
        torch.testing.assert_close(part_maps == 1 + part, parts.part_masks[:, part])
    objects = batch.concept_maps[:, names.index("object")]
    creature = objects == 1 + batch.labels[:, None, None]
    torch.testing.assert_close(creature, parts.part_masks.any(dim=1))
    for category, name in enumerate(names):
        assert batch.concept_maps[:, category].min() >= 0
        assert batch.concept_maps[:, category].max() <= len(CONCEPT_NAMES[name])
    scenes = batch.concept_maps[:, names.index("scene")]
    assert (scenes == scenes[:, :1, :1]).all()
    boxes = visible_boxes(part_maps[0].numpy().astype(np.uint8))
    np.testing.assert_array_equal(boxes[0], parts.boxes[0])


def test_fingerprint_tells_data_apart(data):
    assert small().info == data.info
    others = [small(seed=1), small(num_val=8), small(crop_margin=None), small(num_classes=5)]
    assert len({module.info.fingerprint for module in (data, *others)}) == 5
    assert small(batch_size=4, shift=0).info.fingerprint == data.info.fingerprint


def test_normalisation_fits_the_pictures():
    images = SyntheticData(num_train=200, image_size=48).dataset("train").truth.images / 255
    np.testing.assert_allclose(images.mean(axis=(0, 1, 2)), MEAN, atol=0.04)
    np.testing.assert_allclose(images.std(axis=(0, 1, 2)), STD, atol=0.04)


def test_speed_is_a_number():
    assert 0 < images_per_second(3, 32) < math.inf


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"task": "cats"}, "`task` must be one of 'species', 'creature_vs_background'"),
        ({"num_classes": 1}, "`num_classes` must be >= 2"),
        ({"num_classes": 99}, f"`num_classes` must be .* <= {len(SPECIES_NAMES)}, but got 99"),
        ({"image_size": 8}, "`image_size` must be >= 32"),
        ({"num_val": 0}, "`num_val` must be >= 1"),
        ({"seed": -1}, "`seed` must be >= 0"),
        ({"object_size": (0.9, 0.5)}, r"`object_size` must be a pair .*, but got \[0.9, 0.5\]"),
        ({"num_distractors": (1, 2, 3)}, r"`num_distractors` must be a pair"),
        ({"shift": 40}, "`shift` must be .* <= 12"),
    ],
)
def test_bad_arguments(options, message):
    with pytest.raises(ValueError, match=message):
        small(**options)


def test_unknown_split(data):
    with pytest.raises(ValueError, match="`split` must name a split of the data, but got 'dev'"):
        data.dataset("dev")


def test_recipe_defaults_are_those_of_the_data_module():
    module = SyntheticData(crop_margin=None)
    assert module.recipe == Recipe(crop_jitter=0.12)
