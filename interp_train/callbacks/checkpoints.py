"""The last and the best checkpoint of a run, each replaced in one step.

A checkpoint is written when an epoch ends and, once, before the first step, so a run that is
interrupted at any moment resumes from the latest end of an epoch. Together with `EpochSeed` a
resumed run equals one that was never interrupted.
"""

import math
from pathlib import Path
from typing import Any, final

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint

from interp_train.atomic_files import replace_by_copy
from interp_train.checks import check_choice, closest


@final
class Checkpoints(Checkpoint):
    """Writes ``checkpoints/last.ckpt`` and ``checkpoints/best.ckpt`` below the trainer's root.

    Args:
        quantity: logged quantity that decides which epoch is the best; None keeps only the last.
        mode: ``"max"`` or ``"min"``.
        every_n_epochs: epochs between two checkpoints.
    """

    def __init__(
        self, quantity: str | None = None, mode: str = "max", every_n_epochs: int = 1
    ) -> None:
        check_choice("mode", mode, ("max", "min"))
        self.quantity = quantity
        self.mode = mode
        self.every_n_epochs = every_n_epochs
        self.best_value: float | None = None
        self.best_epoch: int | None = None
        self._validated = False

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Make the run resumable before its first step."""
        if trainer.global_step == 0:
            self._save(trainer)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """From here on the quantity must be known."""
        self._validated = not trainer.sanity_checking

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the last checkpoint, and the best if this epoch is."""
        last = trainer.current_epoch + 1 == trainer.max_epochs or trainer.should_stop
        due = last or (trainer.current_epoch + 1) % self.every_n_epochs == 0
        improved = due and self._improves(trainer)
        if due:
            self._save(trainer)
        if improved and trainer.is_global_zero and not trainer.fast_dev_run:  # type: ignore[attr-defined]
            folder = _folder(trainer)
            replace_by_copy(folder / "last.ckpt", folder / "best.ckpt")
        self._check_quantity(trainer)

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run must know of the best epoch so far."""
        return {"quantity": self.quantity, "value": self.best_value, "epoch": self.best_epoch}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Forget the best epoch if it was the best by another quantity."""
        if state_dict["quantity"] == self.quantity:
            self.best_value, self.best_epoch = state_dict["value"], state_dict["epoch"]

    def _improves(self, trainer: Trainer) -> bool:
        if self.quantity is None or self.quantity not in trainer.callback_metrics:
            return False
        value = float(trainer.callback_metrics[self.quantity])
        sign = 1 if self.mode == "max" else -1
        known = self.best_value
        if math.isnan(value) or (known is not None and sign * value <= sign * known):
            return False
        self.best_value, self.best_epoch = value, trainer.current_epoch
        return True

    def _check_quantity(self, trainer: Trainer) -> None:
        known = trainer.callback_metrics
        if self.quantity is None or not self._validated or self.quantity in known:
            return
        raise ValueError(
            f"`monitor.quantity` must name a quantity that this run logs, but got "
            f"{self.quantity!r}. Closest names: {closest(self.quantity, known)}. "
            f"The run can go on from its last checkpoint: "
            f"resume={trainer.default_root_dir} monitor.quantity=<name>."
        )

    def _save(self, trainer: Trainer) -> None:
        if trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        folder = _folder(trainer)
        part = folder / "last.ckpt.part"
        trainer.save_checkpoint(part, weights_only=False)  # every process takes part
        if trainer.is_global_zero:
            part.replace(folder / "last.ckpt")


def _folder(trainer: Trainer) -> Path:
    folder = Path(trainer.default_root_dir) / "checkpoints"
    folder.mkdir(parents=True, exist_ok=True)
    return folder
