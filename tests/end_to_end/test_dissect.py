"""The verb `dissect`: a run, a checkpoint, and a backbone with weights."""

import csv
import json
import re

import pytest
import torch

from interp_train import load
from interp_train.run_folder import read_status
from tests.end_to_end.conftest import TOY, TOY_GROUPS
from tests.end_to_end.toy import SquareProbe, two_layers

PROBE = "+probe_set._target_=tests.end_to_end.toy.SquareProbe"
RULES = ("layers=[top]", "quantiles=[0.1]", "picture_size=16", "num_images=2")


def test_a_run_is_dissected_from_the_command_line(command, tmp_path):
    command("train", *TOY, *TOY_GROUPS, f"output_dir={tmp_path}")
    place = f"output_dir={tmp_path}"
    code, output, errors = command("dissect", tmp_path / "latest", *TOY, PROBE, *RULES, place)
    assert (code, errors) == (0, "")
    assert re.search(r"this network +random weights +rotated basis +shuffled masks", output)
    assert re.search(r"any category", output)
    (folder,) = (tmp_path / "dissect").iterdir()
    assert f"dissection folder: {folder}" in output
    assert f"report: {folder / 'report.html'}" in output
    assert read_status(folder)["status"] == "finished"
    assert (tmp_path / "latest").resolve().parent.name == "run"  # the newest run is still that one
    check_files(folder)


def check_files(folder):
    """What the folder tells agrees with a dissection from Python."""
    from interp_train.network_dissection import dissect

    config = json.loads((folder / "status.json").read_text())
    network = load(config["checkpoint"]).network
    probe = SquareProbe(image_size=8)
    found = dissect(network, probe, ["top"], quantiles=(0.1,), picture_size=16, num_images=2)
    with (folder / "dissection.csv").open() as file:
        lines = list(csv.DictReader(file))
    rows = found.layers["relu"].unit_rows()
    assert [(int(line["unit"]), line["label"], line["category"]) for line in lines] == [
        (row.unit, row.label, row.category) for row in rows
    ]
    assert [float(line["iou"]) for line in lines] == [row.iou for row in rows]
    told = json.loads((folder / "dissection.json").read_text())["layers"]["relu"]
    assert told["counts"] == found.layers["relu"].counts()
    assert told["baselines"].keys() == {"random_network", "rotated_basis", "shuffled_masks"}
    assert told["concepts"] == {"object": ["square"], "scene": ["dark", "bright"]}
    result = json.loads((folder / "result.json").read_text())
    assert {**found.numbers, "epoch": 0.0} == result
    page = (folder / "report.html").read_text()
    assert "What units detect" in page
    names = {path.name for path in folder.glob("figures/*")}
    assert {"detectors_toy_dissect.png", "detectors_toy_dissect.pdf"} <= names
    tables = {path.name for path in folder.glob("tables/*")}
    assert {f"detectors_toy_dissect_relu.{end}" for end in ("csv", "tex")} <= tables
    assert {f"units_toy_dissect_relu.{end}" for end in ("csv", "tex")} <= tables


def test_a_backbone_with_weights_is_dissected(command, tmp_path):
    torch.manual_seed(3)
    torch.save(two_layers().state_dict(), tmp_path / "weights.pth")
    arguments = ["backbone=two_layers", PROBE, *RULES, "random_network=false", "num_units=0"]
    code, output, errors = command(
        "dissect", *TOY, *arguments, f"folder={tmp_path / 'mine'}", "report=false"
    )
    assert (code, errors) == (0, "")
    assert "rotated basis" in output
    assert "random weights" not in output
    assert not (tmp_path / "mine" / "report.html").exists()
    assert (tmp_path / "mine" / "dissection.csv").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "Either `path` or `backbone` must be given, but got neither"),
        (["nowhere"], "`path` must be a checkpoint file or a run folder"),
        (["nowhere", "backbone=small_cnn"], "but got both"),
        (["backbone=small_cnn"], "`probe_set` must be images with concept maps, but got nothing"),
        (["backbone=small_cnn", "backbone.weights=creatures", "quantile=[1]"],
         "`quantile` must be a key of the configuration.*'quantiles'"),
        (["backbone=two_layers", PROBE, "layers=[lastt]"], "`layer` must name a module.*'last"),
    ],
)  # fmt: skip
def test_bad_input_is_answered_with_the_way_out(command, tmp_path, arguments, message):
    code, output, errors = command("dissect", *arguments, *TOY, f"output_dir={tmp_path}")
    assert code in (1, 2)
    assert "Traceback" not in errors
    assert re.search(message, errors + output, re.DOTALL)
