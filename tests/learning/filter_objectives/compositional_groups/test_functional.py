import math

import pytest
import torch

from interp_train.learning.filter_objectives.compositional_groups import functional

N, K, SIDE, G, C = 5, 6, 4, 3, 2
GROUPS = [0, 1, 0, 2, 1, 0]


def random_maps(seed=0, **options):
    generator = torch.Generator().manual_seed(seed)
    options = {"dtype": torch.float64, "generator": generator, **options}
    return torch.randn(N, K, SIDE, SIDE, **options).relu()


def assignment_of(groups, count=G):
    return torch.nn.functional.one_hot(torch.tensor(groups), count).double()


def similarity_of(maps, mean, member):
    return functional.mean_similarity(*functional.summed_cosines(maps, mean, member))


def slow_similarity(maps, mean, counted):
    """Correlation of two filters in each image that counts, cell by cell; its mean, plus 1."""
    found = torch.zeros(K, K, dtype=torch.float64)
    for i in range(K):
        for j in range(K):
            total = 0.0
            for n in counted:
                product = first = second = 0.0
                for y in range(SIDE):
                    for x in range(SIDE):
                        a = float(maps[n, i, y, x] - mean[i, y, x])
                        b = float(maps[n, j, y, x] - mean[j, y, x])
                        product, first, second = product + a * b, first + a * a, second + b * b
                total += product / math.sqrt(first * second)
            found[i, j] = total / len(counted) + 1
    return found


def slow_compactness(similarity, groups):
    total = 0.0
    for group in set(groups):
        within = everything = 0.0
        for i, own in enumerate(groups):
            for j, other in enumerate(groups):
                if own == group:
                    everything += float(similarity[i, j])
                    within += float(similarity[i, j]) * (other == group)
        total += within / everything
    return total


def slow_discrimination(maps, groups, labels):
    """The released programme's: each filter of a group adds the sum of the group's maps."""
    vectors = torch.zeros(N, G, dtype=torch.float64)
    for n in range(N):
        for group in range(G):
            members = [k for k in range(K) if groups[k] == group]
            for _ in members:
                for k in members:
                    vectors[n, group] += maps[n, k].mean()
    total = 0.0
    for category in set(labels) - {-1}:
        within = everything = 0.0
        for n in range(N):
            for m in range(N):
                if labels[n] == category and labels[m] >= 0:
                    cosine = float(vectors[n] @ vectors[m] / vectors[n].norm() / vectors[m].norm())
                    everything += cosine
                    within += cosine * (labels[m] == category)
        total += within / everything
    return total


def test_similarity_agrees_with_loops():
    maps, mean = random_maps(), random_maps(1).mean(0)
    member = torch.tensor([1.0, 0, 1, 1, 0], dtype=torch.float64)
    found = similarity_of(maps, mean, member)
    torch.testing.assert_close(found, slow_similarity(maps, mean, [0, 2, 3]))
    assert found.min() >= 0
    assert found.max() <= 2 + 1e-12


def test_similarity_by_hand():
    """Residuals (1, 0), (1, 1) and (-1, 0): correlations 1 / sqrt(2) and -1."""
    maps = torch.tensor([[[[2.0, 1.0]], [[2.0, 2.0]], [[0.0, 1.0]]]])
    found = similarity_of(maps, torch.ones(3, 1, 2), torch.ones(1))
    root = 1 / math.sqrt(2)
    expected = [[2, 1 + root, 0], [1 + root, 2, 1 - root], [0, 1 - root, 2]]
    torch.testing.assert_close(found, torch.tensor(expected))


def test_a_map_like_its_mean_resembles_nothing_and_gets_no_gradient():
    maps = random_maps().requires_grad_()
    mean = random_maps(1).mean(0)
    mean[2] = maps.detach()[0, 2]
    found = similarity_of(maps[:1], mean, torch.ones(1, dtype=torch.float64))
    assert found[2].tolist() == [1.0] * K
    functional.compactness(found, assignment_of(GROUPS)).backward()
    assert maps.grad.isfinite().all()
    assert maps.grad[0, 2].abs().sum() == 0
    assert maps.grad[0, 0].abs().sum() > 0


def test_mean_maps():
    maps = random_maps().requires_grad_()
    found = functional.mean_maps(maps)
    torch.testing.assert_close(found, maps.detach().mean(0))
    assert not found.requires_grad


