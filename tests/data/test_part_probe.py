import csv

import numpy as np
import pytest
import torch

from interp_train.callbacks.dissection import ProbeSet
from interp_train.data.animal_part import AnimalPartData
from interp_train.data.cub import PART_GROUPS, CubData
from interp_train.data.faces68 import COLUMNS, Faces68Data
from interp_train.data.image_folder import ImageFolderData
from interp_train.data.part_probe import PartProbe, box_regions, disc_regions, stacked
from interp_train.evaluation.concept_labels import concept_scheme, labelled_batch
from tests.data.fake_photos import write_animals, write_cub, write_folder, write_photo

SMALL = {"image_size": 32, "label_size": 16, "batch_size": 3}


def everything(probe):
    batches = list(probe.concept_dataloader())
    return [torch.cat(field) for field in zip(*batches, strict=True)]


def slow_masks(probe, data):
    """Photo by photo and pixel by pixel, from the annotation files' coordinates."""
    photos = [photo for split in data.read().splits.values() for photo in split]
    by_id = {photo.sample_id: photo for photo in photos}
    found = []
    for index in range(len(probe)):
        batch = probe[index]
        photo = by_id[int(batch.sample_ids)]
        left, top, right, bottom = (round(edge + 0.5) for edge in photo.region)
        scale = np.array([32 / (right - left), 32 / (bottom - top)])
        corner = np.array([left, top])
        box = np.array(photo.box).reshape(2, 2)
        ends = np.clip((box + 0.5 - corner) * scale - 0.5, -0.5, 31.5)
        radius = probe.radius * np.linalg.norm(ends[1] - ends[0])
        masks = np.zeros((15, 16, 16), dtype=bool)
        for part, location in enumerate((photo.part_locations + 0.5 - corner) * scale - 0.5):
            for row in range(16):
                for column in range(16):
                    place = np.array([2 * column + 0.5, 2 * row + 0.5])
                    masks[part, row, column] = np.linalg.norm(place - location) <= radius
        found.append(masks)
    return torch.from_numpy(np.array(found))


def test_discs_around_landmarks(tmp_path):
    data = CubData(str(write_cub(tmp_path / "cub")), task="species")
    probe = PartProbe(data, split="all", radius=0.15, **SMALL)
    assert isinstance(probe, ProbeSet)
    scheme = concept_scheme(probe.concept_names, probe.concept_layers)
    assert scheme.names[:2] == ("back", "beak")
    assert scheme.names[15:] == data.info.class_names
    images, labels, ids, maps = everything(probe)
    assert images.shape == (8, 3, 32, 32)
    assert len(ids.unique()) == 8
    part_maps, (objects,) = maps[:, :-1], maps[:, -1:].unbind(1)
    expected = slow_masks(probe, data)
    for part in range(15):
        assert torch.equal((part_maps == part + 1).any(1), expected[:, part])
    assert probe.concept_layers["part"] == expected.sum(1).max() > 1
    counts = labelled_batch(maps, scheme).counts
    assert counts.pixels[:15].tolist() == expected.sum((0, 2, 3)).tolist()
    # Without a margin the box fills the picture, but for a fraction of a pixel.
    assert all((objects[k] == labels[k] + 1).float().mean() >= 0.88 for k in range(8))


def test_parts_of_a_group_are_united(tmp_path):
    data = CubData(str(write_cub(tmp_path / "cub")))
    single = PartProbe(data, radius=0.15, **SMALL)
    united = PartProbe(data, radius=0.15, unite_groups=True, object_boxes=False, **SMALL)
    assert united.concept_names == {"part": tuple(PART_GROUPS)}
    names = single.concept_names["part"]
    for number, parts in enumerate(PART_GROUPS.values()):
        indices = torch.tensor([names.index(part) + 1 for part in parts])
        alone = torch.isin(everything(single)[3][:, :-1], indices).any(1)
        assert torch.equal((everything(united)[3] == number + 1).any(1), alone)


def test_backgrounds_show_nothing(tmp_path):
    probe = PartProbe(CubData(str(write_cub(tmp_path / "cub"))), split="all", **SMALL)
    _, labels, _, maps = everything(probe)
    assert (labels == -1).any()
    assert not maps[labels == -1].any()
    assert maps[labels == 0].flatten(2).any(2)[:, [0, -1]].all()


def test_boxes_of_parts_and_objects(tmp_path):
    data = AnimalPartData(str(write_animals(tmp_path / "animals")))
    probe = PartProbe(data, split="all", crop=False, image_size=64, label_size=64)
    assert probe.concept_names["part"] == ("head", "front legs")
    _, labels, _, maps = everything(probe)
    # Photos of 64 x 48 pixels, stretched in height by 4/3.
    y, x = torch.arange(64)[:, None], torch.arange(64)
    head = (x >= 8) & (x <= 28) & (y >= 8.5 * 4 / 3 - 0.5) & (y <= 21 * 4 / 3 - 0.5)
    whole = (x >= 4) & (x <= 50) & (y >= 5 * 4 / 3 - 0.5) & (y <= 44.5 * 4 / 3 - 0.5)
    assert all(torch.equal((m[:-1] == 1).any(0), head) for m in maps)
    legs = (maps[:, :-1] == 2).any(1)
    assert legs.flatten(1).any(1).sum() == 10
    for shown, label in zip(maps[:, -1], labels, strict=True):
        assert torch.equal(shown, whole.short() * (label + 1).short())
    assert probe.concept_layers == {"part": 1, "object": 1}
    discs = PartProbe(data, split="all", crop=False, image_size=64, part_boxes=False)
    assert not torch.equal(everything(discs)[3], everything(probe)[3])


