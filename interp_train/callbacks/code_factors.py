"""Scores of latent codes and factors; see `interp_train.evaluation.disentanglement`."""

from typing import Any, final

from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor
from torch.nn import functional

from interp_train.callbacks.layer_metrics import measures_now
from interp_train.checks import check_range
from interp_train.evaluation.disentanglement import (
    Disentanglement,
    disentanglement_scores,
    principal_codes,
    random_codes,
)
from interp_train.learning.infogan.module import InfoGan
from interp_train.stopwatch import stopwatch_of
from interp_train.structures import FactorBatch

_SIDE = 16  # pixels of the images whose principal components are a baseline


@final
class CodeFactors(Callback):
    """Logs `disentanglement_scores` of what Q reads in the validation images as ``codes/<score>``.

    Beside them, measured once, those of as many random codes (``codes/<score>_random_codes``) and
    of as many principal components of the images at 16 pixels
    (``codes/<score>_principal_codes``).

    Args:
        baselines: whether these are measured.
        seed: of what the scores draw.
        every_n_epochs: measures in every n-th epoch of a fit, in its last, and in every `validate`.
    """

    def __init__(self, *, baselines: bool = True, seed: int = 0, every_n_epochs: int = 1) -> None:
        check_range("every_n_epochs", every_n_epochs, 1)
        self.baselines, self.seed, self.every_n_epochs = baselines, seed, every_n_epochs
        self._codes, self._pixels = Disentanglement(seed), Disentanglement(seed)
        self._known: dict[str, Tensor] = {}  # scores of the baselines

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start anew."""
        for metric in (self._codes, self._pixels):
            metric.to(pl_module.device).reset()

    def on_validation_batch_end(  # noqa: PLR0917  # Lightning's signature
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Read the codes of one batch.

        Raises:
            ValueError: if the system has no codes, or the data no factors.
        """
        if not measures_now(trainer, self.every_n_epochs):
            return
        if not isinstance(pl_module, InfoGan) or not isinstance(batch, FactorBatch):
            raise ValueError(
                f"`callbacks.code_factors` must watch a system with latent codes on data with "
                f"factors, such as learning=infogan data=sprites_factors, but got "
                f"{type(pl_module).__name__} and {type(batch).__name__}. Leave the callback out."
            )
        with stopwatch_of(trainer).measure("code_factors"):
            ids = batch.sample_ids
            self._codes.update(pl_module.estimates(batch.images), batch.factors, ids)
            if self.baselines and not self._known:
                small = functional.adaptive_avg_pool2d(batch.images, _SIDE).flatten(1)
                self._pixels.update(small, batch.factors, ids)

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log all scores; every process computes the same."""
        if not (measures_now(trainer, self.every_n_epochs) and isinstance(pl_module, InfoGan)):
            return
        with stopwatch_of(trainer).measure("code_factors"):
            scores = self._codes.compute()
            if self.baselines and not self._known:
                self._known = self._baseline_scores(len(pl_module.prior.codes))
            logged = {f"codes/{name}": value.float() for name, value in scores.items()}
            pl_module.log_dict(logged | self._known)

    def _baseline_scores(self, count: int) -> dict[str, Tensor]:
        with self._pixels.sync_context(self._pixels.dist_sync_fn):
            pixels, factors, ids = self._pixels.table()
        found: dict[str, Tensor] = {}
        for name, codes in {
            "random_codes": random_codes(ids, count, self.seed),
            "principal_codes": principal_codes(pixels, count),
        }.items():
            scores = disentanglement_scores(codes, factors, seed=self.seed)
            found |= {f"codes/{key}_{name}": value.float() for key, value in scores.items()}
        return found
