"""What a method may touch, and whether it did: traces on networks and random states."""

import contextlib
import random
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn


class ContractError(AssertionError):
    """A method breaks a rule of its contract."""


def require(holds: bool, rule: str) -> None:
    """Raise `ContractError` with the rule unless it holds."""
    if not holds:
        raise ContractError(rule)


@contextlib.contextmanager
def leaves_no_trace(network: nn.Module, *tensors: Tensor) -> Iterator[None]:
    """Raise `ContractError` if the block changes the network, the tensors or the random state.

    Watches hooks, weights, statistics, ``.grad``, ``requires_grad``, training modes, the random
    states of torch, numpy and Python, and the gradient mode.
    """
    before = _state_of(network, tensors)
    yield
    after = _state_of(network, tensors)
    for what, value in before.items():
        require(equal(value, after[what]), f"A method must leave {what} as it was.")


def _state_of(network: nn.Module, tensors: Sequence[Tensor]) -> dict[str, Any]:
    modules = list(network.modules())
    parameters = list(network.parameters())
    gradients = [parameter.grad for parameter in parameters]
    hooks = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    return {
        "the network's modules": [id(module) for module in modules],
        "hooks": [list(getattr(module, kind)) for module in modules for kind in hooks],
        "weights and statistics": _copies(network.state_dict().values()),
        "the weights' .grad": [None if grad is None else grad.clone() for grad in gradients],
        "requires_grad": [parameter.requires_grad for parameter in parameters],
        "train/eval mode": [module.training for module in modules],
        "its input": _copies(tensors),
        "torch's random state": torch.get_rng_state(),
        "numpy's random state": repr(np.random.get_state()),  # noqa: NPY002
        "Python's random state": random.getstate(),
        "the gradient mode": (torch.is_grad_enabled(), torch.is_inference_mode_enabled()),
    }


def _copies(tensors: Any) -> list[Tensor]:
    return [tensor.detach().clone() for tensor in tensors if isinstance(tensor, Tensor)]


def equal(first: Any, second: Any) -> bool:
    """Whether two nested values are equal to the last bit; NaN equals NaN."""
    if isinstance(first, Tensor) and isinstance(second, Tensor):
        both_nan = (first != first) & (second != second)
        return first.shape == second.shape and bool(((first == second) | both_nan).all())
    if isinstance(first, Mapping) and isinstance(second, Mapping):
        return first.keys() == second.keys() and all(equal(first[k], second[k]) for k in first)
    if isinstance(first, list) and isinstance(second, list):
        return len(first) == len(second) and all(map(equal, first, second))
    return bool(first == second)
