"""Sums, maxima and gathers over processes; they change nothing where there is only one.

The sum carries gradients, because a loss on the whole batch needs them: each process computes
the same global loss, and the backward pass sums what every process's copy sends back. The
gradient of a process is then `num_processes()` times its share of the single-process gradient,
which is what `DistributedDataParallel` expects, since it averages over processes.

All functions take part in a collective: every process must call them, in the same order. Do not
call them in validation steps, whose number may differ between processes.
"""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


def num_processes() -> int:
    """Number of processes that train together; 1 without `torch.distributed`."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def process_index() -> int:
    """Rank of this process; 0 without `torch.distributed`."""
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


class _SumOverProcesses(torch.autograd.Function):
    """All-reduce forwards; the adjoint of a sum over copies is again a sum over copies."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor) -> Tensor:
        total = tensor.detach().clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        total = gradients[0].contiguous().clone()
        dist.all_reduce(total)
        return total


def sum_over_processes(tensor: Tensor) -> Tensor:
    """Element-wise sum over processes, with gradients; any shape, equal on all processes."""
    if num_processes() == 1:
        return tensor
    total: Tensor = _SumOverProcesses.apply(tensor)
    return total


def max_over_processes(tensor: Tensor) -> Tensor:
    """Element-wise maximum over processes, without gradients."""
    if num_processes() == 1:
        return tensor.detach()
    largest = tensor.detach().clone()
    dist.all_reduce(largest, op=dist.ReduceOp.MAX)
    return largest


def gather_over_processes(tensor: Tensor) -> Tensor:
    """Rows of all processes in the order of their ranks, without gradients.

    Args:
        tensor: ``(N, ...)``, with the same shape on all processes.

    Returns:
        ``(processes * N, ...)``.

    Raises:
        ValueError: if the processes hold different numbers of rows (checked on the CPU only:
            reading sizes from an accelerator would stall it).
    """
    if num_processes() == 1:
        return tensor.detach()
    rows = tensor.detach().contiguous()
    if rows.device.type == "cpu":
        sizes = torch.zeros(num_processes(), dtype=torch.long)
        sizes[process_index()] = rows.shape[0]
        dist.all_reduce(sizes)
        if int(sizes.min()) != int(sizes.max()):
            raise ValueError(
                f"`tensor` must have equally many rows on all processes, but they hold "
                f"{sizes.tolist()}. Give every process batches of the same size "
                f"(drop_last=True in the training sampler)."
            )
    gathered = [torch.empty_like(rows) for _ in range(num_processes())]
    dist.all_gather(gathered, rows)
    return torch.cat(gathered)
