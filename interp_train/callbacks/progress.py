"""How far a run is: a bar in a terminal, plain lines elsewhere.

After a few steps it says what the run will cost: the time to the end, the disk it uses, and the
share of the time that goes into interpretability.
"""

import fnmatch
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, final

from lightning.pytorch import Callback, LightningModule, Trainer
from rich.console import Console
from rich.progress import BarColumn, TaskID, TextColumn
from rich.progress import Progress as RichProgress

from interp_train.stopwatch import stopwatch_of


@final
class Progress(Callback):
    """Shows epoch, step, loss, chosen quantities and the time to the end.

    Args:
        forecast_after: steps after which the cost of the run is forecast.
        seconds_between_lines: least time between two plain lines inside an epoch.
        quantities: patterns of the quantities that a line shows after a validation.
    """

    def __init__(
        self,
        forecast_after: int = 20,
        seconds_between_lines: float = 30.0,
        quantities: Sequence[str] = ("accuracy/top1", "parts/*/part_tracking_mean_r2"),
    ) -> None:
        self.forecast_after = forecast_after
        self.seconds_between_lines = seconds_between_lines
        self.quantities = tuple(quantities)
        self.console = Console()
        self._bar: RichProgress | None = None
        self._task: TaskID | None = None
        self._steps = self._first_step = 0
        self._began = self._spoke = 0.0
        self._validation_seconds: float | None = None  # of the latest validation
        self._validation_began = self._validation_total = 0.0
        self._validated_epochs = 0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Open the bar."""
        self._began = self._spoke = time.perf_counter()
        self._steps, self._validation_total = 0, 0.0
        self._first_step = trainer.current_epoch * _batches(trainer)
        if not (trainer.is_global_zero and self.console.is_terminal):
            return
        columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[note]}"))
        self._bar = RichProgress(*columns, console=self.console, transient=True)
        total = _batches(trainer) * _epochs(trainer) or None
        self._task = self._bar.add_task("", total=total, completed=self._first_step, note="")
        self._bar.start()

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Move the bar; speak when it is time."""
        self._steps += 1
        if not trainer.is_global_zero:
            return
        if self._steps == self.forecast_after:
            self.say(self.forecast(trainer))
        now = time.perf_counter()
        if now - self._spoke > (0.5 if self._bar else self.seconds_between_lines):
            self._spoke = now
            loss = outputs["loss"] if isinstance(outputs, dict) else outputs
            place = f"step {batch_idx + 1}/{_batches(trainer) or '?'}"
            note = f"{place}  loss {float(loss):.4g}  {duration(self.seconds_left(trainer))} left"
            self._show(trainer, note)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Time the validation: it is part of the time to the end."""
        self._validation_began = time.perf_counter()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Add the validation's time."""
        if not trainer.sanity_checking:
            self._validation_seconds = time.perf_counter() - self._validation_began
            self._validation_total += self._validation_seconds
            self._validated_epochs = trainer.current_epoch + 1

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """One line per epoch."""
        if not trainer.is_global_zero:
            return
        shown = [
            f"{key} {float(value):.4g}"
            for key, value in sorted(trainer.callback_metrics.items())
            if any(fnmatch.fnmatch(key, pattern) for pattern in self.quantities)
        ]
        left = f"{duration(self.seconds_left(trainer))} left"
        self.say("  ".join([_epoch(trainer), *shown, left]))
        self._spoke = time.perf_counter()

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Close the bar."""
        self._close()

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        """Close the bar, so that the message stands alone."""
        self._close()

    def seconds_left(self, trainer: Trainer) -> float | None:
        """Forecast of the time to the end; None before the first step or without an end."""
        total = _batches(trainer) * _epochs(trainer)
        if not total or not self._steps:
            return None
        working = time.perf_counter() - self._began - self._validation_total
        steps_left = max(total - self._first_step - self._steps, 0)
        epochs_left = _epochs(trainer) - max(self._validated_epochs, trainer.current_epoch)
        validations_left = epochs_left // (trainer.check_val_every_n_epoch or 1)
        step_seconds = working / self._steps
        return steps_left * step_seconds + validations_left * (self._validation_seconds or 0.0)

    def forecast(self, trainer: Trainer) -> str:
        """One sentence about time, disk and the share of interpretability."""
        elapsed = max(time.perf_counter() - self._began, 1e-9)
        folder = Path(trainer.default_root_dir)
        used = sum(entry.stat().st_size for entry in folder.rglob("*") if entry.is_file())
        free = shutil.disk_usage(folder).free
        share = 100 * min(stopwatch_of(trainer).total() / elapsed, 1.0)
        return (
            f"after {self._steps} steps: about {duration(self.seconds_left(trainer))} to the end"
            f"{'' if self._validation_seconds else ' without validation'}, "
            f"{used / 1e6:.0f} MB on disk ({free / 1e9:.0f} GB free), "
            f"{share:.1f} % of the time spent on interpretability"
        )

    def say(self, line: str) -> None:
        """Print a line, above the bar if there is one."""
        self.console.print(line, highlight=False, soft_wrap=True)

    def _show(self, trainer: Trainer, note: str) -> None:
        if self._bar is None or self._task is None:
            self.say(f"{_epoch(trainer)}  {note}")
        else:
            done = self._first_step + self._steps
            self._bar.update(self._task, completed=done, description=_epoch(trainer), note=note)

    def _close(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None


def duration(seconds: float | None) -> str:
    """Seconds as a reader says them: ``48 s``, ``3 min 20 s``, ``2 h 05 min``."""
    if seconds is None:
        return "?"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def _batches(trainer: Trainer) -> int:
    """Batches per epoch; 0 where nobody knows."""
    count = trainer.num_training_batches
    return int(count) if count != float("inf") else 0


def _epochs(trainer: Trainer) -> int:
    return max(trainer.max_epochs or 0, 0)


def _epoch(trainer: Trainer) -> str:
    return f"epoch {trainer.current_epoch + 1}/{_epochs(trainer) or '?'}"
