"""The units of a layer in one basis: their thresholds, then their overlap with concepts.

A layer has its own basis and, as a baseline, a rotated one: D. Bau et al., "Network Dissection",
CVPR 2017, sec. 3.2. A random rotation of the activations changes nothing that a following layer
could not undo, so what it destroys belongs to the single units.

Deviates from Bau et al., where the threshold comes from a sketch: the tail is exact.
"""

import functools
from collections.abc import Sequence
from typing import NamedTuple, final

import torch
from torch import Tensor

from interp_train.collectives import sum_over_processes
from interp_train.evaluation.active_pixels import PixelGrid, active_pixels, active_rows
from interp_train.evaluation.concept_labels import ConceptScheme, LabelledBatch
from interp_train.evaluation.concept_overlap import OverlapCounts, overlap_counts
from interp_train.streaming import TailTopK, tail_size

_LARGEST_HALF = 65504.0


class Rules(NamedTuple):
    """How pixels are counted.

    Attributes:
        quantiles: shares of the values that exceed a threshold, ascending.
        threshold_on: ``"feature"``: of the values of the maps; ``"upsampled"``: of the pixels of
            the upsampled maps.
        union: see `interp_train.evaluation.concept_overlap`.
        half_precision: whether maps are rounded to half precision.
    """

    quantiles: tuple[float, ...]
    threshold_on: str
    union: str
    half_precision: bool

    def rounded(self, maps: Tensor) -> Tensor:
        """`maps` as they are kept; values beyond ±65504 become that in half precision."""
        if not self.half_precision:
            return maps.detach().float()
        return maps.detach().half().clamp(-_LARGEST_HALF, _LARGEST_HALF)

    def values_per_image(self, grid: PixelGrid, cells: int) -> int:
        """How many values of one image a threshold is taken of."""
        return cells if self.threshold_on == "feature" else grid.height * grid.width


@functools.lru_cache(maxsize=4)
def random_rotation(num_units: int, seed: int) -> Tensor:
    """An orthogonal matrix drawn uniformly (F. Mezzadri 2007, sec. 4), float64 ``(K, K)``."""
    with torch.inference_mode(False):
        generator = torch.Generator().manual_seed(seed)
        normal = torch.randn(num_units, num_units, generator=generator, dtype=torch.float64)
        columns, upper = torch.linalg.qr(normal)
        rotation: Tensor = columns * upper.diagonal().sign()
        return rotation


def rotated(maps: Tensor, rotation: Tensor) -> Tensor:
    """Maps of the rotated units, float32 ``(N, K, h, w)``.

    Image by image, so that on the CPU no bit depends on the images of the batch.
    """
    matrix = rotation.to(maps.device, torch.float32).expand(len(maps), -1, -1)
    with torch.autocast(maps.device.type, enabled=False):
        turned = torch.bmm(matrix, maps.flatten(2).float())
    return turned.view(maps.shape)


@final
class UnitBasis:
    """Thresholds and counts of the units of a layer in one basis.

    Call `observe` with every image, then `settle` once, then `tally` with every image and `add`
    with what it finds, then `counts`; maps come from `maps_of`.

    Args:
        rules: how to count.
        scheme: the concepts.
        rotation_seed: of the rotation; None is the basis of the network.

    Attributes:
        thresholds: descending, ``(K, Q)``; None before `settle`.
    """

    def __init__(
        self, rules: Rules, scheme: ConceptScheme, rotation_seed: int | None = None
    ) -> None:
        self.rules, self.scheme, self.rotation_seed = rules, scheme, rotation_seed
        self.thresholds: Tensor | None = None
        self._tail: TailTopK | None = None
        self._counts: list[OverlapCounts] = []

    def open(self, num_values: int, device: torch.device) -> None:
        """Make room for the tail of at most `num_values` values per unit, over all processes."""
        capacity = tail_size(self.rules.quantiles[-1], num_values) + 1
        self._tail = TailTopK(min(capacity, num_values), device)

    def observe_all(self, batches: Sequence[Tensor], grid: PixelGrid) -> None:
        """First pass: the maps of all batches in this basis, as `observe`, at once."""
        assert self._tail is not None
        if self.rules.threshold_on == "feature":
            self._tail.add_parts([maps.transpose(0, 1) for maps in batches])
            return
        for maps in batches:
            self.observe(maps, grid)

    def observe(self, maps: Tensor, grid: PixelGrid) -> None:
        """First pass: maps of a batch in this basis, ``(N, K, h, w)``."""
        assert self._tail is not None
        if self.rules.threshold_on == "feature":
            self._tail.add(maps.transpose(0, 1).flatten(1))
            return
        for image in torch.split(maps, 1):  # one by one: each raises the bound for the next
            num_units = image.shape[1]
            pieces = list(active_pixels(image, self._tail.bound(num_units), grid))
            units = torch.cat([maps.new_zeros(0).long(), *(piece.units for piece in pieces)])
            values = torch.cat([maps.new_zeros(0).float(), *(piece.values for piece in pieces)])
            size = grid.height * grid.width
            self._tail.add_sparse(units, values, num_units=num_units, count=size)

    def settle(self) -> None:
        """Find the thresholds over all processes; a collective."""
        assert self._tail is not None
        total = self._tail.total()
        sizes = [tail_size(share, total) for share in self.rules.quantiles]
        largest = self._tail.largest(min(sizes[-1] + 1, total))
        self.thresholds = largest[:, [min(size, total - 1) for size in sizes]]
        self._tail = None

    def tally(
        self, maps: Tensor, labellings: Sequence[LabelledBatch], grid: PixelGrid
    ) -> list[OverlapCounts]:
        """Second pass: maps of a batch in this basis, and labellings of it; changes nothing."""
        assert self.thresholds is not None
        pieces = active_rows(maps, self.thresholds[:, -1], grid)
        return overlap_counts(pieces, labellings, self.thresholds, self.rules.union)

    def add(self, fresh: list[OverlapCounts]) -> None:
        """Keep what `tally` found, one count per labelling."""
        if self._counts:
            pairs = zip(self._counts, fresh, strict=True)
            fresh = [OverlapCounts(*map(torch.add, *pair)) for pair in pairs]
        self._counts = fresh

    def counts(self, number: int) -> list[OverlapCounts]:
        """Counts against each of `number` labellings, over all processes; a collective."""
        assert self.thresholds is not None
        shape, new = self.thresholds.shape, self.thresholds.new_zeros
        empty = OverlapCounts(
            new(*shape, len(self.scheme.names)).long(),
            new(*shape, len(self.scheme.sizes)).long(),
            new(shape).long(),
        )
        found = self._counts or [empty] * number
        return [OverlapCounts(*map(sum_over_processes, counts)) for counts in found]

    def maps_of(self, maps: Tensor) -> Tensor:
        """The network's rounded maps in this basis, rounded again; ``(N, K, h, w)``."""
        if self.rotation_seed is None:
            return maps
        turned = rotated(maps, random_rotation(maps.shape[1], self.rotation_seed))
        return self.rules.rounded(turned)
