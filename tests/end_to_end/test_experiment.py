"""What a run leaves in its folder, also when it ends badly."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import interp_train
from interp_train import run_folder
from interp_train.experiment import train
from interp_train.resume import resumed_config
from interp_train.run_folder import read_register, read_status
from interp_train.targets import trust
from tests.end_to_end.toy import toy_config

REPOSITORY = Path(__file__).parents[2]
TENSORBOARD = {"_target_": "interp_train.loggers.TensorBoardEvents"}


@pytest.fixture(autouse=True)
def trusted():
    trust("tests")


def only_folder(output_dir):
    (folder,) = (output_dir / "toy").iterdir()
    return folder


def test_a_run_folder_holds_everything(tmp_path):
    result = train(toy_config(tmp_path, logger__tensorboard=TENSORBOARD))
    folder = result.folder
    assert {entry.name for entry in folder.iterdir() if "tfevents" not in entry.name} == {
        "config.yaml", "log.txt", "metrics.csv", "checkpoints", "measures", "status.json",
        "result.json",
    }  # fmt: skip
    assert sorted(entry.name for entry in (folder / "checkpoints").iterdir()) == [
        "best.ckpt", "last.ckpt",
    ]  # fmt: skip
    status = json.loads((folder / "status.json").read_text())
    assert status["status"] == "finished"
    assert status["data_fingerprint"] == "squares-24"
    assert status["data_licence"] == "CC0"
    assert status["versions"]["torch"] == torch.__version__.partition("+")[0]
    assert set(status["cost"]) == {"predictions"}
    assert result.metrics == json.loads((folder / "result.json").read_text())
    assert yaml.safe_load((folder / "config.yaml").read_text())["learning"]["lr"] == 0.05
    assert (tmp_path / "latest").resolve() == folder
    (line,) = read_register(tmp_path)
    assert line["folder"] == folder.relative_to(tmp_path).as_posix()
    assert float(line["value"]) == result.metrics["accuracy/top1"]


def test_predictions_are_recorded_once_per_image_and_sorted(tmp_path):
    folder = train(toy_config(tmp_path)).folder
    with np.load(folder / "measures" / "predictions.npz") as record:
        assert record["sample_ids"].tolist() == list(range(1000, 1011))
        assert record["labels"].tolist() == [i % 2 for i in range(11)]
        right = (record["predictions"] == record["labels"]).mean()
        assert ((record["confidences"] >= 0.5) & (record["confidences"] <= 1)).all()
    assert right == pytest.approx(json.loads((folder / "result.json").read_text())["accuracy/top1"])


def test_the_checkpoint_describes_itself(tmp_path):
    folder = train(toy_config(tmp_path)).folder
    system = interp_train.load(folder)
    assert system.data_info.class_names == ("dark", "bright")
    assert not system.training
    described = torch.load(folder / "checkpoints" / "best.ckpt", weights_only=True)["interp_train"]
    assert not {"output_dir", "folder"} & set(described["config"])


def test_curves_and_settings_are_in_tensorboard_also_after_a_resume(tmp_path):
    config = toy_config(tmp_path, logger__tensorboard=TENSORBOARD, trainer__max_epochs=2)
    folder = train(config).folder
    time.sleep(1.1)  # event files sort by the second in their names
    train(resumed_config(folder, {"trainer.max_epochs": 3}))
    events = EventAccumulator(str(folder), size_guidance={"scalars": 0})
    events.Reload()
    assert [event.step for event in events.Scalars("accuracy/top1")] == [5, 11, 17]
    assert [event.step for event in events.Scalars("loss/train/task")] == list(range(18))
    assert "_hparams_/experiment" in events.summary_metadata
    assert not (folder / "hparams.yaml").exists()


def test_a_nan_names_its_term_and_spares_the_checkpoint(tmp_path):
    config = toy_config(tmp_path, learning__misbehave="infinite", learning__at_step=9)
    with pytest.raises(FloatingPointError, match=r"epoch 2.*first in: extra\."):
        train(config)
    folder = only_folder(tmp_path)
    assert read_status(folder)["status"] == "failed"
    assert "FloatingPointError" in read_status(folder)["error"]
    weights = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    assert all(value.isfinite().all() for value in weights.values())
    assert json.loads((folder / "result.json").read_text())["epoch"] == 0


def test_a_failure_leaves_its_traceback_and_what_was_measured(tmp_path):
    with pytest.raises(RuntimeError, match="the toy breaks") as failure:
        train(toy_config(tmp_path, learning__misbehave="error"))
    folder = only_folder(tmp_path)
    assert "the toy breaks" in read_status(folder)["error"]
    assert "Traceback" in (folder / "log.txt").read_text()
    assert str(folder) in failure.value.__notes__[0]
    assert len((folder / "metrics.csv").read_text().splitlines()) == 11  # 9 steps, 1 validation
    assert read_register(tmp_path)[0]["status"] == "failed"


def test_a_full_disk_keeps_what_was_measured(tmp_path, monkeypatch):
    written = run_folder.write_json

    def full(path, value):
        if value.get("status") == "failed":
            raise OSError(28, "No space left on device")
        written(path, value)

    monkeypatch.setattr(run_folder, "write_json", full)
    with pytest.raises(OSError, match="No space left"):
        train(toy_config(tmp_path, learning__misbehave="disk"))
    assert json.loads((only_folder(tmp_path) / "result.json").read_text())["epoch"] == 0


def test_an_unknown_monitor_is_named_and_the_run_goes_on(tmp_path):
    with pytest.raises(ValueError, match=r"`monitor.quantity`.*'accuracy/top1'"):
        train(toy_config(tmp_path, monitor={"quantity": "acuracy/top", "mode": "max"}))
    folder = only_folder(tmp_path)
    status = json.loads((folder / "status.json").read_text())
    assert status["status"] == "failed"
    result = train(resumed_config(folder, {"monitor.quantity": "accuracy/top1"}))
    assert result.metrics["epoch"] == 3
    assert (folder / "checkpoints" / "best.ckpt").is_file()


def test_the_best_checkpoint_is_of_the_best_epoch(tmp_path):
    config = toy_config(tmp_path, monitor={"quantity": "loss/train/task", "mode": "min"})
    folder = train(config).folder
    best = torch.load(folder / "checkpoints" / "best.ckpt", weights_only=True)
    (state,) = (value for key, value in best["callbacks"].items() if "Checkpoints" in key)
    assert state["epoch"] == best["epoch"]
    rows = [line.split(",") for line in (folder / "metrics.csv").read_text().splitlines()]
    last_of_epoch = {row[1]: float(row[2]) for row in rows[1:] if row[2]}
    assert best["epoch"] == int(min(last_of_epoch, key=last_of_epoch.get))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"bogus": 1}, r"`config` must name an entry.*'bogus'"),
        ({"data": None}, r"`config` must have the entry 'data'"),
        ({"learning__lrr": 1}, r"`learning.lrr` must be a parameter.*'lr'"),
        ({"data__tain_size": 1}, r"`data.tain_size` must be a parameter.*'train_size'"),
        ({"trainer__max_epoch": 1}, r"`trainer.max_epoch` must be a parameter.*'max_epochs'"),
        ({"callbacks": {"a": {"_target_": "os.system"}}}, "trusted package"),
        ({"callbacks": {"a": {}}}, r"`callbacks.a` must be a mapping with a `_target_`"),
        ({"cache": {"enabled": True}}, r"`cache.enabled` must be false"),
        ({"monitor": {"quantity": "a", "mode": "highest"}}, r"`mode` must be one of"),
    ],
)
def test_a_bad_configuration_is_refused_with_the_way_out(tmp_path, change, message):
    with pytest.raises(ValueError, match=message):
        train(toy_config(tmp_path, **change))


def test_an_entry_that_is_null_is_left_out(tmp_path):
    folder = train(toy_config(tmp_path, callbacks__predictions=None, trainer__max_epochs=1)).folder
    assert not (folder / "measures").exists()


def test_an_output_folder_that_cannot_be_written_is_named_before_the_work(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match=r"`output_dir` must be a folder that can be written"):
        train(toy_config(tmp_path / "file"))


def test_two_runs_never_share_a_named_folder(tmp_path):
    config = toy_config(tmp_path, folder=str(tmp_path / "mine"), trainer__max_epochs=1)
    assert train(config).folder == tmp_path / "mine"
    with pytest.raises(FileExistsError, match=r"resume="):
        train(config)


def test_training_works_beside_the_main_thread(tmp_path):
    done = []
    config = toy_config(tmp_path, trainer__max_epochs=1)
    thread = threading.Thread(target=lambda: done.append(train(config).status))
    thread.start()
    thread.join(60)
    assert done == ["finished"]


def test_signal_handlers_are_put_back(tmp_path):
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    train(toy_config(tmp_path, trainer__max_epochs=1))
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before


@pytest.mark.slow
def test_two_processes_leave_one_folder_and_equal_numbers(tmp_path):
    one = train(toy_config(tmp_path / "one", trainer__max_epochs=2))
    config = toy_config(
        tmp_path / "two", trainer__max_epochs=2, trainer__devices=2, trainer__strategy="ddp"
    )
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    program = tmp_path / "program.py"
    program.write_text(
        "import sys, yaml\n"
        f"sys.path.insert(0, {str(REPOSITORY)!r})\n"
        "from interp_train.experiment import train\n"
        "from interp_train.targets import trust\n"
        "trust('tests')\n"
        f"train(yaml.safe_load(open({str(tmp_path / 'config.yaml')!r})))\n"
    )
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    subprocess.run([sys.executable, str(program)], check=True, env=environment, timeout=240)
    folder = only_folder(tmp_path / "two")
    assert len(read_register(tmp_path / "two")) == 1
    assert read_status(folder)["status"] == "finished"
    with np.load(folder / "measures" / "predictions.npz") as record:
        assert record["sample_ids"].tolist() == list(range(1000, 1011))
    result = json.loads((folder / "result.json").read_text())
    assert set(result) == set(one.metrics)
