"""Backprojection: what raised a unit's strongest peaks, led back through ReLUs with another rule.

From each peak the gradient goes down to the image, and every ReLU on its way has a rule:

* ``"deconvnet"``: it passes what is positive, whether it was open or not. M. D. Zeiler, R. Fergus,
  "Visualizing and Understanding Convolutional Networks", ECCV 2014.
* ``"guided"``: it passes what is positive where it was open. J. T. Springenberg, A. Dosovitskiy,
  T. Brox, M. Riedmiller, "Striving for Simplicity: The All Convolutional Net", ICLR Workshop 2015.
  The heatmap `guided_backprop` answers for a category in given images; this picture answers for a
  unit in the images of a sample that excite it most.

Such pictures are crisp but come close to the edges of the image, whatever the weights are (Nie et
al., "A Theoretical Explanation for Perplexing Behaviors of Backpropagation-based Visualizations",
ICML 2018). Look at them beside `top_patches`, and do not take them for a measure.

Deviates from the papers in layers that they do not have, which pass their gradient, in ReLU6
modules, which have the rule as well, and in one peak per image at most.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, final

import torch
from torch import Tensor, nn
from torch.nn import functional

from interp_train.checks import check_choice, check_range, check_shape
from interp_train.data.photo_data import IMAGENET_STD
from interp_train.layer_responses import LayerResponses, responses_of_layer
from interp_train.relu_gradients import RULES, relu_rule
from interp_train.structures import Target
from interp_train.target_scores import gradient_of
from interp_train.visualization.unit_peaks import (
    UnitPeaks,
    field_side,
    grids,
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


_NAMES = {"deconvnet": "the deconvnet", "guided": "guided backpropagation"}  # for errors


@final
@dataclass(frozen=True)
class Backprojection:
    """Deconvnet and guided backpropagation as a unit visualizer.

    Attributes:
        rule: ``"deconvnet"`` or ``"guided"``.
        num_patches: peaks per unit, each from another image; fewer if the sample has fewer.
        field_share: side of a patch over that of the theoretical receptive field.
        patch_size: side of a drawn patch, in pixels.
        batch_size: images in one pass, at most.
        std: per channel, that normalisation divides by.
    """

    rule: str = "deconvnet"
    num_patches: int = 9
    field_share: float = 1.0
    patch_size: int = 64
    batch_size: int = 32
    std: Sequence[float] = IMAGENET_STD

    def __post_init__(self) -> None:
        """Check the ranges."""
        check_choice("rule", self.rule, RULES)
        check_range("num_patches", self.num_patches, 1)
        check_range("field_share", self.field_share, 0)
        check_range("patch_size", self.patch_size, 1)
        check_range("batch_size", self.batch_size, 1)

    def __call__(self, network: nn.Module, target: Target, images: Tensor) -> Tensor:
        """One grid per unit, beside the same peaks of `TopPatches`, in [0, 1], ``(U, 3, h, w)``.

        Grey stands for 0; each patch has its own scale.

        Args:
            network: puts out logits ``(N, C)``; its ReLUs are modules.
            target: the layer and its units, ``(U,)``.
            images: the sample to choose from, network input, ``(N, channels, H, W)``.

        Raises:
            ValueError: if a ReLU is no module, the layer or a unit does not exist, or there are
                no images.
        """
        found = self.backprojections(network, target, images)
        return backprojected_grids(found, patch_size=self.patch_size, std=self.std)

    def backprojections(
        self, network: nn.Module, target: Target, images: Tensor
    ) -> Backprojections:
        """The signed pictures at image resolution, and the peaks they start from.

        Args:
            network: see `__call__`.
            target: see `__call__`.
            images: see `__call__`.

        Raises:
            ValueError: as `__call__`.
        """
        with responses_of_layer(network, target, images) as responses:
            maps = responses.of_units(self.batch_size)
            geometry = responses.geometry(maps)
            peaks = strongest_peaks(maps, self.num_patches, geometry)
            with relu_rule(responses.network, self.rule) as relus:
                gradients = _led_back(responses, peaks, self.batch_size)
            relus.check(_NAMES[self.rule], part=True)
        height, width = images.shape[-2:]
        side = field_side(geometry, self.field_share, (height, width))
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
    # Resized before it is scaled: fine lines of opposite signs fade when they are smoothed.
    fields = squares(flat, positions, found.side).float()
    size = (patch_size, patch_size)
    drawn = on_grey(functional.interpolate(fields, size, mode="bilinear", antialias=True), std)
    drawn = torch.where(found.peaks.active.reshape(-1, 1, 1, 1), drawn, torch.nan)
    return grids(drawn.view(*found.peaks.rows.shape, *drawn.shape[1:]))
