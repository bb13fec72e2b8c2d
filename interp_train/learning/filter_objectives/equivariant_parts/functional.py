"""Terms that make filters follow parts of an object, as functions of tensors.

A method of this package; see `interp_train.learning.filter_objectives.equivariant_parts.module`.

Symbols: N images, K filters, G groups of filters, maps of h x w cells. Positions are ``(x, y)`` as
a share of the image's side, [0, 1] x [0, 1], measured at the centres of receptive fields. `member`
says which images count for which filter (those that show an object), 0 or 1. `across` says whether
means run over the images of all processes; every process must then call, and gets the same value.
"""

import torch
from torch import Tensor

from interp_train.collectives import num_processes, sum_over_processes
from interp_train.structures import LayerGeometry

_LEAST_VARIANCE = 0.005  # in the denominator of the equivariance, of positions in [0, 1]^2
_LEAST_EXPONENT = 60.0  # weights that are smaller by e^-60 are 0
_SURE = 0.2  # 2 p - 1 from which on a cell belongs to the object
_LEAST_ATTENTION = 0.03  # to a cell that groups share
_TINY = 1e-12  # below the square of any distance
_LOW = -1e4  # score of a group that takes no part; finite, so that nothing becomes NaN
_BALANCING_STEPS = 3


def cell_positions(
    size: tuple[int, int], geometry: LayerGeometry, image_size: int, like: Tensor
) -> Tensor:
    """Positions of the cells, row by row, ``(h * w, 2)``, in the dtype and on the device of `like`.

    Args:
        size: ``(h, w)``.
        geometry: of the layer.
        image_size: side of the images, in pixels.
        like: any tensor.
    """
    rows, columns = (torch.arange(n, dtype=like.dtype, device=like.device) for n in size)
    cells = torch.cartesian_prod(rows, columns).flip(1)
    return (geometry.offset + geometry.stride * cells + 0.5) / image_size


def weighted_mean(values: Tensor, weights: Tensor, across: bool = False) -> Tensor:
    """``sum(weights * values) / sum(weights)``; 0 without weight.

    Args:
        values: any shape.
        weights: broadcast to `values`.
        across: see the module.
    """
    weights = weights.expand_as(values)
    total, weight = (weights * values).sum(), weights.sum()
    if across and num_processes() > 1:
        total, weight = sum_over_processes(torch.stack([total, weight])).unbind()
    return total / weight.clamp(min=_TINY)


def response_range(maps: Tensor, member: Tensor, across: bool = False) -> Tensor:
    """Mean over a filter's images of (largest - mean response), without gradient.

    Args:
        maps: ``(N, K, h, w)``.
        member: ``(N, K)``.
        across: see the module.

    Returns:
        ``(K,)``; 0 for a filter without images.
    """
    maps = maps.detach()
    rises = (maps.amax((2, 3)) - maps.mean((2, 3))) * member
    sums = torch.stack([rises.sum(0), member.sum(0)])
    sums = sum_over_processes(sums) if across else sums
    return sums[0] / sums[1].clamp(min=1)


def cell_weights(maps: Tensor, ranges: Tensor, sharpness: float) -> Tensor:
    """``softmax(sharpness * maps / ranges)`` over the cells, ``(N, K, h * w)``.

    Weights below e^-60 of the largest are 0: denormal gradients would slow a CPU.

    Args:
        maps: ``(N, K, h, w)``.
        ranges: ``(K,)``; see `response_range`.
        sharpness: the larger, the closer to the argmax.
    """
    factors = sharpness / torch.where(ranges > 0, ranges, 1.0)
    scores = maps.flatten(2) * factors[:, None]
    least = scores.detach().amax(2, keepdim=True) - _LEAST_EXPONENT
    return scores.masked_fill(scores < least, -torch.inf).softmax(2)


def soft_positions(weights: Tensor, cells: Tensor) -> tuple[Tensor, Tensor]:
    """Mean position and spread of responses.

    Args:
        weights: from `cell_weights`, ``(N, K, h * w)``.
        cells: from `cell_positions`, ``(h * w, 2)``.

    Returns:
        Positions ``(N, K, 2)``, and the mean squared distance from them, ``(N, K)``.
    """
    # About the middle of the image, so that the difference of two squares loses nothing.
    centred = cells - 0.5
    moments = weights @ torch.cat([centred, centred.square().sum(1, keepdim=True)], dim=1)
    positions, squares = moments[..., :2], moments[..., 2]
    return positions + 0.5, (squares - positions.square().sum(2)).clamp(min=0)


def presence(peaks: Tensor, member: Tensor, absent: Tensor, across: bool = False) -> Tensor:
    """Logits as detectors of their object: the mean of two logistic losses.

    Args:
        peaks: logits, ``(N, K)`` or of cells.
        member: ``(N, K)``.
        absent: images without the filter's object, ``(N, K)``.
        across: see the module.
    """
    there = weighted_mean(torch.nn.functional.softplus(-peaks), member, across)
    elsewhere = weighted_mean(torch.nn.functional.softplus(peaks), absent, across)
    return (there + elsewhere) / 2


