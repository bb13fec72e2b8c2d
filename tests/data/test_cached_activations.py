"""Cached prefix activations are those of the prefix, built once, whole or not at all."""

import hashlib
import threading

import numpy as np
import pytest
import torch
from torch import nn

from interp_train.backbones.small_cnn import small_cnn
from interp_train.data import cached_activations
from interp_train.data.animal_part import AnimalPartData
from interp_train.data.cached_activations import CachedActivations
from interp_train.structures import ViewBatch
from tests.data.fake_photos import write_animals

JITTER = {"flip": True, "scale": (0.8, 1.3), "aspect": 0.1, "shift": 0.1}


class Prefix(nn.Module):
    """A frozen convolution that counts how many images it has seen."""

    prefix = "convolution"

    def __init__(self, scale=1.0):
        super().__init__()
        self.convolution = nn.Conv2d(3, 5, 3, stride=4).requires_grad_(False)
        self.convolution.weight *= scale
        self.images_seen = 0

    def weights_hash(self):
        return hashlib.sha256(self.convolution.weight.numpy().tobytes()).hexdigest()

    def forward_prefix(self, images):
        self.images_seen += len(images)
        with torch.no_grad():
            return torch.relu(self.convolution(images))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_animals(tmp_path_factory.mktemp("animals"))


@pytest.fixture
def network():
    return Prefix()


@pytest.fixture
def animals(folder):
    def make(**options):
        settings = {"image_size": 32, "batch_size": 4, **JITTER, **options}
        return AnimalPartData(root=str(folder), **settings)

    return make


def whole(data, split):
    dataset = data.dataset(split)
    return dataset.__getitems__(range(len(dataset)))


def build(data, network, folder, **options):
    data.enable_cache(network, folder, **{"views": 3, "dtype": "float32", **options})
    return data


def prefix_of(network, images):
    """In the memory format of the cache: which kernel a processor takes decides the last bits."""
    return network.forward_prefix(images.to(memory_format=torch.channels_last))


def files(folder):
    return sorted(folder.glob("*.npy"))


def test_cached_is_computed_bit_for_bit(animals, network, tmp_path):
    data = build(animals(), network, tmp_path)
    photos = data.photos("train")
    indices = range(len(photos))
    shown = set()
    for epoch in range(6):
        photos.set_epoch(epoch)
        batch = whole(data, "train")
        for view in range(3):
            views = [photos.view(index, view, 0) for index in indices]
            direct = prefix_of(network, photos.pixels(indices, views))
            annotated = photos.batch(indices, views, torch.zeros(0))
            for index in indices:
                if data.dataset("train").shown_views(index) != [view]:
                    continue
                shown.add((index, view))
                assert torch.equal(batch.prefix_activations[index], direct[index])
                for name in ("boxes", "part_locations", "part_boxes", "labels", "sample_ids"):
                    one, two = getattr(batch, name)[index], getattr(annotated, name)[index]
                    torch.testing.assert_close(one, two, rtol=0, atol=0, equal_nan=True)
        assert batch.images.shape == (len(photos), 0, 0, 0)
    assert len(shown) > 2.5 * len(photos)


def test_validation_has_one_plain_view_and_pixels(animals, network, tmp_path):
    data = build(animals(), network, tmp_path)
    batch, plain = whole(data, "val"), whole(animals(), "val")
    assert torch.equal(batch.images, plain.images)
    assert torch.equal(batch.prefix_activations, prefix_of(network, plain.images))
    assert torch.equal(batch.sample_ids, plain.sample_ids)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_stored_precision(animals, network, tmp_path, dtype):
    data = build(animals(), network, tmp_path, dtype=dtype)
    direct = network.forward_prefix(whole(animals(), "val").images)
    expected = direct.to(getattr(torch, dtype)).float()
    assert torch.equal(whole(data, "val").prefix_activations, expected)
    build(animals(), network, tmp_path / "full")
    half, full = (sum(f.stat().st_size for f in files(d)) for d in (tmp_path, tmp_path / "full"))
    assert half < 0.51 * full


