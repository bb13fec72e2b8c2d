"""The comparison of heatmap methods: planted methods get their places, and the command works."""

import csv
import json
import re

import pytest
import torch
import yaml

import interp_train
from interp_train.experiment import train
from interp_train.heatmap_comparison import (
    ComparisonSettings,
    compare_heatmaps,
    evidence_masks,
)
from interp_train.report.heatmap_quality_page import page_path, quality_table, write_quality
from interp_train.structures import PartBatch
from interp_train.targets import trust
from interp_train.trained_network import trained_network
from tests.end_to_end.conftest import REPOSITORY, TOY
from tests.end_to_end.toy import SquareData, toy_config


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    trust("tests")
    config = toy_config(tmp_path_factory.mktemp("outputs"), trainer__max_epochs=1)
    return train(config).folder


class Square:
    """Points at the square in the middle, whatever the network says."""

    shows = "the truth"

    def __call__(self, network, images, target):
        heatmaps = torch.zeros_like(images[:, :1])
        heatmaps[..., 2:6, 2:6] = 1
        return heatmaps


class Corner:
    def __call__(self, network, images, target):
        heatmaps = torch.zeros_like(images[:, :1])
        heatmaps[..., 0, 0] = 1
        return heatmaps


@pytest.fixture(scope="module")
def quality(run, tmp_path_factory):
    settings = ComparisonSettings(
        target="label", num_images=6, stability_images=3, example_images=2, batch_size=4,
        tolerance=1, num_steps=4, num_noisy=2, num_stages=2,
    )  # fmt: skip
    methods = {"square": Square(), "corner": Corner()}
    return compare_heatmaps(
        trained_network(run), SquareData(), methods, settings, tmp_path_factory.mktemp("quality")
    )


def test_planted_methods_get_their_places(quality):
    square, corner = (method.values for method in quality.methods)
    random, centre, oracle = (baseline.values for baseline in quality.baselines)
    for name in ("pointing_game", "localisation_mass", "relevance_rank"):
        assert square[name] == oracle[name] == 1
        assert corner[name] < square[name]
    assert corner["pointing_game"] == corner["localisation_mass"] == 0
    assert random["localisation_mass"] == pytest.approx(16 / 64)
    assert 0 < centre["localisation_mass"] < 1
    for name in ("deletion_auc", "insertion_auc", "sensitivity"):
        assert square[name] == pytest.approx(oracle[name], abs=1e-6)
        assert name in random
        assert name in centre
    assert square["max_sensitivity"] == 0
    assert square["randomisation_similarity"] == pytest.approx(1)
    assert not any(name.endswith(("_random", "_oracle")) for name in square)


def test_a_comparison_that_fails_keeps_the_methods_before(run, tmp_path):
    def failing(network, images, target):
        raise RuntimeError("no")

    settings = ComparisonSettings(num_images=4, stability_images=0, example_images=1, num_steps=2)
    with pytest.raises(RuntimeError, match="^no$"):
        compare_heatmaps(
            trained_network(run), SquareData(), {"square": Square(), "failing": failing}, settings,
            tmp_path, found=write_quality,
        )  # fmt: skip
    written = json.loads((tmp_path / "heatmap_quality.json").read_text(encoding="utf-8"))
    assert list(written["measures"]) == ["square", "random", "centre", "oracle"]
    assert page_path(tmp_path).is_file()


def test_the_faithfulness_of_a_method_is_that_of_the_metric_alone(quality, run):
    from interp_train.evaluation.heatmap_faithfulness import HeatmapFaithfulnessMetric
    from interp_train.structures import Target

    batch = (
        SquareData()
        .val_dataloader()
        .collate_fn([SquareData().val_dataloader().dataset[place] for place in (0, 2, 4, 6, 8, 10)])
    )
    metric = HeatmapFaithfulnessMetric(4)
    none = torch.zeros(6, 0, 0, 0, dtype=torch.bool)
    network = interp_train.load(run).network
    target = Target(None, batch.labels)
    metric.update(network, batch.images, target, Corner()(network, batch.images, target), none)
    expected = metric.compute()
    for name in ("deletion_auc", "insertion_auc", "sensitivity"):
        assert quality.methods[1].values[name] == pytest.approx(float(expected[name]), abs=1e-5)


