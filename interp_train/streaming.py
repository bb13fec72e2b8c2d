"""Statistics of streams that are too long to keep: exact tails, and moments.

A tail answers "which level do a share q of all values exceed", as the thresholds of D. Bau et al.,
"Network Dissection", CVPR 2017, need it. Sketches answer with an error in rank; one of 0.1 %
changes the area above a threshold at q = 0.5 % by a fifth. Keeping the largest values of a stream
whose length is known beforehand is exact, for all orders and all divisions over processes.

Moments are merged as in T. F. Chan, G. H. Golub, R. J. LeVeque, "Updating formulae and a pairwise
algorithm for computing sample variances", 1979, eq. 2.1.
"""

import math
from collections.abc import Sequence
from fractions import Fraction
from typing import NamedTuple, final

import torch
from torch import Tensor

from interp_train.checks import check_range, check_shape
from interp_train.collectives import (
    gather_over_processes,
    max_over_processes,
    num_processes,
    sum_over_processes,
)
from interp_train.thread_map import thread_map

_BLOCK = 4_194_304  # values that are selected from at once
_GROUP = 16  # values of which the largest is looked at first
_SELECTED = 262_144  # the same, where they stand in memory already


def tail_size(share: float, count: int) -> int:
    """How many of `count` values may exceed a level that at most `share` of them exceed.

    The share counts as the decimal number that is written: 0.29 of 100 are 29, although the
    nearest binary number is smaller.
    """
    return math.floor(Fraction(str(share)) * count)


