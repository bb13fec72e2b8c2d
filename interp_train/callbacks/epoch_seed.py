"""Random numbers of an epoch depend on the seed and the epoch only, not on what ran before.

A run that resumes at an epoch therefore draws what it would have drawn without the
interruption, and a callback that draws random numbers does not change the training.
"""

import random
from typing import Any, final

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer


@final
class EpochSeed(Callback):
    """Seeds torch, NumPy and Python from (seed, epoch, process) before an epoch's first batch.

    Not at the start of the epoch: the data loader still draws there, and only sometimes.

    Args:
        seed: the run's seed.
    """

    def __init__(self, seed: int = 0) -> None:
        self.seed = seed

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Seed at the first batch."""
        if batch_idx == 0:
            sequence = np.random.SeedSequence(
                [self.seed, trainer.current_epoch, trainer.global_rank]
            )
            words = [int(word) for word in sequence.generate_state(3)]
            torch.manual_seed(words[0])
            np.random.seed(words[1])  # noqa: NPY002  # the global state is what must be fixed
            random.seed(words[2])
