"""The user's own network as backbone, named by its import path."""

import copy
from collections.abc import Mapping
from typing import Any

from torch import nn

from interp_train.backbones.backbone import Backbone
from interp_train.backbones.chains import chain_of, split_readout, without_in_place
from interp_train.backbones.weights import load_weights
from interp_train.layer_geometry import trace_layers
from interp_train.targets import locate


def custom_backbone(
    path: str,
    arguments: Mapping[str, Any] | None = None,
    weights: str | None = None,
    cut: str | None = None,
    freeze: str | None = None,
    *,
    learning_rates: Mapping[str, float] | None = None,
    taps: Mapping[str, str] | None = None,
    classifier: bool = True,
    image_size: int = 224,
    in_channels: int = 3,
) -> Backbone:
    """A class, function or module of the user as backbone.

    A network whose forward method calls one module or known function after the other is a chain:
    it can be cut, frozen, and given a head, and its state-dict keys stay. Any other network becomes
    one single step ``model``, whose layers are tapped by their dotted names.

    Args:
        path: import path of a class or function that makes an `nn.Module`, or of a module; its
            package must be trusted (``--trust my_package``).
        arguments: for the class or function.
        weights: path of a state-dict file, also relative to ``$INTERP_TRAIN_DATA/weights``; None
            keeps the weights that the network is made with.
        cut: dotted name (or alias) of the last step that is kept.
        freeze: dotted name (or alias) of the last step of the frozen prefix.
        learning_rates: prefix of dotted names (or alias) -> multiplier of the learning rate.
        taps: aliases for dotted names.
        classifier: False leaves out what follows the last map, and its weights in the file; a head
            takes its place.
        image_size: side of the images, in pixels.
        in_channels: of the images.

    Raises:
        ValueError: if the path leads to no `nn.Module`, the network cannot take such images, or
            `cut`, `freeze` or ``classifier=False`` is asked of a network that is not a chain.
    """
    network = _made(path, arguments or {})
    without_in_place(network)
    spatial, readout = split_readout(chain_of(network) or {})
    if weights is not None:
        dropped = tuple(readout) if cut is not None or not classifier else ()
        load_weights(network, weights, left_out=dropped)
    rates, names = dict(learning_rates or {}), dict(taps or {})
    if not spatial:
        if cut is not None or freeze is not None or not classifier:
            raise ValueError(
                f"`cut`, `freeze` and `classifier` must be left alone unless the network is a "
                f"chain of steps, but the forward method of {path!r} is not a plain sequence of "
                f"modules. Write it as nn.Sequential, or freeze inside the network."
            )
        rates = {f"model.{name}": rate for name, rate in rates.items()}
        names = {alias: f"model.{name}" for alias, name in names.items()}
        spatial, readout = _single_step(network, path, (in_channels, image_size, image_size))
    return Backbone(
        spatial,
        classifier=readout if classifier and readout else None,
        taps=names,
        cut=cut,
        freeze=freeze,
        learning_rates=rates,
        image_size=image_size,
        in_channels=in_channels,
    )


def _made(path: str, arguments: Mapping[str, Any]) -> nn.Module:
    found = locate(path)
    network = copy.deepcopy(found) if isinstance(found, nn.Module) else found(**arguments)
    if not isinstance(network, nn.Module):
        raise ValueError(
            f"`path` must lead to an nn.Module or to what makes one, but {path!r} gives a "
            f"{type(network).__name__}."
        )
    return network


def _single_step(
    network: nn.Module, path: str, shape: tuple[int, int, int]
) -> tuple[dict[str, nn.Module], dict[str, nn.Module]]:
    """The whole network as a step of the chain if it puts out a map, else as readout."""
    try:
        output = trace_layers(network, shape)[""].shape
    except (RuntimeError, ValueError, TypeError) as error:
        raise ValueError(
            f"`image_size` and `in_channels` must suit the network, but {path!r} fails with images "
            f"of {shape}: {error}."
        ) from error
    steps = {"model": network}
    return (steps, {}) if len(output) == 4 else ({}, steps)
