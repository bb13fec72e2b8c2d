"""Gradient-boosted classification trees on binned inputs; small, exact and without randomness.

Newton boosting of the softmax loss with trees of fixed depth, split at the best gain over
histograms: T. Chen, C. Guestrin, "XGBoost: A Scalable Tree Boosting System", KDD 2016, sec. 2.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from interp_train.checks import check_range

_RIDGE = 1.0  # of the leaves' values


class Boosted(NamedTuple):
    """What boosted trees say.

    Attributes:
        importances: share of the total gain of each input, float64 ``(D,)``; 0 if there was
            none.
        logits: for the test samples, float64 ``(M, V)``.
    """

    importances: Tensor
    logits: Tensor


def quantile_bins(train: Tensor, test: Tensor, bins: int = 32) -> tuple[Tensor, Tensor]:
    """Both in bins that hold equally many samples of the first; ties stay together.

    Args:
        train: ``(N, D)``.
        test: ``(M, D)``.
        bins: at most so many.

    Returns:
        Long, of the same shapes.
    """
    check_range("bins", bins, 2)
    shares = torch.linspace(0, 1, bins + 1, dtype=torch.float64)[1:-1]
    edges = train.double().quantile(shares, dim=0, interpolation="lower").T.contiguous()
    columns = [torch.searchsorted(edges, part.double().T.contiguous()).T for part in (train, test)]
    return columns[0], columns[1]


def boosted_trees(
    train: Tensor,
    labels: Tensor,
    test: Tensor,
    *,
    classes: int,
    rounds: int = 20,
    depth: int = 3,
    rate: float = 0.3,
) -> Boosted:
    """Fit to training samples, and answer for test samples.

    Args:
        train: bins of each input, long ``(N, D)``.
        labels: long ``(N,)``.
        test: long ``(M, D)``.
        classes: V.
        rounds: trees per class.
        depth: questions until a leaf.
        rate: share of each tree's answer that counts.
    """
    size = int(torch.cat([train, test]).max()) + 2
    ours, theirs = (torch.zeros(len(x), classes, dtype=torch.float64) for x in (train, test))
    gains = torch.zeros(train.shape[1], dtype=torch.float64)
    truth = torch.nn.functional.one_hot(labels, classes).double()
    for _ in range(rounds):
        shares = ours.softmax(1)
        slopes, bends = shares - truth, shares * (1 - shares)
        for place in range(classes):
            pair = torch.stack((slopes[:, place], bends[:, place]))
            leaves, their_leaves = _grown(train, test, pair, (depth, size), gains)
            sums = _sums(leaves, pair, 2**depth)
            answers = -rate * sums[0] / (sums[1] + _RIDGE)
            ours[:, place] += answers[leaves]
            theirs[:, place] += answers[their_leaves]
    total = gains.sum()
    return Boosted(gains / total if total > 0 else gains, theirs)


def _grown(
    train: Tensor, test: Tensor, pair: Tensor, shape: tuple[int, int], gains: Tensor
) -> tuple[Tensor, Tensor]:
    """Leaf of each sample of one tree; adds the gains of its questions."""
    depth, size = shape
    inputs = train.shape[1]
    nodes, their_nodes = (torch.zeros(len(x), dtype=torch.long) for x in (train, test))
    for level in range(depth):
        cells = (nodes[:, None] * inputs + torch.arange(inputs)) * size + train
        spread = pair[:, :, None].expand(-1, -1, inputs).flatten(1)
        count = 2**level * inputs * size
        below = _sums(cells.flatten(), spread, count).view(2, 2**level, inputs, size).cumsum(3)
        whole = below[..., -1:]
        gain = _worth(below) + _worth(whole - below) - _worth(whole)
        best, place = gain.flatten(1).max(1)
        asks = best > 1e-9
        column, threshold = place // size, torch.where(asks, place % size, size)
        gains.index_add_(0, column[asks], best[asks])
        nodes = 2 * nodes + _answers(train, nodes, column, threshold)
        their_nodes = 2 * their_nodes + _answers(test, their_nodes, column, threshold)
    return nodes, their_nodes


def _answers(bins: Tensor, nodes: Tensor, column: Tensor, threshold: Tensor) -> Tensor:
    values = bins.gather(1, column[nodes][:, None])[:, 0]
    return (values > threshold[nodes]).long()


def _sums(places: Tensor, pair: Tensor, count: int) -> Tensor:
    """Both rows of `pair` summed by place, ``(2, count)``."""
    return torch.stack([places.bincount(row, minlength=count) for row in pair])


def _worth(sums: Tensor) -> Tensor:
    return sums[0].square() / (sums[1] + _RIDGE)
