"""A study: the same training for rows (methods) x data sets x seeds, in one table.

Every run is a process of its own with a log of its own. Runs that are finished, in this study
or elsewhere in the output folder, are reused if their configuration, the package's version and
the data are the same; interrupted ones are continued; failed ones do not stop the others.
"""

import json
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from filelock import FileLock, Timeout

from interp_train.atomic_files import read_json, write_json
from interp_train.checks import check_name
from interp_train.composition import compose_config
from interp_train.provenance import command, commit, config_hash
from interp_train.run_folder import (
    create_run_folder,
    find_finished,
    not_writable,
    read_status,
    relative,
)
from interp_train.run_processes import RunProcess, child_command, quoted, run_all
from interp_train.targets import added_packages
from interp_train.terminal_table import output_console, study_table

# Lines of a run that the study repeats; the rest stands in the run's log.
_SHOWN = ("epoch ", "after ", "error", "ERROR", "WARNING")


class StudyRun(NamedTuple):
    """One cell of a study.

    Attributes:
        row: name of the method.
        data: name of the data set.
        seed: of the run.
        overrides: that make it from `conf/train.yaml`.
        config_hash: of its configuration.
        data_config: its data node.
    """

    row: str
    data: str
    seed: int
    overrides: tuple[str, ...]
    config_hash: str
    data_config: Mapping[str, Any]

    @property
    def label(self) -> str:
        """How its lines and its log are marked."""
        return f"{self.row} {self.data} seed {self.seed}"


def study_command(config: Mapping[str, Any]) -> int:
    """The verb `study`; returns 1 if a run failed."""
    folder = Path(config["output_dir"]).resolve() / "studies" / str(config["name"])
    try:
        (folder / "logs").mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise not_writable(folder) from error
    try:
        with FileLock(folder / ".study.lock", timeout=0):
            return Study(config, folder).run()
    except Timeout:
        raise ValueError(
            f"`name` must be that of a study that is not running, but another process works on "
            f"{str(config['name'])!r}. Wait for it, or choose name=<another>."
        ) from None


def planned_runs(config: Mapping[str, Any]) -> list[StudyRun]:
    """The runs of a study, composed and therefore known to be valid before the first starts.

    Raises:
        ConfigError: if the overrides of a run do not compose.
        ValueError: if a chosen row or data set is not defined.
    """
    rows, data_sets = config["row_definitions"], config["data_definitions"]
    chosen_rows = config["rows"] or list(rows)
    chosen_data = config["data_sets"] or list(data_sets)
    for row in chosen_rows:
        check_name("rows", row, rows, "a row that the study defines")
    for data in chosen_data:
        check_name("data_sets", data, data_sets, "a data set that the study defines")
    runs = []
    for seed in config["seeds"]:
        for data in chosen_data:
            for row in chosen_rows:
                parts = (config["common"], data_sets[data], rows[row], config["overrides"])
                overrides = [entry for part in parts for entry in part or ()]
                overrides += [f"seed={seed}", quoted("output_dir", config["output_dir"])]
                run = compose_config("train", overrides)
                known = config_hash(run), run["data"]
                runs.append(StudyRun(row, data, int(seed), tuple(overrides), *known))
    return runs


