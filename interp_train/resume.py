"""Continue a run: the same folder, the same curves, the configuration that it began with."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import yaml

from interp_train.run_folder import read_status

# What may differ from the configuration that a run began with: how long and where it runs.
CHANGEABLE = (
    "trainer.max_epochs",
    "trainer.max_time",
    "trainer.accelerator",
    "trainer.devices",
    "trainer.log_every_n_steps",
    "data.root",
    "data.num_workers",
    "monitor.quantity",
    "monitor.mode",
    "callbacks.progress",
    "callbacks.finite_loss",
    "cache.folder",
    "report",
)


def resumed_config(
    folder: str | Path, overrides: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """The configuration with which the run in `folder` goes on.

    Args:
        folder: the run's folder; `outputs/latest` works, too.
        overrides: dotted key -> value, of the keys in `CHANGEABLE`.

    Raises:
        ValueError: if `folder` holds no run, or one that is still running; for a key that must
            not change.
    """
    run = _real_folder(Path(folder))
    if not (run / "config.yaml").is_file():
        raise ValueError(
            f"`resume` must be the folder of a run, with its config.yaml, but got {str(folder)!r}."
        )
    status = read_status(run)
    if status.get("status") == "running":
        raise ValueError(
            f"`resume` must name a run that has ended, but {str(run)!r} is still running "
            f"(process {status.get('pid')} on {status.get('host')})."
        )
    config: dict[str, Any] = yaml.safe_load((run / "config.yaml").read_text(encoding="utf-8"))
    for key, value in (overrides or {}).items():
        if not any(key == known or key.startswith(known + ".") for known in CHANGEABLE):
            raise ValueError(
                f"`{key}` must not change when a run is resumed, but got {key}={value!r}. "
                f"Changeable are {', '.join(CHANGEABLE)}. Start a new run for another setting."
            )
        _set(config, key, value)
    return {**config, "resume": str(run), "folder": str(run)}


def steps_done(checkpoint: Path) -> int:
    """Training batches that a Lightning checkpoint has behind it, as loggers count them."""
    state = torch.load(checkpoint, map_location="cpu", weights_only=True)
    return int(state["loops"]["fit_loop"]["epoch_loop.state_dict"]["_batches_that_stepped"])


def epochs_done(checkpoint: Path) -> int:
    """Epochs that a Lightning checkpoint has behind it."""
    state = torch.load(checkpoint, map_location="cpu", weights_only=True)
    return int(state["loops"]["fit_loop"]["epoch_progress"]["current"]["processed"])


def _real_folder(folder: Path) -> Path:
    if folder.is_file() and folder.name == "latest":  # where links do not work
        return folder.parent / folder.read_text(encoding="utf-8").strip()
    return folder.resolve()


def _set(config: dict[str, Any], key: str, value: Any) -> None:
    *parents, last = key.split(".")
    node = config
    for parent in parents:
        node = node.setdefault(parent, {})
    node[last] = value