@final
class TailTopK:
    """The largest values of each unit in a stream, exactly.

    Example:
        tail = TailTopK(tail_size(0.005, total) + 1)
        for values in stream:  # (U, n)
            tail.add(values)
        threshold = tail.largest()[:, -1]  # at most 0.5 % of the values exceed it

    Args:
        capacity: how many values per unit are kept.
        device: where they are kept; None is the CPU.

    Attributes:
        count: how many values per unit the stream had.
    """

    def __init__(self, capacity: int, device: torch.device | None = None) -> None:
        check_range("capacity", capacity, 1)
        self.capacity, self.device = capacity, device
        self.count = 0
        self._rows: list[Tensor] = []
        self._pairs: list[tuple[Tensor, Tensor]] = []
        self._num_units = 0
        self._bound: Tensor | None = None

    def add(self, values: Tensor) -> None:
        """Add values of all units.

        Args:
            values: of any floating-point type, ``(U, n)``; U does not change.

        Raises:
            ValueError: if `values` has another shape.
        """
        check_shape("values", values, (self._num_units or "U", "n"))
        self._num_units = len(values)
        self.count += values.shape[1]
        rows = values.detach().float()
        self._rows.append(rows.topk(min(self.capacity, rows.shape[1]), sorted=False).values)
        if sum(rows.shape[1] for rows in self._rows) >= 2 * self.capacity:
            self._compress()

    def add_parts(self, parts: Sequence[Tensor]) -> None:
        """Add values that came in parts, all at once: faster than part by part.

        Selecting is cheap where few of many are wanted, so units are taken in blocks whose values
        stand side by side, and memory stays small.

        Args:
            parts: of any floating-point type and any strides, each ``(U, ...)``.

        Raises:
            ValueError: if a part has another number of units.
        """
        if not parts:
            return
        num_units = self._num_units or len(parts[0])
        for part in parts:
            check_shape("parts", part, (num_units, *part.shape[1:]))
        lengths = [part[0].numel() for part in parts]
        self._num_units, length = num_units, sum(lengths)
        self.count += length
        step, kept = max(1, _BLOCK // max(length, 1)), min(self.capacity, length)

        def top(begin: int) -> Tensor:
            block = torch.empty(min(step, num_units - begin), length, device=parts[0].device)
            columns = torch.split(block, lengths, 1)
            for place, part in zip(columns, parts, strict=True):  # one copy, as single precision
                own = part.detach()[begin : begin + step]
                place.view(own.shape).copy_(own)
            return _top_of(block, kept)

        found = thread_map(top, range(0, num_units, step), parts[0].device)
        self._rows.append(torch.cat(found))
        self._compress()

    def add_sparse(self, units: Tensor, values: Tensor, *, num_units: int, count: int) -> None:
        """Add a part of the values, where the others do not exceed `bound`.

        Args:
            units: whose value it is, long ``(V,)``.
            values: the values, ``(V,)``.
            num_units: U.
            count: how many values per unit these stand for, those left out included.
        """
        self._num_units = num_units
        self.count += count
        self._pairs.append((units, values.detach().float()))
        pending = sum(len(values) for _, values in self._pairs)
        if self._bound is None or 2 * pending >= num_units * self.capacity:
            self._compress()

    def bound(self, num_units: int) -> Tensor:
        """A level per unit that `largest` will not fall below, ``(U,)``; -inf at the start.

        A value that does not exceed it need not be added.

        Args:
            num_units: U.
        """
        if self._bound is None:
            return torch.full((num_units,), -math.inf, device=self.device)
        return self._bound

    def largest(self, k: int | None = None) -> Tensor:
        """The `k` largest values over all processes, in descending order.

        Takes part in a collective: every process must call it.

        Args:
            k: at most `capacity`; None is `capacity`, or as many as there are.

        Returns:
            Float32 ``(U, k)``; U = 0 if no process has a value.

        Raises:
            ValueError: if `k` is more than the capacity, or than there are values.
        """
        self._compress()
        total = self.total()
        k = min(self.capacity, total) if k is None else k
        check_range("k", k, 0, min(self.capacity, total))
        rows = self._rows[0] if self._rows else torch.zeros(0, 0, device=self.device)
        if num_processes() > 1:
            rows = self._gathered(rows, k)
        return _largest_of([rows], k, ordered=True)

    def total(self) -> int:
        """How many values per unit the streams of all processes had; a collective."""
        return int(sum_over_processes(torch.tensor(self.count, device=self.device)))

    def _gathered(self, rows: Tensor, k: int) -> Tensor:
        """The k largest of each process side by side; one without values knows no units."""
        num_units = int(max_over_processes(torch.tensor(len(rows), device=self.device)))
        rows = rows.topk(min(k, rows.shape[1]), sorted=False).values
        padded = rows.new_full((num_units, k), -math.inf)
        padded[: len(rows), : rows.shape[1]] = rows
        return gather_over_processes(padded).view(-1, num_units, k).transpose(0, 1).flatten(1)

    def _compress(self) -> None:
        if self._pairs:
            units, values = (torch.cat(column) for column in zip(*self._pairs, strict=True))
            self._pairs = []
            self._rows.append(_dense_rows(units, values, self._num_units))
        if len(self._rows) > 1 or (self._rows and self._rows[0].shape[1] > self.capacity):
            kept = min(self.capacity, sum(rows.shape[1] for rows in self._rows))
            self._rows = [_largest_of(self._rows, kept)]
        if self._rows and self._rows[0].shape[1] == self.capacity:
            self._bound = self._rows[0].amin(1)


def _top_of(values: Tensor, k: int) -> Tensor:
    """The k largest of each row ``(U, n)``, unordered; fast where k is much smaller than n.

    They lie in the k groups of values whose maxima are largest: a group left out holds no value
    above the least of these maxima, of which there are k.
    """
    groups = values.shape[1] // _GROUP
    if groups < 2 * k:
        return values.topk(k, sorted=False).values
    whole = values[:, : groups * _GROUP].view(-1, groups, _GROUP)
    chosen = whole.amax(2).topk(k, sorted=False).indices
    inside = whole.gather(1, chosen[:, :, None].expand(-1, -1, _GROUP)).flatten(1)
    rest = values[:, groups * _GROUP :]
    return torch.cat([inside, rest], 1).topk(k, sorted=False).values


def _largest_of(parts: Sequence[Tensor], k: int, *, ordered: bool = False) -> Tensor:
    """The k largest values of each unit over parts ``(U, n)``; what selecting takes stays small."""
    step = max(1, _SELECTED // max(1, sum(part.shape[1] for part in parts)))
    blocks = zip(*(torch.split(part, step) for part in parts), strict=True)
    return torch.cat([torch.cat(block, 1).topk(k, sorted=ordered).values for block in blocks])


def _dense_rows(units: Tensor, values: Tensor, num_units: int) -> Tensor:
    """Ragged values as rows of equal length, filled up with -inf."""
    order = units.argsort(stable=True)
    units, values = units[order], values[order]
    lengths = torch.bincount(units, minlength=num_units)
    places = torch.arange(len(units), device=units.device) - (lengths.cumsum(0) - lengths)[units]
    width = int(lengths.max()) if num_units else 0
    rows = values.new_full((num_units, width), -math.inf)
    return rows.index_put((units, places), values)


class Moments(NamedTuple):
    """Number, mean and spread of the values of each unit; parts of a stream can be merged.

    Attributes:
        number: of values per unit, float64 scalar.
        mean: float64 ``(U,)``.
        squares: sum of squared deviations from the mean, float64 ``(U,)``.
    """

    number: Tensor
    mean: Tensor
    squares: Tensor

    def merged(self, other: "Moments") -> "Moments":
        """Moments of both parts together."""
        number = self.number + other.number
        share = other.number / number.clamp(min=1)
        step = other.mean - self.mean
        squares = self.squares + other.squares + step**2 * self.number * share
        return Moments(number, self.mean + step * share, squares)

    def over_processes(self) -> "Moments":
        """Moments of the parts of all processes; a collective."""
        total = sum_over_processes(self.number)
        mean = sum_over_processes(self.number * self.mean) / total.clamp(min=1)
        squares = sum_over_processes(self.squares + self.number * (self.mean - mean) ** 2)
        return Moments(total, mean, squares)

    def variance(self) -> Tensor:
        """Mean squared deviation, ``(U,)``; 0 without values."""
        return self.squares / self.number.clamp(min=1)


def moments_of(values: Tensor) -> Moments:
    """Moments of ``(U, n)``; zeros where n = 0."""
    check_shape("values", values, ("U", "n"))
    exact = values.detach().double()
    number = torch.tensor(values.shape[1], dtype=torch.float64, device=values.device)
    mean = exact.sum(1) / number.clamp(min=1)
    return Moments(number, mean, ((exact - mean[:, None]) ** 2).sum(1))
