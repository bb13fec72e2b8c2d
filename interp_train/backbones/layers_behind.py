"""What follows a layer: the rest of a network as a function of that layer's activations.

A second path through a network, with other activations in the place of a layer's own, leaves no
trace on it: normalisation takes the statistics of the batch in training but does not remember
them, and nothing is drawn at random (dropout rests), so that the ordinary path and the random
state are what they would be without it.
"""

import contextlib
from collections.abc import Iterable, Iterator, Sequence

from torch import Tensor, nn

from interp_train.backbones.backbone import Backbone
from interp_train.backbones.heads import ConvolutionalHead

# Modules that call their children one after the other.
_STRAIGHT = (nn.Sequential, ConvolutionalHead)


def steps_behind(network: Backbone, layer: str) -> tuple[str, ...]:
    """Dotted names of what turns the output of `layer` into logits, in order.

    Args:
        network: with a classifier or a head.
        layer: alias or dotted name.

    Raises:
        ValueError: if there is neither, or if the layer lies beside the way to the logits or
            inside a block whose modules are no plain sequence.
    """
    ends = ("head",) if network.has_head else network.readout
    if not ends:
        raise ValueError(
            "`network` must have a classifier or a head to compute logits, but has none. Call "
            "`attach_head(head)` or `resize_classifier(num_outputs)` first."
        )
    return _behind(network, (*network.chain, *ends), network.resolve(layer))


def logits_behind(network: Backbone, layer: str, activations: Tensor) -> Tensor:
    """Logits ``(N, C)`` with `activations` in the place of what `layer` puts out.

    A mask that is hung on the layer itself is not applied; masks behind it are.

    Args:
        network: with a classifier or a head.
        layer: alias or dotted name.
        activations: of the layer, ``(N, K, h, w)``.

    Raises:
        ValueError: see `steps_behind`.
    """
    steps = [network.get_submodule(step) for step in steps_behind(network, layer)]
    with _without_trace(steps):
        for step in steps:
            activations = step(activations)
    return activations


def _behind(network: Backbone, steps: Sequence[str], layer: str) -> tuple[str, ...]:
    for number, step in enumerate(steps):
        later = tuple(steps[number + 1 :])
        if step == layer:
            return later
        if layer.startswith(f"{step}."):
            module = network.get_submodule(step)
            if not isinstance(module, _STRAIGHT):
                raise ValueError(
                    f"`layer` must not lie inside a block whose modules are no plain sequence, but "
                    f"{layer!r} is inside {step!r} ({type(module).__name__}). Choose {step!r}."
                )
            children = [f"{step}.{name}" for name, _ in module.named_children()]
            return _behind(network, children, layer) + later
    raise ValueError(
        f"`layer` must be on the way to the logits, but {layer!r} is not. The steps are "
        f"{', '.join(map(repr, steps))}."
    )


@contextlib.contextmanager
def _without_trace(steps: Iterable[nn.Module]) -> Iterator[None]:
    """Statistics of the batch that are not remembered, and nothing drawn, inside the block."""
    changed: list[tuple[nn.Module, str, bool]] = []
    for module in {inner: None for step in steps for inner in step.modules()}:
        if module.training:
            normalises = isinstance(module, nn.modules.batchnorm._BatchNorm)
            name = "track_running_stats" if normalises else "training"
            changed.append((module, name, getattr(module, name)))
            setattr(module, name, False)
    try:
        yield
    finally:
        for module, name, value in changed:
            setattr(module, name, value)
