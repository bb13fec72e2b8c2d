"""Where a result comes from: configuration hash, commit, versions."""

import functools
import hashlib
import json
import platform
import shlex
import subprocess
import sys
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path, PurePath
from typing import Any

import interp_train

# Entries of a configuration that change where a run writes and what it shows, not its result.
_WITHOUT_EFFECT = ("name", "output_dir", "folder", "resume", "logger", "report")
_PACKAGES = ("torch", "torchvision", "lightning", "torchmetrics", "hydra-core", "numpy")


def config_hash(config: Mapping[str, Any]) -> str:
    """Hash of what a run's result depends on: its configuration and the package version.

    Names and output paths do not count; an absolute path counts by its last component, so that
    a data set may be moved. 16 hexadecimal digits.
    """
    kept = {key: value for key, value in config.items() if key not in _WITHOUT_EFFECT}
    if isinstance(kept.get("cache"), Mapping):
        kept["cache"] = {k: v for k, v in kept["cache"].items() if k != "folder"}
    if isinstance(kept.get("callbacks"), Mapping):
        kept["callbacks"] = {k: v for k, v in kept["callbacks"].items() if k != "progress"}
    content = {"version": interp_train.__version__, "config": _without_places(kept)}
    text = json.dumps(content, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _without_places(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _without_places(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_without_places(entry) for entry in value]
    if isinstance(value, str) and PurePath(value).is_absolute():
        return PurePath(value).name
    return value


@functools.cache
def commit() -> str | None:
    """Commit of the source tree, with ``-dirty`` if files differ from it; None outside of git."""
    folder = Path(interp_train.__file__).parents[1]
    if not (folder / ".git").exists():
        return None
    try:
        described = subprocess.run(
            ["git", "-C", str(folder), "describe", "--always", "--abbrev=40", "--dirty"],
            capture_output=True,
            text=True,
            timeout=20,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return described.stdout.strip() or None


def command() -> str:
    """The command line of this process, as a user would repeat it."""
    program = Path(sys.argv[0])
    start = (
        ["interp-train"] if program.name in ("cli.py", "interp-train") else ["python", str(program)]
    )
    return shlex.join([*start, *sys.argv[1:]])


@functools.cache
def versions() -> dict[str, str]:
    """Versions of Python and of the packages that results depend on."""
    found = {"python": platform.python_version(), "interp_train": interp_train.__version__}
    for package in _PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found
