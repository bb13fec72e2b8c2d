"""From the command line to a plain configuration, with Hydra, and clear words for its errors."""

import os
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

from interp_train.checks import closest
from interp_train.config_places import added_config_dir, config_dir

VERSION_BASE = "1.3"


class ConfigError(ValueError):
    """The configuration that the user asked for does not exist; says which does."""


def plain(config: DictConfig) -> dict[str, Any]:
    """`config` resolved, as dicts, lists, strings and numbers.

    Raises:
        ConfigError: if a mandatory value is missing.
    """
    try:
        values = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
    except MissingMandatoryValue as error:
        key = error.full_key or str(error).rpartition(" ")[2]
        raise ConfigError(f"`{key}` must be given, but is missing. Add {key}=<value>.") from error
    except OmegaConfBaseException as error:
        raise ConfigError(f"The configuration does not resolve: {error}") from error
    assert isinstance(values, dict)
    return {str(key): value for key, value in values.items()}


def compose_config(name: str, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """The configuration of ``conf/<name>.yaml`` with `overrides` in Hydra's syntax.

    Raises:
        ConfigError: for an unknown key, group or option, or a missing value.
    """
    try:
        return plain(_compose(name, overrides))
    except HydraException as error:
        raise explained(error, name, overrides) from error


def _compose(name: str, overrides: Sequence[str]) -> DictConfig:
    GlobalHydra.instance().clear()
    added = added_config_dir()
    places = [f"hydra.searchpath=['file://{added}']"] if added else []
    with initialize_config_dir(str(config_dir()), version_base=VERSION_BASE):
        return compose(name, [*overrides, *places])


def parsed_overrides(overrides: Sequence[str]) -> dict[str, Any]:
    """Values of ``key=value`` overrides, without composing.

    Raises:
        ConfigError: if one is not of the form ``key=value``.
    """
    try:
        parsed = OverridesParser.create().parse_overrides(list(overrides))
    except HydraException as error:
        raise ConfigError(_first_lines(error)) from error
    return {entry.key_or_group: entry.value() for entry in parsed}


def run_with_hydra(
    name: str,
    argv: Sequence[str],
    execute: Callable[[dict[str, Any]], int],
    execute_job: Callable[[dict[str, Any], list[str]], Any],
) -> int:
    """Compose ``conf/<name>.yaml`` from command-line arguments and execute it.

    Hydra answers --help, --cfg and --info itself. The work starts after Hydra has finished, so
    that Lightning, when it starts further processes, repeats the command as the user gave it.

    Args:
        name: of the configuration.
        argv: arguments after the verb.
        execute: takes the configuration, returns the exit code.
        execute_job: takes the configuration and the overrides of one job of a multirun.

    Raises:
        ConfigError: for an unknown key, group or option, or a missing value.
    """
    import hydra

    composed: list[dict[str, Any] | ConfigError] = []

    def task(config: DictConfig) -> Any:
        try:
            values = plain(config)
        except ConfigError as error:  # Hydra would add words of its own
            composed.append(error)
            return None
        if HydraConfig.get().mode is RunMode.MULTIRUN:
            return execute_job(values, list(HydraConfig.get().overrides.task))
        composed.append(values)
        return None

    main = hydra.main(config_path=str(config_dir()), config_name=name, version_base=VERSION_BASE)
    given, full_error = sys.argv, os.environ.get("HYDRA_FULL_ERROR")
    added = added_config_dir()
    places = ["--config-dir", str(added)] if added else []
    sys.argv = [f"{Path(given[0]).name} {name}", *argv, *places]
    os.environ["HYDRA_FULL_ERROR"] = "1"  # let errors out, so that we can word them
    try:
        main(task)()
    except HydraException as error:
        raise explained(error, name, [entry for entry in argv if "=" in entry]) from error
    finally:
        sys.argv = given
        if full_error is None:
            del os.environ["HYDRA_FULL_ERROR"]
    for found in composed:
        if isinstance(found, ConfigError):
            raise found
        return execute(found)
    return 0  # Hydra has answered: --help, --cfg, --info, or all jobs of a multirun


def explained(error: Exception, name: str, overrides: Sequence[str]) -> ConfigError:
    """Hydra's error in our wording: argument, rule, value received, way out."""
    text = str(error)
    if option := re.search(r"Could not (?:find|load) '([^']+)'", text):
        group, _, value = option[1].rpartition("/")
        known = _options(group)
        return ConfigError(
            f"`{group or 'config'}` must be one of {', '.join(known) or '(nothing)'}, but got "
            f"{value!r}. Closest names: {closest(value, known)}."
        )
    if key := re.search(r"Could not override '([^']+)'|Key '([^']+)' is not in struct", text):
        unknown = key[1] or key[2]
        known = _known_keys(name, overrides)
        if unknown in known:
            return ConfigError(
                f"`{unknown}` must be given keys that it has, for a mapping is merged into the one "
                f"that stands there. To replace it: '~{unknown}' '+{unknown}={{...}}'."
            )
        return ConfigError(
            f"`{unknown}` must be a key of the configuration, but there is none of that name. "
            f"Closest names: {closest(unknown, known)}. See --cfg job for all keys."
        )
    return ConfigError(_first_lines(error))


def _first_lines(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return " ".join(lines[:3])


def _options(group: str) -> list[str]:
    folders = [folder for folder in (config_dir(), added_config_dir()) if folder]
    return sorted({entry.stem for folder in folders for entry in (folder / group).glob("*.yaml")})


def _known_keys(name: str, overrides: Sequence[str]) -> list[str]:
    """Keys of the configuration with the chosen groups but without the values, and the groups."""
    groups = [
        entry.relative_to(config_dir()).as_posix()
        for entry in config_dir().rglob("*")
        if entry.is_dir()
    ]
    chosen = [entry for entry in overrides if entry.partition("=")[0] in groups]
    try:
        config = _compose(name, chosen)
    except HydraException:
        return groups
    return [*_flat_keys(OmegaConf.to_container(config, resolve=False)), *groups]


def _flat_keys(value: Any, prefix: str = "") -> list[str]:
    keys: list[str] = []
    if isinstance(value, Mapping):
        for key, entry in value.items():
            full = f"{prefix}.{key}" if prefix else str(key)
            keys += [full, *_flat_keys(entry, full)]
    return keys
