"""The verb detect: from a run folder and images to boxes, parse trees and a page."""

import json

import pytest
import torch
from PIL import Image

import interp_train
from interp_train.cli import VERBS, main, with_listed
from interp_train.experiment import train
from tests.learning.interpretable_rcnn.small_detector import NODE, data_of

pytest.importorskip("faster_coco_eval", reason="needs the extra `detection`")
TRAINER = {
    "_target_": "lightning.pytorch.Trainer", "accelerator": "cpu", "max_epochs": 1,
    "limit_train_batches": 2, "limit_val_batches": 1, "num_sanity_val_steps": 0,
    "enable_model_summary": False, "use_distributed_sampler": False,
}  # fmt: skip


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    config = {
        **NODE, "name": "cells", "trainer": TRAINER, "output_dir": str(folder), "report": False,
        "monitor": {"quantity": "accuracy/map_50", "mode": "max"},
    }  # fmt: skip
    return train(config)


@pytest.fixture
def images(tmp_path):
    folder = tmp_path / "my images"
    folder.mkdir()
    pixels = data_of().dataset("val").pictures.truth.images
    for index in range(2):
        Image.fromarray(pixels[index]).save(folder / f"scene,{index}.png")
    return folder


def test_a_run_records_its_measures(run):
    assert run.status == "finished"
    assert {"accuracy/map_50", "accuracy/voc07_ap_50", "loss/validation/loss_box_reg"} <= set(
        run.metrics
    )
    assert (run.folder / "checkpoints" / "best.ckpt").is_file()


def test_it_writes_boxes_and_trees_of_files_and_folders(run, images, tmp_path, capsys):
    out = tmp_path / "found"
    code = main(
        ["detect", str(run.folder), str(images), str(images / "scene,1.png"),
         "least_score=0.2", "trees_per_image=1", f"folder={out}"]
    )  # fmt: skip
    assert code == 0
    said = capsys.readouterr().out
    assert said.count("scene,1.png: ") == 2
    assert f"detections: {out / 'detections.html'}" in said
    plain = json.loads((out / "detections.json").read_text())
    assert [image["name"] for image in plain["images"]] == ["scene_0", "scene_1", "scene_1_3"]
    system = interp_train.load(run.folder)
    pixels = torch.from_numpy(data_of().dataset("val").pictures.truth.images[0]).permute(2, 0, 1)
    (expected,) = system([pixels.float() / 255])
    found = plain["images"][0]["detections"]
    assert len(found) == int((expected.scores > 0.2).sum())
    for entry, score in zip(found, expected.scores.tolist(), strict=False):
        assert entry["score"] == pytest.approx(score, abs=1e-5)
        assert entry["tree"]["cells"] == [0, 0, 7, 7]


def test_the_position_sensitive_head_is_trained_and_detects(images, tmp_path):
    learning = {**NODE["learning"], "head": "position_sensitive"}
    run = train(
        {**NODE, "learning": learning, "name": "cells", "trainer": TRAINER, "report": False,
         "output_dir": str(tmp_path), "monitor": {"quantity": "accuracy/map_50", "mode": "max"}}
    )  # fmt: skip
    record = interp_train.detect(run.folder, images, least_score=0.0, output_dir=tmp_path)
    boxes = [box for scene in record.scenes for box in scene.boxes]
    assert boxes
    assert all(box.tree is not None for box in boxes)
    assert "The And-Or graph" in (record.folder / "detections.html").read_text("utf-8")


def test_from_python(run, images, tmp_path):
    record = interp_train.detect(run.folder, images, least_score=1.0, output_dir=tmp_path)
    assert [len(scene.boxes) for scene in record.scenes] == [0, 0]
    assert "nothing found" in (record.folder / "detections.html").read_text("utf-8")


def test_bad_requests_are_told(run, images, tmp_path, capsys):
    (tmp_path / "text.png").write_text("no image")
    for arguments, message in (
        ([str(run.folder), str(tmp_path / "text.png")], "must name readable images"),
        ([str(run.folder), str(tmp_path / "gone.png")], "files or folders that exist"),
        ([str(tmp_path), str(images)], "`path` must be a checkpoint file or a run folder"),
        ([str(run.folder), str(images), "least_score=2"], "`least_score` must be >= 0.0"),
    ):
        assert main(["detect", *arguments, f"output_dir={tmp_path}"]) == 1
        assert message in capsys.readouterr().err


def test_arguments_behind_the_first_are_listed():
    verb = VERBS["detect"]
    assert with_listed(verb, ["run", "a.jpg", "least_score=0.3", "b c.jpg"]) == [
        "run", "least_score=0.3", "images=[a.jpg,'b c.jpg']",
    ]  # fmt: skip
    assert with_listed(verb, ["run", "images=[a.jpg]"]) == ["run", "images=[a.jpg]"]
    assert with_listed(VERBS["explain"], ["run", "a.jpg"]) == ["run", "a.jpg"]
