"""Record what the network said about every validation image, for paired comparisons of runs."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, final

import numpy as np
import numpy.typing as npt
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from interp_train.stopwatch import stopwatch_of
from interp_train.structures import BACKGROUND, Batch, StepOutputs


@final
class Predictions(Callback):
    """Writes ``measures/predictions.npz`` after each validation, merged over processes.

    Arrays of length N, sorted by `sample_ids`, each image once: `sample_ids`, `labels`,
    `predictions` (category or `BACKGROUND`) and `confidences` (probability of the prediction).
    Beside them `class_names`, empty where the module does not know them.
    """

    def __init__(self) -> None:
        self._parts: list[tuple[Tensor, Tensor, Tensor, Tensor]] = []

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start anew."""
        self._parts = []

    def on_validation_batch_end(  # noqa: PLR0917  # Lightning's signature
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Batch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Keep the predictions of one batch."""
        if trainer.sanity_checking or not isinstance(outputs, StepOutputs):
            return
        with stopwatch_of(trainer).measure("predictions"):
            loss = str(getattr(pl_module, "loss", "softmax"))
            background = getattr(pl_module, "background", None)
            logits = outputs.logits.detach().float()
            predictions, confidences = predict(logits, loss, background)
            self._parts.append((batch.sample_ids, batch.labels, predictions, confidences))

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Merge over processes and write."""
        if trainer.sanity_checking:
            return
        with stopwatch_of(trainer).measure("predictions"):
            own = [
                np.concatenate([part[i].cpu().numpy() for part in self._parts])
                if self._parts
                else np.empty(0)
                for i in range(4)
            ]
            columns = [np.concatenate(c) for c in zip(*_gathered(own), strict=True)]
            if trainer.is_global_zero and len(columns[0]):
                info = getattr(pl_module, "data_info", None)
                names = info.class_names if info is not None else ()
                _write(Path(trainer.default_root_dir) / "measures", columns, names)
        self._parts = []


def predict(logits: Tensor, loss: str, background: bool | None = None) -> tuple[Tensor, Tensor]:
    """Predicted category and its probability.

    Args:
        logits: ``(N, C)``.
        loss: ``"logistic"`` (each category against the rest) or ``"softmax"``.
        background: whether the answer is `BACKGROUND` where no category reaches one half; None
            means: with the logistic loss.

    Returns:
        Long ``(N,)`` and float ``(N,)``. For `BACKGROUND` the probability, by the largest logit,
        that no category is present.
    """
    logistic = loss == "logistic"
    best = (logits.sigmoid() if logistic else logits.softmax(1)).max(1)
    if not (logistic if background is None else background):
        return best.indices, best.values
    present = logits.amax(1) > 0
    predictions = torch.where(present, best.indices, BACKGROUND)
    return predictions, torch.where(present, best.values, 1 - best.values)


def _gathered(own: list[npt.NDArray[Any]]) -> list[list[npt.NDArray[Any]]]:
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return [own]
    found: list[Any] = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(found, own)
    return found


def _write(folder: Path, columns: list[npt.NDArray[Any]], class_names: Sequence[str]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    sample_ids, first = np.unique(columns[0].astype(np.int64), return_index=True)
    names = ("labels", "predictions", "confidences")
    rest = {name: column[first] for name, column in zip(names, columns[1:], strict=True)}
    rest["class_names"] = np.array(class_names, dtype=np.str_)
    part = folder / ".predictions.part.npz"
    np.savez_compressed(part, allow_pickle=False, sample_ids=sample_ids, **rest)
    part.replace(folder / "predictions.npz")
