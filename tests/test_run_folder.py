"""Run folders, their status and the register."""

import concurrent.futures
import json
import subprocess
import sys
import threading

import pytest

from interp_train import run_folder
from interp_train.run_folder import (
    RunRecord,
    claim_folder,
    create_run_folder,
    find_finished,
    point_latest,
    read_register,
    read_status,
    register_run,
)


def test_runs_that_start_in_the_same_microsecond_get_different_folders(tmp_path, monkeypatch):
    times = iter(["t0", "t0", "t0", "t1", "t2"])
    monkeypatch.setattr(run_folder, "timestamp", lambda: next(times))
    folders = [create_run_folder(tmp_path, "name", 7) for _ in range(3)]
    assert [folder.name for folder in folders] == ["t0_7", "t1_7", "t2_7"]


def test_many_starts_at_once_share_no_folder(tmp_path):
    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        folders = list(pool.map(lambda _: create_run_folder(tmp_path, "name", 0), range(64)))
    assert len(set(folders)) == 64


def register(output_dir, number):
    for step in range(5):
        line = {"folder": f"run/{number}", "started": number, "status": step}
        register_run(output_dir, line)


def test_the_register_loses_no_line_of_concurrent_writers(tmp_path):
    program = (
        "import sys; from pathlib import Path; from tests.test_run_folder import register; "
        "[register(Path(sys.argv[1]), int(sys.argv[2]) * 10 + i) for i in range(5)]"
    )
    processes = [
        subprocess.Popen([sys.executable, "-c", program, str(tmp_path), str(i)]) for i in range(3)
    ]
    assert [process.wait(60) for process in processes] == [0, 0, 0]
    lines = read_register(tmp_path)
    assert sorted(line["folder"] for line in lines) == sorted(
        f"run/{i * 10 + j}" for i in range(3) for j in range(5)
    )
    assert {line["status"] for line in lines} == {"4"}


def test_the_record_follows_a_run(tmp_path):
    folder = create_run_folder(tmp_path, "name", 0)
    record = RunRecord(folder, tmp_path)
    record.start(name="name", seed=0, config_hash="abc", quantity="q")
    assert read_status(folder)["status"] == "running"
    assert (tmp_path / "latest").resolve() == folder
    (folder / "result.json").write_text('{"q": 0.5}')
    record.end("finished")
    (line,) = read_register(tmp_path)
    assert (line["status"], line["value"], line["config_hash"]) == ("finished", "0.5", "abc")
    assert find_finished(tmp_path, "abc") == [folder]
    assert find_finished(tmp_path, "abd") == []


def test_seconds_of_a_resumed_run_add_up_and_its_start_stays(tmp_path):
    folder = create_run_folder(tmp_path, "name", 0)
    first = RunRecord(folder, tmp_path)
    first.start()
    first.end("interrupted", ValueError("the reason"))
    assert "the reason" in read_status(folder)["error"]
    before = read_status(folder)
    again = RunRecord(folder, tmp_path)
    again.start()
    again.status["seconds"] = 100.0
    again.end("finished")
    after = read_status(folder)
    assert after["started"] == before["started"]
    assert after["seconds"] >= 100.0
    assert after["error"] is None
    assert len(read_register(tmp_path)) == 1


def test_a_running_status_of_a_dead_process_is_an_interruption(tmp_path):
    folder = create_run_folder(tmp_path, "name", 0)
    RunRecord(folder, tmp_path).start()
    assert read_status(folder)["status"] == "running"
    status = json.loads((folder / "status.json").read_text())
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    for change in ({"pid": gone.pid}, {"process_start": "1"}):  # ended; its id was used again
        (folder / "status.json").write_text(json.dumps(status | change))
        assert read_status(folder)["status"] == "interrupted"
    (folder / "status.json").write_text(json.dumps(status | {"host": "elsewhere", "pid": 1}))
    assert read_status(folder)["status"] == "running"


def test_latest_names_the_newest_also_without_links(tmp_path, monkeypatch):
    first, second = (create_run_folder(tmp_path, "name", 0) for _ in range(2))
    point_latest(tmp_path, first)
    point_latest(tmp_path, second)
    assert (tmp_path / "latest").resolve() == second
    assert not (tmp_path / "latest").readlink().is_absolute()

    def refuse(*arguments, **options):
        raise OSError("no links here")

    (tmp_path / "latest").unlink()
    monkeypatch.setattr("pathlib.Path.symlink_to", refuse)
    point_latest(tmp_path, first)
    assert tmp_path / (tmp_path / "latest").read_text().strip() == first


def test_latest_is_never_missing_while_it_changes(tmp_path):
    folders = [create_run_folder(tmp_path, "name", 0) for _ in range(2)]
    point_latest(tmp_path, folders[0])
    stop = threading.Event()

    def change():
        while not stop.is_set():
            point_latest(tmp_path, folders[1])

    thread = threading.Thread(target=change)
    thread.start()
    found = [(tmp_path / "latest").exists() for _ in range(2000)]
    stop.set()
    thread.join()
    assert all(found)


def test_a_named_folder_must_be_new_or_empty(tmp_path):
    assert claim_folder(tmp_path / "new").is_dir()
    (tmp_path / "new" / "config.yaml").write_text("")
    with pytest.raises(FileExistsError, match=r"holds config.yaml.*resume="):
        claim_folder(tmp_path / "new")


@pytest.mark.parametrize("make", [lambda p: create_run_folder(p, "name", 0), claim_folder])
def test_a_folder_that_cannot_be_made_is_named(tmp_path, make):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match=r"`output_dir` must be a folder that can be written.*file"):
        make(tmp_path / "file" / "inside")
