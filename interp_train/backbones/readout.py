"""What stands between the last map of a network and its logits, and how to resize it."""

from collections.abc import Sequence

from torch import nn


def pooled_linear(units: int, num_outputs: int) -> dict[str, nn.Module]:
    """Steps of a readout that averages each unit over the map and adds one linear layer."""
    return {
        "avgpool": nn.AdaptiveAvgPool2d(1),
        "flatten": nn.Flatten(1),
        "classifier": _fresh(nn.Linear(units, num_outputs)),
    }


def resize_last_linear(network: nn.Module, steps: Sequence[str], num_outputs: int) -> None:
    """Replace the last linear layer of the readout `steps` by one with `num_outputs` outputs.

    A 1x1 convolution over the last map counts as linear layer, as in SqueezeNet. A ReLU right
    behind it is taken out: a logistic loss needs negative logits.

    Raises:
        ValueError: if the readout has no linear layer.
    """
    name = _last_linear(network, steps)
    layer = network.get_submodule(name)
    resized: nn.Linear | nn.Conv2d
    if isinstance(layer, nn.Conv2d):
        resized = nn.Conv2d(layer.in_channels, num_outputs, 1, bias=layer.bias is not None)
    else:
        assert isinstance(layer, nn.Linear)
        resized = nn.Linear(layer.in_features, num_outputs, bias=layer.bias is not None)
    _fresh(resized).to(device=layer.weight.device, dtype=layer.weight.dtype)
    network.set_submodule(name, resized)
    holder, _, key = name.rpartition(".")
    siblings = list(network.get_submodule(holder).named_children()) if holder else []
    following = [entry for entry, _ in siblings].index(key) + 1 if siblings else 0
    if siblings[following:] and isinstance(siblings[following][1], nn.ReLU):
        network.set_submodule(f"{holder}.{siblings[following][0]}", nn.Identity())


def _last_linear(network: nn.Module, steps: Sequence[str]) -> str:
    found = [
        f"{step}.{name}" if name else step
        for step in steps
        for name, module in network.get_submodule(step).named_modules()
        if isinstance(module, nn.Linear)
        or (isinstance(module, nn.Conv2d) and module.kernel_size == (1, 1) and module.groups == 1)
    ]
    if not found:
        raise ValueError(
            f"`network` must end in a linear layer to resize it, but its readout consists of "
            f"{', '.join(steps)}. Attach a head instead."
        )
    return found[-1]


def _fresh(layer: nn.Linear | nn.Conv2d) -> nn.Linear | nn.Conv2d:
    """`layer` with small normal weights and no bias, torchvision's way for classifiers."""
    nn.init.normal_(layer.weight, std=0.01)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer
