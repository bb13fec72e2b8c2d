"""ReLUs that let a gradient through while they are closed, so that a search can begin.

A unit that answers with 0 to every start has no gradient, in a freshly started network often. Where
a ReLU would pass no gradient at all for an image, the gradient passes as if the ReLU were open,
except where it would close it further.

Reference: the implementation of C. Olah, A. Mordvintsev, L. Schubert, "Feature Visualization",
Distill 2017 (lucid, `redirected_relu_grad`), which does so in the first 16 steps.
"""

import math
from typing import Any, final

import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode

_RELUS = (
    functional.relu,
    functional.relu_,
    torch.relu,
    torch.relu_,
    Tensor.relu,
    Tensor.relu_,
)


@final
class RedirectedRelus(TorchFunctionMode):
    """Redirects the gradient of all ReLUs and ReLU6s, modules and functions, inside the block.

    The gradient is that of something to be made small.
    """

    def __torch_function__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        options = kwargs or {}
        if function in _RELUS:
            return redirected_relu(args[0] if args else options["input"])
        if function is functional.relu6:
            return redirected_relu(args[0] if args else options["input"], 6.0)
        if function is functional.hardtanh:  # what nn.ReLU6 calls
            return _hardtanh(*args, **options)
        return function(*args, **options)


def redirected_relu(values: Tensor, high: float = math.inf) -> Tensor:
    """The values cut off below 0 and above `high`, with a redirected gradient, ``(N, ...)``."""
    found: Tensor = _Redirected.apply(values, high)
    return found


def _hardtanh(
    input: Tensor, min_val: float = -1.0, max_val: float = 1.0, inplace: bool = False
) -> Tensor:
    if min_val == 0:
        return redirected_relu(input, max_val)
    return input.clamp(min_val, max_val)


@final
class _Redirected(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, high: float) -> Tensor:
        ctx.save_for_backward(values)
        ctx.high = high
        return values.clamp(0, high)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (values,) = ctx.saved_tensors
        plain = torch.where((values > 0) & (values < ctx.high), gradient, 0)
        # A positive gradient would lower what is closed already.
        through = torch.where((values <= 0) & (gradient > 0), 0, gradient)
        through = torch.where((values >= ctx.high) & (gradient < 0), 0, through)
        silent = (plain == 0).flatten(1).all(1).view(-1, *[1] * (values.dim() - 1))
        return torch.where(silent, through, plain), None
