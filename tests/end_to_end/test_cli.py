"""The command: its verbs, its answers to what is wrong, and one process per job."""

import csv
import json
import re
import signal
import subprocess
import sys
import time

import pytest
import yaml

from interp_train import cli
from interp_train.composition import compose_config
from interp_train.run_folder import read_register, read_status
from tests.end_to_end.conftest import REPOSITORY, TOY, TOY_GROUPS


def test_help_lists_the_verbs_without_torch(process):
    began = time.perf_counter()
    answer = process("--help")
    assert answer.returncode == 0
    assert all(f"  {verb} " in answer.stdout for verb in cli.VERBS)
    loaded = subprocess.run(
        [sys.executable, "-c", "import sys, interp_train.cli, interp_train.composition; "
         "print('torch' in sys.modules)"],
        capture_output=True, text=True, cwd=REPOSITORY, check=True,
    )  # fmt: skip
    assert loaded.stdout.strip() == "False"
    assert time.perf_counter() - began < 20  # seconds; a bound for a busy machine


@pytest.mark.parametrize("verb", list(cli.VERBS))
def test_each_verb_answers_help_with_its_groups(command, verb):
    code, output, errors = command(verb, "--help")
    assert (code, errors) == (0, "")
    assert "interp-train" in output
    if verb == "train":
        for group in ("backbone", "data", "filter_objective", "trainer", "callbacks"):
            assert f"{group}: " in output


def test_the_configuration_is_shown(command):
    code, output, _ = command("train", "trainer.max_epochs=3", "--cfg", "job")
    assert code == 0
    assert yaml.safe_load(output)["trainer"]["max_epochs"] == 3


@pytest.mark.parametrize(
    ("arguments", "message", "expected"),
    [
        (["trian"], "`verb` must be one of train, .*Closest names: 'train'", 2),
        ([], "interp-train <verb>", 2),
        (["train", "trainer.max_epohs=3"], "`trainer.max_epohs` must be a key.*'trainer.max_ep", 2),
        (["train", "sed=3"], "`sed` must be a key of the configuration.*'seed'", 2),
        (["train", "learning.optimizer={beta:1}"], "To replace it: '~learning.optimizer' '", 2),
        (["train", "backbone=resnt18"], "`backbone` must be one of .*but got 'resnt18'.*'resn", 2),
        (["train", "bakbone=resnet18"], "`bakbone` must be a key of the conf.*'backbone'", 2),
        (["train", "+bogus=1"], "`config` must name an entry.*'bogus'", 1),
        (["train", "seed=[1"], "no viable alternative|mismatched input|missing", 2),
        (["train", "outputs/run"], "must have the form key=value, but got 'outputs/run'", 1),
        (["train", "resume=nowhere"], "`resume` must be the folder of a run", 1),
        (["train", "--trust"], "`--trust` must be followed", 1),
        (["train", "--config-dir", "nowhere"], "`--config-dir` must be a folder", 1),
        (["evaluate"], "`path` must be given", 2),
        (["evaluate", "nowhere"], "`path` must be a checkpoint file or a run folder", 1),
        (["report", "nowhere"], "`path` must be the folder of a run", 1),
        (["study", "study=nothing"], "`study` must be one of .*quickstart", 2),
        (["study", "rows=[ordinry]"], "`rows` must name a row.*'ordinary'", 1),
        (["study", "seed=1"], "`seed` must be a key of the configuration.*'seeds'", 2),
        (["study", "train.trainer.bogus=1"], "`trainer.bogus` must be a key", 2),
    ],
)  # fmt: skip
def test_bad_input_is_answered_with_the_way_out(command, tmp_path, arguments, message, expected):
    place = [f"output_dir={tmp_path}"] if arguments and "--" not in arguments[-1] else []
    if arguments[:1] in (["trian"], []) or "nowhere" in arguments[-1:]:
        place = []
    code, output, errors = command(*arguments, *place)
    assert code == expected
    assert "Traceback" not in errors
    assert re.search(message, errors + output, re.DOTALL)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["learning.misbehave=infinite"], "error: The loss must be finite.*first in: extra"),
        (["learning.misbehave=disk"], "error: The disk is full.*resume="),
        (["data.root=1", "learning.lr=fast"], "error: "),
        (["monitor.quantity=acc"], r"error: `monitor.quantity` must name.*'accuracy/top1'"),
        (["output_dir=/proc/nowhere"], "error: `output_dir` must be a folder that can be written"),
    ],
)
def test_a_run_that_fails_says_why_in_one_line(command, tmp_path, changes, message):
    place = [] if "output_dir" in changes[0] else [f"output_dir={tmp_path}"]
    code, _, errors = command("train", *TOY, *TOY_GROUPS, *place, *changes)
    assert code == 1
    assert re.search(message, errors, re.DOTALL)
    if "fast" not in changes[-1]:
        assert "Traceback" not in errors


def test_a_run_in_plain_lines(command, tmp_path):
    changes = ["data.train_size=48", f"output_dir={tmp_path}"]
    code, output, errors = command("train", *TOY, *TOY_GROUPS, *changes)
    assert (code, errors) == (0, "")
    assert "epoch 1/2  accuracy/top1 " in output
    assert "after 20 steps: about " in output
    assert " MB on disk (" in output
    assert "% of the time spent on interpretability" in output
    assert "\x1b" not in output
    (line,) = read_register(tmp_path)
    assert f"run folder: {tmp_path / line['folder']}" in output


