"""Every YAML of conf/probe_set gives a probe set: fixed, complete, each image once."""

from pathlib import Path

import pytest
import torch

from interp_train.callbacks.dissection import ProbeSet
from interp_train.composition import compose_config
from interp_train.evaluation.concept_labels import concept_scheme, labelled_batch
from interp_train.targets import build
from tests.data.fake_photos import write_animals, write_cub
from tests.data.test_broden import write_broden
from tests.data.test_segmentation_folder import write_folder

NAMES = sorted(path.stem for path in Path("conf/probe_set").resolve().glob("*.yaml"))
WRITERS = {
    "animal_part": write_animals,
    "broden": write_broden,
    "cub": write_cub,
    "segmentation_folder": write_folder,
}


def node_of(name, overrides=()):
    config = compose_config("train", ["callbacks=[dissection]", f"probe_set={name}", *overrides])
    return config["callbacks"]["dissection"]["probe_set"]


def probe_of(name, folder, data_folder):
    """The probe set of a YAML, small, on fake files where the test can write them."""
    node = node_of(name)
    if name == "synthetic":
        return build({**node, "num_val": 9, "image_size": 32, "batch_size": 4}, name)
    node |= {"image_size": 32, "label_size": 16, "batch_size": 4, "max_images": 9}
    if name in WRITERS:
        WRITERS[name](folder)
        holder = node.get("data", node)
        holder["root"] = str(folder)
    else:
        data_folder(name)
    return build(node, name)


@pytest.mark.parametrize("name", NAMES)
def test_a_probe_set_shows_each_image_once(name, tmp_path, data_folder):
    probe = probe_of(name, tmp_path / name, data_folder)
    assert isinstance(probe, ProbeSet)
    scheme = concept_scheme(probe.concept_names, getattr(probe, "concept_layers", None))
    rounds = []
    for _ in range(2):
        batches = list(probe.concept_dataloader())
        rounds.append([torch.cat(field) for field in zip(*batches, strict=True)])
    images, labels, ids, maps = rounds[0]
    assert all(torch.equal(first, second) for first, second in zip(*rounds, strict=True))
    assert len(ids) == len(ids.unique()) == len(images) == len(labels) > 0
    assert images.isfinite().all()
    assert images.shape[1:] == (3, 32, 32)
    assert labelled_batch(maps, scheme).counts.pixels.sum() > 0


def test_keys_of_a_probe_set_can_be_changed():
    changes = [
        f"callbacks.dissection.probe_set.{change}" for change in ("split=all", "data.root=x")
    ]
    node = node_of("cub", changes)
    assert (node["split"], node["data"]["root"]) == ("all", "x")
    assert compose_config("evaluate", ["path=x", "callbacks=[dissection]", "probe_set=camvid"])


@pytest.mark.parametrize("name", NAMES)
def test_dissect_takes_every_probe_set_for_itself(name):
    config = compose_config("dissect", ["backbone=small_cnn", f"probe_set={name}"])
    assert "_target_" in config["callbacks"]["dissection"]["probe_set"]