def test_the_view_follows_from_seed_epoch_and_sample(animals, network, tmp_path):
    datasets = [build(animals(seed=s), network, tmp_path).dataset("train") for s in (0, 0, 1)]
    chosen = []
    for dataset in datasets:
        rows = []
        for epoch in range(4):
            dataset.set_epoch(epoch)
            rows.append([dataset.shown_views(index)[0] for index in range(len(dataset))])
        chosen.append(rows)
    assert chosen[0] == chosen[1] != chosen[2]
    assert chosen[0][0] != chosen[0][1]


def test_views_of_one_photo_share_a_batch(animals, network, tmp_path):
    data = build(animals(views_per_photo=2), network, tmp_path)
    dataset, photos = data.dataset("train"), data.photos("train")
    pairs = set()
    for epoch in range(4):
        dataset.set_epoch(epoch)
        batch = dataset.__getitems__([3, 1])
        assert isinstance(batch, ViewBatch)
        ids = [photos.photos[index].sample_id for index in (3, 3, 1, 1)]
        assert batch.sample_ids.tolist() == ids
        for row, index in enumerate((3, 3, 1, 1)):
            number = dataset.shown_views(index)[row % 2]
            view, first = photos.view(index, number, 0), photos.view(index, 0, 0)
            view = view._replace(flip=first.flip if number != 1 else not first.flip)
            expected = torch.from_numpy(view.transform(32)).float()
            torch.testing.assert_close(batch.view_transforms[row], expected)
            direct = prefix_of(network, photos.pixels([index], [view]))
            torch.testing.assert_close(batch.prefix_activations[row], direct[0])
        pairs |= {tuple(dataset.shown_views(index)) for index in range(len(dataset))}
    # Of three views, in both orders: the second is mirrored the other way than the others.
    assert pairs == {(0, 1), (1, 0), (1, 2), (2, 1)}
    # The first view of a pair is the one that a run without pairs sees.
    alone = build(animals(), network, tmp_path).dataset("train")
    alone.set_epoch(3)
    assert [alone.shown_views(i)[0] for i in range(8)] == [
        dataset.shown_views(i)[0] for i in range(8)
    ]


def test_too_few_cached_views_for_a_batch_are_refused(animals, network, tmp_path):
    with pytest.raises(ValueError, match="`views` must be at least the 2 views per photo"):
        build(animals(views_per_photo=2), network, tmp_path, views=1)


def test_runs_share_the_files_and_anything_else_gets_its_own(animals, network, tmp_path):
    build(animals(), network, tmp_path)
    first, seen = files(tmp_path), network.images_seen
    assert len(first) == 2
    for same in (animals(), animals(seed=3), animals(batch_size=2)):
        build(same, network, tmp_path)
    assert files(tmp_path) == first
    assert network.images_seen == seen
    others = [
        (animals(), Prefix(scale=2.0), {}),
        (animals(image_size=48), network, {}),
        (animals(shift=0.2), network, {}),
        (animals(mean=(0, 0, 0)), network, {}),
        (animals(fold=0), network, {}),
        (animals(), network, {"views": 2}),
        (animals(), network, {"dtype": "float16"}),
    ]
    for data, other, options in others:
        before = files(tmp_path)
        build(data, other, tmp_path, **options)
        assert len(files(tmp_path)) > len(before)


def test_no_augmentation_needs_one_view(animals, network, tmp_path):
    data = build(
        animals(flip=False, scale=(1, 1), aspect=0.0, shift=0.0), network, tmp_path, views=9
    )
    assert data.dataset("train").views == 1


def test_builders_that_start_at_once_build_once(animals, network, tmp_path):
    sets = [animals() for _ in range(4)]
    for data in sets:
        data.setup()
    barrier, failures = threading.Barrier(4), []

    def start(data):
        try:
            barrier.wait()
            build(data, network, tmp_path)
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=start, args=(data,)) for data in sets]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    samples = {split: len(sets[0].photos(split)) for split in ("train", "val")}
    assert network.images_seen == 3 * samples["train"] + samples["val"]
    batches = [whole(data, "train").prefix_activations for data in sets]
    assert all(torch.equal(batch, batches[0]) for batch in batches)


