"""Gradients through ReLUs that follow another rule than the derivative.

With the gradient R that arrives from above and the ReLU's input f:

* ``"guided"`` passes R where f > 0 and R > 0 (Springenberg et al., ICLR Workshop 2015, fig. 1);
* ``"deconvnet"`` passes R where R > 0, whatever f is (Zeiler & Fergus, ECCV 2014).

Only modules can be given another rule; `ReluRule.check` finds networks for which it would not hold.
"""

import contextlib
from collections.abc import Iterator
from typing import Any, final

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from interp_train.checks import check_choice

RULES = ("guided", "deconvnet")

_RECTIFIERS = (
    functional.relu,
    functional.relu_,
    functional.relu6,
    torch.relu,
    torch.relu_,
    Tensor.relu,
    Tensor.relu_,
)


@final
class ReluRule(TorchFunctionMode):
    """Counts the ReLUs of a forward pass, modules and functions; made by `relu_rule`.

    Attributes:
        name: of the rule.
        available: ReLU and ReLU6 modules of the network.
        modules: calls of them so far.
        functions: calls of ReLUs as functions so far.
    """

    def __init__(self, name: str) -> None:
        super().__init__()
        check_choice("rule", name, RULES)
        self.name = name
        self.available, self.modules, self.functions = 0, 0, 0
        self._inside = False
        self._input: Tensor | None = None

    def check(self, method: str, *, part: bool = False) -> None:
        """Raise ValueError unless all ReLUs that ran were modules, and some did.

        Args:
            method: its name, for the error.
            part: whether only a part of the network ran: the first layers may have no ReLU below
                them, if the network has some.

        Raises:
            ValueError: if a ReLU ran as a function, or none at all.
        """
        if self.functions or not (self.available if part else self.modules):
            raise ValueError(
                f"`network` must apply its ReLUs as modules for {method}, but "
                f"{self.functions} are function calls and {self.modules} are modules. "
                f"Replace `functional.relu` by `nn.ReLU` modules; a function would silently give "
                f"the plain gradient."
            )

    def enter(self, module: nn.Module, inputs: Any) -> Any:
        """Before a ReLU module."""
        self._inside = True
        if self.name == "guided":
            return None
        (self._input,) = inputs
        return (inputs[0].clone(),)  # a ReLU in place must leave the input for `leave`

    def leave(self, module: nn.Module, inputs: Any, output: Tensor) -> Tensor | None:
        """After a ReLU module."""
        self._inside = False
        self.modules += 1
        given, self._input = self._input, None
        if given is not None:
            found: Tensor = _Straight.apply(given, output.detach())
            return found
        if output.requires_grad:
            # The ReLU's own backward then closes where its input was not positive.
            output.register_hook(_positive_part)  # type: ignore[no-untyped-call]
        return None

    def __torch_function__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        self.functions += function in _RECTIFIERS and not self._inside
        return function(*args, **(kwargs or {}))


def _positive_part(gradient: Tensor) -> Tensor:
    return gradient.clamp(min=0)


@final
class _Straight(torch.autograd.Function):
    """A ReLU's output with the deconvnet's gradient with respect to its input."""

    @staticmethod
    def forward(ctx: Any, given: Tensor, output: Tensor) -> Tensor:
        return output.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient.clamp(min=0), None


@contextlib.contextmanager
def relu_rule(network: nn.Module, name: str) -> Iterator[ReluRule]:
    """Give all ReLU and ReLU6 modules another rule inside the block.

    Example:
        with relu_rule(network, "guided") as rule:
            gradients = ...
        rule.check("guided backpropagation")

    Args:
        network: without wrappers.
        name: ``"guided"`` or ``"deconvnet"``.

    Raises:
        ValueError: for an unknown rule.
    """
    rule = ReluRule(name)
    with contextlib.ExitStack() as hooks:
        for module in network.modules():
            if isinstance(module, nn.ReLU | nn.ReLU6):
                rule.available += 1
                hooks.callback(module.register_forward_pre_hook(rule.enter).remove)
                handle = module.register_forward_hook(rule.leave, prepend=True)
                hooks.callback(handle.remove)
        with rule:
            yield rule
