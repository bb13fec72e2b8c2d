"""Aliases for the layers of a chain, by the stride of their cells."""

from collections.abc import Mapping

from torch import nn

from interp_train.backbones.chains import is_pooling
from interp_train.layer_geometry import LayerTrace


def aliases_by_stride(
    steps: Mapping[str, nn.Module], traces: Mapping[str, LayerTrace]
) -> dict[str, str]:
    """Alias -> dotted name, for steps that are not poolings.

    ``top`` and ``last`` are the last layer; ``mid`` is the last layer of half its stride; ``early``
    the last layer of a stride of at most 4 pixels, if there is one below the top.

    Args:
        steps: of the chain, in order; not empty, or there are no aliases.
        traces: of the layers.
    """
    if not steps:
        return {}
    layers = [step for step, module in steps.items() if not is_pooling(module)]
    top = layers[-1] if layers else list(steps)[-1]
    strides: dict[str, float] = {}
    for step in layers:
        grid = traces[step].grid if step in traces else None
        if isinstance(grid, tuple):
            strides[step] = grid[1].stride
    early = [step for step, stride in strides.items() if stride <= 4 and step != top]
    mid = [step for step, stride in strides.items() if stride * 2 == strides.get(top)]
    taps = {"early": early[-1]} if early else {}
    return taps | ({"mid": mid[-1]} if mid else {}) | {"top": top, "last": top}
