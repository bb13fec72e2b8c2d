"""Pascal VOC is fetched when asked for, once, and where it belongs; no test reaches the network."""

from pathlib import Path

import pytest

from interp_train.data import voc_download
from interp_train.data.voc_detection import VocDetectionData
from interp_train.data.voc_download import download_folder, download_voc, is_complete
from interp_train.experiment import build_data
from tests.data.fake_scenes import voc_scenes


@pytest.fixture
def fetched(monkeypatch):
    """What torchvision is asked for; each archive holds the lists `train` and `val`."""
    asked = []

    def fetch(root, *, year, image_set, download):
        assert download
        asked.append((root, year, image_set))
        voc_scenes(Path(root) / "VOCdevkit" / f"VOC{year}")

    monkeypatch.setattr(voc_download, "VOCDetection", fetch)
    monkeypatch.delenv("INTERP_TRAIN_DATA", raising=False)
    return asked


def data_at(folder, **options):
    return VocDetectionData(str(folder), **{"image_size": 64, "download": True, **options})


def test_files_are_fetched_once_and_then_read(fetched, tmp_path):
    folder = tmp_path / "VOCdevkit" / "VOC2007"
    data = data_at(folder)
    data.prepare_data()
    # The list `val` came with the archive of `train`.
    assert fetched == [(str(tmp_path), "2007", "train")]
    data.prepare_data()
    assert len(fetched) == 1
    assert data.info.class_names == ("cat", "dog")
    assert [len(data.dataset(split)) for split in ("train", "val")] == [6, 2]


def test_an_extraction_that_was_cut_is_repeated(fetched, tmp_path):
    folder = tmp_path / "VOCdevkit" / "VOC2012"
    download_voc(str(folder), ["train"])
    (folder / "JPEGImages" / "scene_2.jpg").unlink()
    assert not is_complete(folder, "train")
    assert is_complete(folder, "val")
    download_voc(str(folder), ["train", "val"])
    assert fetched == [(str(tmp_path), "2012", "train")] * 2


def test_nothing_is_fetched_unless_it_is_asked_for(fetched, tmp_path):
    folder = tmp_path / "VOCdevkit" / "VOC2007"
    data = data_at(folder, download=False)
    data.prepare_data()
    with pytest.raises(FileNotFoundError, match=r"fetched by data\.download=true with data\.root="):
        data.setup()
    with pytest.raises(FileNotFoundError, match=r"Call prepare_data\(\) first, in one process"):
        data_at(folder).setup()
    assert fetched == []


def test_a_run_fetches_before_it_reads(fetched, tmp_path, monkeypatch):
    node = {
        "_target_": "interp_train.data.voc_detection.VocDetectionData", "download": True,
        "root": str(tmp_path / "VOCdevkit" / "VOC2007"), "image_size": 64,
    }  # fmt: skip
    monkeypatch.setenv("RANK", "1")  # another process of the run leaves it to the first
    with pytest.raises(FileNotFoundError, match="Call prepare_data"):
        build_data(node)
    assert fetched == []
    monkeypatch.setenv("RANK", "0")
    assert len(build_data(node).dataset("train")) == 6
    assert len(fetched) == 1


def test_where_the_photos_belong(monkeypatch, tmp_path):
    monkeypatch.setenv("INTERP_TRAIN_DATA", str(tmp_path))
    assert download_folder(None) == tmp_path / "VOCdevkit" / "VOC2007"
    assert download_folder("a/VOCdevkit/VOC2012") == tmp_path / "a/VOCdevkit/VOC2012"
    absolute = tmp_path / "b" / "VOCdevkit" / "VOC2007"
    assert download_folder(str(absolute)) == absolute
    with pytest.raises(ValueError, match=r"must end with VOCdevkit/VOC2007 or .* got 'bccd/VOC'"):
        download_folder("bccd/VOC")
    monkeypatch.delenv("INTERP_TRAIN_DATA")
    with pytest.raises(ValueError, match="`root` must be given for a download"):
        download_folder(None)


def test_what_voc_does_not_have_and_a_dead_network_are_told(fetched, tmp_path, monkeypatch):
    folder = tmp_path / "VOCdevkit" / "VOC2012"
    with pytest.raises(ValueError, match="`list of VOC2012` must be one of .* but got 'test'"):
        download_voc(str(folder), ["train", "test"])
    assert fetched == []

    def dead(*args, **options):
        raise OSError("no route to host")

    monkeypatch.setattr(voc_download, "VOCDetection", dead)
    with pytest.raises(OSError, match=r"could not be fetched .*no route to host.* by hand"):
        download_voc(str(folder), ["train"])
