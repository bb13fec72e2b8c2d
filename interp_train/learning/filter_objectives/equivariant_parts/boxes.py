"""What the box of an object tells of where it is not."""

import torch
from torch import Tensor

from interp_train.collectives import sum_over_processes
from interp_train.learning.filter_objectives.equivariant_parts.functional import weighted_mean


def distances_from_boxes(cells: Tensor, boxes: Tensor, side: int) -> Tensor:
    """How far the centres of cells lie outside the object's box, ``(N, h * w)``; 0 in it.

    Args:
        cells: from `functional.cell_positions`, ``(h * w, 2)``.
        boxes: of objects, in pixels, ``(N, 4)``; where one is NaN, no cell is known to be outside.
        side: of the images, in pixels.

    Returns:
        The larger of the distances along both axes, as a share of the side.
    """
    boxes = (boxes.to(cells.dtype) + 0.5)[:, None] / side
    beyond = torch.maximum(boxes[..., :2] - cells, cells - boxes[..., 2:])
    return beyond.amax(2).nan_to_num(0.0).clamp(min=0)


def box_presence(
    logits: Tensor, member: Tensor, zones: tuple[Tensor, Tensor], share: float, across: bool = False
) -> Tensor:
    """Logits of cells as detectors of their object: the mean of two logistic losses.

    As `functional.presence`, but cells outside the object's box belong with those of images
    without the object. Receptive fields see an object from beside it, and what an image's label
    tells is true of them as well; what they see there is not where the object is.

    Args:
        logits: ``(N, C, h * w)``.
        member: images that show the category, ``(N, C, 1)``.
        zones: which cells are inside the object's box and which are beside it, 0 or 1, each
            ``(N, h * w)``; those in neither tell nothing.
        share: that cells beside boxes have in the loss of those without the object, [0, 1];
            images without the object have all of it where no box is known.
        across: see `functional`.
    """
    member = member.expand_as(logits)
    inside, beside = (member * zone[:, None] for zone in zones)
    amount = sum_over_processes(beside.sum()) if across else beside.sum()
    known = share * (amount > 0)
    false = torch.nn.functional.softplus(logits)
    there = weighted_mean(torch.nn.functional.softplus(-logits), inside, across)
    elsewhere = weighted_mean(false, 1 - member, across)
    around = weighted_mean(false, beside, across)
    return (there + (1 - known) * elsewhere + known * around) / 2
