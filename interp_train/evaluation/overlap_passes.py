"""Two passes over a probe set, thresholds first and then counts, with one look at the images.

Thresholds must be known before a pixel can be counted. Low-resolution maps are small, so they are
kept in memory and counted after the last batch; where they exceed a budget, they are dropped, the
tails of their values are kept instead, and the images must be shown a second time.
"""

from collections.abc import Sequence
from typing import NamedTuple, final

import torch
from torch import Tensor

from interp_train.checks import check_range
from interp_train.collectives import (
    max_over_processes,
    num_processes,
    process_index,
    sum_over_processes,
)
from interp_train.evaluation.active_pixels import PixelGrid
from interp_train.evaluation.concept_labels import (
    ConceptScheme,
    LabelCounts,
    labelled_batch,
)
from interp_train.evaluation.concept_overlap import OverlapCounts
from interp_train.evaluation.position_baselines import scrambled
from interp_train.evaluation.row_gathering import gather_rows
from interp_train.evaluation.unit_basis import Rules, UnitBasis
from interp_train.thread_map import thread_map


class Shown(NamedTuple):
    """One batch, as it is kept.

    Attributes:
        maps: rounded maps, ``(N, K, h, w)``.
        labels: label maps, ``(N, M, H, W)``.
        sample_ids: identity of each image, long ``(N,)``.
    """

    maps: Tensor
    labels: Tensor
    sample_ids: Tensor


class _BatchCounts(NamedTuple):
    """What was counted of a batch: labels, images, and units of each basis per labelling."""

    labels: LabelCounts
    number: int
    counts: list[list[OverlapCounts]]


class OverlapTotals(NamedTuple):
    """Merged counts of a layer.

    Attributes:
        own: of the units.
        shuffled: of the units with the masks of other images, or None.
        rotated: of the rotated units, or None.
        labels: occurrence of the concepts.
        thresholds: of the units, ``(K, Q)``.
    """

    own: OverlapCounts
    shuffled: OverlapCounts | None
    rotated: OverlapCounts | None
    labels: LabelCounts
    thresholds: Tensor


