"""Random choice of anchors and proposals that follows from the image, not from its batch.

torchvision draws them from the global random state, so that the same image learns something else
beside other images, in another process, or in a resumed run.
"""

from collections.abc import Sequence
from typing import final

import torch
from torch import Tensor

from interp_train.data.random_sources import random_source


@final
class ProposalSampler:
    """Takes the place of torchvision's ``BalancedPositiveNegativeSampler``.

    Args:
        batch_size_per_image: boxes that are drawn per image, if there are so many.
        positive_fraction: highest share of boxes with an object among them.

    Attributes:
        number: boxes drawn in the latest call.
    """

    def __init__(self, batch_size_per_image: int, positive_fraction: float) -> None:
        self.batch_size_per_image = batch_size_per_image
        self.positive_fraction = positive_fraction
        self.number = 0
        self._keys: list[tuple[int, int, int]] = []

    def begin(self, seed: int, epoch: int, sample_ids: Sequence[int]) -> None:
        """Say which images the next call is about, and in which epoch of which run."""
        self._keys = [(seed, epoch, sample_id) for sample_id in sample_ids]

    def __call__(self, matched: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """Draw boxes of each image.

        Args:
            matched: category of each box of each image, 0 = background, -1 = between; ``(B_i,)``.

        Returns:
            Masks of the chosen boxes with an object, and of those without, uint8 ``(B_i,)``.
        """
        chosen, others = [], []
        self.number = 0
        for kinds, key in zip(matched, self._keys, strict=True):
            generator = torch.Generator().manual_seed(random_source(*key).getrandbits(63))
            limit = int(self.batch_size_per_image * self.positive_fraction)
            chosen.append(_drawn(kinds >= 1, limit, generator))
            left = self.batch_size_per_image - int(chosen[-1].sum())
            others.append(_drawn(kinds == 0, left, generator))
            self.number += int(chosen[-1].sum()) + int(others[-1].sum())
        return chosen, others


def _drawn(candidates: Tensor, number: int, generator: torch.Generator) -> Tensor:
    """A mask of at most `number` of the candidates, uint8 like theirs."""
    (places,) = torch.where(candidates)
    order = torch.randperm(len(places), generator=generator)[:number]
    mask = torch.zeros_like(candidates, dtype=torch.uint8)
    mask[places[order.to(places.device)]] = 1
    return mask
