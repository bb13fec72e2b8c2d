"""The log of a run: everything goes to log.txt, what matters also to the terminal."""

import contextlib
import logging
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

# Said by our dependencies in every run, about nothing a user can act on.
_NOISE = (
    r".*isinstance\(treespec, LeafSpec\).*",
    r".*does not have many workers.*",
    r".*The number of training batches .* is smaller than the logging interval.*",
    r".*Checkpoint directory .* exists and is not empty.*",
    r".*Trainer already configured with model summary callbacks.*",
    r".*you defined a `validation_step` but have no `val_dataloader`.*",
    r".*Found \d+ module\(s\) in eval mode at the start of training.*",
    r".*It is recommended to use .*sync_dist=True.*",
)
_CHATTY = ("fontTools", "matplotlib", "PIL")
_NOISY_LOGS = (
    "lightning",
    "lightning.pytorch",
    "lightning.fabric",
    "lightning_fabric",
    "pytorch_lightning",
)


class _NoTips(logging.Filter):
    """Keeps advertisements out of the log."""

    def filter(self, record: logging.LogRecord) -> bool:
        message = record.getMessage()
        return "litlogger" not in message and "litmodels" not in message.lower()


@contextlib.contextmanager
def logged_to(folder: Path | None) -> Iterator[None]:
    """Inside the block log records and warnings go to ``<folder>/log.txt``.

    Warnings and errors also go to the terminal, in one line each. With None (a process beside
    the main one) nothing is written to a file.
    """
    root = logging.getLogger()
    terminal = logging.StreamHandler(sys.stderr)
    terminal.setLevel(logging.WARNING)
    terminal.setFormatter(logging.Formatter("%(levelname)s: %(message)s"))
    handlers: list[logging.Handler] = [terminal]
    if folder is not None:
        file = logging.FileHandler(folder / "log.txt", encoding="utf-8")
        file.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
        handlers.append(file)
    for handler in handlers:
        handler.addFilter(_NoTips())
    level, quiet = root.level, _silence(_NOISY_LOGS)
    root.setLevel(logging.INFO)
    for name in _CHATTY:
        logging.getLogger(name).setLevel(logging.WARNING)
    root.handlers.extend(handlers)
    try:
        with warnings.catch_warnings():
            _log_warnings()
            yield
    finally:
        root.setLevel(level)
        for handler in handlers:
            root.removeHandler(handler)
            handler.close()
        for logger, (known, propagate) in quiet.items():
            logger.handlers[:], logger.propagate = known, propagate


@contextlib.contextmanager
def without_noise() -> Iterator[None]:
    """Inside the block nothing is said of what a user cannot act on."""
    with warnings.catch_warnings():
        _ignore_noise()
        yield


def _silence(names: tuple[str, ...]) -> dict[logging.Logger, tuple[list[logging.Handler], bool]]:
    """Take the terminal handlers off these loggers, so that their records go to the root."""
    before = {}
    for name in names:
        logger = logging.getLogger(name)
        before[logger] = (list(logger.handlers), logger.propagate)
        logger.handlers, logger.propagate = [], True
    return before


def _log_warnings() -> None:
    """Send warnings to the log, noise excepted; an `error` filter of a test stays in force."""
    _ignore_noise()
    log = logging.getLogger("interp_train.warnings")

    def show(message: Warning | str, category: type[Warning], *place: Any, **more: Any) -> None:
        log.warning("%s: %s (%s:%s)", category.__name__, message, *place[:2])

    warnings.showwarning = show  # catch_warnings restores it


def _ignore_noise() -> None:
    for message in _NOISE:
        warnings.filterwarnings("ignore", message=message)
