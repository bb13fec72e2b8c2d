import numpy as np
import pytest
import torch
from PIL import Image

from interp_train.callbacks.dissection import ProbeSet
from interp_train.data.segmentation_folder import SegmentationFolder
from tests.data.fake_photos import write_photo


def write_folder(folder, count=5, names="0 sky\n1 road\n7 dirty car\n9 nothing\n"):
    """Photos of 64 x 48 pixels; the label map of photo k has four quarters 0, 1, 7, 9."""
    (folder / "labels").mkdir(parents=True)
    for number in range(count):
        write_photo(folder / "images" / f"p{number}.jpg", seed=number)
        values = np.zeros((48, 64), dtype=np.uint8)
        values[:24, 32:], values[24:, :32], values[24:, 32:] = 1, 7, 9
        Image.fromarray(values).save(folder / "labels" / f"p{number}.png")
    (folder / "classes.txt").write_text(names)
    return str(folder)


def test_label_maps_follow_the_names(tmp_path):
    probe = SegmentationFolder(
        write_folder(tmp_path), ignored=["nothing"], image_size=32, label_size=6, batch_size=2
    )
    assert isinstance(probe, ProbeSet)
    assert probe.concept_names == {"object": ("sky", "road", "dirty car")}
    batches = list(probe.concept_dataloader())
    assert [len(batch.images) for batch in batches] == [2, 2, 1]
    assert len(torch.cat([batch.sample_ids for batch in batches]).unique()) == 5
    expected = [[1] * 3 + [2] * 3] * 3 + [[3] * 3 + [0] * 3] * 3
    for batch in batches:
        assert batch.images.shape[1:] == (3, 32, 32)
        assert all(maps.tolist() == [expected] for maps in batch.concept_maps)
        assert (batch.labels == -1).all()


def test_maps_are_read_at_the_centres_of_pixels(tmp_path):
    root = write_folder(tmp_path, 1, "\n".join(f"n{value}" for value in range(48)))
    values = np.broadcast_to(np.arange(48, dtype=np.uint8)[:, None], (48, 64))
    Image.fromarray(values.copy()).save(tmp_path / "labels" / "p0.png")
    batch = SegmentationFolder(root, label_size=16)[0]
    # Pixel i of 16 covers the rows 3i .. 3i + 2; its centre is row 3i + 1, of label 3i + 2.
    assert batch.concept_maps[0, 0, :, 0].tolist() == [3 * i + 2 for i in range(16)]


def test_photos_are_normalised_and_whole(tmp_path):
    root = write_folder(tmp_path, 1)
    probe = SegmentationFolder(root, image_size=48, mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.4))
    with Image.open(tmp_path / "images" / "p0.jpg") as image:
        expected = np.asarray(image.resize((48, 48), Image.Resampling.BILINEAR), dtype=np.float32)
    found = probe[0].images[0].permute(1, 2, 0) * torch.tensor([0.2, 0.3, 0.4])
    found = 255 * (found + torch.tensor([0.5, 0.4, 0.3]))
    np.testing.assert_allclose(found, expected, atol=1.01)


def test_a_choice_of_photos_stays_when_more_are_added(tmp_path):
    first = SegmentationFolder(write_folder(tmp_path / "a", 4)).pairs
    more = SegmentationFolder(write_folder(tmp_path / "b", 9)).pairs
    stems = [photo.stem for photo, _ in more]
    assert [s for s in stems if s in {p.stem for p, _ in first}] == [p.stem for p, _ in first]
    assert SegmentationFolder(str(tmp_path / "b"), max_images=3).pairs == more[:3]


def test_nested_folders_endings_and_lists(tmp_path):
    for town, count in (("bonn", 2), ("ulm", 3)):
        for number in range(count):
            stem = f"{town}/{number}"
            write_photo(tmp_path / "images" / f"{stem}_photo.jpg", seed=number)
            write_photo(tmp_path / "images" / f"{stem}_depth.png")
            values = np.full((48, 64), count, dtype=np.uint16)
            (tmp_path / "labels" / town).mkdir(parents=True, exist_ok=True)
            Image.fromarray(values).save(tmp_path / "labels" / f"{stem}_ids.png")
    (tmp_path / "classes.txt").write_text("2 in Bonn\n3 in Ulm\n")
    endings = {"image_ending": "_photo", "label_ending": "_ids", "label_size": 3}
    probe = SegmentationFolder(str(tmp_path), **endings)
    assert len(probe) == 5
    batch = probe.__getitems__(range(5))
    assert len(batch.sample_ids.unique()) == 5
    towns = [photo.parent.name for photo, _ in probe.pairs]
    expected = [1 if town == "bonn" else 2 for town in towns]
    assert batch.concept_maps[:, 0, 1, 1].tolist() == expected
    (tmp_path / "val.txt").write_text("ulm/1\nbonn/0\n")
    some = SegmentationFolder(str(tmp_path), listed="val.txt", **endings)
    assert {path.name for _, path in some.pairs} == {"1_ids.png", "0_ids.png"}
    (tmp_path / "val.txt").write_text("ulm/1\nulm/7\n")
    with pytest.raises(ValueError, match=r"1 of 5 photos and 5 label maps stand alone \(ulm/7\)"):
        SegmentationFolder(str(tmp_path), listed="val.txt", **endings)


