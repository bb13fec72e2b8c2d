"""The colours of a box's cells beside its features, for heads that ask where a box changes.

Early in training, or under a coarse feature pyramid, the features of neighbouring cells are much
alike. The image itself tells best where a part ends.
"""

from collections.abc import Mapping
from typing import Any, final

import torch
from torch import Tensor, nn
from torchvision.ops import MultiScaleRoIAlign, roi_align

NUM_COLOURS = 3
SAMPLES = 4  # per side of a cell
LEAST_SPREAD = 0.01  # of a colour axis, as a share of the variance of all of them


@final
class MapsOfImages(dict[str, Tensor]):
    """Maps by name, as torchvision's detectors pass them on, with the images they are made of.

    Attributes:
        images: normalised, ``(N, 3, H, W)``.
    """

    def __init__(self, maps: Mapping[str, Tensor], images: Tensor) -> None:
        super().__init__(maps)
        self.images = images


def keep_images(module: nn.Module, inputs: tuple[Tensor], maps: Any) -> MapsOfImages:
    """Forward hook of a detector's backbone: its images stay with its maps."""
    named = {"0": maps} if isinstance(maps, Tensor) else maps
    return MapsOfImages(named, inputs[0].detach())


@final
class ColourRoIAlign(MultiScaleRoIAlign):  # type: ignore[misc]  # torchvision has no types
    """Pools boxes from the pyramid and from the images; goes into ``box_roi_pool``.

    The detector's backbone must have the hook `keep_images`.

    Args:
        like: a pooling whose maps, grid and assignment of boxes to maps are kept.
    """

    def __init__(self, like: MultiScaleRoIAlign) -> None:
        super().__init__(
            list(like.featmap_names),
            like.output_size,
            like.sampling_ratio,
            canonical_scale=like.canonical_scale,
            canonical_level=like.canonical_level,
        )

    def forward(
        self, x: MapsOfImages, boxes: list[Tensor], image_shapes: list[tuple[int, int]]
    ) -> Tensor:
        """Features of boxes and behind them their colours, ``(N, channels + 3, grid, grid)``."""
        pooled: Tensor = super().forward(x, boxes, image_shapes)
        places = [box.float() for box in boxes]
        colours = roi_align(x.images.float(), places, self.output_size, 1.0, SAMPLES, aligned=True)
        return torch.cat([pooled, colours.to(pooled.dtype)], dim=1)


def whitened(colours: Tensor) -> Tensor:
    """Colours of boxes in axes that vary alike and independently over the cells of each box.

    Brightness varies most in photos, and hue may tell parts apart; so every axis counts alike
    here, unless it varies by less than a hundredth of the whole.

    Args:
        colours: ``(N, 3, height, width)``, float32 or float64.

    Returns:
        ``(N, 3, height, width)``, centred; zeros where a box has one colour.
    """
    cells = (colours - colours.mean((2, 3), keepdim=True)).flatten(2)
    covariance = cells @ cells.transpose(1, 2) / cells.shape[2]
    variance = covariance.diagonal(dim1=1, dim2=2).sum(1)[:, None, None]
    least = (LEAST_SPREAD * variance).clamp(min=torch.finfo(cells.dtype).eps ** 2)
    identity = torch.eye(NUM_COLOURS, dtype=cells.dtype, device=cells.device)
    factor, _ = torch.linalg.cholesky_ex(covariance + least * identity)
    found: Tensor = torch.linalg.solve_triangular(factor, cells, upper=False)
    return found.view_as(colours)
