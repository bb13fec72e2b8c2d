"""One run: configuration -> seed -> objects -> training, in a folder of its own.

`train` is the whole of it and works without the command line: it takes plain values and calls
only constructors of trusted packages.
"""

import contextlib
import inspect
import logging
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
import yaml
from lightning.pytorch import Callback, LightningDataModule, Trainer, seed_everything

from interp_train.atomic_files import read_json
from interp_train.callbacks.checkpoints import Checkpoints
from interp_train.callbacks.epoch_seed import EpochSeed
from interp_train.callbacks.run_status import RunStatus
from interp_train.checks import check_name
from interp_train.host_memory import keep_freed_memory
from interp_train.interruption import Interrupted, interruptions_raised
from interp_train.loggers import TensorBoardEvents
from interp_train.provenance import command, commit, config_hash, versions
from interp_train.resume import epochs_done, steps_done
from interp_train.run_folder import RunRecord, claim_folder, create_run_folder, read_status
from interp_train.run_log import logged_to
from interp_train.run_processes import ended
from interp_train.stopwatch import stopwatch_of
from interp_train.systems import LearnedSystem, build_system
from interp_train.targets import build, locate

log = logging.getLogger(__name__)

# Further processes of a distributed run find the run's folder here.
FOLDER_VARIABLE = "INTERP_TRAIN_RUN_FOLDER"

DEFAULTS: dict[str, Any] = {
    "name": "run",
    "seed": 0,
    "output_dir": "outputs",
    "folder": None,
    "resume": None,
    "report": True,
    "monitor": {"quantity": "accuracy/top1", "mode": "max"},
    "cache": {"enabled": False, "views": 1, "dtype": "float16", "folder": None},
    "filter_objectives": {},
    "heatmaps": {},
    "unit_visualizers": {},
    "callbacks": {},
    "logger": {},
}
_REQUIRED = ("data", "backbone", "learning", "trainer")


class RunResult(NamedTuple):
    """What a run leaves.

    Attributes:
        folder: the run's folder.
        status: ``finished``, or ``complete`` if there was nothing left to do.
        metrics: quantity -> value of the last validation.
    """

    folder: Path
    status: str
    metrics: dict[str, float]


def train_command(config: Mapping[str, Any]) -> int:
    """The verb `train`."""
    result = train(config)
    if beside_main_process():
        return 0
    if result.status == "complete":
        print(
            f"This run is finished: {config['trainer']['max_epochs']} epochs. To train it "
            f"longer, give trainer.max_epochs=<more>."
        )
    print(f"run folder: {result.folder}")
    if (result.folder / "report.html").is_file():
        print(f"report: {result.folder / 'report.html'}")
    return 0


def train(config: Mapping[str, Any]) -> RunResult:
    """Train one system, measure it at every validation, and keep all of it in a run folder.

    Args:
        config: plain values as `conf/train.yaml` composes them; missing entries have the
            values of `DEFAULTS`. To continue a run, pass `interp_train.resume.resumed_config`.

    Raises:
        ValueError: for a bad configuration.
        FloatingPointError: if the loss became NaN.
        OSError: if the disk is full or the output folder cannot be written.
        Interrupted: by Ctrl-C or SIGTERM; the run can be resumed.
    """
    config = complete_config(config)
    last = Path(config["resume"]) / "checkpoints" / "last.ckpt" if config["resume"] else None
    checkpoint = last if last and last.is_file() else None
    if checkpoint and epochs_done(checkpoint) >= (config["trainer"].get("max_epochs") or 1000):
        folder = Path(config["resume"])
        if read_status(folder).get("status") == "finished":
            return RunResult(folder, "complete", read_json(folder / "result.json"))
    with recorded_run(config) as record:
        fit(config, record, checkpoint)
    metrics = read_json(record.folder / "result.json")
    return RunResult(record.folder, "finished", metrics)


