import math

import numpy as np
import pytest
import torch

from interp_train.data.views import View
from interp_train.learning.filter_objectives.equivariant_parts import functional
from interp_train.structures import LayerGeometry

N, K, G, SIZE = 5, 4, 3, (3, 4)
GEOMETRY = LayerGeometry(16.0, 7.5, 40.0)
SIDE = 64


@pytest.fixture
def maps():
    return torch.randn(N, K, *SIZE, dtype=torch.double)


@pytest.fixture
def member():
    """Filter 3 has no image."""
    return torch.tensor(
        [[1, 0, 1, 0], [1, 1, 0, 0], [0, 1, 1, 0], [1, 1, 1, 0], [0, 0, 1, 0]]
    ).double()


@pytest.fixture
def cells(maps):
    return functional.cell_positions(SIZE, GEOMETRY, SIDE, maps)


def slow_softmax_position(values, factor):
    """Mean position and mean squared distance from it, of one map, cell by cell."""
    weights = {
        (i, j): math.exp(factor * values[i, j]) for i in range(SIZE[0]) for j in range(SIZE[1])
    }
    total = sum(weights.values())
    places = {
        (i, j): ((7.5 + 16 * j + 0.5) / SIDE, (7.5 + 16 * i + 0.5) / SIDE) for i, j in weights
    }
    mean = [sum(w * places[cell][axis] for cell, w in weights.items()) / total for axis in (0, 1)]
    spread = sum(
        w * sum((places[cell][axis] - mean[axis]) ** 2 for axis in (0, 1))
        for cell, w in weights.items()
    )
    return mean, spread / total


def test_cells_lie_at_the_centres_of_their_receptive_fields(cells):
    # Column 2, row 1: pixel (7.5 + 32, 7.5 + 16); pixel -.5 is the left edge of the image.
    assert cells[1 * SIZE[1] + 2].tolist() == [(39.5 + 0.5) / 64, (23.5 + 0.5) / 64]


def test_positions_agree_with_loops(maps, member, cells):
    ranges = functional.response_range(maps, member)
    for k in range(K):
        rises = [(maps[n, k].max() - maps[n, k].mean()).item() for n in range(N) if member[n, k]]
        expected = sum(rises) / len(rises) if rises else 0.0
        assert ranges[k].item() == pytest.approx(expected)
    positions, spreads = functional.soft_positions(
        functional.cell_weights(maps, ranges, 7.0), cells
    )
    for n in range(N):
        for k in range(K):
            factor = 7.0 / (ranges[k].item() or 1.0)
            mean, spread = slow_softmax_position(maps[n, k].numpy(), factor)
            np.testing.assert_allclose(positions[n, k].numpy(), mean, rtol=1e-12)
            assert spreads[n, k].item() == pytest.approx(spread, rel=1e-10)


def test_a_sharp_softmax_finds_the_peak_and_a_flat_one_the_middle(maps, cells):
    ones = torch.ones(K).double()
    positions, spreads = functional.soft_positions(functional.cell_weights(maps, ones, 1e5), cells)
    torch.testing.assert_close(positions, cells[maps.flatten(2).argmax(2)])
    torch.testing.assert_close(spreads, torch.zeros(N, K).double())
    positions, spreads = functional.soft_positions(functional.cell_weights(maps, ones, 1e-9), cells)
    torch.testing.assert_close(positions, cells.mean(0).expand(N, K, 2))
    variance = cells.var(0, correction=0).sum()
    torch.testing.assert_close(spreads, variance.expand(N, K))


def test_weights_are_never_denormal():
    """On a CPU, products with denormal numbers take many times as long."""
    maps = torch.linspace(-4.0, 0.0, 100).view(1, 1, 10, 10).requires_grad_()
    weights = functional.cell_weights(maps, torch.ones(1), 30.0)
    (weights * torch.linspace(0, 1, 100)).sum().backward()
    smallest = torch.finfo(torch.float32).tiny
    for values in (weights, maps.grad):
        assert ((values == 0) | (values.abs() > smallest)).all()
        assert (values == 0).any()
    assert weights.sum().item() == pytest.approx(1)


def test_presence_by_hand_and_by_loops(member):
    peaks = torch.randn(N, K).double()
    absent = 1 - member
    there = [math.log1p(math.exp(-peaks[n, k])) for n in range(N) for k in range(K) if member[n, k]]
    gone = [math.log1p(math.exp(peaks[n, k])) for n in range(N) for k in range(K) if absent[n, k]]
    expected = (sum(there) / len(there) + sum(gone) / len(gone)) / 2
    assert functional.presence(peaks, member, absent).item() == pytest.approx(expected)
    # Undecided detectors: log 2.
    undecided = functional.presence(torch.zeros(N, K).double(), member, absent)
    assert undecided.item() == pytest.approx(math.log(2))
    certain = functional.presence(100 * (2 * member - 1), member, absent)
    assert certain.item() == pytest.approx(0, abs=1e-12)