def test_compactness_agrees_with_loops():
    similarity = torch.rand(K, K, dtype=torch.float64) + 0.1
    similarity = similarity + similarity.T
    found = functional.compactness(similarity, assignment_of(GROUPS))
    assert float(found) == pytest.approx(slow_compactness(similarity, GROUPS), rel=1e-12)
    with_empty = functional.compactness(similarity, assignment_of(GROUPS, 5))
    torch.testing.assert_close(with_empty, found)
    assert functional.compactness(similarity, torch.zeros(K, G, dtype=torch.float64)) == 0


@pytest.mark.parametrize("size", [1, 4])
def test_identical_filters_in_groups_that_are_uncorrelated(size):
    """2 within, 1 between: each group's share is 2 / (G + 1), whatever its size."""
    groups = [g for g in range(G) for _ in range(size)]
    assignment = assignment_of(groups)
    found = functional.compactness(assignment @ assignment.T + 1, assignment)
    assert float(found) == pytest.approx(2 * G / (G + 1))


def test_one_group_has_nothing_to_gain():
    maps = random_maps().requires_grad_()
    similarity = similarity_of(maps, random_maps(1).mean(0), torch.ones(N, dtype=torch.float64))
    found = functional.compactness(similarity, torch.ones(K, 1, dtype=torch.float64))
    found.backward()
    assert found.item() == pytest.approx(1)
    torch.testing.assert_close(maps.grad, torch.zeros_like(maps), rtol=0, atol=1e-15)


def test_discrimination_agrees_with_loops():
    maps, labels = random_maps(), [0, 1, -1, 1, 0]
    member = torch.tensor([[float(label == c) for c in range(C)] for label in labels]).double()
    vectors = functional.group_activations(maps, assignment_of(GROUPS))
    found = functional.discrimination(vectors, member)
    assert float(found) == pytest.approx(slow_discrimination(maps, GROUPS, labels), rel=1e-12)


def test_discrimination_by_hand_and_in_its_limits():
    member = torch.eye(2)[[0, 0, 1]]
    apart = torch.tensor([[1.0, 0.0], [3.0, 0.0], [0.0, 2.0]])
    assert functional.discrimination(apart, member) == pytest.approx(2)
    alike = torch.ones(3, 2)  # shares of the images: 2/3 and 1/3
    assert functional.discrimination(alike, member) == pytest.approx(1)
    # Category 0: 4 of 4 + 2 / sqrt(2); category 1: 1 of 1 + 2 / sqrt(2).
    mixed = torch.tensor([[1.0, 0.0], [3.0, 0.0], [2.0, 2.0]])
    root = math.sqrt(2)
    expected = 4 / (4 + root) + 1 / (1 + root)
    assert functional.discrimination(mixed, member) == pytest.approx(expected)
    assert functional.discrimination(torch.zeros(3, 2), member) == 0
    assert functional.discrimination(mixed, torch.zeros(3, 2)) == 0
    assert functional.discrimination(mixed[:2], member[:2]) == pytest.approx(1)  # one is absent


def test_mean_similarity_within_and_between():
    similarity = torch.arange(16.0).view(4, 4)
    assignment = torch.eye(3)[[0, 0, 1, 2]]
    assignment[3] = 0  # in no group
    within, between = functional.mean_within_and_between(similarity, assignment)
    assert within == pytest.approx((1 + 4) / 2)
    assert between == pytest.approx((2 + 6 + 8 + 9) / 4)
    within, between = functional.mean_within_and_between(similarity, torch.zeros(4, 2))
    assert (within, between) == (0, 0)


def test_gradients_are_exact():
    mean, member = random_maps(1).mean(0), torch.tensor([1.0, 0, 1, 1, 1]).double()
    labels = torch.eye(C, dtype=torch.float64)[[0, 1, 1, 0, 1]]
    assignment = assignment_of(GROUPS)

    def losses(maps):
        vectors = functional.group_activations(maps, assignment)
        return torch.stack([
            functional.compactness(similarity_of(maps, mean, member), assignment),
            functional.discrimination(vectors, labels),
        ])  # fmt: skip

    maps = torch.rand(N, K, 2, 2, dtype=torch.float64, requires_grad=True)
    mean = mean[:, :2, :2]
    assert torch.autograd.gradcheck(losses, (maps,))
