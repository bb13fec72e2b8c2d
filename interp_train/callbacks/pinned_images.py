"""The same few validation images in every validation of every run, and records of pictures.

Pinned images are chosen by their place in the validation set, so runs on the same data show the
same images, whatever the number of processes. They are loaded once and kept.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor, nn

from interp_train.activations import unwrapped
from interp_train.checks import check_range
from interp_train.figures import rescaled, unnormalised
from interp_train.structures import BACKGROUND, Batch
from interp_train.systems import LearnedSystem

ToBatch = Callable[[Any], Batch]


def spread_indices(length: int, number: int) -> list[int]:
    """`number` places spread evenly over `length`, the first and the last included."""
    return torch.linspace(0, length - 1, min(number, length)).round().long().tolist()


def validation_loader(trainer: Trainer) -> Any:
    """The (first) validation loader.

    Raises:
        ValueError: if its images cannot be read by their place in the data set.
    """
    loaders = trainer.val_dataloaders
    loader = loaders[0] if isinstance(loaders, list | tuple) else loaders
    dataset = getattr(loader, "dataset", None)
    if not (hasattr(dataset, "__getitem__") and hasattr(dataset, "__len__")):
        raise ValueError(
            f"The validation loader must have a data set with `__getitem__` and `__len__` for "
            f"pictures of chosen images, but got {type(loader).__name__}. Leave out the callbacks "
            f"that draw panels."
        )
    return loader


def loaded_images(trainer: Trainer, indices: Sequence[int], to_batch: ToBatch | None) -> Batch:
    """Images of the validation set by their place in it, on the CPU.

    Args:
        trainer: validates at the moment.
        indices: places in the data set.
        to_batch: turns a collated batch into an `ImageBatch` or `PartBatch`; None if it is one.
    """
    batch = images_at(validation_loader(trainer), indices)
    made: Batch = to_batch(batch) if to_batch is not None else batch
    return made


def images_at(loader: Any, indices: Sequence[int]) -> Any:
    """A batch of the images at these places of a loader's data set."""
    for index in indices:
        check_range("indices", index, 0, len(loader.dataset) - 1)
    fetch = getattr(loader.dataset, "__getitems__", None)  # as a DataLoader does
    items = fetch(list(indices)) if fetch else [loader.dataset[index] for index in indices]
    return loader.collate_fn(items)


def batch_places(trainer: Trainer) -> list[list[int]]:
    """Places in the validation set of the images of each batch of this process.

    The global random state is left as it was, should the sampler draw from it.
    """
    with torch.random.fork_rng(devices=[]):
        return [
            [int(place) for place in batch] for batch in validation_loader(trainer).batch_sampler
        ]


def pinned_images(
    trainer: Trainer,
    *,
    number: int,
    indices: Sequence[int] | None = None,
    to_batch: ToBatch | None = None,
) -> Batch:
    """The pinned images: `indices`, or `number` spread evenly over the images with a category.

    Four times as many are looked at; background images fill up where too few have a category.
    """
    if indices is not None:
        return loaded_images(trainer, indices, to_batch)
    length = len(validation_loader(trainer).dataset)
    candidates = loaded_images(trainer, spread_indices(length, 4 * number), to_batch)
    objects = (candidates.labels != BACKGROUND).nonzero()[:, 0]
    background = (candidates.labels == BACKGROUND).nonzero()[:, 0]
    chosen = objects[spread_indices(len(objects), number)] if len(objects) else objects
    chosen = torch.cat([chosen, background[: number - len(chosen)]])
    return type(candidates)(*(field[chosen] if len(field) else field for field in candidates))


def network_of(module: LightningModule) -> nn.Module:
    """The network of a learning system, or the module itself if it is no `LearnedSystem`."""
    return unwrapped(module.network if isinstance(module, LearnedSystem) else module)


def pixels_of(module: LightningModule, images: Tensor) -> Tensor:
    """Images in [0, 1], float32 ``(N, 3, H, W)`` on the CPU.

    Undoes the normalisation that the module's `data_info` states; without one, stretches the
    batch's range.
    """
    info = getattr(module, "data_info", None)
    images = images.detach().cpu()
    return rescaled(images) if info is None else unnormalised(images, info.mean, info.std)


def class_names_of(module: LightningModule, number: int) -> tuple[str, ...]:
    """Names of the categories, or their numbers where the module does not know them."""
    info = getattr(module, "data_info", None)
    return info.class_names if info is not None else tuple(map(str, range(number)))


def save_record(trainer: Trainer, name: str, **arrays: Any) -> Path:
    """Replace ``<default_root_dir>/measures/panels/<name>.npz`` in one step."""
    return write_record(Path(trainer.default_root_dir), name, **arrays)


def write_record(folder: Path, name: str, **arrays: Any) -> Path:
    """Replace ``<folder>/measures/panels/<name>.npz`` in one step."""
    panels = folder / "measures" / "panels"
    panels.mkdir(parents=True, exist_ok=True)
    part = panels / f".{name}.part.npz"
    np.savez_compressed(part, **arrays)
    return part.replace(panels / f"{name}.npz")


def as_bytes(pixels: Tensor) -> Any:
    """Pixels in [0, 1] as uint8 array."""
    return (pixels.clamp(0, 1) * 255).round().to(torch.uint8).numpy()