def test_pairs_are_views_of_one_photo():
    ids = torch.tensor([7, 3, 7, 5, 3, 7])
    rows, partners, pair = functional.view_pairs(ids)
    found = sorted(zip(rows[pair].tolist(), partners[pair].tolist(), strict=True))
    assert found == [(0, 2), (1, 4), (2, 5)]


def test_relative_transforms_move_what_views_move():
    views = [View(3, 5, 100, 80), View(20, 0, 70, 90, flip=True), View(0, 9, 50, 50, flip=True)]
    transforms = torch.tensor(np.stack([view.transform(SIDE) for view in views]))
    points = np.array([[40.0, 30.0], [35.0, 12.0], [22.0, 50.0]])
    seen = [torch.tensor((view.move_points(points, SIDE) + 0.5) / SIDE) for view in views]
    for start, end in [(0, 1), (1, 0), (1, 2), (0, 0)]:
        rows, partners = torch.tensor([start]), torch.tensor([end])
        change = functional.relative_transforms(transforms, rows, partners, SIDE)
        moved = functional.moved_positions(seen[start][None], change)
        torch.testing.assert_close(moved[0], seen[end], rtol=0, atol=1e-12)


def test_a_mirrored_view_mirrors_positions_by_hand():
    views = [View(0, 0, 64, 64), View(0, 0, 64, 64, flip=True)]
    transforms = torch.tensor(np.stack([view.transform(64) for view in views]))
    change = functional.relative_transforms(transforms, torch.tensor([0]), torch.tensor([1]), 64)
    moved = functional.moved_positions(torch.tensor([[[0.2, 0.3]]]).double(), change)
    torch.testing.assert_close(moved, torch.tensor([[[0.8, 0.3]]]).double())


def test_variance_agrees_with_loops(member):
    positions = torch.rand(N, K, 2).double()
    variance = functional.position_variance(positions, member)
    for k in range(K):
        own = [positions[n, k].numpy() for n in range(N) if member[n, k]]
        mean = sum(own) / max(len(own), 1)
        expected = sum(((p - mean) ** 2).sum() for p in own) / max(len(own), 1)
        assert variance[k].item() == pytest.approx(expected)


def test_equivariance_agrees_with_loops():
    targets = torch.rand(N, K, 2).double() * 1.6 - 0.3
    positions, variance = torch.rand(N, K, 2).double(), torch.rand(K).double()
    pair = (torch.rand(N, K) < 0.7).double()
    errors = []
    for n in range(N):
        for k in range(K):
            inside = all(0 <= value <= 1 for value in targets[n, k].tolist())
            if pair[n, k] and inside:
                square = ((targets[n, k] - positions[n, k]) ** 2).sum()
                errors.append((square / (variance[k] + 0.005)).item())
    assert 3 < len(errors) < N * K
    found = functional.equivariance(targets, positions, variance, pair)
    assert found.item() == pytest.approx(sum(errors) / len(errors))


def test_a_follower_pays_nothing_and_a_constant_pays_what_the_views_move():
    """Shift by .1 along x: .01 / (variance + .005), for a filter that stays where it is."""
    followed = torch.rand(N, 1, 2).double() * 0.5
    shift = torch.tensor([0.1, 0.0]).double()
    variance, pair = torch.tensor([0.02]).double(), torch.ones(N, 1).double()
    found = functional.equivariance(followed + shift, followed + shift, variance, pair)
    assert found == 0
    stays = functional.equivariance(followed + shift, followed, variance, pair)
    assert stays.item() == pytest.approx(0.01 / 0.025)
    nobody = functional.equivariance(followed + shift, followed, variance, 0 * pair)
    assert nobody.item() == 0


def test_groups_agree_with_loops(member):
    positions = torch.rand(N, K, 2).double()
    assignment = torch.tensor([[1, 0], [0, 1], [1, 0], [1, 0]]).double()
    groups = functional.group_means(positions, assignment)
    for n in range(N):
        torch.testing.assert_close(groups[n, 0], positions[n, [0, 2, 3]].mean(0))
        torch.testing.assert_close(groups[n, 1], positions[n, 1])
    squares = []
    for n in range(N):
        for k, g in enumerate((0, 1, 0, 0)):
            if member[n, k]:
                squares.append(((positions[n, k] - groups[n, g]) ** 2).sum().item())
    found = functional.agreement(positions, groups, assignment, member)
    assert found.item() == pytest.approx(sum(squares) / len(squares))


