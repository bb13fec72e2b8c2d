"""Measure a trained network: one validation with all measures, in a folder of its own."""

from collections.abc import Mapping
from inspect import signature
from pathlib import Path
from typing import Any

from rich import box
from rich.table import Table

from interp_train.atomic_files import read_json
from interp_train.callbacks.run_status import RunStatus
from interp_train.checks import check_name
from interp_train.experiment import (
    DEFAULTS,
    RunResult,
    beside_main_process,
    build_data,
    build_offered,
    recorded_run,
)
from interp_train.stopwatch import stopwatch_of
from interp_train.systems import checkpoint_path, load_system
from interp_train.targets import build, locate
from interp_train.terminal_table import output_console


def evaluate_command(config: Mapping[str, Any]) -> int:
    """The verb `evaluate`."""
    result = evaluate(config)
    if not beside_main_process():
        print_metrics(result.metrics)
        print(f"evaluation folder: {result.folder}")
    return 0


def evaluate(config: Mapping[str, Any]) -> RunResult:
    """Validate the network of a run folder or checkpoint, with the callbacks of `config`.

    Args:
        config: plain values as `conf/evaluate.yaml` composes them: `path`, `checkpoint`,
            `data` (what differs from the data of the run, or another data set with its
            `_target_`), `callbacks`, `trainer` and the places of the output.

    Raises:
        FileNotFoundError: if `path` leads to no checkpoint.
        ValueError: for a bad configuration.
    """
    defaults = {"name": "evaluate", "checkpoint": "best", "data": {}, "logger": {}, "report": False}
    config = {**DEFAULTS, **defaults, **config}
    file = chosen_checkpoint(Path(config["path"]).resolve(), config["checkpoint"])
    with recorded_run({**config, "resume": None}) as record:
        system = load_system(file)
        data = build_data(evaluated_data(system.config["data"], config["data"] or {}))
        status = RunStatus()
        trainer = build(
            config["trainer"],
            "trainer",
            callbacks=[*build_offered(config["callbacks"], "callbacks"), status],
            logger=build_offered(config["logger"], "logger", folder=record.folder) or False,
            default_root_dir=str(record.folder),
            enable_progress_bar=False,
            enable_checkpointing=False,
        )
        trainer.validate(system, datamodule=data, verbose=False)
        if not beside_main_process():
            record.update(
                checkpoint=str(file),
                data_fingerprint=data.info.fingerprint,
                data_licence=data.info.licence,
                cost=dict(stopwatch_of(trainer).seconds),
            )
    return RunResult(record.folder, "finished", read_json(record.folder / "result.json"))


def chosen_checkpoint(path: Path, which: str) -> Path:
    """The checkpoint file of `path`: itself, or the last or best of a run folder.

    Raises:
        FileNotFoundError: if there is none.
    """
    named = path / "checkpoints" / f"{which}.ckpt"
    if path.is_dir() and which != "best" and not named.is_file():
        raise FileNotFoundError(f"`checkpoint` must be 'best' or 'last', but {named} is missing.")
    return named if named.is_file() else checkpoint_path(path)


def evaluated_data(trained: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """The data node of a run with some keys changed, or another data set altogether.

    Keys that the data set has got since the run are known, too.

    Raises:
        ValueError: for a key that the run's data does not have.
    """
    if "_target_" in changes:
        return dict(changes)
    known = dict(trained)
    if "_target_" in trained:
        known |= signature(locate(trained["_target_"])).parameters
    for key in changes:
        check_name(f"data.{key}", key, known, "a key of the run's data")
    return {**trained, **changes}


def print_metrics(metrics: Mapping[str, float]) -> None:
    """Print quantities and values as a table."""
    table = Table("quantity", "value", box=box.SIMPLE_HEAD, pad_edge=False)
    for key, value in sorted(metrics.items()):
        if key != "epoch":
            table.add_row(key, f"{value:.4f}")
    output_console().print(table)


def validation_loader_of(
    trained: Mapping[str, Any] | None, changes: Mapping[str, Any]
) -> tuple[Any, str]:
    """The loader of the validation data and what they are, or None and why."""
    if not trained and "_target_" not in changes:
        return None, "no data were given"
    node = evaluated_data(trained or {}, changes)
    try:
        data = build_data(node)
        data.setup("validate")
        return data.val_dataloader(), f"the validation data ({data.info.name})"
    except (OSError, ValueError) as error:
        if changes:
            raise  # what was asked for now must work
        first = str(error).partition(". ")[0]
        return None, f"the validation data of the run cannot be read here: {first}"
