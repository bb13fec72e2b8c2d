"""Deletion test of leaves: does the detector lose its category where it says its evidence lies?

The leaves of a box are covered one after the other, and the probability of the category at that
box is followed. Its mean over the steps should be lower when the leaves that add most to the
score go first than in random order, and higher when they go last.

After V. Petsiuk, A. Das, K. Saenko, "RISE: Randomized Input Sampling for Explanation of Black-box
Models", BMVC 2018, whose steps are pixels.
"""

import random
from collections.abc import Sequence
from typing import final

import torch
from torch import Tensor

from interp_train.evaluation.heatmap_means import HeatmapMeans

ORDERS = ("most_first", "random", "least_first")


def deletion_orders(contributions: Sequence[float], seed: int) -> dict[str, list[int]]:
    """In which order leaves are covered, per name of `ORDERS`.

    Args:
        contributions: of each leaf to the score of the box.
        seed: of the random order.
    """
    falling = sorted(range(len(contributions)), key=lambda index: -contributions[index])
    drawn = list(range(len(contributions)))
    random.Random(seed).shuffle(drawn)
    return {"most_first": falling, "random": drawn, "least_first": falling[::-1]}


def covered(image: Tensor, boxes: Tensor, colour: Tensor) -> Tensor:
    """The image with boxes painted in one colour.

    Args:
        image: ``(3, H, W)``.
        boxes: in pixels, from edge to edge, ``(L, 4)``.
        colour: ``(3,)``.
    """
    painted = image.clone()
    for left, top, right, bottom in boxes.round().long().clamp(min=0).tolist():
        painted[:, top:bottom, left:right] = colour.to(image)[:, None, None]
    return painted


@final
class LeafDeletion(HeatmapMeans):
    """Mean probability over the deletion of a box's leaves, a mean over boxes.

    ``deletion_<order>`` for each of `ORDERS`, each over the probability before the first deletion.
    Boxes that stay whole have one order only and are left out.
    """

    def __init__(self) -> None:
        super().__init__([f"deletion_{order}" for order in ORDERS])

    def update(self, curves: dict[str, Tensor]) -> None:
        """Add one box.

        Args:
            curves: order -> probability after 0, 1, ..., all of the L leaves are covered,
                ``(L + 1,)``.
        """
        for order, curve in curves.items():
            if len(curve) > 2:
                share = curve.double() / curve[0].double().clamp(min=1e-12)
                area = torch.trapezoid(share, dx=1 / (len(curve) - 1))
                self.add({f"deletion_{order}": area[None]})
