"""Pictures of units: of a run, by the command, and of a foreign network."""

import numpy as np
import pytest
import torch
from torch import nn

import interp_train
from interp_train.experiment import train
from interp_train.targets import trust
from interp_train.trained_network import input_info
from interp_train.visualization.feature_inversion import FeatureInversion
from interp_train.visualization.top_patches import TopPatches
from tests.end_to_end.conftest import TOY
from tests.end_to_end.toy import toy_config


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Folder of a trained toy run with the dissection of its layer."""
    trust("tests")
    folder = train(toy_config(tmp_path_factory.mktemp("outputs"), trainer__max_epochs=1)).folder
    lines = ["layer,unit,label,iou", "relu,1,middle,0.25"]
    (folder / "dissection.csv").write_text("\n".join(lines))
    return folder


def test_the_command_pictures_units_of_a_run_on_its_data(run, tmp_path, command):
    code, output, errors = command(
        "visualize", run, *TOY, "unit_visualizer=[top_patches,feature_inversion]", "units=[1,0]",
        "unit_visualizers.feature_inversion.steps=2", f"output_dir={tmp_path}", "num_inverted=2",
        "picture_size=40", "data.seed=3",
    )  # fmt: skip
    assert (code, errors) == (0, "")
    (report,) = tmp_path.rglob("report.html")
    assert str(report) in output
    page = report.read_text()
    assert "What units encode" in page
    assert "is running" not in page  # it is written once the run has ended
    assert "What the measures show" not in page  # none was taken: no empty tables
    assert "image 2" in page
    (record,) = tmp_path.rglob("gallery_relu.npz")
    found = np.load(record)
    assert found["rows"].tolist() == [1, 0]
    assert found["captions"].tolist() == ["unit 1\nmiddle, IoU 0.25", "unit 0"]
    (inverted,) = tmp_path.rglob("gallery_relu_images.npz")
    assert np.load(inverted)["pictures"].shape == (2, 2, 3, 40, 40)
    assert len(list((report.parent / "figures").glob("gallery_relu*.png"))) == 2


def test_a_network_without_a_run_needs_images(command, tmp_path):
    code, _, errors = command(
        "visualize", "backbone=small_cnn", "backbone.image_size=64", f"output_dir={tmp_path}"
    )
    assert code == 1
    assert "`images` must be given for a network without a run" in errors


def test_a_foreign_network_with_tensors(tmp_path):
    torch.manual_seed(1)
    network = nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(), nn.Flatten(), nn.Linear(6 * 36, 3))
    network.train()
    info = input_info(image_size=8, mean=(0.5,) * 3, std=(0.25,) * 3)
    methods = {"patches": TopPatches(num_patches=2), "inverted": FeatureInversion(steps=2)}
    found = interp_train.visualize(
        network, torch.randn(5, 3, 8, 8), methods, info=info, folder=tmp_path / "new",
        layers=["1"], num_units=3, num_inverted=2,
    )  # fmt: skip
    assert [gallery.columns for gallery in found.units] == [("patches",)]
    assert len(found.units[0].rows) == 3
    assert [gallery.columns for gallery in found.images] == [("image", "inverted")]
    assert network.training
    assert (found.folder / "report.html").is_file()


def test_an_unknown_setting_is_named(tmp_path):
    with pytest.raises(ValueError, match="`settings` must name a setting of a visualization"):
        interp_train.visualize(nn.Identity(), torch.zeros(1, 3, 8, 8), num_unit=3)
