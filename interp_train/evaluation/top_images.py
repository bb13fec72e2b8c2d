"""The images that excite each unit most, kept while a stream of maps passes by."""

from typing import final

import torch
from torch import Tensor

from interp_train.checks import check_range, check_shape


@final
class TopImages:
    """The T images with the highest peak of each unit; memory does not grow with the stream.

    Args:
        number: T.

    Attributes:
        values: peaks, descending, float32 ``(K, T)``; fewer columns after fewer images.
        places: where the images stood in the stream, from 0, long ``(K, T)``; the first of equals.
        sample_ids: of the images, long ``(K, T)``.
        maps: of the unit in these images, as they were shown, ``(K, T, h, w)``.
    """

    def __init__(self, number: int) -> None:
        check_range("number", number, 1)
        self.number = number
        self.values, self.places = torch.zeros(0, 0), torch.zeros(0, 0, dtype=torch.long)
        self.sample_ids = self.places
        self.maps = torch.zeros(0, 0, 0, 0)
        self._seen = 0

    def add(self, maps: Tensor, sample_ids: Tensor) -> None:
        """Show the maps of a batch, ``(N, K, h, w)``, and its ids ``(N,)``; K does not change."""
        check_shape("maps", maps, ("N", self.values.shape[0] or "K", "h", "w"))
        peaks = maps.detach().float().amax((2, 3)).T  # far faster than in half precision
        places = torch.arange(self._seen, self._seen + len(maps), device=peaks.device)
        self._seen += len(maps)
        if not len(self.values):
            self.values = peaks.new_zeros(len(peaks), 0)
            self.places = self.sample_ids = places.new_zeros(len(peaks), 0)
            self.maps = maps.detach()[:0].transpose(0, 1)
        values = torch.cat([self.values, peaks], 1)
        order = values.argsort(dim=1, descending=True, stable=True)[:, : self.number]
        self.values = values.gather(1, order)
        self.maps = self._maps_at(order, maps.detach())
        self.places = _joined(self.places, places).gather(1, order)
        self.sample_ids = _joined(self.sample_ids, sample_ids.to(peaks.device)).gather(1, order)

    def _maps_at(self, order: Tensor, fresh: Tensor) -> Tensor:
        """Maps of the chosen images, of those that are kept and then those of a batch."""
        units, known = torch.arange(len(order), device=order.device)[:, None], self.maps.shape[1]
        found = fresh[(order - known).clamp(min=0), units]
        if known:
            kept = self.maps[units, order.clamp(max=known - 1)]
            found = torch.where((order < known)[..., None, None], kept, found)
        return found


def _joined(known: Tensor, fresh: Tensor) -> Tensor:
    return torch.cat([known, fresh.expand(len(known), -1)], 1)
