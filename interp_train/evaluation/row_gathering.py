"""Gather metric states over processes when a process may have seen no image at all.

torchmetrics' own gathering needs tensors of equal rank and type on every process; a process
whose validation shard is empty has neither.
"""

from typing import Any

import torch
import torch.distributed
from torch import Tensor


def gather_rows(rows: Tensor, group: Any = None) -> list[Tensor]:
    """The `rows` of every process, in the order of the processes.

    Use as ``dist_sync_fn`` of a metric. All axes but the first must agree; a process without
    rows may pass an empty tensor of any shape and type.

    Args:
        rows: state of this process, ``(N, ...)``; N differs between processes.
        group: process group; None is the default group.

    Returns:
        One tensor per process, on the device of `rows`.

    Raises:
        ValueError: if two processes hold rows of different shape or type.
    """
    described: list[Any] = [None] * torch.distributed.get_world_size(group)
    torch.distributed.all_gather_object(described, (tuple(rows.shape), rows.dtype), group=group)
    kinds = {(shape[1:], dtype) for shape, dtype in described if shape[0]}
    if not kinds:
        return [rows for _ in described]
    if len(kinds) > 1:
        raise ValueError(
            f"`rows` must have one shape and type on all processes, but got "
            f"{sorted(map(str, kinds))}. Give every process maps of the same layer and size."
        )
    shape, dtype = kinds.pop()
    lengths = [described_shape[0] for described_shape, _ in described]
    padded = torch.zeros((max(lengths), *shape), dtype=dtype, device=rows.device)
    if rows.numel():
        padded[: len(rows)] = rows
    gathered = [torch.empty_like(padded) for _ in described]
    torch.distributed.all_gather(gathered, padded, group=group)
    return [part[:length] for part, length in zip(gathered, lengths, strict=True)]
