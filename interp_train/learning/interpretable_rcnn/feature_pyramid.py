"""A feature pyramid over any backbone, for torchvision's detectors.

T.-Y. Lin, P. Dollar, R. Girshick, K. He, B. Hariharan, S. Belongie, "Feature Pyramid Networks for
Object Detection", CVPR 2017; the pyramid itself is torchvision's.
"""

import itertools
from collections.abc import Sequence
from typing import final

from torch import Tensor, nn
from torchvision.ops.feature_pyramid_network import FeaturePyramidNetwork, LastLevelMaxPool

from interp_train.activations import ActivationTap
from interp_train.backbones.backbone import Backbone


@final
class BackbonePyramid(nn.Module):
    """Maps of some layers, brought to one number of channels from the coarsest down.

    The backbone is read and not owned: its weights belong to the learning system, once.

    Args:
        network: its chain of steps is run.
        levels: layers, finest first, dotted names or tap aliases; the last must belong to the
            last step of the chain.
        channels: of every map.
        coarser_level: whether a map of half the coarsest one's size is added.

    Attributes:
        layers: dotted names of the levels.
        strides: of all maps, in pixels.
        out_channels: see `channels`; torchvision asks for this name.

    Raises:
        ValueError: if a level is no finer than the next, or steps follow the last level.
    """

    def __init__(
        self, network: Backbone, levels: Sequence[str], channels: int, coarser_level: bool
    ) -> None:
        super().__init__()
        self._network = (network,)  # in a tuple, so that torch does not register it
        self.layers = [network.resolve(level) for level in levels]
        strides = [round(network.geometry(layer).stride) for layer in self.layers]
        if not strides or any(a >= b for a, b in itertools.pairwise(strides)):
            raise ValueError(
                f"`levels` must name layers of growing stride, finest first, but got "
                f"{list(levels)} of strides {strides}. List them with interp-train layers."
            )
        last = network.chain[-1]
        if not f"{self.layers[-1]}.".startswith(f"{last}."):
            raise ValueError(
                f"`levels` must end with the last step of the backbone ({last}), since what "
                f"follows would not learn, but got {self.layers[-1]!r}. Set backbone.cut="
                f"{self.layers[-1]}."
            )
        self.names = [str(index) for index in range(len(strides))]
        coarser = LastLevelMaxPool() if coarser_level else None
        self.strides = [*strides, *([2 * strides[-1]] if coarser_level else [])]
        self.out_channels = channels
        inputs = [network.num_channels(layer) for layer in self.layers]
        self.pyramid = FeaturePyramidNetwork(inputs, channels, coarser)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Maps of normalised images ``(N, 3, H, W)``, finest first, ``(N, channels, h, w)``."""
        (network,) = self._network
        with ActivationTap(network, self.layers) as tap:
            network.forward_chain(images)
            maps = tap.take()
        ordered = {name: maps[layer] for name, layer in zip(self.names, self.layers, strict=True)}
        found: dict[str, Tensor] = self.pyramid(ordered)
        return found
