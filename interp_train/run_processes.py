"""Runs in processes of their own: they share no state, no network ports and no fate."""

import itertools
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

# What a process of a distributed run finds in its environment; a new run must not inherit it.
_PROCESS_VARIABLES = (
    "LOCAL_RANK", "RANK", "NODE_RANK", "GROUP_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE",
    "MASTER_ADDR", "MASTER_PORT", "PL_GLOBAL_SEED", "INTERP_TRAIN_RUN_FOLDER",
)  # fmt: skip

_PLAIN = re.compile(r"[A-Za-z_/][\w./-]*")
_WORDS = ("null", "true", "false", "nan", "inf")  # which Hydra reads as something else


class RunProcess(NamedTuple):
    """A run that is to be started.

    Attributes:
        label: how its lines are marked.
        command: its command line.
        log_file: where its output goes.
    """

    label: str
    command: list[str]
    log_file: Path


def child_environment(jobs: int = 1) -> dict[str, str]:
    """This process's environment for a run that is not part of it; `jobs` runs share the cores."""
    kept = {key: value for key, value in os.environ.items() if key not in _PROCESS_VARIABLES}
    kept["PYTHONUNBUFFERED"] = "1"
    if jobs > 1:
        kept.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // jobs)))
    return kept


def child_command(verb: str, overrides: Sequence[str], trusted: Sequence[str] = ()) -> list[str]:
    """The command line of one run in a new process."""
    trust = [word for package in trusted for word in ("--trust", package)]
    return [sys.executable, "-m", "interp_train.cli", verb, *trust, *overrides]


def quoted(key: str, value: object) -> str:
    """A ``key=value`` override whose value may hold any character."""
    return f"{key}={quoted_text(value)}"


def quoted_text(value: object) -> str:
    """A value as Hydra reads it, whatever characters it holds."""
    if _PLAIN.fullmatch(str(value)) and str(value).lower() not in _WORDS:
        return str(value)
    # Hydra reads a backslash as such unless it stands before a quote.
    text = re.sub(r"(\\*)('|$)", lambda found: 2 * found[1] + "\\'" * bool(found[2]), str(value))
    return f"'{text}'"


def started(command: Sequence[str], **options: object) -> subprocess.Popen[bytes]:
    """Start a run outside of the terminal's group: only we tell it to end, and only once."""
    return subprocess.Popen(command, start_new_session=True, **options)  # type: ignore[call-overload,no-any-return]


def ended(processes: Iterable[subprocess.Popen[bytes]], seconds: float = 60.0) -> None:
    """Ask processes to end, and end those that have not after `seconds`.

    A run that is asked to end writes its status first.
    """
    alive = [process for process in processes if process.poll() is None]
    for process in alive:
        process.terminate()
    deadline = time.monotonic() + seconds
    for process in alive:
        try:
            process.wait(max(deadline - time.monotonic(), 0.1))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def run_all(
    runs: Iterable[RunProcess],
    *,
    jobs: int,
    on_line: Callable[[RunProcess, str], None],
    on_start: Callable[[RunProcess], None],
    on_end: Callable[[RunProcess, int], None],
) -> None:
    """Run processes, at most `jobs` at a time, in order.

    Args:
        runs: what to run; the next is asked for when there is room for it.
        jobs: how many at a time.
        on_line: called with every line that a run prints, while it runs.
        on_start: called when a run starts.
        on_end: called with a run's exit code when it ends; the others go on.
    """
    waiting = iter(runs)
    active: list[_Active] = []
    try:
        while True:
            room = max(jobs, 1) - len(active)
            for run in itertools.islice(waiting, room):
                on_start(run)
                active.append(_Active(run, _logged(run, jobs), _Tail(run.log_file)))
            if not active:
                return
            time.sleep(0.2)
            for entry in list(active):
                code = entry.process.poll()
                for line in entry.tail.new_lines():
                    on_line(entry.run, line)
                if code is not None:
                    active.remove(entry)
                    on_end(entry.run, code)
    finally:
        ended(entry.process for entry in active)


def _logged(run: RunProcess, jobs: int) -> subprocess.Popen[bytes]:
    with run.log_file.open("wb") as output:
        environment = child_environment(jobs)
        return started(run.command, stdout=output, stderr=subprocess.STDOUT, env=environment)


class _Tail:
    """Reads the lines that are added to a file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._position = 0

    def new_lines(self) -> list[str]:
        with self.path.open("rb") as file:
            file.seek(self._position)
            content = file.read()
        complete = content[: content.rfind(b"\n") + 1]
        self._position += len(complete)
        return complete.decode("utf-8", errors="replace").splitlines()


class _Active(NamedTuple):
    """A run that runs."""

    run: RunProcess
    process: subprocess.Popen[bytes]
    tail: _Tail