@final
class OverlapPasses:
    """Shows a probe set to the units of a layer, once or twice.

    Args:
        rules: how to count.
        scheme: the concepts.
        device: where counts are kept.
        rotation: whether a rotated basis is counted too.
        exchange: whether masks are exchanged between images too; only if all maps are kept.
        cache_bytes: for maps and label maps.
        num_images: at most so many are shown, over all processes; None needs the cache.
        seed: of the rotation and of the exchange.
    """

    def __init__(
        self,
        rules: Rules,
        scheme: ConceptScheme,
        device: torch.device,
        *,
        rotation: bool,
        exchange: bool,
        cache_bytes: int,
        num_images: int | None,
        seed: int,
    ) -> None:
        self.rules, self.scheme, self.device = rules, scheme, device
        self.exchange, self.cache_bytes = exchange, cache_bytes
        self.num_images, self.seed = num_images, seed
        self.bases = [UnitBasis(rules, scheme, s) for s in ([None, seed] if rotation else [None])]
        self.settled = False
        self._kept: list[Shown] | None = []
        self._grid: PixelGrid | None = None
        self._values_per_image = self._bytes = self._images = self._counted = 0
        self._finite = torch.ones((), dtype=torch.bool, device=device)
        self._labels: LabelCounts | None = None

    def show(self, batch: Shown, grid: PixelGrid) -> None:
        """One batch of the first pass, or of the second once `settled`.

        Raises:
            ValueError: if the cache is full and `num_images` is not known.
        """
        if self.settled:
            self._add(self._counts_of(batch, self._in_all_bases(batch), None, grid))
            return
        self._grid = grid
        self._values_per_image = self.rules.values_per_image(grid, batch.maps.shape[2:].numel())
        self._images += len(batch.maps)
        for extreme in batch.maps.aminmax() if batch.maps.numel() else ():  # NaN is one, too
            self._finite = self._finite & extreme.isfinite()
        if self._kept is None:
            self._observe(self._in_all_bases(batch))
            return
        self._kept.append(batch)
        self._bytes += batch.maps.nbytes + batch.labels.nbytes
        if self._bytes > self.cache_bytes:
            self._drop_cache()

    def leave_out_baselines(self) -> None:
        """Count the units against their own masks only; before `settle`."""
        self.bases, self.exchange = self.bases[:1], False

    def settle(self) -> bool:
        """End the first pass: find the thresholds, and count what is kept; a collective.

        Returns:
            Whether this process must show its images again.

        Raises:
            ValueError: if no process has seen an image, an activation is not finite, or there were
                more than `num_images`.
        """
        total = self._summed(self._images)
        self._check(total)
        everywhere = not self._summed(self._kept is None)
        values = max_over_processes(torch.tensor(self._values_per_image, device=self.device))
        kept = thread_map(self._in_all_bases, self._kept or [], self.device)
        if self._kept is not None:
            self._open(total * int(values))
            if self._grid is not None:
                for number, basis in enumerate(self.bases):
                    basis.observe_all([maps[number] for maps in kept], self._grid)
        for basis in self.bases:
            basis.settle()
        self.settled, self.exchange = True, self.exchange and everywhere
        return not self._count_kept(kept)

    def totals(self) -> OverlapTotals:
        """Merged counts; a collective.

        Raises:
            ValueError: if the second pass did not show the images of the first.
        """
        if self._counted != self._images:
            raise ValueError(
                f"`update` must be called with the same {self._images} images after "
                f"`start_second_pass`, but got {self._counted}. Show them again, or raise "
                f"`cache_bytes`."
            )
        own, *others = [
            basis.counts(1 + (self.exchange and number == 0))
            for number, basis in enumerate(self.bases)
        ]
        thresholds = self.bases[0].thresholds
        assert thresholds is not None
        return OverlapTotals(
            own=own[0],
            shuffled=own[1] if self.exchange else None,
            rotated=others[0][0] if others else None,
            labels=self._merged_labels(),
            thresholds=thresholds,
        )

    def _check(self, total: int) -> None:
        if not total:
            raise ValueError(
                "`update` must be called with at least one image before `compute`, but no process "
                "has seen an image."
            )
        if self.num_images is not None:
            check_range("num_images", self.num_images, total)
        if self._summed(~self._finite):
            raise ValueError(
                "`activations` must be finite, but some are not. The network has diverged."
            )

    def _open(self, num_values: int) -> None:
        for basis in self.bases:
            basis.open(num_values, self.device)

    def _in_all_bases(self, batch: Shown) -> list[Tensor]:
        return [basis.maps_of(batch.maps) for basis in self.bases]

    def _observe(self, maps: list[Tensor]) -> None:
        assert self._grid is not None
        for basis, own in zip(self.bases, maps, strict=True):
            basis.observe(own, self._grid)

    def _drop_cache(self) -> None:
        """Keep tails instead of maps from now on."""
        if self.num_images is None:
            raise ValueError(
                f"`num_images` must be given for data that exceed the cache, but got None and "
                f"{self._bytes} bytes > cache_bytes={self.cache_bytes}. Give the number of images "
                f"of all processes and show them twice, or raise `cache_bytes`."
            )
        kept, self._kept = self._kept or [], None
        self._open(self.num_images * self._values_per_image)
        for batch in kept:
            self._observe(self._in_all_bases(batch))

    def _count_kept(self, maps: list[list[Tensor]]) -> bool:
        """Count what is kept, and let it go; False if nothing was to be kept."""
        kept, self._kept = self._kept, None
        if kept is None:
            return False
        others = exchanged(kept, self.seed, self.device) if self.exchange else [None] * len(kept)

        def count(index: int) -> _BatchCounts:
            assert self._grid is not None
            return self._counts_of(kept[index], maps[index], others[index], self._grid)

        for found in thread_map(count, range(len(kept)), self.device):
            self._add(found)
        return True

    def _counts_of(
        self, batch: Shown, maps: Sequence[Tensor], others: Tensor | None, grid: PixelGrid
    ) -> _BatchCounts:
        """Count a batch, given its maps in all bases and label maps of other images."""
        own = labelled_batch(batch.labels, self.scheme)
        shuffled = [] if others is None else [labelled_batch(others, self.scheme)]
        counts = [
            basis.tally(there, [own, *(shuffled if number == 0 else ())], grid)
            for number, (basis, there) in enumerate(zip(self.bases, maps, strict=True))
        ]
        return _BatchCounts(own.counts, len(batch.labels), counts)

    def _add(self, found: _BatchCounts) -> None:
        known = self._labels
        labels = found.labels
        self._labels = labels if known is None else LabelCounts(*map(torch.add, known, labels))
        self._counted += found.number
        for basis, counts in zip(self.bases, found.counts, strict=True):
            basis.add(counts)

    def _merged_labels(self) -> LabelCounts:
        counts = self._labels
        if counts is None:
            zeros = torch.zeros(len(self.scheme.names), dtype=torch.long, device=self.device)
            counts = LabelCounts(zeros, zeros, zeros.sum())
        return LabelCounts(*map(sum_over_processes, counts))

    def _summed(self, number: float | Tensor) -> int:
        return int(sum_over_processes(torch.as_tensor(number, device=self.device).long()))


def exchanged(kept: Sequence[Shown], seed: int, device: torch.device) -> list[Tensor]:
    """For each image the label maps of another one, whichever process has it; a collective.

    The images are put in an order that follows from the seed and their `sample_id` alone, and
    each takes the labels of the next.

    Args:
        kept: the images of this process.
        seed: of the order.
        device: where a process without images takes part.

    Returns:
        Label maps, batch by batch.
    """
    nothing = torch.zeros(0, device=device)
    labels = torch.cat([batch.labels for batch in kept]) if kept else nothing
    ids = torch.cat([batch.sample_ids.to(device) for batch in kept]) if kept else nothing
    own, offset = len(labels), 0
    if num_processes() > 1:
        # As bytes: not every backend carries 16-bit integers.
        parts = gather_rows(labels.view(torch.uint8) if own else labels)
        offset = sum(map(len, parts[: process_index()]))
        all_ids = torch.cat([part for part in gather_rows(ids) if len(part)])
        everything = torch.cat([part for part in parts if len(part)])
        labels, ids = everything.view(labels.dtype) if own else everything, all_ids
    order = scrambled(ids, seed).argsort(stable=True)
    partner_of = torch.empty_like(order).index_put((order,), order.roll(-1))
    others = labels[partner_of[offset : offset + own]]
    return list(torch.split(others, [len(batch.labels) for batch in kept])) if kept else []
