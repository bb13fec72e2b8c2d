"""An interrupted and resumed run equals one that was never interrupted."""

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml

from interp_train.composition import compose_config
from interp_train.experiment import train
from interp_train.interruption import Interrupted
from interp_train.resume import resumed_config
from interp_train.run_folder import read_register, read_status
from interp_train.targets import trust
from tests.end_to_end.toy import toy_config

REPOSITORY = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def trusted():
    trust("tests")


def weights_of(folder, name="last"):
    checkpoint = torch.load(folder / "checkpoints" / f"{name}.ckpt", weights_only=True)
    return checkpoint["state_dict"]


def rows_of(folder):
    with (folder / "metrics.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def assert_same_run(folder, other):
    for name in ("last", "best"):
        for key, value in weights_of(folder, name).items():
            torch.testing.assert_close(weights_of(other, name)[key], value, rtol=0, atol=1e-6)
    rows, others = rows_of(folder), rows_of(other)
    assert [row["step"] for row in rows] == [row["step"] for row in others]
    for row, twin in zip(rows, others, strict=True):
        for key, value in row.items():
            assert twin[key] == value or float(twin[key]) == pytest.approx(float(value), abs=1e-6)
    assert (folder / "result.json").read_text() == (other / "result.json").read_text()


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run that nobody interrupted."""
    trust("tests")
    return train(toy_config(tmp_path_factory.mktemp("whole"))).folder


@pytest.mark.parametrize(("name", "step"), [("SIGTERM", 0), ("SIGTERM", 9), ("SIGINT", 17)])
def test_interrupted_and_resumed_equals_uninterrupted(tmp_path, whole, name, step):
    done = tmp_path / "done"
    config = toy_config(
        tmp_path, learning__misbehave=name, learning__at_step=step, learning__only_once=str(done)
    )
    with pytest.raises(Interrupted) as interruption:
        train(config)
    assert interruption.value.exit_code == {"SIGTERM": 143, "SIGINT": 130}[name]
    (folder,) = (tmp_path / "toy").iterdir()
    assert read_status(folder)["status"] == "interrupted"

    result = train(resumed_config(folder))

    assert result.folder == folder
    assert read_status(folder)["status"] == "finished"
    assert [line["status"] for line in read_register(tmp_path)] == ["finished"]
    assert_same_run(whole, folder)


def test_a_run_that_is_trained_longer_equals_a_long_run(tmp_path, whole):
    folder = train(toy_config(tmp_path, trainer__max_epochs=2)).folder
    assert train(resumed_config(folder, {"trainer.max_epochs": 4})).metrics["epoch"] == 3
    assert_same_run(whole, folder)


def test_a_killed_process_is_recognised_and_resumes(tmp_path, whole):
    config = toy_config(
        tmp_path, learning__misbehave="SIGKILL", learning__only_once=str(tmp_path / "done")
    )
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    program = (
        "import yaml; from interp_train.experiment import train; "
        "from interp_train.targets import trust; trust('tests'); "
        f"train(yaml.safe_load(open({str(tmp_path / 'config.yaml')!r})))"
    )
    killed = subprocess.run([sys.executable, "-c", program], cwd=REPOSITORY, capture_output=True)
    assert killed.returncode == -9
    (folder,) = (tmp_path / "toy").iterdir()
    assert json.loads((folder / "status.json").read_text())["status"] == "running"
    assert read_status(folder)["status"] == "interrupted"
    train(resumed_config(folder))
    assert_same_run(whole, folder)


def test_a_finished_run_is_left_alone(whole):
    before = (whole / "metrics.csv").read_text()
    result = train(resumed_config(whole))
    assert result.status == "complete"
    assert result.metrics["epoch"] == 3
    assert (whole / "metrics.csv").read_text() == before


def test_what_must_not_change_on_resume_is_refused(whole):
    with pytest.raises(ValueError, match=r"`learning.lr` must not change when a run is resumed"):
        resumed_config(whole, {"learning.lr": 0.1})


def test_a_run_that_still_runs_is_not_resumed(tmp_path, whole):
    status = json.loads((whole / "status.json").read_text())
    status |= {"status": "running", "pid": os.getpid()}
    status["process_start"] = Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19]
    (tmp_path / "status.json").write_text(json.dumps(status))
    (tmp_path / "config.yaml").write_text("seed: 0\n")
    with pytest.raises(ValueError, match="still running"):
        resumed_config(tmp_path)


def test_a_folder_without_a_run_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"`resume` must be the folder of a run"):
        resumed_config(tmp_path)


def test_a_callback_that_draws_random_numbers_does_not_change_the_training(tmp_path, whole):
    draws = {"_target_": "tests.end_to_end.toy.Draws"}
    assert_same_run(whole, train(toy_config(tmp_path, callbacks={"draws": draws})).folder)


@pytest.mark.slow
def test_an_interpretable_network_resumes_exactly(tmp_path):
    """With everything that is measured and drawn by default, and the statistics of filters."""
    size = ["data.num_train=64", "data.num_val=31", "report=false", "trainer.log_every_n_steps=1"]
    config = compose_config("train", [*size, "trainer.max_epochs=2", f"output_dir={tmp_path}"])
    whole = train(config).folder
    half = train({**config, "trainer": {**config["trainer"], "max_epochs": 1}}).folder
    train(resumed_config(half, {"trainer.max_epochs": 2}))
    assert_same_run(whole, half)


@pytest.mark.slow
def test_a_capsule_network_resumes_exactly(tmp_path):
    """With its schedule, which steps per batch, and the pictures of its capsules."""
    size = ["data.num_train=128", "data.num_val=31", "report=false", "trainer.log_every_n_steps=1"]
    overrides = ["experiment=class_capsules", *size, "trainer.max_epochs=2"]
    overrides += ["trainer.check_val_every_n_epoch=1", f"output_dir={tmp_path}"]
    config = compose_config("train", overrides)
    whole = train(config).folder
    half = train({**config, "trainer": {**config["trainer"], "max_epochs": 1}}).folder
    train(resumed_config(half, {"trainer.max_epochs": 2}))
    assert_same_run(whole, half)
