"""Whether routing fits into memory, said before it is tried."""

import torch
from torch import Tensor

from interp_train.data.photo_data import machine_memory

_GIB = 2**30
_PER_PAIR = 8  # logits, coefficients and gradients of three iterations


def check_weights(types: int, in_atoms: int, num_outputs: int, out_atoms: int) -> None:
    """Raise ValueError if weights of single precision cannot be learned.

    The limit is 16 GiB: weights, gradient, and two moments of the optimiser.
    """
    needed = types * in_atoms * num_outputs * out_atoms * 4 * 4
    if needed > 16 * _GIB:
        raise ValueError(
            f"Routing {types} input capsules of {in_atoms} atoms to {num_outputs} categories of "
            f"{out_atoms} needs {needed / _GIB:.1f} GiB for weights and optimiser. Let positions "
            "share weights (`shared`), or pool the map first (`pool_size`)."
        )


def check_predictions(inputs: Tensor, weights: Tensor, *, whole: bool) -> None:
    """Raise ValueError if what routing holds per batch, with its gradient, exceeds the memory.

    Args:
        inputs: input capsules, ``(N, I, D)``.
        weights: ``(I or types, D, J, O)``.
        whole: whether predictions ``(I, N, J, O)`` are formed, not only coefficients.
    """
    number, capsules, _ = inputs.shape
    outputs, out_atoms = weights.shape[2:]
    numbers = 2 * out_atoms if whole else _PER_PAIR
    needed = inputs.element_size() * number * capsules * outputs * numbers
    there = memory_of(inputs.device)
    if needed > there:
        raise ValueError(
            f"Routing {capsules} input capsules of each of {number} images to {outputs} "
            f"categories needs {needed / _GIB:.1f} GiB, of {there / _GIB:.1f}. Use smaller "
            f"batches, pool the map first (`pool_size`), or take fewer types of capsules."
        )


def memory_of(device: torch.device) -> int:
    """Bytes of memory of a device; of the machine if it is no GPU. Waits for nothing."""
    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).total_memory)
    return machine_memory()
