"""Spectral clustering of a small matrix of similarities, and the k-means that it ends with.

J. Shi & J. Malik, "Normalized Cuts and Image Segmentation", IEEE TPAMI 22(8), 2000, with the random
walk's eigenvectors; D. Arthur & S. Vassilvitskii, "k-means++: The Advantages of Careful Seeding",
SODA 2007. Both run on the CPU in double precision and draw from a generator of their own, so that
equal input gives equal groups. They wait for the device that holds the input.
"""

import torch
from torch import Tensor

from interp_train.checks import check_range, check_shape

_SAME = 1e-9  # share of the inertia by which a restart must be better to be taken


def spectral_groups(similarity: Tensor, num_groups: int, seed: int = 0) -> Tensor:
    """Groups of rows that are similar to one another and to no others.

    Args:
        similarity: symmetric and >= 0, ``(K, K)``; its diagonal does not count.
        num_groups: G, from 1 to K.
        seed: of k-means.

    Returns:
        Group of each row, numbered in the order of their first row, long ``(K,)``. Fewer than G
        groups are found only where rows cannot be told apart.

    Raises:
        ValueError: if the similarities are not square, not finite or below 0, or for a number of
            groups out of its range.
    """
    check_shape("similarity", similarity, ("K", "K"))
    check_range("num_groups", num_groups, 1, len(similarity))
    weights = similarity.detach().double().cpu()
    lowest, highest = (float(value) for value in weights.aminmax())
    if not 0 <= lowest <= highest < float("inf"):
        raise ValueError(
            f"`similarity` must be finite and >= 0, but its values reach from {lowest} to "
            f"{highest}. Values that are not finite mean that the network has diverged: "
            f"lower the learning rate."
        )
    if num_groups == len(weights):
        return torch.arange(num_groups, device=similarity.device)
    groups = k_means(spectral_embedding(weights, num_groups), num_groups, seed=seed)
    return groups.to(similarity.device)


def spectral_embedding(similarity: Tensor, dimensions: int) -> Tensor:
    """Eigenvectors of the random walk over the rows, those of the largest eigenvalues.

    Args:
        similarity: see `spectral_groups`.
        dimensions: number of eigenvectors; the constant one is among them.

    Returns:
        Float64 ``(K, dimensions)``, on the device of `similarity`; signs, and the basis of equal
        eigenvalues, are arbitrary.
    """
    weights = similarity.detach().double().cpu()
    weights = (weights + weights.T) / 2
    weights.fill_diagonal_(0)
    degrees = weights.sum(1)
    scales = torch.where(degrees > 0, degrees, 1.0).rsqrt()  # a row that nothing resembles
    _, vectors = torch.linalg.eigh(scales[:, None] * weights * scales)
    found: Tensor = scales[:, None] * vectors[:, -dimensions:]
    return found.to(similarity.device)


def k_means(
    points: Tensor, num_clusters: int, *, seed: int = 0, restarts: int = 10, max_steps: int = 300
) -> Tensor:
    """Clusters with the least sum of squared distances from their means, of several attempts.

    Args:
        points: ``(N, D)``.
        num_clusters: from 1 to N.
        seed: of the first centres.
        restarts: number of attempts.
        max_steps: of each attempt.

    Returns:
        Cluster of each point, numbered in the order of their first point, long ``(N,)``; equal
        points share a cluster, so that there may be fewer than `num_clusters`.

    Raises:
        ValueError: for a number out of its range.
    """
    check_shape("points", points, ("N", "D"))
    check_range("num_clusters", num_clusters, 1, len(points))
    check_range("restarts", restarts, 1)
    check_range("max_steps", max_steps, 1)
    data = points.detach().double().cpu()
    generator = torch.Generator().manual_seed(seed)
    best, least = torch.zeros(len(data), dtype=torch.long), float("inf")
    for _ in range(restarts):
        labels, inertia = _attempt(data, _first_centres(data, num_clusters, generator), max_steps)
        if inertia < least * (1 - _SAME):
            best, least = labels, inertia
    return _numbered(best).to(points.device)


def _first_centres(points: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Points drawn with chances that grow as the square of their distance from those before."""
    centres = points[torch.randint(len(points), (1,), generator=generator)]
    while len(centres) < count:
        chances = _distances(points, centres).amin(1).square()
        if not chances.sum() > 0:  # fewer different points than clusters
            chances = torch.ones_like(chances)
        drawn = torch.multinomial(chances, 1, generator=generator)
        centres = torch.cat([centres, points[drawn]])
    return centres


def _attempt(points: Tensor, centres: Tensor, max_steps: int) -> tuple[Tensor, float]:
    """Lloyd's steps until nothing moves: cluster of each point, and the inertia."""
    labels = torch.full((len(points),), -1)
    for _ in range(max_steps):
        distances = _distances(points, centres)
        nearest = _without_empty(distances.argmin(1), distances)
        if torch.equal(nearest, labels):
            break
        labels = nearest
        members = torch.nn.functional.one_hot(labels, len(centres)).to(points.dtype)
        counts = members.sum(0)[:, None]
        centres = torch.where(counts > 0, members.T @ points / counts.clamp(min=1), centres)
    inertia = (points - centres[labels]).square().sum()
    return labels, float(inertia)


def _without_empty(labels: Tensor, distances: Tensor) -> Tensor:
    """Empty clusters take, one by one, the point that is farthest from its own centre."""
    own = distances.gather(1, labels[:, None])[:, 0]
    counts = labels.bincount(minlength=distances.shape[1])
    for cluster in (counts == 0).nonzero()[:, 0].tolist():
        free = torch.where(counts[labels] > 1, own, 0.0)
        point = free.argmax()
        if free[point] > 0:
            labels[point], own[point] = cluster, 0.0
            counts = labels.bincount(minlength=distances.shape[1])
    return labels


def _distances(points: Tensor, centres: Tensor) -> Tensor:
    """Exactly 0 between equal rows, which products of matrices do not give."""
    return torch.cdist(points, centres, compute_mode="donot_use_mm_for_euclid_dist")


def _numbered(labels: Tensor) -> Tensor:
    """Labels renamed 0, 1, ... in the order of their first occurrence."""
    numbers = {label: n for n, label in enumerate(dict.fromkeys(labels.tolist()))}
    return torch.tensor([numbers[label] for label in labels.tolist()], dtype=torch.long)
