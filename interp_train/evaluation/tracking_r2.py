"""R2 of positions with landmarks in the frame of the object's box; see `part_tracking`."""

from typing import NamedTuple

import torch
from torch import Tensor

_CHUNK = 256  # filters at a time, which bounds the memory
_LEAST_VARIANCE = 1e-9  # of a landmark in the box frame; below, it does not move


def in_box_frame(points: Tensor, boxes: Tensor) -> Tensor:
    """`points` ``(N, K, 2)`` relative to `boxes` ``(N, 4)``, which become [0, 1] x [0, 1]."""
    corners = boxes[:, None, :2].double()
    sides = boxes[:, None, 2:].double() - corners
    return (points.double() - corners) / sides


def tracking_r2(positions: Tensor, locations: Tensor) -> Tensor:
    """R2 of every filter with every part.

    Args:
        positions: of the filters in the box frame, ``(N, K, 2)``.
        locations: of the landmarks in the box frame, ``(N, P, 2)``; NaN where not visible.

    Returns:
        Float64 ``(K, P)``, 1 at best, unbounded below; NaN where a part is visible in fewer
        than two images or does not move.
    """
    landmarks = centred(locations)
    r2 = torch.cat(
        [
            1 - _error_variation(chunk, landmarks) / landmarks.variation
            for chunk in torch.split(positions, _CHUNK, 1)
        ]
    )
    return torch.where(landmarks.moves, r2, torch.nan)


class Landmarks(NamedTuple):
    """Landmarks around their mean, over the images where each is visible.

    Attributes:
        visible: 0 or 1, float64 ``(N, P)``.
        offsets: from the mean, float64 ``(N, P, 2)``; 0 where not visible.
        variation: sum of |l - mean l|^2, ``(P,)``.
        moves: whether R2 is defined, bool ``(P,)``.
    """

    visible: Tensor
    offsets: Tensor
    variation: Tensor
    moves: Tensor


def centred(locations: Tensor) -> Landmarks:
    """Landmarks ``(N, P, 2)`` in the box frame, NaN where not visible, around their mean."""
    visible = locations.isfinite().all(-1).double()
    count = visible.sum(0)
    offsets = torch.where(visible[..., None] > 0, locations.double(), 0)
    offsets = (offsets - offsets.sum(0) / count[:, None]) * visible[..., None]
    variation = offsets.square().sum((0, 2)) - offsets.sum(0).square().sum(-1) / count
    moves = (count >= 2) & (variation > _LEAST_VARIANCE * count)
    return Landmarks(visible, offsets, variation, moves)


def _error_variation(positions: Tensor, landmarks: Landmarks) -> Tensor:
    """Sum over images of |e - mean e|^2, ``(K, P)``, from moments: nothing is N x K x P large."""
    visible, offsets = landmarks.visible, landmarks.offsets
    # R2 ignores a shift; measured from the first image a constant filter gives exactly 0.
    positions = positions.double() - positions[:1].double()
    moved = torch.einsum("np,nkd->kpd", visible, positions)
    moved_square = positions.square().sum(-1).T @ visible
    cross = torch.einsum("npd,nkd->kp", offsets, positions)
    mean_part = (moved - offsets.sum(0)).square().sum(-1) / visible.sum(0)
    return offsets.square().sum((0, 2)) + moved_square - 2 * cross - mean_part