def test_the_choice_is_even_over_categories(tmp_path):
    root = str(write_animals(tmp_path, ("dog", "lion", "bear"), 8))
    few, more = (
        PartProbe(AnimalPartData(root), split="all", max_images=count, **SMALL) for count in (6, 9)
    )
    assert everything(few)[1].bincount().tolist() == [2, 2, 2]
    assert everything(more)[1].bincount().tolist() == [3, 3, 3]
    assert everything(more)[2][:6].tolist() == everything(few)[2].tolist()


def test_faces(tmp_path):
    rows = []
    for number in range(6):
        file = f"tr{number:04d}_{number:05d}.jpg"
        write_photo(tmp_path / "training" / file, 32, 32, seed=number)
        points = [f"{4 + index % 9 * 3}.0" for index in range(136)]
        points[:2] = ["", ""]
        rows.append([file, *points])
    with (tmp_path / "training_keypoints.csv").open("w", newline="") as file:
        csv.writer(file).writerows([COLUMNS, *rows])
    reader = Faces68Data(str(tmp_path), num_folds=3)
    collection = reader.read()
    assert [photo.path.name[:6] for photo in collection.splits["val"]] == ["tr0000", "tr0003"]
    assert collection.part_names[17] == "right eyebrow 1"
    assert collection.splits["val"][0].box == (4.0, 4.0, 28.0, 28.0)
    probe = PartProbe(reader, unite_groups=True, **SMALL)
    assert probe.concept_names == {"part": tuple(collection.part_groups), "object": ("face",)}
    assert len(probe) == 2
    (tmp_path / "training" / "x.jpg").write_bytes(b"")
    rows[1][0] = "x.jpg"
    with (tmp_path / "training_keypoints.csv").open("w", newline="") as file:
        csv.writer(file).writerows([COLUMNS, *rows])
    with pytest.raises(ValueError, match="must begin with 'tr<number .* but .*:3 has 'x.jpg'"):
        reader.read()
    assert len(Faces68Data(str(tmp_path), on_error="skip").read().splits["train"]) == 3


def test_discs_and_boxes_by_hand():
    disc = disc_regions(torch.tensor([[3.5, 1.5], [float("nan"), 0.0]]), 1.0, 8, 4)
    assert disc.sum((1, 2)).tolist() == [0, 0]  # between the centres 0.5, 2.5, 4.5, 6.5
    disc = disc_regions(torch.tensor([[4.5, 2.5]]), 2.0, 8, 4)
    assert disc[0].int().tolist() == [[0, 0, 1, 0], [0, 1, 1, 1], [0, 0, 1, 0], [0, 0, 0, 0]]
    box = box_regions(torch.tensor([0.5, 2.4, 4.4, 6.6]), 8, 4)
    assert box.int().tolist() == [[0, 0, 0, 0], [1, 1, 0, 0], [1, 1, 0, 0], [1, 1, 0, 0]]
    assert not box_regions(torch.full((4,), torch.nan), 8, 4).any()


def test_stacked_maps_hold_every_mask():
    masks = torch.rand(7, 9, 9) < 0.4
    layers = int(masks.sum(0).max())
    maps = stacked(masks, layers)
    for number in range(7):
        assert torch.equal((maps == number + 1).sum(0), masks[number].long())
    assert torch.equal((maps > 0).sum(0), masks.sum(0))


def test_errors(tmp_path):
    data = CubData(str(write_cub(tmp_path / "cub")))
    with pytest.raises(ValueError, match="`split` must be one of 'train', 'val', 'all', but got"):
        PartProbe(data, split="test")
    with pytest.raises(ValueError, match="`radius` must be >= 0.0 and <= 1.0, but got 3"):
        PartProbe(data, radius=3)
    root = write_folder(tmp_path / "plain", {f"{s}/{k}": 2 for s in ("train", "val") for k in "ab"})
    with pytest.raises(ValueError, match="`data` must annotate parts, but 'plain' has none"):
        PartProbe(ImageFolderData(str(root)))


def test_reads_the_real_landmarks(data_folder):
    probe = PartProbe(Faces68Data(str(data_folder("faces68"))), max_images=20, unite_groups=True)
    assert len(probe) == 20
    maps = probe.__getitems__(range(20)).concept_maps[:, :-1]
    heights = {}
    for number, name in enumerate(probe.concept_names["part"], 1):
        where = (maps == number).nonzero().double()
        heights[name] = where[:, 2].mean(), where[:, 3].mean()
    assert heights["left eyebrow"] < heights["left eye"]
    assert heights["left eye"][0] < heights["nose"][0] < heights["mouth"][0]
    assert heights["right eye"][1] < heights["nose"][1] < heights["left eye"][1]
