"""Loaders over data sets that make whole batches: of a training split, and of one to measure on."""

from typing import Any

from torch.utils.data import DataLoader

from interp_train.data.samplers import ShardedTrainSampler, ShardedValidationSampler


def whole_batch(batch: Any) -> Any:
    """Collate function of loaders whose data sets make whole batches."""
    return batch


def training_loader(
    dataset: Any, *, batch_size: int, num_workers: int, seed: int
) -> DataLoader[Any]:
    """Augmented batches in an order that follows from (seed, epoch).

    Args:
        dataset: makes whole batches of the current epoch.
        batch_size: samples per batch and process.
        num_workers: loader processes; they live on from epoch to epoch.
        seed: of the order.
    """
    sampler = ShardedTrainSampler(dataset, batch_size, seed)
    return _loader(dataset, sampler, batch_size, num_workers)


def validation_loader(dataset: Any, *, batch_size: int, num_workers: int) -> DataLoader[Any]:
    """Every sample exactly once over all processes.

    Args:
        dataset: makes whole batches.
        batch_size: samples per batch and process.
        num_workers: loader processes; they live on from epoch to epoch.
    """
    return _loader(dataset, ShardedValidationSampler(dataset), batch_size, num_workers)


def _loader(dataset: Any, sampler: Any, batch_size: int, num_workers: int) -> DataLoader[Any]:
    return DataLoader(
        dataset,
        batch_size=batch_size,
        sampler=sampler,
        num_workers=num_workers,
        persistent_workers=num_workers > 0,
        collate_fn=whole_batch,
    )
