"""What the methods that weight a layer's maps start from: maps, gradients, and where cells lie."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from interp_train.layer_geometry import cells_of
from interp_train.precision import at_least_float32
from interp_train.receptive_field import upsampled
from interp_train.structures import LayerGeometry, Target
from interp_train.target_scores import (
    TargetScores,
    gradient_of,
    resolved_layer,
    scores_of_target,
)


class LayerEvidence(NamedTuple):
    """Maps of a layer and how the score depends on them.

    Attributes:
        activations: before a template mask, ``(N, K, h, w)``, at least float32.
        gradients: derivative of each image's score with respect to them, same shape; empty where
            they were not asked for.
        geometry: where the cells lie in the image.
        image_size: height and width of the images.
    """

    activations: Tensor
    gradients: Tensor
    geometry: LayerGeometry
    image_size: tuple[int, int]

    def at_image_resolution(self, maps: Tensor) -> Tensor:
        """Maps of this layer's cells as heatmaps, float32 ``(N, 1, H, W)``.

        Values are anchored at the centres of the receptive fields.
        """
        return upsampled(maps.float(), self.image_size, self.geometry)


def layer_evidence(
    network: nn.Module, images: Tensor, layer: str | None, target: Target
) -> LayerEvidence:
    """Maps of a layer and the gradients of the target's score; leaves no trace on the network.

    Args:
        network: puts out logits ``(N, C)``.
        images: network input, ``(N, channels, H, W)``.
        layer: dotted name or tap alias; None is the network's last tap.
        target: the unit of each image.

    Raises:
        ValueError: if a layer or unit does not exist, the layer has no maps, or the score does
            not depend on it.
    """
    with scores_of_target(network, images, target) as scores:
        dotted = resolved_layer(scores.network, layer)
        leaf, found = scores.above(dotted)
        check_maps(leaf, dotted)
        way_out = "Name a layer below the target and above any part that runs without gradients."
        gradients = at_least_float32(gradient_of(found, leaf, dotted, way_out))
        return layer_maps(scores, layer, leaf)._replace(gradients=gradients)


def combined_maps(
    network: nn.Module,
    images: Tensor,
    layer: str | None,
    target: Target,
    combine: Callable[[Tensor, Tensor], Tensor],
) -> Tensor:
    """One map of a layer's maps and their gradients, as a heatmap, float32 ``(N, 1, H, W)``.

    Args:
        network: see `layer_evidence`.
        images: see `layer_evidence`.
        layer: see `layer_evidence`.
        target: see `layer_evidence`.
        combine: activations and gradients, both ``(N, K, h, w)`` -> ``(N, 1, h, w)``.

    Raises:
        ValueError: as `layer_evidence`.
    """
    evidence = layer_evidence(network, images, layer, target)
    return evidence.at_image_resolution(combine(evidence.activations, evidence.gradients))


def layer_maps(
    scores: TargetScores, layer: str | None, maps: Tensor | None = None
) -> LayerEvidence:
    """Maps of a layer without gradients (an empty tensor).

    Args:
        scores: of the images.
        layer: see `layer_evidence`.
        maps: what the layer puts out; None asks the network.

    Raises:
        ValueError: if a layer or unit does not exist, or the layer has no maps.
    """
    dotted = resolved_layer(scores.network, layer)
    if maps is None:
        with torch.no_grad():
            maps, _ = scores.above(dotted)
        check_maps(maps, dotted)
    geometry = cells_of(scores.network, dotted, scores.images)
    height, width = scores.images.shape[-2:]
    activations = at_least_float32(maps.detach())
    return LayerEvidence(activations, activations.new_empty(0), geometry, (height, width))


def check_maps(output: Tensor, layer: str) -> None:
    """Raise ValueError unless a layer put out maps."""
    if output.dim() != 4:
        raise ValueError(
            f"`layer` must put out maps (N, K, h, w), but {layer!r} put out "
            f"{tuple(output.shape)}. Name a convolution or its ReLU."
        )