def test_the_table_emphasises_the_best_and_mutes_baselines(quality):
    table = quality_table(quality)
    assert [row[0] for row in table.rows] == ["square", "corner", "random", "centre", "oracle"]
    assert table.muted == {2, 3, 4}
    place = table.columns.index("pointing game ↑")
    assert (0, place) in table.bold
    assert (1, place) not in table.bold
    lower = table.columns.index("max-sensitivity ↓")
    assert {row for row, column in table.bold if column == lower} == {0, 1}


def test_masks_are_those_of_the_part_or_its_box():
    boxes = torch.tensor([[1.0, 1, 2, 3], [float("nan")] * 4])
    part_boxes = torch.full((2, 2, 4), float("nan"))
    part_boxes[1, 1] = torch.tensor([0.0, 0, 1, 0])
    empty = torch.zeros(2, 0)
    batch = PartBatch(
        torch.zeros(2, 3, 5, 5), empty, empty, boxes, empty, empty, part_boxes,
        torch.zeros(2, 0, 0, 0, dtype=torch.bool),
    )  # fmt: skip
    of_object = evidence_masks(batch, ["head", "tail"], None)
    assert of_object.sum((1, 2, 3)).tolist() == [6, 0]
    assert of_object[0, 0, 1:4, 1:3].all()
    of_part = evidence_masks(batch, ["head", "tail"], "tail")
    assert of_part.flatten(1).sum(1).tolist() == [0, 2]
    masks = torch.rand(2, 2, 5, 5) > 0.5
    exact = evidence_masks(batch._replace(part_masks=masks), ["head", "tail"], "tail")
    assert torch.equal(exact, masks[:, 1:])
    with pytest.raises(ValueError, match="`part` must name a part .* got 'hed'.*head"):
        evidence_masks(batch, ["head", "tail"], "hed")


def test_the_command_writes_table_page_and_figures(run, tmp_path, command):
    code, output, errors = command(
        "evaluate_heatmaps", run, *TOY, "heatmap=[grad_cam,saliency]", "num_images=4",
        "stability_images=2", "num_noisy=1", "num_steps=2", "num_stages=1", "example_images=2",
        "heatmaps.grad_cam.layer=top", f"folder={tmp_path / 'new'}",
    )  # fmt: skip
    assert (code, errors) == (0, "")
    assert "grad cam" in output
    folder = tmp_path / "new"
    with (folder / "tables" / "heatmap_quality.csv").open() as file:
        rows = {row["method"]: row for row in csv.DictReader(file)}
    assert list(rows) == ["grad_cam", "saliency", "random", "centre", "oracle"]
    record = json.loads((folder / "heatmap_quality.json").read_text())
    assert record["images"] == 4
    assert float(rows["grad_cam"]["deletion_auc"]) == record["measures"]["grad_cam"]["deletion_auc"]
    page = (folder / "heatmap_quality.html").read_text("utf-8")
    assert not re.search(r"(src|href)=\"(?!data:|#)", page)
    assert {"cascade.pdf", "examples.png"} <= {p.name for p in (folder / "figures").iterdir()}
    assert json.loads((folder / "status.json").read_text())["data_licence"] == "CC0"


def test_the_command_takes_every_method():
    config = yaml.safe_load((REPOSITORY / "conf" / "evaluate_heatmaps.yaml").read_text())
    (listed,) = (entry["heatmap"] for entry in config["defaults"] if "heatmap" in entry)
    files = {path.stem for path in (REPOSITORY / "conf" / "heatmap").glob("*.yaml")}
    assert set(listed) == files - {"none"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["part=head"], "`part` must name a part of the data, but got 'head'"),
        (["heatmap=[]"], "`heatmap` must name at least one method"),
        (["scores=[deletion]"], "`scores` must be one of"),
        (["stability_images=200"], "`stability_images` must be >= 0 and <= 100"),
        (["target=guess"], "`target` must be one of 'predicted', 'label'"),
    ],
)
def test_the_command_says_what_is_wrong(run, tmp_path, command, arguments, message):
    code, _, errors = command("evaluate_heatmaps", run, *TOY, "heatmap=[saliency]",
                              f"output_dir={tmp_path}", *arguments)  # fmt: skip
    assert code == 1
    assert re.search(message, errors)
    assert "Traceback" not in errors


def test_a_network_without_a_run_needs_data(tmp_path, command):
    code, _, errors = command(
        "evaluate_heatmaps", *TOY, "backbone=two_layers", f"output_dir={tmp_path}"
    )
    assert code == 1
    assert "`data` must be given for a network without a run" in errors
