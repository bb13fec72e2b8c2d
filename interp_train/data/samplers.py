"""Samplers that split the data over processes, without padding and without forgetting.

Lightning's own distributed sampler repeats samples so that all processes see equally many, which
changes every validation measure, and cuts batches so that 1 and 2 processes train differently.
Use these with ``Trainer(use_distributed_sampler=False)``.
"""

from collections.abc import Iterator, Sized
from typing import Any, final

import torch
from torch.utils.data import Sampler

from interp_train.checks import check_range
from interp_train.collectives import num_processes, process_index


@final
class ShardedTrainSampler(Sampler[int]):
    """Random order that follows from (seed, epoch) alone, cut into global batches.

    The global batch b holds the same samples for 1 process with batch size B and for 2 processes
    with batch size B / 2; process r takes its r-th piece. The last, incomplete global batch is
    left out, so that every process takes equally many steps.

    Args:
        dataset: told of each new epoch through its `set_epoch`, if it has one.
        batch_size: samples per step and process.
        seed: of the order.

    Raises:
        ValueError: if the data do not fill one global batch.
    """

    def __init__(self, dataset: Sized, batch_size: int, seed: int = 0) -> None:
        check_range("batch_size", batch_size, 1)
        self.dataset = dataset
        self.batch_size = batch_size
        self.seed = seed
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Order and augmentation of `epoch` from now on; Lightning calls this."""
        self.epoch = epoch
        notify: Any = getattr(self.dataset, "set_epoch", None)
        if notify is not None:
            notify(epoch)

    def __len__(self) -> int:
        """Number of samples of this process."""
        whole = self.batch_size * num_processes()
        batches = len(self.dataset) // whole
        if batches == 0:
            raise ValueError(
                f"`batch_size` times the number of processes must be <= the number of training "
                f"samples, but got {self.batch_size} x {num_processes()} > {len(self.dataset)}. "
                f"Make the batch smaller."
            )
        return batches * self.batch_size

    def __iter__(self) -> Iterator[int]:
        """Indices of this process, batch after batch."""
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + self.epoch)
        order = torch.randperm(len(self.dataset), generator=generator)
        batches = len(self) // self.batch_size
        whole = batches * self.batch_size * num_processes()
        pieces = order[:whole].view(batches, num_processes(), self.batch_size)
        yield from pieces[:, process_index()].flatten().tolist()


@final
class ShardedValidationSampler(Sampler[int]):
    """Every sample exactly once over all processes, in order; nothing is repeated."""

    def __init__(self, dataset: Sized) -> None:
        self.dataset = dataset

    def __len__(self) -> int:
        """Number of samples of this process."""
        return len(range(process_index(), len(self.dataset), num_processes()))

    def __iter__(self) -> Iterator[int]:
        """Indices of this process."""
        yield from range(process_index(), len(self.dataset), num_processes())