def test_an_interrupted_build_leaves_nothing_and_is_repeated(
    animals, network, tmp_path, monkeypatch
):
    monkeypatch.setattr(cached_activations, "_BATCH", 4)
    forward = network.forward_prefix

    def stop(images):
        if network.images_seen >= 8:
            raise KeyboardInterrupt
        return forward(images)

    network.forward_prefix = stop
    with pytest.raises(KeyboardInterrupt):
        build(animals(), network, tmp_path)
    assert [path.suffix for path in tmp_path.iterdir()] == [".lock"]
    network.forward_prefix = forward
    whole(build(animals(), network, tmp_path), "train")


def test_a_killed_builder_and_a_cut_file_are_repaired(animals, network, tmp_path):
    expected = whole(build(animals(), network, tmp_path), "train").prefix_activations
    for path in files(tmp_path):
        content = path.read_bytes()
        path.write_bytes(content[: len(content) // 2])
        path.with_suffix(".unfinished").write_bytes(b"left behind")
    found = whole(build(animals(), network, tmp_path), "train").prefix_activations
    assert torch.equal(found, expected)
    assert not list(tmp_path.glob("*.unfinished"))


def test_loader_processes_read_the_cache(animals, network, tmp_path):
    workers = build(animals(num_workers=2), network, tmp_path)
    alone = build(animals(), network, tmp_path)
    loader, reference = workers.train_dataloader(), alone.train_dataloader()
    for epoch in (0, 1, 2):
        loader.sampler.set_epoch(epoch)
        reference.sampler.set_epoch(epoch)
        for batch, expected in zip(loader, reference, strict=True):
            for one, two in zip(batch, expected, strict=True):
                torch.testing.assert_close(one, two, rtol=0, atol=0, equal_nan=True)


def test_the_suffix_of_a_backbone_continues_the_cache(animals, tmp_path):
    network = small_cnn(image_size=64, freeze="features.relu_2")
    network.resize_classifier(2)
    network.eval()
    data = build(animals(image_size=64), network, tmp_path)
    batch = whole(data, "val")
    with torch.no_grad():
        continued = network.forward_suffix(batch.prefix_activations)
        torch.testing.assert_close(continued, network(batch.images))


def test_a_full_disk(animals, network, tmp_path, monkeypatch):
    usage = type("Usage", (), {"free": 1000})
    monkeypatch.setattr(cached_activations.shutil, "disk_usage", lambda path: usage)
    with pytest.raises(OSError, match=r"`cache` needs 0\.00 GB in .*Set cache\.folder to a larger"):
        build(animals(), network, tmp_path)
    monkeypatch.undo()

    def no_space(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(cached_activations.os, "posix_fallocate", no_space)
    with pytest.raises(OSError, match=r"No space left on device\. Set cache\.folder"):
        build(animals(), network, tmp_path)
    assert not files(tmp_path)
    assert not list(tmp_path.glob("*.unfinished"))


def test_bad_arguments(animals, network, tmp_path):
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(OSError, match=r"`cache\.folder` must be a folder that can be written"):
        build(animals(), network, tmp_path / "file")
    with pytest.raises(ValueError, match=r"`dtype` must be one of 'float16', .* got 'int8'"):
        build(animals(), network, tmp_path, dtype="int8")
    with pytest.raises(ValueError, match="`views` must be >= 1, but got 0"):
        build(animals(), network, tmp_path, views=0)
    with pytest.raises(ValueError, match=r"but float16 overflows\. Set cache\.dtype=float32"):
        build(animals(), Prefix(scale=1e6), tmp_path, dtype="float16")
    network.prefix = None
    with pytest.raises(ValueError, match=r"must have a frozen prefix .*backbone\.freeze="):
        build(animals(), network, tmp_path)


def test_files_hold_views_by_samples(animals, network, tmp_path):
    data = build(animals(), network, tmp_path)
    dataset = data.dataset("train")
    assert isinstance(dataset, CachedActivations)
    stored = np.load(dataset.path, mmap_mode="r")
    assert stored.shape == (3, len(dataset), 5, 8, 8)
    assert stored.dtype == np.float32