def concentration(spreads: Tensor, member: Tensor, across: bool = False) -> Tensor:
    """Mean squared distance of a response from its own position; spreads ``(N, K)``."""
    return weighted_mean(spreads, member, across)


def object_attention(logits: Tensor) -> Tensor:
    """Where the object is, in [0, 1], without gradient: 0 for p up to .5, 1 for p from .6 on.

    What also occurs beside objects has p near a half, or below; what sticks out of an object is
    seen together with what is beside it, and has less than its middle.

    Args:
        logits: whether a cell belongs to an image with the object, any shape.
    """
    return ((2 * logits.detach().sigmoid() - 1) / _SURE).clamp(0, 1)


def off_object(weights: Tensor, distinct: Tensor, member: Tensor, across: bool = False) -> Tensor:
    """Share of the responses that lie beside the object, or where nothing stands out of it.

    Args:
        weights: from `cell_weights`, ``(N, K, h * w)``.
        distinct: cells of the image's object, from `contrast.distinct_cells`, ``(N, h * w)``.
        member: ``(N, K)``.
        across: see the module.
    """
    beside = (weights @ (1 - distinct)[..., None])[..., 0]
    return weighted_mean(beside, member, across)


def view_pairs(sample_ids: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Images that are views of one photo, as neighbours in the order of their ids.

    Args:
        sample_ids: ``(N,)``.

    Returns:
        Rows ``(N - 1,)``, their partners ``(N - 1,)``, and whether they are a pair,
        bool ``(N - 1,)``; V views of a photo make V - 1 pairs.
    """
    ordered, order = torch.sort(sample_ids, stable=True)
    return order[:-1], order[1:], ordered[:-1] == ordered[1:]


def relative_transforms(transforms: Tensor, rows: Tensor, partners: Tensor, side: int) -> Tensor:
    """What takes positions in one view to positions in another.

    Args:
        transforms: photo coordinates -> pixels of the view, ``(N, 2, 3)``.
        rows: views from, ``(M,)``.
        partners: views to, ``(M,)``.
        side: of the views, in pixels.

    Returns:
        ``(M, 2, 3)``, for positions as a share of the side.
    """
    # In double precision: photos are large, and the shifts nearly cancel.
    linear, shift = transforms[..., :2].double(), (transforms[..., 2].double() + 0.5) / side
    # The inverse in closed form: no solver, which would wait for the device.
    a, b, c, d = linear[rows].flatten(1).unbind(1)
    adjugate = torch.stack([d, -b, -c, a], dim=1).view(-1, 2, 2)
    matrix = linear[partners] @ adjugate / (a * d - b * c)[:, None, None]
    moved = shift[partners] - (matrix @ shift[rows, :, None])[..., 0]
    return torch.cat([matrix, moved[..., None]], dim=2)


def moved_positions(positions: Tensor, transforms: Tensor) -> Tensor:
    """Positions ``(M, K, 2)`` under transforms ``(M, 2, 3)``, in the dtype of the positions."""
    transforms = transforms.to(positions.dtype)
    return positions @ transforms[..., :2].mT + transforms[:, None, :, 2]


def position_variance(positions: Tensor, member: Tensor, across: bool = False) -> Tensor:
    """Variance of each filter's position over its images, both axes together.

    Args:
        positions: ``(N, K, 2)``.
        member: ``(N, K)``.
        across: see the module.

    Returns:
        ``(K,)``; 0 for a filter without images.
    """
    weights = member[..., None]
    counts = member.sum(0)
    counts = sum_over_processes(counts) if across else counts
    counts = counts.clamp(min=1)
    totals = (weights * positions).sum(0)
    totals = sum_over_processes(totals) if across else totals
    squares = (weights * (positions - totals / counts[:, None]).square()).sum((0, 2))
    squares = sum_over_processes(squares) if across else squares
    return squares / counts


def equivariance(
    targets: Tensor, positions: Tensor, variance: Tensor, pair: Tensor, across: bool = False
) -> Tensor:
    """Squared error of moved positions over what the filter's position varies anyway.

    A constant position errs by the variance that the transforms demand. Targets outside the
    image do not count.

    Args:
        targets: positions in one view, moved to the other, ``(M, K, 2)``.
        positions: found there, ``(M, K, 2)``.
        variance: from `position_variance`, ``(K,)``.
        pair: which rows count for which filter, ``(M, K)``.
        across: see the module.

    Returns:
        The mean over filters and pairs.
    """
    counted = pair * ((targets >= 0) & (targets <= 1)).all(-1)
    errors = (targets - positions).square().sum(-1) / (variance + _LEAST_VARIANCE)
    return weighted_mean(errors, counted, across)


def group_means(values: Tensor, assignment: Tensor) -> Tensor:
    """Mean over the filters of each group, of their positions or of their weights.

    Args:
        values: positions ``(N, K, 2)`` or weights ``(N, K, h * w)``.
        assignment: which filter is in which group, 0 or 1, ``(K, G)``.

    Returns:
        ``(N, G, 2)`` or ``(N, G, h * w)``.
    """
    shares = assignment / assignment.sum(0).clamp(min=1)
    return shares.mT @ values


def agreement(
    positions: Tensor, groups: Tensor, assignment: Tensor, member: Tensor, across: bool = False
) -> Tensor:
    """Mean squared distance of filters from the mean of their group.

    Args:
        positions: ``(N, K, 2)``.
        groups: from `group_means`, ``(N, G, 2)``.
        assignment: ``(K, G)``.
        member: ``(N, K)``.
        across: see the module.
    """
    own = assignment @ groups
    return weighted_mean((positions - own).square().sum(-1), member, across)


def group_scores(maps: Tensor, ranges: Tensor, assignment: Tensor, sharpness: float) -> Tensor:
    """How much each group claims each cell, ``(N, G, h * w)``.

    The mean over a group's filters of their responses in units of their range.

    Args:
        maps: ``(N, K, h, w)``.
        ranges: ``(K,)``; see `response_range`.
        assignment: ``(K, G)``.
        sharpness: factor.
    """
    factors = sharpness / torch.where(ranges > 0, ranges, 1.0)
    shares = assignment * factors[:, None] / assignment.sum(0).clamp(min=1)
    return shares.mT @ maps.flatten(2)


def cell_masses(attention: Tensor, contrast: Tensor) -> Tensor:
    """What each cell counts for when groups share an object, not negative.

    The attention times the contrast, so that even surfaces do not count for as much as they are
    large. Cells beside the object count 3 % (docs/part-tracking.md).

    Args:
        attention: to the image's category, ``(N, h * w)``.
        contrast: from `contrast.local_contrast`, ``(N, h * w)``.
    """
    return attention.clamp(min=_LEAST_ATTENTION) * contrast


def as_shares(masses: Tensor, member: Tensor) -> Tensor:
    """Masses ``(N, h * w)`` over their sum; 0 without mass or object (member ``(N,)``)."""
    masses = masses * member[:, None]
    return masses / masses.sum(1, keepdim=True).clamp(min=_TINY)


@torch.no_grad()
def territories(scores: Tensor, masses: Tensor, own: Tensor) -> Tensor:
    """Shares of the groups in each cell, such that all groups own equally much of each object.

    ``softmax(2 * scores)`` over the groups, alternately scaled (Sinkhorn & Knopp, 1967) so that the
    groups of an image own equal masses and that each cell is given away whole; as Caron et al.
    balance clusters over a batch (SwAV, NeurIPS 2020, arXiv 2006.09882), here within each image.

    Args:
        scores: from `group_scores`, ``(N, G, h * w)``.
        masses: from `cell_masses` and `as_shares`, ``(N, h * w)``.
        own: which groups share the image's object, 0 or 1, ``(N, G)``.

    Returns:
        ``(N, G, h * w)``; sums over groups are 1 where a cell has mass, else 0.
    """
    masses = masses[:, None]
    shares = (
        (2 * scores).masked_fill(own[..., None] == 0, _LOW).softmax(1) * own[..., None] * masses
    )
    for _ in range(_BALANCING_STEPS):
        shares = shares / shares.sum(2, keepdim=True).clamp(min=_TINY)
        shares = shares / shares.sum(1, keepdim=True).clamp(min=_TINY) * masses
    return shares / shares.sum(1, keepdim=True).clamp(min=_TINY)


def outside_territory(weights: Tensor, shares: Tensor, own: Tensor, across: bool = False) -> Tensor:
    """Share of the responses of groups in cells that are not theirs.

    Args:
        weights: of groups, from `group_means`, ``(N, G, h * w)``.
        shares: from `territories`, ``(N, G, h * w)``.
        own: ``(N, G)``.
        across: see the module.
    """
    return weighted_mean(1 - (weights * shares).sum(2), own, across)


def coverage(
    groups: Tensor,
    cells: Tensor,
    masses: Tensor,
    member: Tensor,
    across: bool = False,
    *,
    sideways: float = 1.0,
) -> Tensor:
    """Mean squared distance of an object's cells from the nearest group.

    The distortion of vector quantisation, with the positions of the groups as codes (k-means;
    Lloyd, IEEE Trans. Information Theory 28, 1982): each cell draws the group that is nearest.

    Args:
        groups: positions, from `group_means`, ``(N, G, 2)``.
        cells: from `cell_positions`, ``(h * w, 2)``.
        masses: shares of its cells in an object, from `as_shares`, ``(N, h * w)``.
        member: whether the image shows an object, 0 or 1, ``(N,)``.
        across: see the module.
        sideways: factor of squared distances along x.
    """
    # About the middle of the image, so that the difference of squares loses nothing.
    groups, cells = (
        torch.stack([(at[..., 0] - 0.5) * sideways**0.5, at[..., 1] - 0.5], dim=-1)
        for at in (groups, cells)
    )
    squares = groups.square().sum(2)[..., None] + cells.square().sum(1)
    nearest = (squares - 2 * groups @ cells.mT).amin(1).clamp(min=0)
    return weighted_mean((masses * nearest).sum(1), member, across)
