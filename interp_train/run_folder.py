"""Run folders: one per run, never shared; their status, and the register of all runs.

Layout of a folder: config.yaml, log.txt, metrics.csv, TensorBoard events, checkpoints/,
figures/, measures/, status.json, result.json, report.html. Beside the folders stand runs.csv,
one line per run, and latest, which leads to the newest.
"""

import csv
import datetime
import io
import os
import socket
import sys
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from filelock import FileLock

from interp_train.atomic_files import read_json, write_json, write_text

REGISTER_COLUMNS = (
    "folder", "name", "seed", "status", "started", "ended", "seconds", "config_hash",
    "quantity", "value",
)  # fmt: skip


def timestamp() -> str:
    """The local time to the microsecond, in a form that sorts and may stand in a file name."""
    return datetime.datetime.now().strftime("%Y-%m-%d_%H-%M-%S-%f")


def create_run_folder(output_dir: Path, name: str, seed: int) -> Path:
    """A new folder ``<output_dir>/<name>/<timestamp>_<seed>`` that no other run has.

    Raises:
        OSError: if the folder cannot be written; names it and the way out.
    """
    parent = output_dir / name
    while True:
        folder = parent / f"{timestamp()}_{seed}"
        try:
            folder.mkdir(parents=True, exist_ok=False)
        except FileExistsError:
            if not parent.is_dir():
                raise not_writable(parent) from None
            continue
        except OSError as error:
            raise not_writable(folder) from error
        return folder


def claim_folder(folder: Path) -> Path:
    """Create the folder that the user named for a new run, or take it if it is empty.

    Raises:
        OSError: if it holds anything, or cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        content = [entry.name for entry in folder.iterdir()]
    except OSError as error:
        raise not_writable(folder) from error
    if content:
        raise FileExistsError(
            f"`folder` must be new or empty, so that two runs never share one, but "
            f"{str(folder)!r} holds {', '.join(sorted(content)[:3])}. Leave `folder` out, or "
            f"continue that run with resume={folder}."
        )
    return folder


def not_writable(folder: Path) -> OSError:
    """The error for an output folder that cannot be made; of the class that Python raises."""
    kind = type(sys.exc_info()[1])
    kind = kind if isinstance(kind, type) and issubclass(kind, OSError) else OSError
    return kind(
        f"`output_dir` must be a folder that can be written, but {str(folder)!r} cannot be "
        f"created ({sys.exc_info()[1]}). Choose another with output_dir=<folder>."
    )


class RunRecord:
    """The status file of one run and its line in the register.

    Args:
        folder: the run's folder.
        output_dir: where runs.csv and latest stand.
    """

    def __init__(self, folder: Path, output_dir: Path) -> None:
        self.folder = folder
        self.output_dir = output_dir
        self.status: dict[str, Any] = read_json(folder / "status.json")

    def start(self, newest: bool = True, **fields: Any) -> None:
        """Record that this process works on the run; `fields` describe it."""
        began = {"status": "running", "started": self.status.get("started", _now())}
        process: dict[str, Any] = {
            "pid": os.getpid(),
            "host": socket.gethostname(),
            "began": _now(),
        }
        process["process_start"] = _process_start(os.getpid())
        self.status.update({**began, "ended": None, "error": None, **process, **fields})
        self._write()
        if newest:
            point_latest(self.output_dir, self.folder)

    def update(self, **fields: Any) -> None:
        """Change fields of the status file."""
        self.status.update(fields)
        write_json(self.folder / "status.json", self.status)

    def end(self, status: str, error: BaseException | None = None) -> None:
        """Record how the run ended: ``finished``, ``failed`` or ``interrupted``.

        Writes what it can: on a full disk the run keeps the status ``running`` of a process
        that is gone, which `read_status` understands.
        """
        ended = _now()
        began = datetime.datetime.fromisoformat(self.status["began"])
        worked = (datetime.datetime.fromisoformat(ended) - began).total_seconds()
        self.status.update(
            status=status,
            ended=ended,
            seconds=round(self.status.get("seconds", 0.0) + worked, 3),
            error="".join(traceback.format_exception(error)) if error else None,
        )
        self._write()

    def _write(self) -> None:
        write_json(self.folder / "status.json", self.status)
        result = read_json(self.folder / "result.json")
        quantity = self.status.get("quantity")
        line = {**self.status, "folder": relative(self.folder, self.output_dir)}
        register_run(self.output_dir, {**line, "value": result.get(quantity or "")})


def register_run(output_dir: Path, line: Mapping[str, Any]) -> None:
    """Add a line to runs.csv, or replace the line with the same folder.

    Safe against other processes that write at the same time.
    """
    path = output_dir / "runs.csv"
    with FileLock(output_dir / ".runs.csv.lock"):
        lines = [known for known in read_register(output_dir) if known["folder"] != line["folder"]]
        lines.append({key: "" if line.get(key) is None else line[key] for key in REGISTER_COLUMNS})
        lines.sort(key=lambda entry: str(entry["started"]))
        text = io.StringIO()
        writer = csv.DictWriter(text, REGISTER_COLUMNS, extrasaction="ignore", restval="")
        writer.writeheader()
        writer.writerows(lines)
        write_text(path, text.getvalue())


def read_register(output_dir: Path) -> list[dict[str, Any]]:
    """The lines of runs.csv, oldest first; none where there is no register."""
    try:
        with (output_dir / "runs.csv").open(newline="", encoding="utf-8") as file:
            return list(csv.DictReader(file))
    except FileNotFoundError:
        return []


def point_latest(output_dir: Path, folder: Path) -> None:
    """Let ``<output_dir>/latest`` lead to `folder`: a link, or a text file without links."""
    target = relative(folder, output_dir)
    latest = output_dir / "latest"
    part = output_dir / f".latest.{os.getpid()}.part"
    part.unlink(missing_ok=True)
    try:
        part.symlink_to(target, target_is_directory=True)
        part.replace(latest)
    except OSError:
        part.unlink(missing_ok=True)
        write_text(latest, target + "\n")


def read_status(folder: Path) -> dict[str, Any]:
    """The status of a run; ``interrupted`` if it says running but its process is gone."""
    status = read_json(folder / "status.json")
    if status.get("status") == "running" and not process_lives(status):
        status["status"] = "interrupted"
        status["error"] = status.get("error") or "The process ended without a word (killed?)."
    return status


def process_lives(status: Mapping[str, Any]) -> bool:
    """Whether the process of a status file still runs; true for another machine's process."""
    if status.get("host") != socket.gethostname():
        return True
    try:
        os.kill(int(status["pid"]), 0)
    except (ProcessLookupError, KeyError):
        return False
    except PermissionError:
        return True
    return _process_start(int(status["pid"])) == status.get("process_start")


def _process_start(pid: int) -> str | None:
    """When a process began, in ticks since the machine did: tells a reused process id."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return None


def find_finished(output_dir: Path, config_hash: str) -> list[Path]:
    """Folders of finished runs with this configuration hash, newest first."""
    folders = [
        output_dir / line["folder"]
        for line in read_register(output_dir)
        if line["config_hash"] == config_hash and line["status"] == "finished"
    ]
    return [
        folder for folder in reversed(folders) if read_status(folder).get("status") == "finished"
    ]


def relative(folder: Path, output_dir: Path) -> str:
    """`folder` as seen from `output_dir`, in POSIX form."""
    return Path(os.path.relpath(folder.resolve(), output_dir.resolve())).as_posix()


def _now() -> str:
    return datetime.datetime.now().astimezone().isoformat(timespec="milliseconds")
