"""Where measured numbers go: one metrics.csv per run, and TensorBoard events beside it."""

import csv
import io
from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.loggers.logger import Logger
from lightning.pytorch.utilities import rank_zero_only

from interp_train.atomic_files import write_text


class MetricsTable(Logger):
    """Appends one row per logging to ``<folder>/metrics.csv``, in the columns of Lightning's CSV.

    Every row is on disk when `log_metrics` returns, so nothing is lost when a run dies. A
    resumed run continues the same file.

    Args:
        folder: the run's folder.
        purge_step: rows from this step on are removed first; a resumed run makes them again.
    """

    def __init__(self, folder: str | Path, purge_step: int | None = None) -> None:
        super().__init__()
        self.path = Path(folder) / "metrics.csv"
        self._columns: list[str] | None = None
        if purge_step is not None:
            self._purge(purge_step)

    @property
    def name(self) -> str:
        """No folder of its own."""
        return ""

    @property
    def version(self) -> str:
        """No folder of its own."""
        return ""

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Append a row."""
        row: dict[str, Any] = {"step": step, **{key: float(v) for key, v in metrics.items()}}
        if "epoch" in row:
            row["epoch"] = int(row["epoch"])
        columns = self._known_columns()
        new = [key for key in row if key not in columns]
        if new:
            self._rewrite(columns + new, self._rows())
        with self.path.open("a", newline="", encoding="utf-8") as file:
            file.write(_lines(self._known_columns(), [row]))

    @rank_zero_only
    def log_hyperparams(
        self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any
    ) -> None:
        """Nothing: they stand in config.yaml."""

    def _known_columns(self) -> list[str]:
        if self._columns is None:
            self._columns = ["step", "epoch"]
            if self.path.is_file() and self.path.stat().st_size:
                with self.path.open(newline="", encoding="utf-8") as file:
                    self._columns = next(csv.reader(file))
        return self._columns

    def _rows(self) -> list[dict[str, Any]]:
        """Complete rows of the file; a line that a crash cut short is left out."""
        if not self.path.is_file():
            return []
        text = self.path.read_text(encoding="utf-8")
        complete = text[: text.rfind("\n") + 1]
        return list(csv.DictReader(io.StringIO(complete)))

    def _rewrite(self, columns: list[str], rows: list[dict[str, Any]]) -> None:
        header = ",".join(_quoted(column) for column in columns) + "\n"
        write_text(self.path, header + _lines(columns, rows))
        self._columns = columns

    @rank_zero_only
    def _purge(self, step: int) -> None:
        kept = [row for row in self._rows() if int(float(row["step"] or 0)) < step]
        self._rewrite(self._known_columns(), kept)


def _quoted(text: str) -> str:
    return f'"{text}"' if "," in text else text


def _lines(columns: list[str], rows: list[dict[str, Any]]) -> str:
    text = io.StringIO()
    csv.DictWriter(text, columns, restval="", lineterminator="\n").writerows(rows)
    return text.getvalue()


class TensorBoardEvents(TensorBoardLogger):
    """TensorBoard events directly in the run's folder, also after a resume.

    Args:
        folder: the run's folder.
        purge_step: TensorBoard drops the events from this step on; a resumed run makes them
            again.
        flush_secs: events are on disk after so many seconds.
    """

    def __init__(
        self, folder: str | Path, purge_step: int | None = None, flush_secs: int = 20
    ) -> None:
        super().__init__(
            save_dir=folder,
            name="",
            version="",
            default_hp_metric=False,
            purge_step=purge_step,
            flush_secs=flush_secs,
        )

    @rank_zero_only
    def log_result(self, config: Mapping[str, Any], metrics: Mapping[str, float]) -> None:
        """One line of TensorBoard's table of hyperparameters: the settings and final numbers."""
        final = {f"final/{key}": float(value) for key, value in metrics.items()}
        self.log_hyperparams(dict(config), final)

    @rank_zero_only
    def save(self) -> None:
        """Flush events; Lightning's file hparams.yaml would only repeat config.yaml."""
        self.experiment.flush()