def test_responses_beside_the_object_agree_with_loops(maps, member):
    weights = functional.cell_weights(maps, torch.ones(K).double(), 2.0)
    attention = torch.rand(N, weights.shape[2]).double()
    found = functional.off_object(weights, attention, member)
    shares = []
    for n in range(N):
        for k in range(K):
            if member[n, k]:
                beside = 1 - attention[n]
                shares.append(sum(w * b for w, b in zip(weights[n, k], beside, strict=True)))
    assert found.item() == pytest.approx(float(sum(shares)) / len(shares))
    everywhere = functional.off_object(weights, attention * 0 + 1, member)
    assert everywhere.item() == pytest.approx(0, abs=1e-12)


def test_scores_of_groups_agree_with_loops(maps):
    ranges = torch.tensor([2.0, 0.0, 4.0, 1.0]).double()[:K]
    assignment = torch.nn.functional.one_hot(torch.arange(K) % G, G).double()
    found = functional.group_scores(maps, ranges, assignment, 3.0)
    for n in range(len(maps)):
        for g in range(G):
            own = [maps[n, k].flatten() / (ranges[k] or 1) for k in range(K) if k % G == g]
            torch.testing.assert_close(found[n, g], 3 * sum(own) / max(len(own), 1))


def test_masses_by_hand():
    attention = torch.tensor([[0.0, 1.0, 0.5], [1.0, 1.0, 1.0]])
    contrast = torch.tensor([[9.0, 1.0, 2.0], [1.0, 1.0, 1.0]])
    masses = functional.cell_masses(attention, contrast)
    beside = 9 * 0.03  # nothing of the object, and high contrast
    torch.testing.assert_close(masses, torch.tensor([[beside, 1.0, 1.0], [1.0] * 3]))


def test_shares_of_masses_without_mass_or_object_are_0():
    masses = torch.tensor([[0.0, 1.0, 1.0], [1.0, 1.0, 1.0], [0.0, 0.0, 0.0]])
    found = functional.as_shares(masses, torch.tensor([1.0, 0.0, 1.0]))
    torch.testing.assert_close(found, torch.tensor([[0.0, 0.5, 0.5], [0.0] * 3, [0.0] * 3]))


def slow_territories(scores, masses, own):
    """One image, by loops: columns and rows are scaled in turn."""
    count, cells = scores.shape
    shares = [[0.0] * cells for _ in range(count)]
    for c in range(cells):
        whole = sum(math.exp(2 * scores[g, c]) for g in range(count) if own[g])
        for g in range(count):
            if own[g]:
                shares[g][c] = math.exp(2 * scores[g, c]) / whole * float(masses[c])
    for _ in range(3):
        for g in range(count):
            total = sum(shares[g])
            shares[g] = [share / total if total else 0.0 for share in shares[g]]
        for c in range(cells):
            total = sum(shares[g][c] for g in range(count))
            for g in range(count):
                shares[g][c] = shares[g][c] / total * float(masses[c]) if total else 0.0
    for c in range(cells):
        total = sum(shares[g][c] for g in range(count))
        for g in range(count):
            shares[g][c] = shares[g][c] / total if total else 0.0
    return torch.tensor(shares)


def test_territories_agree_with_loops():
    scores, masses = torch.randn(4, 5, 12).double(), torch.rand(4, 12).double()
    masses[0, 3:5] = 0  # beside the object
    masses = masses / masses.sum(1, keepdim=True)
    masses[3] = 0  # no object
    own = torch.tensor([[1, 1, 1, 1, 1], [1, 0, 1, 0, 1], [0, 1, 0, 0, 0], [1, 1, 1, 1, 1]])
    found = functional.territories(scores, masses, own.double())
    for n in range(4):
        expected = slow_territories(scores[n], masses[n], own[n])
        torch.testing.assert_close(found[n], expected.to(found), rtol=1e-6, atol=1e-9)
    assert torch.equal(found[3], torch.zeros(5, 12).double())
    torch.testing.assert_close(found[:3].sum(1), (masses[:3] > 0).double())


def test_groups_own_equally_much_even_if_one_claims_everything():
    scores = torch.randn(3, 4, 36, generator=torch.Generator().manual_seed(0)).double()
    scores[:, 0] += 1.0
    masses = torch.full((3, 36), 1 / 36).double()
    shares = functional.territories(scores, masses, torch.ones(3, 4).double())
    owned = (shares * masses[:, None]).sum(2)
    assert (owned - 0.25).abs().max() < 0.03  # after three steps
    unbalanced = ((2 * scores).softmax(1) * masses[:, None]).sum(2)
    assert unbalanced[:, 0].min() > 0.35


