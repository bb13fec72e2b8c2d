"""Draws images that share the value of a factor, and the FactorVAE score, which needs no more.

Reference: H. Kim, A. Mnih, "Disentangling by Factorising", ICML 2018, sec. 4.
"""

from typing import final

import torch
from torch import Tensor

from interp_train.checks import check_range, check_shape


@final
class FactorGroups:
    """The samples of each value of each factor.

    Args:
        factors: whole numbers >= 0, ``(N, F)``.
    """

    def __init__(self, factors: Tensor) -> None:
        check_shape("factors", factors, ("N", "F"))
        self.factors = factors
        size = int(factors.max()) + 1 if factors.numel() else 1
        self.order = factors.argsort(dim=0, stable=True)  # samples by value, factor by factor
        self.counts = torch.stack([column.bincount(minlength=size) for column in factors.unbind(1)])
        self.starts = self.counts.cumsum(1) - self.counts

    def with_same(self, factor: Tensor, samples: Tensor, generator: torch.Generator) -> Tensor:
        """Random samples that have the value of `factor` that `samples` have; may be the same.

        Args:
            factor: one per sample, long ``(S,)``.
            samples: long ``(S,)``.
            generator: of the choice.
        """
        values = self.factors[samples, factor]
        share = torch.rand(len(samples), generator=generator, dtype=torch.float64)
        place = (share * self.counts[factor, values]).long()
        return self.order[self.starts[factor, values] + place, factor]


def factor_vae_score(
    codes: Tensor,
    factors: Tensor,
    *,
    batch_size: int = 64,
    votes: int = 800,
    least_variance: float = 1e-8,
    seed: int = 0,
) -> Tensor:
    """Accuracy of telling the fixed factor by the code that varies least; in [0, 1].

    For each vote one value of one factor is fixed, and the code with the smallest variance over
    `batch_size` such samples, as a share of its variance over all, votes for the factor. Each code
    stands for the factor that it voted for most; counted on as many other votes.

    Args:
        codes: ``(N, D)``.
        factors: whole numbers >= 0, ``(N, F)``.
        batch_size: samples per vote.
        votes: to learn from, and as many to count on.
        least_variance: codes that vary less over all samples take no part; without any the score
            is 0.
        seed: of what is drawn.
    """
    check_range("batch_size", batch_size, 2)
    check_shape("factors", factors, (len(codes), "F"))
    variances = codes.double().var(0)
    active = (variances > least_variance).nonzero()[:, 0]
    if not len(active):
        return variances.new_zeros(())
    groups, generator = FactorGroups(factors), torch.Generator().manual_seed(seed)
    which = torch.randint(factors.shape[1], (2 * votes,), generator=generator)
    samples = torch.randint(len(codes), (2 * votes,), generator=generator)
    fixed, kept = (each.repeat_interleave(batch_size) for each in (which, samples))
    chosen = codes.double()[groups.with_same(fixed, kept, generator)][:, active]
    spread = chosen.view(2 * votes, batch_size, -1).var(1) / variances[active]
    steady = spread.argmin(1)
    table = torch.zeros(len(active), factors.shape[1], dtype=torch.long)
    table.index_put_((steady[:votes], which[:votes]), torch.tensor(1), accumulate=True)
    return (table.argmax(1)[steady[votes:]] == which[votes:]).double().mean()
