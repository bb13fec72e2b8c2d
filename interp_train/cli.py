"""The command `interp-train <verb> ...`: finds the verb's function and runs it.

Each verb has a configuration ``conf/<verb>.yaml`` and a function that takes it as plain values.
Nothing heavy is imported before the configuration stands.
"""

import errno
import importlib
import os
import re
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from interp_train.checks import closest
from interp_train.config_places import CONFIG_DIR_VARIABLE
from interp_train.interruption import Interrupted, interruptions_raised
from interp_train.run_processes import quoted, quoted_text


class Verb(NamedTuple):
    """One word of the command.

    Attributes:
        function: ``module:function`` that takes the configuration and may return an exit code.
        summary: one line for --help.
        positional: key that a first argument without ``=`` sets, e.g. `evaluate PATH`.
        listed: key that further arguments without ``=`` set together, e.g. `detect PATH IMAGE`.
    """

    function: str
    summary: str
    positional: str | None = None
    listed: str | None = None


VERBS = {
    "train": Verb("interp_train.experiment:train_command", "train one network, measure it"),
    "evaluate": Verb("interp_train.evaluate:evaluate_command", "measure a trained network", "path"),
    "dissect": Verb(
        "interp_train.dissection_folder:dissect_command", "label a network's units", "path"
    ),
    "explain": Verb("interp_train.explanation:explain_command", "explain single images", "path"),
    "visualize": Verb("interp_train.unit_visualization:visualize_command", "picture units", "path"),
    "evaluate_heatmaps": Verb(
        "interp_train.heatmap_comparison:evaluate_heatmaps_command",
        "compare heatmap methods",
        "path",
    ),
    "detect": Verb(
        "interp_train.detection:detect_command", "find objects and their parts", "path", "images"
    ),
    "study": Verb("interp_train.study:study_command", "train rows x data x seeds, compare them"),
    "report": Verb("interp_train.commands:report_command", "write report.html of a folder", "path"),
    "benchmark": Verb(
        "interp_train.commands:benchmark_command", "time what a part costs", "target"
    ),
    "layers": Verb("interp_train.commands:layers_command", "list the layers of a backbone"),
}

# Verbs that look at a trained network, with its data or with others.
_OF_A_RUN = ("evaluate", "evaluate_heatmaps", "explain", "visualize")

# Exceptions that tell a user what to change; others are shown with their traceback.
_USER_ERRORS = (ValueError, OSError, FloatingPointError, ModuleNotFoundError)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code (0, 1 failed, 2 wrong command, 130, 143)."""
    argv = list(sys.argv[1:] if arguments is None else arguments)
    if not argv or argv[0] in ("--help", "-h", "help"):
        print(_help())
        return 0 if argv else 2
    if argv[0] == "--version":
        import interp_train

        print(f"interp-train {interp_train.__version__}")
        return 0
    if argv[0] not in VERBS:
        print(
            f"error: `verb` must be one of {', '.join(VERBS)}, but got {argv[0]!r}. "
            f"Closest names: {closest(argv[0], VERBS)}.",
            file=sys.stderr,
        )
        return 2
    try:
        with interruptions_raised():
            return run_verb(argv[0], argv[1:])
    except Interrupted as interruption:
        print(f"\n{interruption}", file=sys.stderr)
        return 0 if _beside() else interruption.exit_code
    except Exception as error:
        return _explain(error)


def run_verb(name: str, argv: list[str]) -> int:
    """Compose the verb's configuration and call its function."""
    from interp_train.composition import run_with_hydra
    from interp_train.sweep import JobError, Sweep

    verb = VERBS[name]
    argv, trusted = without_trust(argv)
    if trusted:
        from interp_train.targets import trust

        sys.path.insert(0, str(Path.cwd()))  # a package of the user's, not installed
        for package in trusted:
            trust(package)
    argv = without_config_dir(argv)
    argv = with_positional(verb, argv)
    if name in _OF_A_RUN:
        argv = with_open_data(argv)
    if name == "dissect":
        argv = [
            re.sub(r"^([+~]*)probe_set\.", r"\1callbacks.dissection.probe_set.", a) for a in argv
        ]
    if name == "study":
        argv = with_run_overrides(argv)
    function = _resumed(argv) if name == "train" else None
    if function is not None:
        return function()
    sweep = Sweep(name, trusted)
    try:
        code = run_with_hydra(name, argv, _function(verb), sweep.run_job)
    except JobError:
        code = 1
    return sweep.conclude() if sweep.jobs else code


def without_trust(argv: Sequence[str]) -> tuple[list[str], list[str]]:
    """Take ``--trust package`` and ``--trust=package`` off; returns the rest and the packages."""
    rest: list[str] = []
    packages: list[str] = []
    entries = iter(argv)
    for entry in entries:
        if entry == "--trust":
            packages.append(next(entries, ""))
        elif entry.startswith("--trust="):
            packages.append(entry.removeprefix("--trust="))
        else:
            rest.append(entry)
    if "" in packages:
        raise ValueError("`--trust` must be followed by the name of a package, but got nothing.")
    return rest, packages


