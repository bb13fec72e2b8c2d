"""Multirun: every job in a process of its own, so that jobs share no state and no network ports.

Hydra composes and orders the jobs (grids, or a sweeper plug-in); each job then is the same
command with that job's overrides. A failed job is recorded and the sweep goes on.
"""

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from interp_train.atomic_files import read_json
from interp_train.run_folder import create_run_folder, read_status

# What a process of a distributed run finds in its environment; a new run must not inherit it.
_PROCESS_VARIABLES = (
    "LOCAL_RANK", "RANK", "NODE_RANK", "GROUP_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE",
    "MASTER_ADDR", "MASTER_PORT", "PL_GLOBAL_SEED", "INTERP_TRAIN_RUN_FOLDER",
)  # fmt: skip


class JobError(RuntimeError):
    """A job of a sweep ended with an exit code other than 0."""


class Job(NamedTuple):
    """What became of one job."""

    overrides: list[str]
    folder: Path
    status: str
    value: float | None


def child_environment() -> dict[str, str]:
    """This process's environment for a run that is not part of it."""
    return {key: value for key, value in os.environ.items() if key not in _PROCESS_VARIABLES}


def child_command(verb: str, overrides: Sequence[str], trusted: Sequence[str] = ()) -> list[str]:
    """The command line of one run in a new process."""
    trust = [word for package in trusted for word in ("--trust", package)]
    return [sys.executable, "-m", "interp_train.cli", verb, *trust, *overrides]


class Sweep:
    """Runs the jobs of a multirun one after the other and remembers what became of them.

    Args:
        verb: of the command.
        trusted: packages that the command trusts.
    """

    def __init__(self, verb: str, trusted: Sequence[str] = ()) -> None:
        self.verb = verb
        self.trusted = list(trusted)
        self.jobs: list[Job] = []

    def run_job(self, config: Mapping[str, Any], overrides: list[str]) -> float | None:
        """Run one job; returns the value of the monitored quantity, for a sweeper.

        Raises:
            JobError: if the job's process did; Hydra goes on with the next job.
        """
        print(f"job {len(self.jobs)}: {' '.join(overrides) or 'no overrides'}", flush=True)
        folder = Path()
        place: list[str] = []
        if "folder" in config and config.get("resume") is None:
            folder = create_run_folder(
                Path(config["output_dir"]), str(config["name"]), int(config["seed"])
            )
            place = [f"folder='{folder}'"]
        command = child_command(self.verb, [*overrides, *place], self.trusted)
        process = subprocess.Popen(command, env=child_environment())
        try:
            code = process.wait()
        except BaseException:
            process.terminate()
            process.wait()
            raise
        monitor = config.get("monitor") or {}
        value = read_json(folder / "result.json").get(monitor.get("quantity"))
        status = str(read_status(folder).get("status", "failed")) if place else "finished"
        status = "failed" if code and status == "finished" else status
        self.jobs.append(Job(overrides, folder, status, value))
        if code:
            raise JobError(f"job {len(self.jobs) - 1} ({' '.join(overrides)}): exit code {code}")
        return value

    def conclude(self) -> int:
        """Print what became of the jobs; returns the exit code: 1 if any failed."""
        for number, job in enumerate(self.jobs):
            print(f"job {number}: {job.status}  {' '.join(job.overrides)}  {job.folder}")
        return int(any(job.status != "finished" for job in self.jobs))
