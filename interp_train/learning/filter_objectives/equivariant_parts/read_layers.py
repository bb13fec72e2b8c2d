"""Which maps equivariant parts read in a network."""

from torch import nn

from interp_train.backbones.backbone import Backbone
from interp_train.backbones.heads import ConvolutionalHead


def before_relu(network: Backbone, layer: str) -> str:
    """The step whose output a ReLU takes, or `layer` itself where that cannot be told.

    Args:
        network: holds the layer.
        layer: dotted name.
    """
    name, _, own = layer.rpartition(".")
    holder = network.get_submodule(name)
    ordered = isinstance(holder, nn.Sequential | ConvolutionalHead)
    if not ordered or not isinstance(network.get_submodule(layer), nn.ReLU):
        return layer
    siblings = [key for key, _ in holder.named_children()]
    position = siblings.index(own)
    return f"{name}.{siblings[position - 1]}" if position else layer


def read_by(network: Backbone, layer: str) -> str:
    """The map in which objects are looked for, or `layer` where there is none before it.

    What a head takes, which its losses change least: standardised, or the backbone's last map. In
    a backbone, the map that the layer reads.

    Args:
        network: holds the layer.
        layer: dotted name of a convolution, or of a normalisation behind it.
    """
    name, _, own = layer.rpartition(".")
    holder = network.get_submodule(name)
    if not isinstance(holder, nn.Sequential | ConvolutionalHead):
        return layer
    siblings = dict(holder.named_children())
    before = list(siblings)[: list(siblings).index(own) + 1]
    if name == "head":
        if "norm" in before:
            return f"{name}.norm"
        if network.chain[-1] != network.prefix:  # cached, the last step of a prefix does not run
            return network.chain[-1]
    while before and isinstance(siblings[before[-1]], nn.Conv2d | nn.BatchNorm2d):
        before.pop()
    return f"{name}.{before[-1]}" if before else layer
