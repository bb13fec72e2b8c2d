"""Exact overlap of unions of disks with image regions, by counting bits.

A filter's region in an image is a union of disks, one per strongly active cell. Regions are rows
of packed bits: unions are bitwise ors of precomputed disks, overlaps are counts of common bits.
"""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from interp_train.evaluation.peak_table import MapFrame

Words = NDArray[np.uint64]
_REGIONS_AT_ONCE = 4096  # bounds the memory: 25 MB of regions at 224 x 224 pixels


def packed(masks: Tensor) -> Words:
    """Bits of `masks` bool ``(..., H, W)`` as words ``(..., ceil(H * W / 64))``; the rest is 0."""
    flat = masks.flatten(-2).numpy()
    bits = np.packbits(flat, axis=-1)
    padding = [(0, 0)] * (bits.ndim - 1) + [(0, -bits.shape[-1] % 8)]
    return np.ascontiguousarray(np.pad(bits, padding)).view(np.uint64)


def disks(frame: MapFrame, radius: float) -> Words:
    """Pixels at most `radius` from each cell's receptive-field centre, ``(h * w, words)``."""
    centres = frame.positions_of(torch.arange(frame.height * frame.width)).double()
    y = torch.arange(frame.image_height).double()[:, None]
    x = torch.arange(frame.image_width).double()
    rows = [
        packed(((x - centre[0]).square() + (y - centre[1]).square() <= radius**2)[None])
        for centre in centres
    ]
    return np.concatenate(rows)


def box_masks(boxes: Tensor, height: int, width: int) -> Tensor:
    """Pixels whose centre lies in each box, bool ``(..., H, W)``; none for a NaN box."""
    y, x = torch.arange(height)[:, None], torch.arange(width)
    left, top, right, bottom = boxes[..., None, None].unbind(-3)
    return (x >= left) & (x <= right) & (y >= top) & (y <= bottom)


def count_bits(words: Words) -> NDArray[np.int64]:
    """Number of set bits along the last axis."""
    if hasattr(np, "bitwise_count"):
        counts = np.bitwise_count(words)
    else:  # numpy < 2
        counts = _BITS_OF_16[words.view(np.uint16)]
    total: NDArray[np.int64] = counts.sum(-1, dtype=np.int64)
    return total


_BITS_OF_16: NDArray[np.uint8] = np.array([bin(n).count("1") for n in range(2**16)], np.uint8)


def region_overlaps(
    cells: Tensor, region_of: Tensor, region_images: Tensor, disk_words: Words, parts: Words
) -> Tensor:
    """IoU of every region with every part of its image.

    Args:
        cells: flat index of each valid cell, long ``(V,)``.
        region_of: the region that the cell belongs to, ascending, every region at least once,
            long ``(V,)``.
        region_images: image of each region, long ``(R,)``.
        disk_words: see `disks`.
        parts: packed masks of the parts, ``(images, P, words)``.

    Returns:
        IoU in [0, 1], float64 ``(R, P)``; 0 for an empty part.
    """
    starts = np.searchsorted(region_of.numpy(), np.arange(len(region_images) + 1))
    part_areas = count_bits(parts)
    pieces: list[NDArray[Any]] = []
    for first in range(0, len(region_images), _REGIONS_AT_ONCE):
        last = min(first + _REGIONS_AT_ONCE, len(region_images))
        some = cells.numpy()[starts[first] : starts[last]]
        regions = np.bitwise_or.reduceat(disk_words[some], starts[first:last] - starts[first], 0)
        images = region_images.numpy()[first:last]
        areas = count_bits(regions)
        common = np.stack(
            [count_bits(regions & parts[images, part]) for part in range(parts.shape[1])], 1
        )
        pieces.append(common / np.maximum(areas[:, None] + part_areas[images] - common, 1))
    return torch.from_numpy(np.concatenate(pieces)) if pieces else torch.zeros(0, parts.shape[1])
