"""Activations of a frozen prefix, computed once and kept on disk.

A frozen prefix gives the same activations in every epoch, so training can start behind it. Each
training sample has a fixed number of augmented views, the same for every seed, so that the runs of
a study share them; which one an epoch shows follows from (seed, epoch, sample id).
"""

import contextlib
import errno
import fcntl
import hashlib
import json
import logging
import os
import shutil
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol, TextIO, final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from interp_train.checks import check_choice, check_range
from interp_train.data.photos import PhotoDataset
from interp_train.data.random_sources import random_source
from interp_train.data.views import View, mirrored_in_turn
from interp_train.structures import Batch

logger = logging.getLogger(__name__)

# numpy knows no bfloat16, so it is stored as the 16-bit integers of its bits.
_STORED = {
    "float16": (np.float16, torch.float16),
    "bfloat16": (np.int16, torch.bfloat16),
    "float32": (np.float32, torch.float32),
}
_BATCH = 32
_VIEW_SEED = 0  # of the fixed views
_FORMAT = 3  # raised when a change, here or in the draw of views, changes what is stored


class FrozenPrefix(Protocol):
    """What the cache needs of a network: a `Backbone`, or anything that freezes its first layers.

    Attributes:
        prefix: name of the last frozen layer; None without a frozen prefix.
    """

    prefix: str | None

    def weights_hash(self) -> str:
        """Hash of the prefix's weights."""

    def forward_prefix(self, images: Tensor) -> Tensor:
        """Activations of the prefix, without gradients and in evaluation mode."""

    def parameters(self) -> Iterator[torch.nn.Parameter]:
        """All parameters; they tell the device."""