def test_outside_territory_by_hand():
    weights = torch.tensor([[[1.0, 0.0], [0.5, 0.5], [0.0, 1.0]]])
    shares = torch.tensor([[[1.0, 0.0], [0.0, 0.5], [0.0, 0.5]]])
    own = torch.tensor([[1.0, 1.0, 1.0]])
    found = functional.outside_territory(weights, shares, own)
    assert found.item() == pytest.approx((0 + 0.75 + 0.5) / 3)
    first = functional.outside_territory(weights, shares, torch.tensor([[1.0, 0.0, 0.0]]))
    assert first.item() == 0


@pytest.mark.parametrize("sideways", [1.0, 5.0])
def test_coverage_agrees_with_loops(cells, sideways):
    groups, masses = torch.rand(N, G, 2).double(), torch.rand(N, len(cells)).double()
    member = torch.tensor([1, 0, 1, 1, 0]).double()
    errors = []
    for n in range(N):
        total = 0.0
        for mass, cell in zip(masses[n].tolist(), cells, strict=True):
            squares = (cell - groups[n]).square()
            total += mass * float((sideways * squares[:, 0] + squares[:, 1]).min())
        if member[n]:
            errors.append(total)
    found = functional.coverage(groups, cells, masses, member, sideways=sideways)
    assert found.item() == pytest.approx(sum(errors) / len(errors))


def test_groups_that_lie_everywhere_cover_and_crowding_costs_the_distance(cells):
    masses = torch.full((1, len(cells)), 1 / len(cells)).double()
    one = torch.ones(1).double()
    everywhere = functional.coverage(cells[None], cells, masses, one)
    assert everywhere.item() == pytest.approx(0, abs=1e-15)
    middle = cells.mean(0).expand(1, G, 2)
    spread = cells.var(0, correction=0).sum().item()
    assert functional.coverage(middle, cells, masses, one).item() == pytest.approx(spread)


def test_coverage_draws_the_nearest_group_alone():
    """Cells at .25 and .75 of equal mass, groups at .3 and .4: of the second, only .75 draws."""
    cells = torch.tensor([[0.25, 0.5], [0.75, 0.5]]).double()
    groups = torch.tensor([[[0.3, 0.5], [0.4, 0.5], [0.35, 0.5]]]).double().requires_grad_()
    masses, one = torch.full((1, 2), 0.5).double(), torch.ones(1).double()
    functional.coverage(groups, cells, masses, one).backward()
    expected = torch.tensor([[[0.05, 0.0], [-0.35, 0.0], [0.0, 0.0]]]).double()
    torch.testing.assert_close(groups.grad, expected)


def test_distances_sideways_count_for_more():
    """A cell .2 to the side of one group and .3 below the other goes to the first, or second."""
    cells = torch.tensor([[0.5, 0.5]]).double()
    groups = torch.tensor([[[0.3, 0.5], [0.5, 0.2]]]).double()
    one = torch.ones(1, 1).double()
    found = [functional.coverage(groups, cells, one, one[0], sideways=s).item() for s in (1, 2, 3)]
    assert found == pytest.approx([0.04, 0.08, 0.09])


def test_attention_by_hand_and_without_gradient():
    logits = torch.tensor([0.2, 0.5, 0.55, 0.575, 0.65, 1.0]).logit().requires_grad_()
    found = functional.object_attention(logits)
    torch.testing.assert_close(found, torch.tensor([0.0, 0.0, 0.5, 0.75, 1.0, 1.0]))
    assert not found.requires_grad


def everything(maps, cells, member):
    """All terms, as a function of the maps."""
    weights = functional.cell_weights(maps, torch.ones(K).double(), 3.0)
    positions, spreads = functional.soft_positions(weights, cells)
    attention = torch.linspace(0, 1, N * len(cells)).view(N, 1, -1).double()
    assignment = torch.nn.functional.one_hot(torch.arange(K) % G).double()
    groups = functional.group_means(positions, assignment)
    variance = functional.position_variance(positions, member)
    shares = torch.linspace(0, 1, len(cells) * G * N).view(N, G, -1).double().softmax(1)
    return torch.stack(
        [
            functional.presence(maps.amax((2, 3)), member, 1 - member),
            functional.concentration(spreads, member),
            functional.equivariance(positions.flip(0), positions, variance, member),
            functional.agreement(positions, groups, assignment, member),
            functional.off_object(weights, attention[:, 0], member),
            functional.outside_territory(
                functional.group_means(weights, assignment), shares, member[:, :G]
            ),
            functional.coverage(groups, cells, attention[:, 0], member[:, 0]),
        ]
    )


def test_all_terms_pass_gradcheck(maps, cells, member):
    leaf = maps.clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda maps: everything(maps, cells, member), (leaf,))


def test_without_images_every_term_is_zero(maps, cells, member):
    assert torch.equal(everything(maps, cells, 0 * member)[1:], torch.zeros(6).double())
