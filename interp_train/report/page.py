"""Write report.html: one page that opens offline and loads nothing from outside."""

from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any

import jinja2
import yaml

import interp_train
from interp_train.atomic_files import write_text
from interp_train.report.blocks import Writer
from interp_train.report.measures import BASELINE_MEANINGS, BASELINES
from interp_train.report.records import RunData, StudyData, read_folder
from interp_train.report.sections import data_section, measured
from interp_train.report.tables import overall_table, shown


def write_report(folder: Path) -> Path:
    """Write the report of a run folder or of a study folder.

    Beside it, every figure goes to ``figures`` (png, pdf, and svg where it is drawn) and every
    table to ``tables`` (csv and LaTeX). Runs that failed or are missing are named; the rest is
    reported.

    Args:
        folder: of a run (with status.json) or of a study (with study.json).

    Returns:
        The path of report.html.

    Raises:
        FileNotFoundError: if `folder` is neither.
    """
    study = read_folder(Path(folder))
    writer = Writer(study.folder)
    sections = [
        data_section(study, data, writer)
        for data in study.data
        if any(study.of(row, data) for row in study.rows)
    ]
    overall = overall_table(study)
    page = environment().get_template("page.html.j2").render(
        title=shown(study.name),
        kind="study" if study.is_study else "run",
        facts=facts(study),
        notices=notices(study),
        overall=writer.table(overall) if overall else None,
        sections=sections,
        measures=measured(study),
        baselines=baselines(study),
        runs=[run_line(study, run) for run in study.runs],
        origins=origins(study),
        command=study.command,
        configs=configs(study),
        version=interp_train.__version__,
    )  # fmt: skip
    path = study.folder / "report.html"
    write_text(path, page)
    return path


def environment() -> jinja2.Environment:
    """Templates of the package; everything is escaped unless marked as safe."""
    folder = resources.files("interp_train.report") / "templates"
    loader = jinja2.FunctionLoader(lambda name: (folder / name).read_text(encoding="utf-8"))
    return jinja2.Environment(
        loader=loader, autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip


def facts(study: StudyData) -> list[tuple[str, str]]:
    """The line under the title."""
    started = sorted(str(run.status["started"]) for run in study.runs if run.status.get("started"))
    done = sum(bool(run.result) for run in study.runs)
    found = [
        ("data", ", ".join(map(shown, study.data))),
        ("seeds", ", ".join(map(str, study.seeds))),
        ("runs", f"{done} of {len(study.runs)} with results"),
    ]
    if study.is_study:
        found.insert(0, ("rows", ", ".join(map(shown, study.rows))))
    if started:
        found.append(("started", started[0][:16].replace("T", " ")))
    return found


def notices(study: StudyData) -> list[str]:
    """Runs that did not finish, and files that could not be read."""
    found = []
    for run in study.runs:
        name = f"{shown(run.row)}, {shown(run.data)}, seed {run.seed}"
        if run.state != "finished":
            error = str(run.status.get("error") or "").strip().splitlines()
            reason = f": {error[-1]}" if error else ""
            partly = " Its latest results are shown." if run.result else ""
            found.append(f"{name} is {run.state}{reason}.{partly}")
        found += [f"{name}: {problem}." for problem in run.problems]
    return found


def baselines(study: StudyData) -> list[tuple[str, str]]:
    """Baselines that occur, and what they are."""
    logged = " ".join(name for run in study.runs for name in run.result)
    return [
        (label, BASELINE_MEANINGS[key]) for key, label in BASELINES.items() if f"_{key}" in logged
    ]


def run_line(study: StudyData, run: RunData) -> dict[str, str]:
    """A line of the table of runs."""
    seconds = run.status.get("seconds")
    return {
        "row": shown(run.row),
        "data": shown(run.data),
        "seed": str(run.seed),
        "status": run.state,
        "started": str(run.status.get("started") or "–")[:19].replace("T", " "),
        "seconds": f"{float(seconds):.0f}" if seconds else "–",
        "config": str(run.status.get("config_hash") or "–"),
        "folder": run.folder.resolve().name if run.folder else "–",
    }


def origins(study: StudyData) -> list[tuple[str, str]]:
    """Commit, versions, data and licences; several values where runs differ."""
    collected: dict[str, list[str]] = {}

    def collect(name: str, value: Any) -> None:
        if value:
            collected.setdefault(name, []).append(str(value))

    for run in study.runs:
        collect("commit", run.status.get("commit"))
        collect(f"data: {shown(run.data)}, fingerprint", run.status.get("data_fingerprint"))
        collect(f"data: {shown(run.data)}, licence", run.status.get("data_licence"))
        versions: Mapping[str, str] = run.status.get("versions") or {}
        collect("versions", ", ".join(f"{name} {version}" for name, version in versions.items()))
    return [(name, "; ".join(dict.fromkeys(values))) for name, values in collected.items()]


def configs(study: StudyData) -> list[tuple[str, str]]:
    """Resolved configuration of the first run of each row and data set."""
    found = []
    for data in study.data:
        for row in study.rows:
            runs = [run for run in study.runs if (run.row, run.data) == (row, data) and run.config]
            if runs:
                text = yaml.safe_dump(dict(runs[0].config), sort_keys=False, allow_unicode=True)
                found.append((f"{shown(row)}, {shown(data)}, seed {runs[0].seed}", text))
    return found
