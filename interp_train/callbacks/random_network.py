"""A copy of the network with random weights: what a measure gives before anything is learned."""

import copy
import weakref
from typing import Any

import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn

from interp_train.activations import ActivationTap
from interp_train.backbones.backbone import Backbone
from interp_train.systems import LearnedSystem


def measured_network(module: nn.Module) -> nn.Module:
    """What the dotted names of layers refer to: a learning system's network, or the module."""
    return module.network if isinstance(module, LearnedSystem) else module


def activations_of(network: nn.Module, layers: list[str], images: Tensor) -> dict[str, Tensor]:
    """Activations of `layers` in one forward pass without gradients.

    A `Backbone` without classifier and head computes its chain of layers.
    """
    with torch.no_grad(), ActivationTap(network, layers) as tap:
        if isinstance(network, Backbone) and not (network.has_head or network.readout):
            network.forward_chain(images)
        else:
            network(images)
        return tap.take()


def reinitialised(network: nn.Module, seed: int = 0) -> nn.Module:
    """A copy with new weights, in evaluation mode, without hooks.

    Modules draw their weights as at construction (`reset_parameters`); parameters that no module
    can draw are shuffled among themselves. Weights do not depend on the device, and the
    global random state is left alone.

    Raises:
        ValueError: if the network cannot be copied.
    """
    with torch.inference_mode(False), torch.no_grad(), torch.random.fork_rng(devices=[]):
        try:
            twin = copy.deepcopy(network).cpu()
        except (RuntimeError, TypeError) as error:
            raise ValueError(
                f"`random_network` needs a network that can be copied, but "
                f"{type(network).__name__} cannot: {error}. Set `random_network=False`."
            ) from error
        torch.manual_seed(seed)
        for module in twin.modules():
            for hooks in (module._forward_hooks, module._forward_pre_hooks):
                hooks.clear()
            if callable(reset := getattr(module, "reset_parameters", None)):
                reset()
                continue
            for parameter in module.parameters(recurse=False):
                order = torch.randperm(parameter.numel())
                parameter.copy_(parameter.flatten()[order].view_as(parameter))
        return twin.eval().requires_grad_(False)


def channels_last(network: nn.Module) -> nn.Module:
    """Have convolutions compute with the channels innermost, which is faster on the CPU."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            module.to(memory_format=torch.channels_last)
    return network


class RandomNetwork:
    """The twin of one module; several callbacks read one forward pass per batch.

    Args:
        module: whose network is copied.
        seed: of the weights.
    """

    def __init__(self, module: LightningModule, seed: int = 0) -> None:
        network = reinitialised(measured_network(module), seed)
        self.network = (channels_last(network) if module.device.type == "cpu" else network).to(
            module.device
        )
        self._layers: dict[str, None] = {}
        self._source: Any = None
        self._activations: dict[str, Tensor] = {}

    def request_layers(self, layers: list[str]) -> None:
        """Have the activations of `layers` recorded."""
        self._layers.update(dict.fromkeys(layers))

    def activations(self, source: object, images: Tensor) -> dict[str, Tensor]:
        """Activations of all requested layers.

        Args:
            source: the batch; the same object again costs no second forward pass.
            images: its pixels.
        """
        if self._source is not source or not self._layers.keys() <= self._activations.keys():
            self._source = source
            self._activations = activations_of(self.network, list(self._layers), images)
        return self._activations


_TWINS: "weakref.WeakValueDictionary[int, RandomNetwork]" = weakref.WeakValueDictionary()


def random_network_of(module: LightningModule) -> RandomNetwork:
    """The twin of `module`, shared by all callbacks that hold it, gone when none does."""
    twin = _TWINS.get(id(module))
    if twin is None:
        twin = RandomNetwork(module)
        _TWINS[id(module)] = twin
    return twin
