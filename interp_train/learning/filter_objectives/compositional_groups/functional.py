"""Similarity of filters and the losses of their groups, as functions of tensors.

Shen, Wei, Huang, Zhang, Fan, Zhao & Zhang, "Interpretable Compositional Convolutional Neural
Networks", IJCAI 2021 (arXiv 2107.04474), and the programme that its authors released
(``ada-shen/icCNN``).

Symbols: N images, K filters, G groups, C categories, maps of h x w cells. `across` says whether
sums run over the images of all processes; every process must then call, and gets the same value.
"""

import torch
from torch import Tensor

from interp_train.collectives import sum_over_processes

_TINY = 1e-20  # a sum of squares below this counts as zero


def mean_maps(maps: Tensor, across: bool = False) -> Tensor:
    """Mean of each filter's map over the images, without gradient.

    Args:
        maps: ``(N, K, h, w)``.
        across: see the module.

    Returns:
        ``(K, h, w)``.
    """
    totals = maps.detach().sum(0)
    sums = torch.cat([totals.flatten(), totals.new_full((1,), float(len(maps)))])
    sums = sum_over_processes(sums) if across else sums
    return sums[:-1].view_as(totals) / sums[-1].clamp(min=1)


def summed_cosines(
    maps: Tensor, mean: Tensor, member: Tensor, across: bool = False
) -> tuple[Tensor, Tensor]:
    """Correlations of filters over the positions of an image, added up over images.

    The correlation of filters i and j in an image is the cosine of their maps minus `mean`
    (sec. 3). A map that equals the mean correlates with nothing: 0, also with itself.

    Args:
        maps: ``(N, K, h, w)``.
        mean: a constant, ``(K, h, w)``.
        member: which images count, 0 or 1, ``(N,)``.
        across: see the module.

    Returns:
        Sums ``(K, K)``, and the number of images that count, ``()``.
    """
    vectors = _unit((maps - mean).flatten(2)) * member[:, None, None]
    cosines = torch.einsum("nkp,nlp->kl", vectors, vectors)
    sums = torch.cat([cosines.flatten(), member.sum()[None]])
    sums = sum_over_processes(sums) if across else sums
    return sums[:-1].view_as(cosines), sums[-1].detach()


def mean_similarity(cosines: Tensor, number: Tensor) -> Tensor:
    """Similarity s of filters: mean correlation + 1, in [0, 2]; 1 without images.

    Args:
        cosines: from `summed_cosines`, ``(K, K)``.
        number: from there, ``()``.
    """
    return cosines / number.clamp(min=1) + 1


def compactness(similarity: Tensor, assignment: Tensor) -> Tensor:
    """Similarity within a group over that with all filters, added up over groups.

    Args:
        similarity: > 0 in every row, ``(K, K)``.
        assignment: which filter is in which group, 0 or 1, ``(K, G)``; a group may be empty, and
            a filter may be in none.

    Returns:
        ``()``; from 0 (no groups) to the number of groups that are not empty.
    """
    toward = assignment.T @ similarity  # of each group to each filter
    within, everything = (toward * assignment.T).sum(1), toward.sum(1)
    occupied = assignment.sum(0) > 0
    return (within / torch.where(occupied, everything, 1.0)).sum()


def group_activations(maps: Tensor, assignment: Tensor) -> Tensor:
    """Activation of each group: the sum over its filters of their mean, times its size.

    The released programme adds the sum once per filter of the group, so that large groups weigh
    by the square of their size; the paper's text was not at hand to compare.

    Args:
        maps: ``(N, K, h, w)``.
        assignment: ``(K, G)``.

    Returns:
        ``(N, G)``.
    """
    return maps.mean((2, 3)) @ assignment * assignment.sum(0)


def discrimination(vectors: Tensor, member: Tensor, across: bool = False) -> Tensor:
    """Cosines of images within a category over those with all images, added up over categories.

    Args:
        vectors: activations of groups, >= 0, ``(N, G)``.
        member: which category an image belongs to, 0 or 1, ``(N, C)``; images of no category
            do not count.
        across: see the module.

    Returns:
        ``()``; from 0 to the number of categories that occur.
    """
    # Sums of unit vectors hold all sums of their cosines, also over processes.
    totals = member.T @ _unit(vectors)
    totals = sum_over_processes(totals) if across else totals
    within, everything = totals.square().sum(1), totals @ totals.sum(0)
    present = everything > _TINY
    return torch.where(present, within / torch.where(present, everything, 1.0), 0.0).sum()


def mean_within_and_between(similarity: Tensor, assignment: Tensor) -> tuple[Tensor, Tensor]:
    """Mean similarity of different filters of one group, and of two groups.

    Args:
        similarity: ``(K, K)``.
        assignment: ``(K, G)``.

    Returns:
        Two scalars; 0 where there is no such pair.
    """
    together = assignment @ assignment.T
    together = together - torch.diag(together.diagonal())
    grouped = assignment.sum(1)
    apart = grouped[:, None] * grouped - together - torch.diag(grouped)
    within = (similarity * together).sum() / together.sum().clamp(min=1)
    return within, (similarity * apart).sum() / apart.sum().clamp(min=1)


def _unit(vectors: Tensor) -> Tensor:
    """Vectors ``(..., D)`` of length 1; 0 stays 0, with gradient 0."""
    squares = vectors.square().sum(-1, keepdim=True)
    alive = squares > _TINY
    return vectors * torch.where(alive, torch.where(alive, squares, 1.0).rsqrt(), 0.0)
