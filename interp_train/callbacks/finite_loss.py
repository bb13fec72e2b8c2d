"""Stop a run whose loss is not a finite number, before it overwrites its last checkpoint."""

from typing import Any, final

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from interp_train.checks import check_range
from interp_train.systems import LearnedSystem

_PREFIX = "loss/train/"


@final
class FiniteLoss(Callback):
    """Raises when the training loss was NaN or infinite, naming the terms that were so first.

    The flags stay on the device and are read every few steps, so that a GPU never waits.

    Args:
        every_n_steps: steps between two looks at the flags; an epoch's end is always one.
    """

    def __init__(self, every_n_steps: int = 50) -> None:
        check_range("every_n_steps", every_n_steps, 1)
        self.every_n_steps = every_n_steps
        self._names: list[str] = []
        self._flags: Tensor | None = None

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Forget the flags of the epoch before."""
        self._flags = None

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Flag what is not finite, unless something was before: NaN spreads to every term."""
        loss = outputs["loss"] if isinstance(outputs, dict) else outputs
        if not isinstance(loss, Tensor):
            return
        terms = pl_module.training_terms if isinstance(pl_module, LearnedSystem) else {}
        if not terms:
            logged = trainer.callback_metrics
            terms = {key: value for key, value in logged.items() if key.startswith(_PREFIX)}
        values = torch.stack([value.to(loss).detach() for value in (loss, *terms.values())])
        bad = ~torch.isfinite(values)
        if self._flags is None or len(self._flags) != len(bad):
            self._names = ["the sum", *(key.removeprefix(_PREFIX) for key in terms)]
            self._flags = bad
        else:
            self._flags = torch.where(self._flags.any(), self._flags, bad)
        if (batch_idx + 1) % self.every_n_steps == 0:
            self._check(trainer)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Look before a validation spends its time."""
        self._check(trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Look before the epoch's checkpoint is written."""
        self._check(trainer)

    def _check(self, trainer: Trainer) -> None:
        if self._flags is None or not bool(self._flags.any()):
            return
        bad = [name for name, flag in zip(self._names, self._flags.tolist(), strict=True) if flag]
        named = [name for name in bad if name != "the sum"] or bad
        raise FloatingPointError(
            f"The loss must be finite, but became NaN or infinite in epoch "
            f"{trainer.current_epoch + 1}, at step {trainer.global_step} or up to "
            f"{self.every_n_steps} steps before; first in: {', '.join(named)}. Lower the "
            f"learning rate or that term's weight, or train in float32; the checkpoint of the "
            f"epoch before is kept."
        )
