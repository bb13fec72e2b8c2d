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
    the last layer of the largest stride below the top's that is at most 4 pixels.

    Args:
        steps: of the chain, in order; not empty, or there are no aliases.
        traces: of the layers.
    """
    if not steps:
        return {}
    layers = [step for step, module in steps.items() if not is_pooling(module)]
    top = layers[-1] if layers else list(steps)[-1]
    last_of: dict[float, str] = {}
    for step in layers:
        grid = traces[step].grid if step in traces else None
        if isinstance(grid, tuple):
            last_of[grid[1].stride] = step
    stride = next((stride for stride, step in last_of.items() if step == top), 0.0)
    early = last_of.get(max((s for s in last_of if s <= 4 and s < stride), default=0.0))
    mid = last_of.get(stride / 2)
    taps = {"early": early, "mid": mid, "top": top, "last": top}
    return {alias: layer for alias, layer in taps.items() if layer is not None}