def complete_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """`config` with the defaults of missing entries.

    Raises:
        ValueError: for an unknown or a missing entry.
    """
    for key in config:
        check_name("config", key, [*_REQUIRED, *DEFAULTS], "an entry of a run's configuration")
    for key in _REQUIRED:
        if not config.get(key):
            raise ValueError(f"`config` must have the entry {key!r}, but got {sorted(config)}.")
    filled = {key: config.get(key) if config.get(key) is not None else value
              for key, value in DEFAULTS.items()}  # fmt: skip
    return {**dict(config), **filled}


def beside_main_process() -> bool:
    """Whether this is a further process of a distributed run; the main one keeps the records."""
    rank = os.environ.get("RANK", os.environ.get("LOCAL_RANK", "0"))
    return rank != "0" or os.environ.get("NODE_RANK", "0") != "0"


@contextlib.contextmanager
def recorded_run(config: Mapping[str, Any]) -> Iterator[RunRecord]:
    """A run folder whose status follows what happens inside the block.

    Also opens the log, writes config.yaml, turns signals into `Interrupted`, and writes the report
    that the configuration asks for once the status says how the run ended.
    """
    if beside_main_process():
        with logged_to(None), interruptions_raised():
            yield RunRecord(folder_of_main_process(config), Path(config["output_dir"]))
        return
    record = RunRecord(run_folder(config), Path(config["output_dir"]))
    os.environ[FOLDER_VARIABLE] = str(record.folder)
    try:
        with logged_to(record.folder), interruptions_raised():
            with status_kept(record, config):
                yield record
            if config.get("report"):
                write_report(record.folder)
    finally:
        os.environ.pop(FOLDER_VARIABLE, None)


@contextlib.contextmanager
def status_kept(record: RunRecord, config: Mapping[str, Any]) -> Iterator[None]:
    """Record the start, and whether the block finishes, fails or is interrupted."""
    try:
        stored = {key: value for key, value in config.items() if key not in ("resume", "folder")}
        (record.folder / "config.yaml").write_text(
            yaml.safe_dump(stored, sort_keys=False, allow_unicode=True), encoding="utf-8"
        )
        record.start(
            newest="path" not in config,  # an evaluation is not the newest run
            name=config["name"],
            seed=config["seed"],
            config_hash=config_hash(config),
            quantity=(config.get("monitor") or {}).get("quantity"),
            commit=commit(),
            versions=versions(),
            command=command(),
        )
        yield
    except BaseException as error:
        status = "interrupted" if isinstance(error, Interrupted | KeyboardInterrupt) else "failed"
        log.info("The run %s.", status, exc_info=error)  # the terminal gets one line
        error.add_note(f"run folder: {record.folder} (status.json and log.txt hold the traceback)")
        with contextlib.suppress(OSError):  # a full disk: the first error is what counts
            record.end(status, error)
        raise
    record.end("finished")


def run_folder(config: Mapping[str, Any]) -> Path:
    """The folder of a run: the resumed one, the one that was asked for, or a new one."""
    if config.get("resume"):
        return Path(config["resume"])
    if config.get("folder"):
        return claim_folder(Path(config["folder"])).resolve()
    output_dir = Path(config["output_dir"])
    return create_run_folder(output_dir, str(config["name"]), int(config["seed"])).resolve()


def folder_of_main_process(config: Mapping[str, Any]) -> Path:
    """Where the main process of a distributed run keeps its records.

    Raises:
        ValueError: if another launcher started this process and no folder was agreed upon.
    """
    folder = os.environ.get(FOLDER_VARIABLE) or config.get("resume") or config.get("folder")
    if not folder:
        raise ValueError(
            "`folder` must be given when another launcher than ours starts the processes, so "
            "that all of them share one folder. Add folder=<new folder>, or start one process "
            "and choose trainer=ddp."
        )
    return Path(folder)


def fit(config: Mapping[str, Any], record: RunRecord, checkpoint: Path | None) -> None:
    """Build everything and train."""
    keep_freed_memory()
    seed_everything(config["seed"], workers=True, verbose=False)
    data = build_data(config["data"])
    system = build_system(stored_config(config), data.info)
    trainer = build_trainer(config, record.folder, checkpoint)
    enable_cache(config, data, system, trainer.strategy.root_device)
    if not beside_main_process():
        record.update(data_fingerprint=data.info.fingerprint, data_licence=data.info.licence)
    try:
        trainer.fit(system, datamodule=data, ckpt_path=checkpoint, weights_only=True)
    except BaseException:
        end_further_processes(trainer)
        raise
    finally:
        if trainer.is_global_zero and not beside_main_process():
            record.update(cost=dict(stopwatch_of(trainer).seconds))
    conclude(config, trainer, record)


