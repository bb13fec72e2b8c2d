"""Keep the numbers of the latest validation in the run's folder, whatever happens later."""

from pathlib import Path
from typing import final

from lightning.pytorch import Callback, LightningModule, Trainer

from interp_train.atomic_files import write_json


@final
class RunStatus(Callback):
    """Writes ``result.json``, flat, after each validation: every quantity but those of training."""

    def __init__(self) -> None:
        self.metrics: dict[str, float] = {}

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the quantities as they are after this validation."""
        if trainer.sanity_checking:
            return
        self.metrics = {
            key: float(value)
            for key, value in trainer.callback_metrics.items()
            if "train" not in key.split("/")  # of the epoch before, or of one step
        }
        if trainer.is_global_zero:
            epoch = float(trainer.current_epoch)
            folder = Path(trainer.default_root_dir)
            write_json(folder / "result.json", {"epoch": epoch, **self.metrics})
