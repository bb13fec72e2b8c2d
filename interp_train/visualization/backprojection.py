"""From the strongest peaks of a unit back to the pixels, through ReLUs with another rule.

Shared by `deconvnet` and `guided_backprop`, which say what it means.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from interp_train.checks import check_shape
from interp_train.layer_responses import LayerResponses, responses_of_layer
from interp_train.relu_gradients import relu_rule
from interp_train.structures import Target
from interp_train.target_scores import gradient_of
from interp_train.visualization.unit_peaks import (
    UnitPeaks,
    field_side,
    grids,
    resized,
    squares,
    strongest_peaks,
)


class Backprojections(NamedTuple):
    """What the peaks of U units lead back to.

    Attributes:
        gradients: signed, at image resolution, ``(U, k, channels, H, W)``; 0 where a unit does
            not answer.
        peaks: where they start.
        side: of the square around a peak that shows its receptive field, in pixels.
    """

    gradients: Tensor
    peaks: UnitPeaks
    side: int


def backprojections(
    network: nn.Module,
    target: Target,
    images: Tensor,
    *,
    rule: str,
    name: str,
    num_patches: int,
    field_share: float,
    batch_size: int,
) -> Backprojections:
    """Each unit's strongest peaks, led back to the images that caused them.

    Args:
        network: puts out logits ``(N, C)``; its ReLUs are modules.
        target: the layer and its units, ``(U,)``.
        images: the sample to choose from, network input, ``(N, channels, H, W)``.
        rule: of the ReLUs, see `interp_train.relu_gradients`.
        name: of the method, for errors.
        num_patches: k, per unit; fewer if the sample has fewer images.
        field_share: side of the square over that of the theoretical receptive field.
        batch_size: images in one pass, at most.

    Raises:
        ValueError: if a ReLU is no module, or the layer or a unit does not exist.
    """
    with responses_of_layer(network, target, images) as responses:
        maps = responses.of_units(batch_size)
        geometry = responses.geometry(maps)
        peaks = strongest_peaks(maps, num_patches, geometry)
        with relu_rule(responses.network, rule) as relus:
            gradients = _led_back(responses, peaks, batch_size)
        relus.check(name, part=True)
    height, width = images.shape[-2:]
    side = field_side(geometry, field_share, (height, width))
    active = peaks.active[..., None, None, None]
    return Backprojections(torch.where(active, gradients, 0), peaks, side)


def _led_back(responses: LayerResponses, peaks: UnitPeaks, batch_size: int) -> Tensor:
    rows = peaks.rows.flatten()
    columns, lines = peaks.cells.flatten(0, 1).unbind(-1)
    units = responses.units.repeat_interleave(peaks.rows.shape[1])
    found = []
    for chosen in torch.split(torch.arange(len(rows), device=rows.device), batch_size):
        leaf = responses.images[rows[chosen]].requires_grad_()
        # The network works on a copy: a ReLU in place must not change the leaf.
        maps = responses(leaf.clone())
        place = torch.arange(len(chosen), device=rows.device)
        values = maps[place, units[chosen], lines[chosen], columns[chosen]]
        found.append(gradient_of(values, leaf, "images", "Let gradients pass through all layers."))
    gradients = torch.cat(found)
    return gradients.view(*peaks.rows.shape, *gradients.shape[1:])


def on_grey(gradients: Tensor, std: Sequence[float]) -> Tensor:
    """Signed gradients as pixels: grey is 0, the strongest hundredth of a picture black or white.

    Args:
        gradients: with respect to the network's input, ``(n, channels, height, width)``.
        std: per channel, that normalisation divides by: the gradient with respect to pixels in
            [0, 1] is the input's over it.

    Returns:
        float32 ``(n, 3, height, width)`` in [0, 1]; grey where all is 0.
    """
    check_shape("gradients", gradients, ("n", len(std), "height", "width"))
    scale = torch.as_tensor(std, dtype=torch.float32, device=gradients.device).view(-1, 1, 1)
    pixels = gradients.float() / scale
    sizes = pixels.abs().flatten(1)
    strong = sizes.quantile(0.99, dim=1)
    strong = torch.where(strong > 0, strong, sizes.amax(1)).view(-1, 1, 1, 1)
    found = 0.5 + 0.5 * pixels / torch.where(strong > 0, strong, 1)
    return found.clamp(0, 1).expand(-1, 3, -1, -1)


def backprojected_grids(found: Backprojections, *, patch_size: int, std: Sequence[float]) -> Tensor:
    """One grid per unit: the square around each peak, on grey; white without an answer.

    Args:
        found: of the peaks.
        patch_size: side of a drawn square, in pixels.
        std: see `on_grey`.

    Returns:
        ``(U, 3, height, width)``.
    """
    flat, positions = found.gradients.flatten(0, 1), found.peaks.positions.flatten(0, 1)
    drawn = resized(on_grey(squares(flat, positions, found.side), std), patch_size)
    drawn = torch.where(found.peaks.active.reshape(-1, 1, 1, 1), drawn, torch.nan)
    return grids(drawn.view(*found.peaks.rows.shape, *drawn.shape[1:]))