@final
class CachedActivations(Dataset[Batch]):
    """Photos whose batches carry the activations of a network's frozen prefix.

    The file is named by a hash of weights, prefix, transform, data and dtype. It is written by
    the first process that needs it, under a lock, and appears whole or not at all.

    Args:
        photos: the samples.
        network: with a frozen prefix; used only if the file is not there yet.
        folder: where files lie.
        fingerprint: of the samples.
        views: fixed views per sample; more than 1 needs augmentation to differ.
        dtype: ``"float16"``, ``"bfloat16"`` or ``"float32"``.
        with_pixels: whether batches also carry the images.

    Raises:
        ValueError: without a frozen prefix, for an unknown dtype, or for fewer views than a
            batch shows.
        OSError: if the disk cannot hold the file; says how much it needs.
    """

    def __init__(
        self,
        photos: PhotoDataset,
        network: FrozenPrefix,
        folder: Path,
        *,
        fingerprint: str,
        views: int,
        dtype: str,
        with_pixels: bool,
    ) -> None:
        check_choice("dtype", dtype, tuple(_STORED))
        check_range("views", views, 1)
        if network.prefix is None:
            raise ValueError(
                "`network` must have a frozen prefix whose activations can be cached, but it has "
                "none. Set backbone.freeze=<layer>, or cache.enabled=false."
            )
        self.photos = photos
        self.views = views if photos.augmentation is not None else 1
        if self.views < photos.views_per_photo:
            raise ValueError(
                f"`views` must be at least the {photos.views_per_photo} views per photo that a "
                f"batch shows, but got {self.views}. Set cache.views={photos.views_per_photo} or "
                f"more."
            )
        self.dtype = dtype
        self.with_pixels = with_pixels
        self.path = folder / f"{self._key(network, fingerprint)}.npy"
        self._stored: NDArray[Any] | None = None
        if not self._is_whole():
            self._build(network)

    def __len__(self) -> int:
        """Number of samples."""
        return len(self.photos)

    def set_epoch(self, epoch: int) -> None:
        """Show the views of `epoch` from now on."""
        self.photos.set_epoch(epoch)

    def __getitem__(self, index: int) -> Batch:
        """A batch of the one sample `index`."""
        return self.__getitems__([index])

    def __getitems__(self, indices: Sequence[int]) -> Batch:
        """The batch of samples `indices`, in the current epoch."""
        chosen = [number for index in indices for number in self.shown_views(index)]
        indices = [index for index in indices for _ in range(self.photos.views_per_photo)]
        views = [self._view(i, number) for i, number in zip(indices, chosen, strict=True)]
        images = self.photos.pixels(indices, views) if self.with_pixels else _no_images(indices)
        batch = self.photos.batch(indices, views, images)
        return batch._replace(prefix_activations=self._activations(indices, chosen))

    def shown_views(self, index: int) -> list[int]:
        """Which of the fixed views of a sample the current epoch shows, each another one."""
        if self.views == 1:
            return [0]
        sample_id = self.photos.photos[index].sample_id
        source = random_source(self.photos.seed, self.photos.epoch, sample_id)
        shown = [source.randrange(self.views)]
        while len(shown) < self.photos.views_per_photo:
            others = [number for number in range(self.views) if number not in shown]
            if self.photos.mirrors_in_turn:
                others = [n for n in others if (n - shown[-1]) % 2] or others
            shown.append(others[source.randrange(len(others))])
        return shown

    def _view(self, index: int, number: int) -> View:
        view = self.photos.view(index, number, _VIEW_SEED)
        if not self.photos.mirrors_in_turn:
            return view
        return mirrored_in_turn(view, self.photos.view(index, 0, _VIEW_SEED), number)

    def _activations(self, indices: Sequence[int], views: Sequence[int]) -> Tensor:
        if self._stored is None:
            self._stored = np.load(self.path, mmap_mode="r")
        rows = np.stack([self._stored[view, i] for i, view in zip(indices, views, strict=True)])
        return torch.from_numpy(rows).view(_STORED[self.dtype][1]).float()

    def __getstate__(self) -> dict[str, Any]:
        """Without the open file, which each worker process opens for itself."""
        return {**self.__dict__, "_stored": None}

    def _key(self, network: FrozenPrefix, fingerprint: str) -> str:
        content = {
            "format": _FORMAT,
            "weights": network.weights_hash(),
            "prefix": network.prefix,
            "appearance": self.photos.appearance,
            "augmentation": self.photos.augmentation,
            "data": fingerprint,
            "views": self.views,
            "dtype": self.dtype,
        }
        if self.photos.mirrors_in_turn:
            content["mirrors_in_turn"] = True
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:24]

    def _is_whole(self) -> bool:
        """Whether the file is there with all its rows."""
        try:
            stored = np.load(self.path, mmap_mode="r")
        except (OSError, ValueError, EOFError):
            return False
        return bool(stored.shape[:2] == (self.views, len(self)))

    def _build(self, network: FrozenPrefix) -> None:
        folder = self.path.parent
        try:
            folder.mkdir(parents=True, exist_ok=True)
            lock = self.path.with_suffix(".lock").open("w")
        except OSError as error:
            raise OSError(
                f"`cache.folder` must be a folder that can be written, but {str(folder)!r} is "
                f"not: {error}. Set cache.folder=<another>, or cache.enabled=false."
            ) from error
        with _locked(lock):
            if self._is_whole():  # another process was faster
                return
            unfinished = self.path.with_suffix(".unfinished")
            try:
                self._write(network, unfinished)
                unfinished.replace(self.path)
            finally:
                unfinished.unlink(missing_ok=True)

    def _write(self, network: FrozenPrefix, path: Path) -> None:
        device = next(iter(network.parameters())).device
        file: np.memmap[Any, Any] | None = None
        starts = range(0, len(self), _BATCH)
        places = [(view, start) for view in range(self.views) for start in starts]
        # Photos are decoded and cut out in threads, one batch ahead of the network.
        with ThreadPoolExecutor(torch.get_num_threads()) as readers:
            coming = self._reading(readers, *places[0])
            for number, (view, start) in enumerate(places, 1):
                pixels, coming = torch.cat([each.result() for each in coming]), []
                if number < len(places):
                    coming = self._reading(readers, *places[number])
                # Channels last: convolutions on the CPU are 1.6 times as fast.
                images = pixels.to(device, memory_format=torch.channels_last)
                activations = network.forward_prefix(images).cpu()
                if file is None:
                    file = self._open(path, tuple(activations.shape[1:]))
                end = start + len(images)
                file[view, start:end] = self._packed(activations)
                self._tell(view * len(self) + end)
        assert file is not None
        file.flush()

    def _reading(self, readers: ThreadPoolExecutor, view: int, start: int) -> list[Future[Tensor]]:
        """The pixels of a batch's samples, each ``(1, 3, H, W)``."""

        def read(index: int) -> Tensor:
            return self.photos.pixels([index], [self._view(index, view)])

        indices = range(start, min(start + _BATCH, len(self)))
        return [readers.submit(read, index) for index in indices]

    def _packed(self, activations: Tensor) -> NDArray[Any]:
        stored_as, dtype = _STORED[self.dtype]
        converted = activations.detach().to(dtype)
        largest = converted.abs().max()
        if not torch.isfinite(largest):
            raise ValueError(
                f"`dtype` must be able to hold the activations of the prefix, but {self.dtype} "
                f"overflows. Set cache.dtype=float32."
            )
        if self.dtype == "bfloat16":
            converted = converted.view(torch.int16)
        packed: NDArray[Any] = converted.numpy().astype(stored_as, copy=False)
        return packed

    def _open(self, path: Path, shape: tuple[int, ...]) -> np.memmap[Any, Any]:
        stored_as = _STORED[self.dtype][0]
        whole = (self.views, len(self), *shape)
        needed = int(np.prod(whole)) * np.dtype(stored_as).itemsize
        free = shutil.disk_usage(path.parent).free
        logger.info("Caching %.2f GB of prefix activations in %s", needed / 1e9, path.parent)
        try:
            if needed > free:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            file = np.lib.format.open_memmap(path, mode="w+", dtype=stored_as, shape=whole)
            _reserve(path)
        except OSError as error:
            raise OSError(
                f"`cache` needs {needed / 1e9:.2f} GB in {str(path.parent)!r}, where "
                f"{free / 1e9:.2f} GB are free: {error}. Set cache.folder to a larger disk, "
                f"cache.views lower, or cache.enabled=false."
            ) from error
        return file

    def _tell(self, done: int) -> None:
        """A line of progress at every tenth of the work."""
        whole = self.views * len(self)
        if done == whole or 10 * done // whole > 10 * max(done - _BATCH, 0) // whole:
            logger.info("Cached the prefix activations of %d of %d views", done, whole)


def _no_images(indices: Sequence[int]) -> Tensor:
    return torch.zeros(len(indices), 0, 0, 0)


def _reserve(path: Path) -> None:
    """Claim the disk space of a file now: a full disk would later kill the process."""
    if hasattr(os, "posix_fallocate"):
        with path.open("r+b") as file:
            os.posix_fallocate(file.fileno(), 0, path.stat().st_size)


@contextlib.contextmanager
def _locked(file: TextIO) -> Iterator[None]:
    """Hold an exclusive lock; it goes with the process, so a killed run leaves none behind."""
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            logger.info("Waiting for another run, which writes the same prefix activations")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield
