"""Record the activations of named layers, and gradients inside validation.

`ActivationTap` is the only place that hangs recording hooks on a network. Dotted names are
those of the network itself, without wrapper prefixes (``module.``, ``_orig_mod.``).
"""

import contextlib
from collections.abc import Iterable, Iterator
from types import TracebackType
from typing import Any, Self

import torch
from torch import Tensor, nn

from interp_train.checks import check_name


def unwrapped(network: nn.Module) -> nn.Module:
    """The network inside `torch.compile` and `DistributedDataParallel` wrappers."""
    inner: nn.Module = network
    while True:
        if isinstance(getattr(inner, "_orig_mod", None), nn.Module):
            inner = inner._orig_mod  # type: ignore[assignment]
        elif isinstance(inner, nn.parallel.DistributedDataParallel):
            inner = inner.module
        else:
            return inner


class ActivationTap:
    """Records what named layers put out, in the latest forward pass.

    The recording hook stands in front of every other hook of the layer, so a template mask
    that is applied as a hook is not yet in the recorded activations.

    Example:
        with ActivationTap(network, ["layer4"]) as tap:
            network(images)
        tap.activations["layer4"]  # (N, K, h, w)

    Args:
        network: the network; wrappers are taken off.
        layers: dotted module names.

    Raises:
        ValueError: if a name is not a module of the network.
    """

    def __init__(self, network: nn.Module, layers: Iterable[str]) -> None:
        inner = unwrapped(network)
        modules = dict(inner.named_modules())
        self.activations: dict[str, Tensor] = {}
        self._handles: list[torch.utils.hooks.RemovableHandle] = []
        self._modules: dict[str, nn.Module] = {}
        for layer in layers:
            names = (name for name in modules if name)
            check_name("layer", layer, names, "a module of the network")
            self._modules[layer] = modules[layer]

    def open(self) -> Self:
        """Hang the hooks; `close` takes them off."""
        if not self._handles:
            for layer, module in self._modules.items():
                handle = module.register_forward_hook(self._recorder(layer), prepend=True)
                self._handles.append(handle)
        return self

    def close(self) -> None:
        """Take the hooks off; recorded activations stay readable."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    def take(self) -> dict[str, Tensor]:
        """The recorded activations, forgotten here, so that they do not outlive the step."""
        recorded, self.activations = self.activations, {}
        return recorded

    def _recorder(self, layer: str) -> Any:
        def record(module: nn.Module, inputs: Any, output: Tensor) -> None:
            self.activations[layer] = output

        return record

    def __enter__(self) -> Self:
        return self.open()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


@contextlib.contextmanager
def gradients_enabled() -> Iterator[None]:
    """Allow gradients inside validation hooks.

    Validation runs under `no_grad` in `fit` but under inference mode in `validate`, where
    `enable_grad` alone is not enough. Clone inputs made outside before differentiating.
    """
    with torch.inference_mode(False), torch.enable_grad():
        yield