def test_colours_may_stand_for_names(tmp_path):
    root = write_folder(tmp_path, 1, "64 0 128\tsky\n0 64 128\troad\n0 0 0 void\n")
    colours = np.zeros((48, 64, 3), dtype=np.uint8)
    colours[:, :32], colours[:24, 32:] = (64, 0, 128), (0, 64, 128)
    Image.fromarray(colours).save(tmp_path / "labels" / "p0.png")
    batch = SegmentationFolder(root, ignored=["void"], label_size=2)[0]
    assert batch.concept_maps.tolist() == [[[[1, 2], [1, 0]]]]
    colours[0] = (1, 2, 3)
    Image.fromarray(colours).save(tmp_path / "labels" / "p0.png")
    with pytest.raises(ValueError, match=r"must have a name, but .* has \[\[1, 2, 3\]\]"):
        SegmentationFolder(root, label_size=48)[0]


def test_rare_concepts_are_covered(tmp_path):
    root = write_folder(tmp_path, 12, "0 common\n1 rare\n")
    order = [photo.stem for photo, _ in SegmentationFolder(root).pairs]
    for rank, stem in enumerate(order):
        values = np.full((48, 64), int(rank in (5, 9)), dtype=np.uint8)
        Image.fromarray(values).save(tmp_path / "labels" / f"{stem}.png")
    plain = SegmentationFolder(root, max_images=4)
    assert [photo.stem for photo, _ in plain.pairs] == order[:4]
    covered = SegmentationFolder(root, max_images=4, least_per_concept=2)
    assert [photo.stem for photo, _ in covered.pairs] == [order[k] for k in (0, 1, 5, 9)]
    with pytest.raises(ValueError, match="`max_images` must be at least 4 so that .* but got 3"):
        SegmentationFolder(root, max_images=3, least_per_concept=2)


def test_a_name_below_the_data_folder_will_do(tmp_path, monkeypatch):
    write_folder(tmp_path / "roads")
    monkeypatch.setenv("INTERP_TRAIN_DATA", str(tmp_path))
    assert len(SegmentationFolder("roads")) == 5
    with pytest.raises(FileNotFoundError, match="the folder of the data set must exist, .*/rails"):
        SegmentationFolder("rails")


def test_errors(tmp_path):
    root = write_folder(tmp_path / "a")
    with pytest.raises(ValueError, match="`root` must be the folder of the photos, but got None"):
        SegmentationFolder()
    with pytest.raises(ValueError, match="`ignored` must hold names of classes.txt, but void is"):
        SegmentationFolder(root, ignored=["void"])
    with pytest.raises(FileNotFoundError, match="`names` must be a file .*'.*names.txt' is miss"):
        SegmentationFolder(root, names="names.txt")
    with pytest.raises(FileNotFoundError, match="folders below `root`, but '.*masks' is missing"):
        SegmentationFolder(root, labels="masks")
    (tmp_path / "a" / "classes.txt").write_text("sky\nroad\nsky")
    with pytest.raises(ValueError, match="must have a value and a name of its own, .* 'sky'"):
        SegmentationFolder(root)
    (tmp_path / "a" / "classes.txt").write_text("sky\nroad")
    with pytest.raises(ValueError, match=r"must have a name, but .* has \[7, 9\]"):
        SegmentationFolder(root)[0]
    name = SegmentationFolder(root).pairs[0][1]
    Image.new("RGB", (64, 48)).save(name)
    with pytest.raises(ValueError, match=r"one whole number .* has uint8 \(48, 64, 3\)"):
        SegmentationFolder(root)[0]
    name.unlink()
    with pytest.raises(ValueError, match=r"label map of the same name, but 1 of 5 photos and 4"):
        SegmentationFolder(root)


def test_reads_camvid(data_folder):
    probe = SegmentationFolder(
        str(data_folder("camvid")), images="val", labels="valannot", ignored=["Unlabelled"],
        image_size=64, label_size=32, max_images=3,
    )  # fmt: skip
    assert len(probe.concept_names["object"]) == 11
    batch = probe.__getitems__([0, 1, 2])
    sky, road = (batch.concept_maps == label for label in (1, 4))
    assert sky[:, 0, :8].sum() > sky[:, 0, 16:].sum()  # above
    assert road[:, 0, 16:].sum() > road[:, 0, :16].sum()  # below