def test_resume_evaluate_and_trust_on_the_command_line(command, tmp_path):
    command("train", *TOY, *TOY_GROUPS, f"output_dir={tmp_path}")
    latest = tmp_path / "latest"
    code, output, _ = command("train", *TOY, f"resume={latest}", "trainer.max_epochs=3")
    assert code == 0
    assert "epoch 3/3" in output
    assert "epoch 2/3" not in output
    code, output, _ = command("train", *TOY, f"resume={latest}", "trainer.max_epochs=3")
    assert code == 0
    assert "This run is finished: 3 epochs" in output
    arguments = ["callbacks=[predictions]", "heatmap=[]", f"output_dir={tmp_path}"]
    code, output, _ = command("evaluate", latest, *TOY, "data.train_size=8", *arguments)
    assert code == 0
    assert "accuracy/top1" in output
    (folder,) = (tmp_path / "evaluate").iterdir()
    trained = json.loads((latest / "result.json").read_text())["accuracy/top1"]
    measured = json.loads((folder / "result.json").read_text())["accuracy/top1"]
    assert measured == pytest.approx(trained, abs=0.4)  # best, not last
    assert (folder / "measures" / "predictions.npz").is_file()
    assert latest.resolve().parent.name == "run"
    code, _, errors = command("evaluate", latest, *TOY, "data.train_sie=8", *arguments)
    assert code == 1
    assert "`data.train_sie` must name a key of the run's data" in errors


def test_an_untrusted_package_is_refused(command, tmp_path):
    place = f"output_dir={tmp_path}"
    code, _, errors = command("train", *TOY[2:], *TOY_GROUPS, "data._target_=os.system", place)
    assert code == 1
    assert "--trust os" in errors


@pytest.mark.parametrize(("signum", "expected"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_ends_the_command_in_order(tmp_path, signum, expected):
    arguments = [*TOY, *TOY_GROUPS, f"output_dir={tmp_path}", "learning.seconds=0.3"]
    command = [sys.executable, "-m", "interp_train.cli", "train", *arguments]
    running = subprocess.Popen(command, cwd=REPOSITORY, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 120
    while not list(tmp_path.rglob("last.ckpt")) and time.monotonic() < deadline:
        time.sleep(0.1)
    running.send_signal(signum)
    _, errors = running.communicate(timeout=60)
    assert running.returncode == expected
    assert "Traceback" not in errors
    (line,) = read_register(tmp_path)
    assert line["status"] == "interrupted"


def test_a_sweep_runs_every_job_in_a_process_and_goes_on_after_a_failure(process, tmp_path):
    values = "learning.misbehave=error,null"
    answer = process("train", "-m", *TOY, *TOY_GROUPS, values, f"output_dir={tmp_path}")
    assert answer.returncode == 1
    lines = read_register(tmp_path)
    assert [line["status"] for line in lines] == ["failed", "finished"]
    assert "job 0: failed" in answer.stdout
    assert "job 1: finished" in answer.stdout
    pids = {read_status(tmp_path / line["folder"])["pid"] for line in lines}
    assert len(pids) == 2


def test_a_study_is_resumed_reused_and_goes_on_after_a_failure(process, tmp_path):
    place = f"output_dir={tmp_path}"
    folder = tmp_path / "studies" / "toy_study"
    broken = "overrides=['learning.misbehave=error','learning.only_once=" + f"{tmp_path}/once']"
    answer = process("study", *TOY, "study=toy", "seeds=[0]", place, broken)
    assert answer.returncode == 1
    assert "[1/2 ordinary squares seed 0] failed" in answer.stdout
    assert "[2/2 wide squares seed 0] finished" in answer.stdout
    described = json.loads((folder / "study.json").read_text())
    assert [run["status"] for run in described["runs"]] == ["failed", "finished"]
    assert (folder / "logs" / "ordinary_squares_0.txt").is_file()

    status = (folder / described["runs"][1]["folder"] / "status.json").resolve()
    status.write_text(json.dumps(json.loads(status.read_text()) | {"commit": "0123456789"}))
    answer = process("study", *TOY, "study=toy", "seeds=[0]", "jobs=2", place, broken)
    assert answer.returncode == 0
    assert "1 of them finished before, 1 with other code (commit 0123456);" in answer.stdout
    assert "accuracy/top1" in answer.stdout
    assert "tensorboard --logdir" in answer.stdout
    described = json.loads((folder / "study.json").read_text())
    assert described["ordinary_row"] == "ordinary"
    for run in described["runs"]:
        assert (folder / run["folder"] / "result.json").is_file()
    with (tmp_path / "runs.csv").open() as file:
        assert [line["status"] for line in csv.DictReader(file)].count("finished") == 2


# What an option must be told.
REQUIRED = {("callbacks", "image_distance"): ["callbacks.image_distance.extractor=run"]}


@pytest.mark.parametrize(
    "file", sorted(p.relative_to(REPOSITORY / "conf") for p in (REPOSITORY / "conf").glob("*/*"))
)
def test_every_option_of_every_group_composes(file):
    group, option = file.parent.as_posix(), file.stem
    listed = ("backbone", "data", "learning", "filter_objective", "heatmap", "callbacks",
              "unit_visualizer",
              "trainer", "logger", "experiment")  # fmt: skip
    if group == "study":
        assert compose_config("study", [f"study={option}"])["row_definitions"]
    elif group == "probe_set":
        config = compose_config("train", ["callbacks=[dissection]", f"probe_set={option}"])
        assert "_target_" in config["callbacks"]["dissection"]["probe_set"]
    elif group in listed and option != "custom":
        required = REQUIRED.get((group, option), [])
        assert compose_config("train", [f"{group}={option}", *required])
