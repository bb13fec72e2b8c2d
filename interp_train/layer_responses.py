"""What the units of a layer answer to images, as maps, for pictures of the units.

`responses_of_layer` asks in evaluation mode, in full precision, also inside inference mode, and
leaves no trace on the network.
"""

import contextlib
from collections.abc import Iterator
from typing import Any, final

import torch
from torch import Tensor, nn

from interp_train.activations import gradients_enabled, unwrapped
from interp_train.checks import check_range, check_shape
from interp_train.layer_geometry import cells_of
from interp_train.precision import at_least_float32
from interp_train.structures import LayerGeometry, Target
from interp_train.target_scores import evaluation_mode, resolved_layer


class _Reached(Exception):  # noqa: N818  (no error: what lies above is not needed)
    """The layer has put out its maps for the last time."""


@final
class LayerResponses:
    """Maps of one layer for any images; made by `responses_of_layer`.

    Attributes:
        network: without wrappers, in evaluation mode.
        images: a copy of the sample, ``(N, channels, H, W)``.
        layer: dotted name; None is the output layer.
        units: the target's, long ``(U,)``.

    Args:
        network: without wrappers.
        target: see `responses_of_layer`.
        images: see `responses_of_layer`.
    """

    def __init__(self, network: nn.Module, target: Target, images: Tensor) -> None:
        self.network = network
        # Copies: a tensor made in inference mode cannot be saved for a gradient.
        self.images = images.detach().clone()
        self.units = target.units.to(images.device, copy=True).long()
        self.layer = None if target.layer is None else resolved_layer(network, target.layer)
        floating = (p.dtype for p in network.parameters() if p.is_floating_point())
        self._dtype = next(floating, images.dtype)
        self._calls = 0  # of the layer in one forward pass
        self._units = target.units.tolist()

    def __call__(self, images: Tensor | None = None) -> Tensor:
        """What the layer puts out, at least float32 ``(N, K, h, w)``; logits are 1 x 1 cells.

        A copy: a ReLU in place behind the layer does not change it.

        Args:
            images: network input; None stands for the sample.

        Raises:
            ValueError: if the layer does not run, puts out anything but maps or vectors, or lacks
                a unit of the target.
        """
        maps = self._output((self.images if images is None else images).to(self._dtype))
        maps = maps[..., None, None] if maps.dim() == 2 else maps
        check_shape("target.layer's output", maps, ("N", "K", "h", "w"))
        if self._units and not 0 <= min(self._units) <= max(self._units) < maps.shape[1]:
            raise ValueError(
                f"`target.units` must be >= 0 and < {maps.shape[1]}, but got {self._units}."
            )
        return at_least_float32(maps)

    def of_units(self, batch_size: int, images: Tensor | None = None) -> Tensor:
        """Maps ``(N, U, h, w)`` of the target's units, without gradients, in batches.

        Args:
            batch_size: images in one forward pass, at most.
            images: network input; None stands for the sample.
        """
        images = self.images if images is None else images
        with torch.no_grad():
            parts = torch.split(images, batch_size)
            return torch.cat([self(part)[:, self.units] for part in parts])

    def geometry(self, maps: Tensor) -> LayerGeometry:
        """Where the cells of `maps`, of this layer, lie; a single cell sees the whole image."""
        height, width = self.images.shape[-2:]
        if self.layer is None or maps.shape[-2:] == (1, 1):
            side = float(max(height, width))
            return LayerGeometry(side, (side - 1) / 2, side)
        return cells_of(self.network, self.layer, self.images)

    def _output(self, images: Tensor) -> Tensor:
        if self.layer is None:
            logits: Tensor = self.network(images)
            return logits.clone()
        kept: list[Tensor] = []

        def keep(module: nn.Module, inputs: Any, output: Tensor) -> None:
            kept.append(output.clone())

        def stop(module: nn.Module, inputs: Any, output: Tensor) -> None:
            if len(kept) == self._calls:
                raise _Reached

        module = self.network.get_submodule(self.layer)
        handles = [  # before and after all other hooks of the layer
            module.register_forward_hook(keep, prepend=True),
            module.register_forward_hook(stop),
        ]
        try:
            self.network(images)
        except _Reached:
            pass
        finally:
            for handle in handles:
                handle.remove()
        if not kept:
            raise ValueError(
                f"`target.layer` must run in the forward pass, but {self.layer!r} did not. "
                f"Name a layer that the network calls."
            )
        self._calls = len(kept)  # the next pass may end there
        return kept[-1]


@contextlib.contextmanager
def responses_of_layer(
    network: nn.Module, target: Target, images: Tensor
) -> Iterator[LayerResponses]:
    """Responses of a layer while the block runs, with gradients enabled.

    Example:
        with responses_of_layer(network, Target("layer4", units), images) as responses:
            maps = responses()  # (N, K, h, w)

    Args:
        network: puts out logits ``(N, C)``; wrappers are taken off.
        target: the layer, as a dotted name or alias, and units ``(U,)``.
        images: a sample, network input, ``(N, channels, H, W)`` with N > 0.

    Raises:
        ValueError: if the target or the images have another form, or there is no such layer.
    """
    inner = unwrapped(network)
    check_shape("images", images, ("N", "channels", "H", "W"))
    check_range("len(images)", len(images), 1)
    check_shape("target.units", target.units, ("U",))
    check_range("len(target.units)", len(target.units), 1)
    with (
        gradients_enabled(),
        evaluation_mode(inner),
        torch.autocast(images.device.type, enabled=False),
    ):
        yield LayerResponses(inner, target, images)
