"""Pairs of views of a photo, and how positions in one view lie in the other."""

from typing import NamedTuple

import torch
from torch import Tensor

from interp_train.learning.filter_objectives.equivariant_parts import functional
from interp_train.structures import ViewBatch


class Pairs(NamedTuple):
    """Pairs of views of a photo, each in both directions.

    Attributes:
        sources: row of one view, ``(M,)``.
        ends: row of the other, ``(M,)``.
        valid: whether they are a pair, bool ``(M,)``.
        changes: from positions in `sources` to those in `ends`, ``(M, 2, 3)``.
    """

    sources: Tensor
    ends: Tensor
    valid: Tensor
    changes: Tensor


def pairs_of(batch: ViewBatch, side: int) -> Pairs:
    """The pairs of views of a batch, both ways.

    Args:
        batch: of which neighbours in the order of their ids may be views of one photo.
        side: of the images, in pixels.
    """
    rows, partners, pair = functional.view_pairs(batch.sample_ids)
    known = batch.view_transforms.isfinite().flatten(1).all(1)
    valid = (pair & known[rows] & known[partners]).repeat(2)
    identity = torch.eye(3, dtype=batch.view_transforms.dtype, device=known.device)[:2]
    transforms = torch.where(known[:, None, None], batch.view_transforms, identity)
    sources, ends = torch.cat([rows, partners]), torch.cat([partners, rows])
    changes = functional.relative_transforms(transforms, sources, ends, side)
    return Pairs(sources, ends, valid, changes)