class Study:
    """Plans, runs and reports one study.

    Args:
        config: plain values as `conf/study.yaml` composes them.
        folder: of the study.
    """

    def __init__(self, config: Mapping[str, Any], folder: Path) -> None:
        self.config = config
        self.folder = folder
        self.output_dir = Path(config["output_dir"]).resolve()
        self.console = output_console()
        self.runs = planned_runs(config)
        self.folders: dict[str, Path] = {}  # by label, like all that follows
        self.states = {run.label: "waiting" for run in self.runs}
        self._fingerprints: dict[str, str | None] = {}

    def run(self) -> int:
        """Run what is missing, then write tables and report; returns the exit code."""
        before = read_json(self.folder / "study.json")
        missing = [run for run in self.runs if not self._reused(run)]
        self._write()
        self._say(
            f"study {self.config['name']}: {len(self.runs)} runs, "
            f"{len(self.runs) - len(missing)} of them finished before{self._of_other_code()}"
        )
        try:
            run_all(
                (self._process(run, before) for run in missing),
                jobs=int(self.config["jobs"]),
                on_line=self._line,
                on_start=lambda process: self._set(process.label, "running"),
                on_end=self._ended,
            )
        finally:
            for label in [key for key, state in self.states.items() if state == "running"]:
                self.states[label] = "interrupted"
            self._write()
        return self._conclude()

    def _reused(self, run: StudyRun) -> bool:
        """Whether there is nothing to do."""
        finished = self._finished(run) if self.config["reuse"] else None
        if finished:
            self.folders[run.label], self.states[run.label] = finished, "finished"
        return finished is not None

    def _of_other_code(self) -> str:
        """A warning that names the commits of reused runs where they are not the present one."""
        commits = [read_status(folder).get("commit") for folder in self.folders.values()]
        others = [_short(made) for made in commits if made != commit()]
        if not others:
            return ""
        names = ", ".join(dict.fromkeys(others))
        return f", {len(others)} with other code (commit {names}); reuse=false trains them again"

    def _process(self, run: StudyRun, before: Mapping[str, Any]) -> RunProcess:
        """The process that makes a run, in a new folder or in that of an interrupted run."""
        log_file = self.folder / "logs" / f"{run.row}_{run.data}_{run.seed}.txt"
        name = "_".join((str(self.config["name"]), run.row, run.data))
        folder = self._begun(run, before) or create_run_folder(self.output_dir, name, run.seed)
        self.folders[run.label] = folder
        if (folder / "status.json").is_file():
            overrides = [quoted("resume", folder)]
        else:
            overrides = [*run.overrides, quoted("name", name), quoted("folder", folder)]
        return RunProcess(run.label, child_command("train", overrides, added_packages()), log_file)

    def _finished(self, run: StudyRun) -> Path | None:
        """The newest finished run of the same configuration on the same data."""
        for folder in find_finished(self.output_dir, run.config_hash):
            if read_status(folder).get("data_fingerprint") == self._fingerprint(run):
                return folder
        return None

    def _fingerprint(self, run: StudyRun) -> str | None:
        key = json.dumps(run.data_config, sort_keys=True, default=str)
        if key not in self._fingerprints:
            from interp_train.experiment import build_data

            self._fingerprints[key] = build_data(run.data_config).info.fingerprint
        return self._fingerprints[key]

    def _begun(self, run: StudyRun, before: Mapping[str, Any]) -> Path | None:
        """The folder of this run from an earlier start of the study, if it can go on there."""
        for known in before.get("runs", ()):
            key = (known["row"], known["data"], known["seed"], known["config_hash"])
            if key != (run.row, run.data, run.seed, run.config_hash) or not known["folder"]:
                continue
            folder = Path(self.folder, known["folder"]).resolve()
            ended_early = folder.is_dir() and not any(folder.iterdir())
            if ended_early or read_status(folder).get("status") == "interrupted":
                return folder
        return None

    def _set(self, label: str, state: str) -> None:
        self.states[label] = state
        self._write()
        self._say(f"{self._place(label)} {state}")

    def _line(self, process: RunProcess, line: str) -> None:
        if line.startswith(_SHOWN):
            self._say(f"{self._place(process.label)} {line}")

    def _ended(self, process: RunProcess, code: int) -> None:
        status = str(read_status(self.folders[process.label]).get("status", "failed"))
        self._set(process.label, "failed" if code and status == "finished" else status)
        if code:
            self._say(f"    exit code {code}; its output: {process.log_file}")

    def _place(self, label: str) -> str:
        number = list(self.states).index(label) + 1
        return f"[{number}/{len(self.states)} {label}]"

    def _write(self) -> None:
        rows = list(dict.fromkeys(run.row for run in self.runs))
        ordinary = self.config["ordinary_row"]
        described = {
            "name": self.config["name"],
            "rows": rows,
            "data": list(dict.fromkeys(run.data for run in self.runs)),
            "seeds": list(dict.fromkeys(run.seed for run in self.runs)),
            "ordinary_row": ordinary if ordinary in rows else None,
            "command": command(),
            "runs": [self._described(run) for run in self.runs],
        }
        write_json(self.folder / "study.json", described)

    def _described(self, run: StudyRun) -> dict[str, Any]:
        folder = self.folders.get(run.label)
        return {
            "row": run.row,
            "data": run.data,
            "seed": run.seed,
            "folder": relative(folder, self.folder) if folder else None,
            "status": self.states[run.label],
            "config_hash": run.config_hash,
        }

    def _conclude(self) -> int:
        results = {key: read_json(run / "result.json") for key, run in self.folders.items()}
        for data in dict.fromkeys(run.data for run in self.runs):
            cells = [
                (run.row, results[run.label])
                for run in self.runs
                if run.data == data and self.states[run.label] == "finished"
            ]
            title = f"{self.config['name']}: {data}, mean ± sd over seeds"
            self.console.print(study_table(title, cells, self.config["quantities"]))
        if self.config["report"]:
            from interp_train.report.page import write_report

            self._say(f"report: {write_report(self.folder)}")
        self._say(f"curves and pictures: tensorboard --logdir {shlex.quote(str(self.output_dir))}")
        failed = [run for run in self.runs if self.states[run.label] != "finished"]
        for run in failed:
            self._say(
                f"not finished: {run.label} ({self.states[run.label]}), {self.folders[run.label]}"
            )
        return int(bool(failed))

    def _say(self, line: str) -> None:
        self.console.print(line, highlight=False, soft_wrap=True, markup=False)


def _short(made: str | None) -> str:
    """Seven digits of a commit, and whether files differed from it."""
    if made is None:
        return "unknown"
    return made[:7] + ("-dirty" if made.endswith("-dirty") else "")
