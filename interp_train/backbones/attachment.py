"""What a filter objective may be attached to."""

from collections.abc import Sequence

from torch import nn

from interp_train.backbones.backbone import Backbone


def checked_backbone(network: nn.Module, layers: Sequence[str]) -> Backbone:
    """The network that an objective is attached to.

    Args:
        network: as `FilterObjective.attach` is given it.
        layers: of the objective; none before it is attached.

    Raises:
        TypeError: if `network` is no `Backbone`.
        ValueError: if the objective is attached already.
    """
    if not isinstance(network, Backbone):
        raise TypeError(
            f"`network` must be a Backbone, but got {type(network).__name__}. Wrap your own "
            f"module with interp_train.backbones.custom_backbone."
        )
    if layers:
        raise ValueError("`attach` must be called once; make one objective per network.")
    return network
