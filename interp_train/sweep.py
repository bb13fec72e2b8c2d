"""Multirun: every job in a process of its own, so that jobs share no state and no network ports.

Hydra composes and orders the jobs (grids, or a sweeper plug-in); each job then is the same
command with that job's overrides. A failed job is recorded and the sweep goes on.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from interp_train.atomic_files import read_json
from interp_train.run_folder import create_run_folder, read_status
from interp_train.run_processes import child_command, child_environment, ended, quoted, started


class JobError(RuntimeError):
    """A job of a sweep ended with an exit code other than 0."""


class Job(NamedTuple):
    """What became of one job; `folder` is None for a verb without a run folder."""

    overrides: list[str]
    folder: Path | None
    status: str


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
            JobError: if the job's process failed; Hydra goes on with the next job.
        """
        number = len(self.jobs)
        print(f"job {number}: {' '.join(overrides) or 'no overrides'}", flush=True)
        folder = None
        if "folder" in config and not config.get("resume"):
            output_dir, name = Path(config["output_dir"]), str(config["name"])
            folder = create_run_folder(output_dir, name, int(config["seed"]))
        place = [quoted("folder", folder)] if folder else []
        command = child_command(self.verb, [*overrides, *place], self.trusted)
        process = started(command, env=child_environment())
        try:
            code = process.wait()
        finally:
            ended([process])
        status = str(read_status(folder).get("status", "failed")) if folder else ""
        self.jobs.append(Job(overrides, folder, "failed" if code else status or "finished"))
        if code:
            raise JobError(f"Job {number} ({' '.join(overrides)}) failed with exit code {code}.")
        quantity = (config.get("monitor") or {}).get("quantity")
        return read_json(folder / "result.json").get(str(quantity)) if folder else None

    def conclude(self) -> int:
        """Print what became of the jobs; returns the exit code: 1 if any failed."""
        for number, job in enumerate(self.jobs):
            print(f"job {number}: {job.status}  {' '.join(job.overrides)}  {job.folder or ''}")
        return int(any(job.status != "finished" for job in self.jobs))
