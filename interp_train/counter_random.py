"""Random numbers that follow from whole numbers alone, a whole tensor at a time, on any device.

Each number is a hash of its key, such as (seed, epoch, sample id, column), so it depends neither on
what was drawn before nor on how samples are spread over batches, processes or devices. The hash is
the output function of SplitMix64 (Steele, Lea & Flood, "Fast splittable pseudorandom number
generators", OOPSLA 2014), applied once per entry of the key.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

_STEP = -0x61C8864680B583EB  # 2**64 divided by the golden ratio, as a signed number
_FIRST = -0x40A7B892E31B1A47
_SECOND = -0x6B2FB644ECCEEE15
_MASK = 2**64 - 1


def uniform_numbers(ids: Tensor, columns: int, *key: int) -> Tensor:
    """Uniform numbers in [0, 1), multiples of 2**-24.

    Args:
        ids: what the rows belong to, long ``(N,)``.
        columns: numbers per row.
        key: further whole numbers of the key, such as seed and epoch.

    Returns:
        float32 ``(N, columns)`` on the device of `ids`.
    """
    return (_hashes(ids, columns, *key) >> 40 & 0xFFFFFF).float() * 2.0**-24


def normal_numbers(ids: Tensor, columns: int, *key: int) -> Tensor:
    """Standard normal numbers, by the Box-Muller transform; see `uniform_numbers`."""
    pairs = uniform_numbers(ids, 2 * columns, *key)
    radius = (-2 * torch.log1p(-pairs[:, :columns])).sqrt()
    return radius * torch.cos(2 * math.pi * pairs[:, columns:])


def whole_numbers(ids: Tensor, columns: int, count: int, *key: int) -> Tensor:
    """Whole numbers 0 .. `count` - 1, equally likely, long ``(N, columns)``; see above.

    Args:
        ids: see `uniform_numbers`.
        columns: see `uniform_numbers`.
        count: at most 2**24.
        key: see `uniform_numbers`.
    """
    return (uniform_numbers(ids, columns, *key) * count).long()


def _hashes(ids: Tensor, columns: int, *key: int) -> Tensor:
    """64 random bits for each row and column, ``(N, columns)``."""
    rows = _mixed(_mixed(ids.long() + _STEP) ^ _state(key))
    steps = torch.arange(1, columns + 1, device=ids.device) * _STEP
    return _mixed(rows[:, None] + steps)


def _state(key: Sequence[int]) -> int:
    """The hash of a key, in Python's whole numbers: on a device each step would be a kernel."""
    state = len(key)
    for number in key:
        state = _mixed_number(state ^ _mixed_number(number + _STEP & _MASK))
    return state - 2**64 if state >> 63 else state


def _mixed_number(bits: int) -> int:
    """`_mixed` of one number, 0 .. 2**64 - 1."""
    bits = (bits ^ bits >> 30) * _FIRST & _MASK
    bits = (bits ^ bits >> 27) * _SECOND & _MASK
    return bits ^ bits >> 31


def _mixed(bits: Tensor) -> Tensor:
    bits = (bits ^ _shifted(bits, 30)) * _FIRST
    bits = (bits ^ _shifted(bits, 27)) * _SECOND
    return bits ^ _shifted(bits, 31)


def _shifted(bits: Tensor, by: int) -> Tensor:
    """Right shift without the sign."""
    return bits >> by & ((1 << (64 - by)) - 1)
