"""A few images of a validation set, the same in every run and for any number of processes."""

from typing import Any, final

import torch
import torch.distributed

from interp_train.checks import check_range
from interp_train.evaluation.position_baselines import scrambled
from interp_train.structures import Batch, ImageBatch

_BEHIND_OBJECTS = 2**62  # added to the key of background images, which are used last


@final
class ImageSample:
    """Keeps the images whose scrambled `sample_ids` are smallest; those of the background last.

    Args:
        num_images: how many, over all processes.

    Raises:
        ValueError: for fewer than one.
    """

    def __init__(self, num_images: int) -> None:
        check_range("num_images", num_images, 1)
        self.num_images = num_images
        self._images: ImageBatch | None = None
        self._keys = torch.empty(0, dtype=torch.long)

    def add(self, batch: Batch) -> None:
        """Offer the images of a batch; their prefix activations are not kept."""
        keys = scrambled(batch.sample_ids, 0) + _BEHIND_OBJECTS * (batch.labels < 0)
        images = ImageBatch(*batch[:4], batch.images.new_empty((len(keys), 0, 0, 0)))
        if self._images is not None:
            promising = (keys < self._keys.max()) | (len(self._keys) < self.num_images)
            if not promising.any():
                return
            keys = torch.cat((self._keys, keys[promising]))
            pairs = zip(self._images, images, strict=True)
            images = ImageBatch(*(torch.cat((old, new[promising])) for old, new in pairs))
        order = keys.argsort(stable=True)[: self.num_images]
        self._images, self._keys = ImageBatch(*(field[order] for field in images)), keys[order]

    def take(self) -> ImageBatch | None:
        """The images of this process among those that are kept, which are then let go.

        Every process must call. None where this process has none.
        """
        images, self._images = self._own(), None
        self._keys = self._keys[:0]
        return images if images is not None and len(images.labels) else None

    def _own(self) -> ImageBatch | None:
        if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
            return self._images
        own = self._keys.tolist() if self._images is not None else []
        gathered: list[Any] = [None] * torch.distributed.get_world_size()
        torch.distributed.all_gather_object(gathered, own)
        owners: dict[int, int] = {}  # an image that two processes hold belongs to the first
        for rank, keys in enumerate(gathered):
            owners |= {key: rank for key in keys if key not in owners}
        rank = torch.distributed.get_rank()
        chosen = {key for key in sorted(owners)[: self.num_images] if owners[key] == rank}
        rows = [row for row, key in enumerate(own) if key in chosen]
        return ImageBatch(*(field[rows] for field in self._images)) if self._images else None
