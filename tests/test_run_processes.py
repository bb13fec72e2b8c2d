"""Runs in processes of their own."""

import os
import signal
import sys
import time

import pytest

from interp_train.run_processes import (
    RunProcess,
    child_command,
    child_environment,
    ended,
    quoted,
    run_all,
    started,
)


def program(folder, number, text):
    return RunProcess(f"run {number}", [sys.executable, "-c", text], folder / f"{number}.txt")


def test_runs_follow_in_order_and_a_failure_stops_no_other(tmp_path):
    heard, ends = [], []
    runs = [
        program(tmp_path, i, f"print('hello {i}', flush=True); raise SystemExit({i % 2})")
        for i in range(3)
    ]
    run_all(
        runs,
        jobs=1,
        on_line=lambda run, line: heard.append((run.label, line)),
        on_start=lambda run: heard.append((run.label, "start")),
        on_end=lambda run, code: ends.append(code),
    )
    assert heard == [(f"run {i}", text) for i in range(3) for text in ("start", f"hello {i}")]
    assert ends == [0, 1, 0]
    assert (tmp_path / "1.txt").read_text() == "hello 1\n"


def test_at_most_so_many_run_at_a_time(tmp_path):
    active, most = set(), []

    def begin(run):
        active.add(run.label)
        most.append(len(active))

    runs = (program(tmp_path, i, "import time; time.sleep(0.3)") for i in range(5))
    run_all(
        runs, jobs=2, on_line=lambda run, line: None, on_start=begin,
        on_end=lambda run, code: active.discard(run.label),
    )  # fmt: skip
    assert max(most) == 2
    assert len(most) == 5


def test_an_error_ends_what_runs(tmp_path):
    text = "import time; print('up', flush=True); time.sleep(60)"

    def stop(run, line):
        raise KeyboardInterrupt

    began = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        run_all(
            [program(tmp_path, 0, text)], jobs=1, on_line=stop, on_start=lambda run: None,
            on_end=lambda run, code: None,
        )  # fmt: skip
    assert time.monotonic() - began < 30


def test_a_process_that_does_not_listen_is_killed():
    text = (
        "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); "
        "print('up', flush=True); time.sleep(60)"
    )
    process = started([sys.executable, "-c", text], stdout=-1)
    process.stdout.readline()
    ended([process], seconds=0.2)
    assert process.returncode == -signal.SIGKILL
    process.stdout.close()


def test_a_run_does_not_inherit_a_place_in_a_distributed_run(monkeypatch):
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setenv("INTERP_TRAIN_RUN_FOLDER", "/x")
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    environment = child_environment(jobs=2)
    assert not {"LOCAL_RANK", "INTERP_TRAIN_RUN_FOLDER"} & set(environment)
    assert environment["OMP_NUM_THREADS"] == str(max(1, os.cpu_count() // 2))
    assert "OMP_NUM_THREADS" not in child_environment(jobs=1)


def test_the_command_of_a_run():
    command = child_command("train", ["a=1"], ["mine"])
    assert command[1:] == ["-m", "interp_train.cli", "train", "--trust", "mine", "a=1"]


@pytest.mark.parametrize(
    "value",
    ["plain", "null", "1e5", "a=b", "with space", "it's", "a=b,c", "(x]", r"back\slash", r"a\'b",
     "end\\", "/a/path.d"],
)  # fmt: skip
def test_a_quoted_value_comes_back_as_it_was(value):
    from interp_train.composition import parsed_overrides

    assert parsed_overrides([quoted("key", value)]) == {"key": value}