def without_config_dir(argv: Sequence[str]) -> list[str]:
    """Take ``--config-dir folder`` off and keep it where further processes find it, too."""
    rest: list[str] = []
    entries = iter(argv)
    for entry in entries:
        flag, given, folder = entry.partition("=")
        if flag in ("--config-dir", "-cd"):
            folder = folder if given else next(entries, "")
            if not Path(folder).is_dir():
                raise ValueError(f"`--config-dir` must be a folder, but got {folder!r}.")
            os.environ[CONFIG_DIR_VARIABLE] = str(Path(folder).resolve())
        else:
            rest.append(entry)
    return rest


def with_positional(verb: Verb, argv: Sequence[str]) -> list[str]:
    """Turn arguments without ``=`` into ``<key>=<argument>``: the first, and those it lists."""
    found = with_listed(verb, argv)
    if found and "=" not in found[0] and not found[0].startswith("-"):
        if verb.positional is None:
            raise ValueError(
                f"Arguments must have the form key=value, but got {found[0]!r}. "
                f"See --help for the keys and groups."
            )
        found[0] = quoted(verb.positional, found[0])
    return found


def with_listed(verb: Verb, argv: Sequence[str]) -> list[str]:
    """Turn what follows the first argument, without ``=``, into one ``<key>=[...]``."""
    plain = [entry for entry in argv[1:] if "=" not in entry and not entry.startswith("-")]
    if verb.listed is None or not plain:
        return list(argv)
    rest = [entry for entry in argv[1:] if entry not in plain]
    return [argv[0], *rest, f"{verb.listed}=[{','.join(map(quoted_text, plain))}]"]


def with_open_data(argv: Sequence[str]) -> list[str]:
    """Let ``data.key=value`` change the data of the run that is evaluated.

    Its keys are those of that run, which the configuration of the verb cannot list.
    """
    if any(entry.startswith("data=") for entry in argv):
        return list(argv)
    return [f"+{entry}" if entry.startswith("data.") else entry for entry in argv]


def with_run_overrides(argv: Sequence[str]) -> list[str]:
    """Gather ``train.key=value``, which is meant for every run of a study, in `overrides`.

    Raises:
        ValueError: if `overrides` is given, too.
    """
    meant = [entry.removeprefix("train.") for entry in argv if entry.startswith("train.")]
    rest = [entry for entry in argv if not entry.startswith("train.")]
    if not meant:
        return rest
    if any(entry.startswith("overrides=") for entry in rest):
        raise ValueError(
            f"`overrides` must not stand beside train.<key>=<value>, but got train.{meant[0]}. "
            f"Choose one of the two."
        )
    return [*rest, f"overrides=[{','.join(map(quoted_text, meant))}]"]


def _resumed(argv: Sequence[str]) -> Callable[[], int] | None:
    """The call that continues a run, if one is asked for: its folder holds the configuration."""
    given = [entry for entry in argv if not entry.startswith("-")]
    if len(given) < len(argv) or not any(entry.startswith("resume=") for entry in given):
        return None
    from interp_train.composition import parsed_overrides

    overrides = parsed_overrides(given)
    if overrides["resume"] is None:
        return None

    def resume() -> int:
        from interp_train.experiment import train_command
        from interp_train.resume import resumed_config

        return train_command(resumed_config(overrides.pop("resume"), overrides))

    return resume


def _function(verb: Verb) -> Callable[[dict[str, Any]], int]:
    def call(config: dict[str, Any]) -> int:
        module, _, name = verb.function.partition(":")
        return getattr(importlib.import_module(module), name)(config) or 0

    return call


def _beside() -> bool:
    """Whether this is a further process of a distributed run, whose exit code nobody reads."""
    return os.environ.get("LOCAL_RANK", "0") != "0"


def _explain(error: Exception) -> int:
    """Say what went wrong, with the traceback where it helps; returns the exit code."""
    from interp_train.composition import ConfigError

    expected = isinstance(error, _USER_ERRORS)
    if not expected or os.environ.get("HYDRA_FULL_ERROR") == "1":
        traceback.print_exception(error)
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        print(
            f"error: The disk is full ({error}). What was measured before is kept; free some "
            f"space, then continue with resume=<run folder>.",
            file=sys.stderr,
        )
        return 1
    kind = "" if expected else f"{type(error).__name__}: "
    print(f"error: {kind}{error}", file=sys.stderr)
    for note in getattr(error, "__notes__", ()):
        print(note, file=sys.stderr)
    return 2 if isinstance(error, ConfigError) else 1


def _help() -> str:
    width = max(map(len, VERBS))
    lines = [
        f"  {name:<{width}}  {verb.summary}"
        + (f" (interp-train {name} {_places(verb)})" if verb.positional else "")
        for name, verb in VERBS.items()
    ]
    return "\n".join(
        [
            "interp-train <verb> [key=value ...]: train, measure, compare interpretable networks",
            "",
            *lines,
            "",
            "Each verb answers --help (its groups and keys), --cfg job (its configuration) and",
            "-m (one run per combination of comma-separated values). --trust PACKAGE lets a",
            "configuration name constructors of your own package.",
        ]
    )


def _places(verb: Verb) -> str:
    """The arguments without ``=`` that a verb takes."""
    return " ".join(key.upper() for key in (verb.positional, verb.listed) if key)


if __name__ == "__main__":
    sys.exit(main())
