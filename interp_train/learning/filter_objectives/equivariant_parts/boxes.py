"""What the box of an object tells of where it is not."""

import torch
from torch import Tensor

from interp_train.collectives import sum_over_processes
from interp_train.learning.filter_objectives.equivariant_parts.functional import weighted_mean


def beside_boxes(cells: Tensor, boxes: Tensor, side: int) -> Tensor:
    """Which cells have their centre outside the object's box, 0 or 1, ``(N, h * w)``.

    Args:
        cells: from `functional.cell_positions`, ``(h * w, 2)``.
        boxes: of objects, in pixels, ``(N, 4)``; where one is NaN, no cell is known to be outside.
        side: of the images, in pixels.
    """
    boxes = (boxes.to(cells.dtype) + 0.5)[:, None] / side
    outside = (cells < boxes[..., :2]) | (cells > boxes[..., 2:])
    return outside.any(2).to(cells.dtype)


def box_presence(
    logits: Tensor, member: Tensor, beside: Tensor, share: float, across: bool = False
) -> Tensor:
    """Logits of cells as detectors of their object: the mean of two logistic losses.

    As `functional.presence`, but cells outside the object's box belong with those of images
    without the object. Receptive fields see an object from beside it, and what an image's label
    tells is true of them as well; what they see there is not where the object is.

    Args:
        logits: ``(N, C, h * w)``.
        member: images that show the category, ``(N, C, 1)``.
        beside: from `beside_boxes`, ``(N, h * w)``.
        share: that cells outside boxes have in the loss of those without the object, [0, 1];
            images without the object have all of it where no box is known.
        across: see `functional`.
    """
    member = member.expand_as(logits)
    outside = member * beside[:, None]
    amount = sum_over_processes(outside.sum()) if across else outside.sum()
    known = share * (amount > 0)
    false = torch.nn.functional.softplus(logits)
    there = weighted_mean(torch.nn.functional.softplus(-logits), member - outside, across)
    elsewhere = weighted_mean(false, 1 - member, across)
    around = weighted_mean(false, outside, across)
    return (there + (1 - known) * elsewhere + known * around) / 2
