"""A lesson's capsule network in seconds, with the measures and pictures of the house."""

import pytest

from interp_train.composition import compose_config
from interp_train.experiment import train
from interp_train.systems import load_system

CALLBACKS = "progress,predictions,capsule_panels,heatmap_panels,worst_errors,dissection"


@pytest.fixture(scope="module")
def result(tmp_path_factory):
    """A run of few images, whose primary capsules are dissected."""
    overrides = [
        "experiment=class_capsules",
        f"callbacks=[{CALLBACKS}]",
        "callbacks.dissection.layers=[primary]",
        "callbacks.dissection.num_units=2",
        "data.num_train=64",
        "data.num_val=40",
        "trainer.max_epochs=1",
        "trainer.check_val_every_n_epoch=1",
        f"output_dir={tmp_path_factory.mktemp('outputs')}",
    ]
    return train(compose_config("train", overrides))


def test_primary_capsules_are_dissected(result):
    layer = "dissection/head.primary.lengths"
    found = {name for name in result.metrics if name.startswith(layer)}
    assert found
    assert 0 <= result.metrics["accuracy/top1"] <= 1


def test_pictures_stand_in_the_report(result):
    names = {path.name.partition("_epoch")[0] for path in (result.folder / "figures").glob("*.png")}
    assert names >= {"capsules_drawn", "capsules_varied_0", "capsules_votes", "heatmaps_grad_cam"}
    assert "What the capsules hold" in (result.folder / "report.html").read_text("utf-8")


def test_the_checkpoint_describes_the_network(result):
    system = load_system(result.folder)
    assert system.network.head.categories.weights.shape[2:] == (4, 16)
    assert system.decoder is not None
