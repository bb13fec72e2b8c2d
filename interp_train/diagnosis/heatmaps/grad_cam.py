"""Grad-CAM: which places of a layer's maps speak for a unit.

Each map of the layer is weighted by the mean gradient of the unit's score with respect to it; the
positive part of the weighted sum is the heatmap.

Reference: R. R. Selvaraju, M. Cogswell, A. Das, R. Vedantam, D. Parikh, D. Batra, "Grad-CAM: Visual
Explanations from Deep Networks via Gradient-based Localization", ICCV 2017, eqs. 1 and 2.

Deviates from the paper in the upsampling: values are anchored at the centres of the receptive
fields, because resizing the map shifts it by up to half a cell.
"""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor, nn

from interp_train.activations import gradients_enabled, unwrapped
from interp_train.checks import check_name, check_shape
from interp_train.layer_geometry import geometry_of, measure_geometry, trace_layers
from interp_train.receptive_field import upsampled
from interp_train.structures import LayerGeometry, Target


def grad_cam(activations: Tensor, gradients: Tensor) -> Tensor:
    """Positive part of the maps' sum, weighted by their mean gradients.

    Args:
        activations: A, ``(N, K, h, w)``.
        gradients: derivative of each image's score with respect to A, same shape.

    Returns:
        ``(N, 1, h, w)`` >= 0, in units of the score.
    """
    check_shape("gradients", gradients, tuple(activations.shape))
    weights = gradients.mean((-2, -1), keepdim=True)
    return (weights * activations).sum(1, keepdim=True).relu()


@final
@dataclass(frozen=True)
class GradCam:
    """Grad-CAM as a heatmap method.

    Attributes:
        layer: dotted name or tap alias of the maps to weight; None takes the network's last
            tap ("last", else "top").
    """

    layer: str | None = None

    def __call__(self, network: nn.Module, images: Tensor, target: Target) -> Tensor:
        """Heatmap ``(N, 1, H, W)`` >= 0 in units of the score, not rescaled per image.

        The score is the unit's logit, or its highest activation if the target is a layer with
        maps. The forward pass runs in evaluation mode.

        Args:
            network: puts out logits ``(N, C)``.
            images: network input, ``(N, channels, H, W)``.
            target: the unit of each image.

        Raises:
            ValueError: if a layer or unit does not exist, or the score does not depend on
                the layer.
        """
        inner = unwrapped(network)
        layer = resolved(inner, self.layer)
        check_shape("target.units", target.units, (len(images),))
        with gradients_enabled(), evaluation_mode(inner):
            activations, score = _layer_and_score(inner, images.detach().clone(), layer, target)
            gradients = _gradients(score, activations, layer)
            heatmaps = grad_cam(activations.detach(), gradients)
            geometry = cells_of(inner, layer, images)
            return upsampled(heatmaps.float(), (images.shape[-2], images.shape[-1]), geometry)


def resolved(network: nn.Module, layer: str | None) -> str:
    """The dotted name of a layer or alias; None is the network's last tap.

    Raises:
        ValueError: for an unknown name, or for None where the network names no taps.
    """
    taps: dict[str, str] = getattr(network, "taps", {})
    if layer is None:
        layer = taps.get("last", taps.get("top"))
    if layer is None:
        raise ValueError(
            f"`layer` must be given for a network without taps, but got None for "
            f"{type(network).__name__}. Name the module whose maps are to be weighted."
        )
    names = [name for name, _ in network.named_modules() if name]
    dotted = taps.get(layer, layer)
    check_name("layer", dotted, (*names, *taps), "a module of the network")
    return dotted


def cells_of(network: nn.Module, layer: str, images: Tensor) -> LayerGeometry:
    """Where the cells of a layer lie: as the network states it, else traced, else measured."""
    stated: Any = getattr(network, "geometry", None)
    if callable(stated):
        geometry: LayerGeometry = stated(layer)
        return geometry
    channels, height, width = images.shape[1:]
    traces = trace_layers(network, (channels, height, width), run=network.forward)
    grid = traces[layer].grid if layer in traces else None
    found = geometry_of(grid) if isinstance(grid, tuple) else None
    return found or measure_geometry(network, [layer])[layer]


@contextlib.contextmanager
def evaluation_mode(network: nn.Module) -> Iterator[None]:
    """Evaluation mode inside the block; every module gets its own mode back."""
    modes = {module: module.training for module in network.modules()}
    network.eval()
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode


def _layer_and_score(
    network: nn.Module, images: Tensor, layer: str, target: Target
) -> tuple[Tensor, Tensor]:
    """Activations of the layer, cut off from what lies below, and the sum of the scores."""
    kept: dict[str, Tensor] = {}

    def cut(module: nn.Module, inputs: Any, output: Tensor) -> Tensor:
        # What follows works on a copy: a ReLU in place must not change the leaf.
        kept["leaf"] = output.detach().clone().requires_grad_()
        return kept["leaf"].clone()

    def keep(module: nn.Module, inputs: Any, output: Tensor) -> None:
        kept["response"] = output.clone()

    with contextlib.ExitStack() as hooks:
        if target.layer is not None:
            above = network.get_submodule(resolved(network, target.layer))
            hooks.callback(above.register_forward_hook(keep, prepend=True).remove)
        module = network.get_submodule(layer)
        hooks.callback(module.register_forward_hook(cut, prepend=True).remove)
        logits = network(images)
    leaf = kept.get("leaf")
    if leaf is None or leaf.dim() != 4:
        shape = "nothing" if leaf is None else tuple(leaf.shape)
        raise ValueError(
            f"`layer` must put out maps (N, K, h, w), but {layer!r} put out {shape}. "
            f"Name a convolution or its ReLU."
        )
    return leaf, _scores(kept.get("response", logits), target).sum()


def _scores(response: Tensor, target: Target) -> Tensor:
    if response.dim() == 4:
        response = response.amax((-2, -1))
    check_shape("response", response, ("N", "C"))
    # A tensor made in inference mode cannot be saved for a gradient, its copy can.
    units = target.units.to(response.device).clone()
    if len(units) and not (int(units.min()) >= 0 and int(units.max()) < response.shape[1]):
        raise ValueError(
            f"`target.units` must be >= 0 and < {response.shape[1]}, but got {units.tolist()}."
        )
    return response.gather(1, units[:, None])[:, 0]


def _gradients(score: Tensor, activations: Tensor, layer: str) -> Tensor:
    gradient = None
    if score.requires_grad:
        # autograd.grad: `backward` would add to the gradients of the weights.
        (gradient,) = torch.autograd.grad(score, activations, allow_unused=True)
    if gradient is None:
        raise ValueError(
            f"`layer` must lie below the target and above any part that runs without gradients, "
            f"but the score does not depend on {layer!r}. Name a later layer, such as the last "
            f"convolution."
        )
    return gradient
