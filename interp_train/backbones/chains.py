"""A network as a chain of modules: what comes after what, found by symbolic tracing.

Cutting a network, freezing its beginning and caching the frozen part all need a chain of steps
that feed one another. `chain_of` finds it for networks whose forward method is straight; calls
of functions (``F.relu``, ``torch.flatten`` ...) become modules, so that they can be tapped.
Side branches inside a step (residual, fire, dense blocks) are no obstacle.
"""

import copy
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional

# Containers whose children become steps of their own.
_TRUNKS = ("features", "layers", "trunk_output")


class SpatialMean(nn.Module):
    """Mean over the cells: ``(N, K, h, w)`` -> ``(N, K)``."""

    def forward(self, activations: Tensor) -> Tensor:
        """The mean of each unit."""
        return activations.mean([2, 3])


def chain_of(network: nn.Module) -> dict[str, nn.Module] | None:
    """Ordered steps of `network`, dotted name -> module; None if it is not a chain.

    Args:
        network: any module; not changed. Steps are its own modules, not copies.
    """
    if type(network) is nn.Sequential:
        return dict(network.named_children())
    training = network.training
    try:
        graph = _Tracer().trace(network.eval())
    except Exception:  # tracing runs the user's code with stand-ins: any error means "no chain"
        return None
    finally:
        network.train(training)
    return _Walk(network).steps(graph)


class _Tracer(fx.Tracer):
    """Opens the trunk only; everything else is one step."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return not (type(m) is nn.Sequential and module_qualified_name in _TRUNKS)


class _Walk:
    """Follows one tensor through a graph and collects the modules on its way."""

    def __init__(self, network: nn.Module) -> None:
        self._network = network
        self._taken = {name for name, _ in network.named_modules()}

    def steps(self, graph: fx.Graph) -> dict[str, nn.Module] | None:
        """The steps, or None where two tensors meet or an unknown function is called."""
        chain: dict[str, nn.Module] = {}
        current: fx.Node | None = None
        for node in graph.nodes:
            if node.op == "placeholder":
                if current is not None:
                    return None
                current = node
            elif node.op == "output":
                return chain if node.args[0] is current else None
            elif not _is_size(node):
                if not node.args or node.args[0] is not current:
                    return None
                step = self._step(node, chain)
                if step is None:
                    return None
                chain[step[0]] = step[1]
                current = node
        return None

    def _step(self, node: fx.Node, chain: dict[str, nn.Module]) -> tuple[str, nn.Module] | None:
        if node.op == "call_module":
            name = str(node.target)
            module = self._network.get_submodule(name)
            if name not in chain:
                return name, module
            if module.state_dict():  # shared weights
                return None
            return self._new_name(node.name), copy.deepcopy(module)
        made = _module_for(node)
        return None if made is None else (self._new_name(node.name), made)

    def _new_name(self, wanted: str) -> str:
        name, number = wanted, 1
        while name in self._taken:
            name, number = f"{wanted}_{number}", number + 1
        self._taken.add(name)
        return name


def _is_size(node: fx.Node) -> bool:
    """Whether a node only computes a size, for a later view."""
    if node.op == "call_method":
        return node.target in ("size", "dim")
    name = getattr(node.target, "__name__", "")
    computes = node.op == "call_function" and name in ("getattr", "getitem", "floordiv", "mul")
    return computes and all(_is_size(user) or _is_view(user) for user in node.users)


def _is_view(node: fx.Node) -> bool:
    return node.op == "call_method" and node.target in ("view", "reshape")


def _module_for(node: fx.Node) -> nn.Module | None:
    """The module that does what a function or method call does; None if it is not known."""
    target: Any = node.target
    arguments: list[Any] = list(node.args[1:])
    options: dict[str, Any] = {k: v for k, v in node.kwargs.items() if k in _OPTIONS}
    if target in _MODULES:
        made: nn.Module = _MODULES[target](*arguments[: _ARGUMENTS.get(target)], **options)
        return made
    if target in (torch.flatten, "flatten"):
        start = arguments[0] if arguments else node.kwargs.get("start_dim")
        return nn.Flatten(1) if start == 1 else None
    if _is_view(node):
        return nn.Flatten(1) if len(arguments) == 2 else None
    if target == "mean":
        cells = arguments and tuple(arguments[0]) in ((2, 3), (-2, -1))
        return SpatialMean() if cells and not node.kwargs else None
    return None


_MODULES: dict[Any, Any] = {
    functional.relu: nn.ReLU,
    torch.relu: nn.ReLU,
    "relu": nn.ReLU,
    functional.relu6: nn.ReLU6,
    functional.adaptive_avg_pool2d: nn.AdaptiveAvgPool2d,
    functional.max_pool2d: nn.MaxPool2d,
    torch.max_pool2d: nn.MaxPool2d,
    functional.avg_pool2d: nn.AvgPool2d,
    functional.dropout: nn.Dropout,
}
# How many positional arguments the module shares with the function; all, if not named.
_ARGUMENTS: dict[Any, int] = {
    functional.relu: 0,
    functional.relu6: 0,
    functional.dropout: 1,
    functional.max_pool2d: 3,
    torch.max_pool2d: 3,
}
_OPTIONS = (
    "kernel_size",
    "stride",
    "padding",
    "ceil_mode",
    "count_include_pad",
    "p",
    "output_size",
)


def opened(chain: dict[str, nn.Module], step: str) -> dict[str, nn.Module]:
    """`chain` with plain containers opened until `step` is one of its names, if it can be."""
    result: dict[str, nn.Module] = {}
    for name, module in chain.items():
        if step.startswith(name + ".") and type(module) is nn.Sequential:
            children = {f"{name}.{key}": child for key, child in module.named_children()}
            result.update(opened(children, step))
        else:
            result[name] = module
    return result


def without_in_place(network: nn.Module) -> None:
    """Let no layer overwrite its input."""
    for module in network.modules():
        if getattr(module, "inplace", False) is True:
            module.inplace = False  # type: ignore[assignment]


def is_pooling(module: nn.Module) -> bool:
    """Whether a step only pools or drops out: its output is not a layer of its own."""
    return isinstance(module, nn.MaxPool2d | nn.AvgPool2d | nn.Dropout | nn.Dropout2d | nn.Identity)


def split_readout(
    chain: dict[str, nn.Module],
) -> tuple[dict[str, nn.Module], dict[str, nn.Module]]:
    """The steps that keep a map of cells, and those that read the map out to logits."""
    spatial: dict[str, nn.Module] = {}
    readout: dict[str, nn.Module] = {}
    enders = (nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d, nn.Flatten, SpatialMean, nn.Linear)
    for name, module in chain.items():
        parts = [module, *(module.children() if type(module) is nn.Sequential else ())]
        ends = any(isinstance(part, enders) for part in parts)
        (readout if readout or ends else spatial)[name] = module
    return spatial, readout
