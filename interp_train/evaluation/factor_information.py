"""Mutual information of codes and factors, and two measures made of it.

References: R. Chen, X. Li, R. Grosse, D. Duvenaud, "Isolating Sources of Disentanglement in
Variational Autoencoders", NeurIPS 2018 (gap); K. Ridgeway, M. Mozer, "Learning Deep Disentangled
Embeddings with the F-Statistic Loss", NeurIPS 2018 (modularity). Discretised as by F. Locatello et
al., "Challenging Common Assumptions in the Unsupervised Learning of Disentangled Representations",
ICML 2019: 20 bins of equal width per code.
"""

import torch
from torch import Tensor

from interp_train.checks import check_range, check_shape


def binned(codes: Tensor, bins: int = 20) -> Tensor:
    """The bin of every code of every sample, between the code's least and largest value.

    Args:
        codes: ``(N, D)``.
        bins: of equal width.

    Returns:
        Long ``(N, D)``; a code that is constant has one bin.
    """
    check_range("bins", bins, 2)
    low, high = codes.aminmax(dim=0)
    width = torch.where(high > low, high - low, 1)
    return ((codes - low) / width * bins).long().clamp(max=bins - 1)


def entropies(values: Tensor) -> Tensor:
    """Entropy in nats of each column of whole numbers >= 0, ``(N, F)`` -> ``(F,)``."""
    found = []
    for column in values.unbind(1):
        shares = column.bincount().double() / len(column)
        found.append(-torch.special.xlogy(shares, shares).sum())
    return torch.stack(found)


def mutual_information(values: Tensor, factors: Tensor) -> Tensor:
    """Mutual information in nats of every column of `values` with every factor.

    Args:
        values: whole numbers >= 0, such as bins of codes, ``(N, D)``.
        factors: whole numbers >= 0, ``(N, F)``.

    Returns:
        float64 ``(D, F)``.
    """
    check_shape("factors", factors, (len(values), "F"))
    width = int(factors.max()) + 1
    together = [
        entropies((values * width + factor[:, None]).long()) for factor in factors.unbind(1)
    ]
    return entropies(values)[:, None] + entropies(factors) - torch.stack(together, 1)


def mutual_information_gap(information: Tensor, factor_entropies: Tensor) -> Tensor:
    """MIG: how much more the best code knows of a factor than the second best, in [0, 1].

    Args:
        information: see `mutual_information`, ``(D, F)``.
        factor_entropies: ``(F,)``, all above 0.

    Returns:
        Mean over factors of the difference as a share of the factor's entropy.
    """
    if not bool((factor_entropies > 0).all()):
        raise ValueError(
            f"`factors` must vary, but their entropies are {factor_entropies.tolist()}. Leave out "
            f"factors of one value."
        )
    best = torch.nn.functional.pad(information, (0, 0, 0, 1)).topk(2, dim=0).values
    return ((best[0] - best[1]) / factor_entropies).mean()


def modularity(information: Tensor) -> Tensor:
    """How far each code knows of one factor only, in [0, 1]; a code that knows nothing counts 0.

    Ridgeway & Mozer 2018, eq. 2: one minus the squared information on all other factors, as a share
    of what it would be if it knew of each as much as of its best.

    Args:
        information: see `mutual_information`, ``(D, F)`` with F >= 2.
    """
    check_range("number of factors", information.shape[1], 2)
    squares = information.clamp(min=0).square()
    best = squares.amax(1)
    others = (squares.sum(1) - best) / (information.shape[1] - 1)
    known = best > 1e-20
    return torch.where(known, 1 - others / best.clamp(min=1e-20), 0).mean()
