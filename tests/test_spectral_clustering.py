"""Spectral clustering finds what was planted, and is the same whenever the input is."""

import itertools

import pytest
import torch

from interp_train.spectral_clustering import k_means, spectral_embedding, spectral_groups

PLANTED = torch.tensor([0, 1, 0, 2, 2, 1, 0, 1, 2, 2, 0, 3, 3])


def planted_similarity(noise, within=1.6, between=1.0, seed=0):
    generator = torch.Generator().manual_seed(seed)
    same = PLANTED[:, None] == PLANTED
    similarity = torch.where(same, within, between)
    added = torch.rand(similarity.shape, generator=generator) * noise
    return similarity + (added + added.T) / 2


@pytest.mark.parametrize("noise", [0.0, 0.4])
@pytest.mark.parametrize("seed", [0, 7])
def test_planted_groups_are_recovered(noise, seed):
    assert torch.equal(spectral_groups(planted_similarity(noise), 4, seed), PLANTED)


def test_groups_that_no_sphere_separates():
    """Two rings of neighbours: the means of their rows coincide, their connections do not."""
    angles = torch.arange(16) * (2 * torch.pi / 16)
    ring = torch.stack([angles.cos(), angles.sin()], 1)
    points = torch.cat([ring, 3 * ring])
    similarity = (-torch.cdist(points, points).square() * 2).exp()
    assert spectral_groups(similarity, 2).tolist() == [0] * 16 + [1] * 16
    assert k_means(points, 2).tolist() != [0] * 16 + [1] * 16


def slow_least_inertia(points, count):
    """The best of all ways to put points into clusters."""
    least = float("inf")
    for labels in itertools.product(range(count), repeat=len(points)):
        labels = torch.tensor(labels)
        inertia = 0.0
        for cluster in range(count):
            members = points[labels == cluster]
            if len(members):
                inertia += float((members - members.mean(0)).square().sum())
        least = min(least, inertia)
    return least


@pytest.mark.parametrize("seed", range(4))
def test_k_means_finds_the_best_of_all_clusterings(seed):
    generator = torch.Generator().manual_seed(seed)
    points = torch.randn(7, 2, generator=generator, dtype=torch.float64)
    labels = k_means(points, 3)
    found = sum(
        float((points[labels == c] - points[labels == c].mean(0)).square().sum()) for c in range(3)
    )
    assert found == pytest.approx(slow_least_inertia(points, 3), rel=1e-9)


def test_k_means_by_hand():
    points = torch.tensor([[0.0], [10.0], [1.0], [11.0], [5.5]])
    assert k_means(points, 3).tolist() == [0, 1, 0, 1, 2]
    assert k_means(points, 5).tolist() == [0, 1, 2, 3, 4]
    assert k_means(points, 1).tolist() == [0] * 5


def test_equal_points_share_a_cluster():
    assert k_means(torch.tensor([[1.0], [1.0], [2.0], [1.0]]), 3).tolist() == [0, 0, 1, 0]
    assert k_means(torch.ones(4, 2), 2).tolist() == [0] * 4


def test_the_embedding_solves_the_random_walk():
    """D^-1 W v = lambda v with the largest lambda, the last of which is 1 for a constant v."""
    weights = planted_similarity(0.4).double()
    found = spectral_embedding(weights, 4)
    weights = weights.clone().fill_diagonal_(0)
    walk = weights / weights.sum(1, keepdim=True)
    values = torch.linalg.eigvals(walk).real.sort(descending=True).values[:4].flip(0)
    torch.testing.assert_close(walk @ found, found * values)
    assert found[:, -1].std() < 1e-12


def test_the_diagonal_does_not_count():
    similarity = planted_similarity(0.4)
    other = similarity.clone().fill_diagonal_(50.0)
    assert torch.equal(spectral_embedding(similarity, 4), spectral_embedding(other, 4))


def test_a_row_that_nothing_resembles_is_a_group():
    similarity = torch.ones(5, 5)
    similarity[4] = similarity[:, 4] = 0
    assert spectral_groups(similarity, 2).tolist() == [0, 0, 0, 0, 1]


def test_groups_are_the_same_each_time_and_leave_the_random_state_alone():
    generator = torch.Generator().manual_seed(3)
    similarity = torch.rand(40, 40, generator=generator)
    similarity = (similarity + similarity.T) / 2
    before = torch.get_rng_state()
    first = spectral_groups(similarity, 6)
    assert torch.equal(torch.get_rng_state(), before)
    torch.rand(5)
    assert torch.equal(spectral_groups(similarity, 6), first)
    moved = similarity.double() * (1 + 1e-13)  # as sums over processes differ
    assert torch.equal(spectral_groups(moved, 6), first)


def test_groups_follow_a_permutation():
    similarity = planted_similarity(0.4)
    order = torch.randperm(len(PLANTED), generator=torch.Generator().manual_seed(1))
    found = spectral_groups(similarity[order][:, order], 4)
    same = PLANTED[order][:, None] == PLANTED[order]
    assert torch.equal(found[:, None] == found, same)


def test_as_many_groups_as_rows_and_one_group():
    similarity = planted_similarity(0.4)
    assert spectral_groups(similarity, len(PLANTED)).tolist() == list(range(len(PLANTED)))
    assert spectral_groups(similarity, 1).tolist() == [0] * len(PLANTED)


def test_what_it_refuses():
    with pytest.raises(ValueError, match=r"`similarity` must have shape \(K, K\)"):
        spectral_groups(torch.ones(3, 4), 2)
    with pytest.raises(ValueError, match=r"`num_groups` must be >= 1 and <= 3, but got 4"):
        spectral_groups(torch.ones(3, 3), 4)
    for wrong in (float("nan"), float("inf"), -0.1):
        with pytest.raises(ValueError, match="`similarity` must be finite and >= 0"):
            spectral_groups(torch.full((3, 3), wrong), 2)
    with pytest.raises(ValueError, match=r"`num_clusters` must be >= 1 and <= 2"):
        k_means(torch.ones(2, 2), 3)
    with pytest.raises(ValueError, match="`restarts` must be >= 1"):
        k_means(torch.ones(2, 2), 1, restarts=0)