def end_further_processes(trainer: Trainer) -> None:
    """End the processes that this one started: without it they wait in a collective for ever."""
    processes = getattr(trainer.strategy.launcher, "procs", [])
    ended(processes, seconds=3.0)


def stored_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """What a checkpoint keeps of the configuration: nothing about this machine's folders."""
    return {key: v for key, v in config.items() if key not in ("resume", "folder", "output_dir")}


def build_data(node: Mapping[str, Any]) -> Any:
    """The data module of a node, prepared and with its `info` known."""
    data = build(node, "data")
    known = isinstance(data, LightningDataModule)
    if known and not beside_main_process():
        data.prepare_data()  # a download; what `info` reads comes with it
    if not known or not hasattr(data, "info"):
        raise ValueError(
            f"`data._target_` must be a LightningDataModule with `info`, but got "
            f"{node['_target_']!r}. See interp_train.data for examples."
        )
    return data


def enable_cache(
    config: Mapping[str, Any], data: Any, system: LearnedSystem, device: torch.device
) -> None:
    """Let `data` compute the frozen prefix once, on `device`, if the configuration asks for it."""
    cache = config["cache"]
    if not cache.get("enabled"):
        return
    if not hasattr(data, "enable_cache"):
        raise ValueError(
            f"`cache.enabled` must be false for data that cannot be cached, but "
            f"{type(data).__name__} has no `enable_cache`."
        )
    folder = Path(cache.get("folder") or Path(config["output_dir"]) / "cache")
    network = system.network.to(device)
    data.enable_cache(network, folder=folder, views=cache["views"], dtype=cache["dtype"])


def build_trainer(config: Mapping[str, Any], folder: Path, checkpoint: Path | None) -> Trainer:
    """The trainer with its callbacks and loggers."""
    callbacks: list[Callback] = [
        EpochSeed(config["seed"]),
        *build_offered(config["callbacks"], "callbacks"),
        RunStatus(),
        Checkpoints(config["monitor"]["quantity"], config["monitor"]["mode"]),
    ]
    purge = steps_done(checkpoint) if checkpoint else (0 if config["resume"] else None)
    if beside_main_process():
        purge = None
    loggers = build_offered(config["logger"], "logger", folder=folder, purge_step=purge)
    trainer: Trainer = build(
        config["trainer"],
        "trainer",
        callbacks=callbacks,
        logger=loggers or False,
        default_root_dir=str(folder),
        enable_progress_bar=False,
    )
    return trainer


def build_offered(nodes: Mapping[str, Any] | None, where: str, **offered: Any) -> list[Any]:
    """Build named nodes; a constructor gets those of the `offered` objects that it names."""
    built = []
    for name, node in (nodes or {}).items():
        if node is None:
            continue
        place = f"{where}.{name}"
        target = (
            locate(node["_target_"]) if isinstance(node, Mapping) and "_target_" in node else None
        )
        names = inspect.signature(target).parameters if target is not None else {}
        objects = {key: value for key, value in offered.items() if key in names}
        built.append(build(node, place, **objects))
    return built


def conclude(config: Mapping[str, Any], trainer: Trainer, record: RunRecord) -> None:
    """After the last epoch: the line in TensorBoard's table of settings."""
    if not trainer.is_global_zero or beside_main_process():
        return
    result = read_json(record.folder / "result.json")
    for logger in trainer.loggers:
        if isinstance(logger, TensorBoardEvents) and result:
            logger.log_result(stored_config(config), result)
            logger.finalize("success")


def write_report(folder: Path) -> None:
    """Write report.html; a run whose picture book fails is still a finished run."""
    try:
        from interp_train.report.page import write_report as write

        write(folder)
    except Exception:
        log.warning("The report of %s could not be written; see log.txt.", folder)
        log.info("Traceback of the report:", exc_info=True)
