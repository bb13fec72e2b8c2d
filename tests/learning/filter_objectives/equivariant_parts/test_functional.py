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
    found = functional.view_errors(targets, positions, variance, pair)
    assert found.sum(1).tolist() == pytest.approx([sum(errors), len(errors)])
    assert functional.equivariance(found).item() == pytest.approx(sum(errors) / len(errors))
    for k in range(K):
        alone = [each[..., k : k + 1, :] for each in (targets, positions)]
        one = functional.view_errors(*alone, variance[k : k + 1], pair[:, k : k + 1])
        torch.testing.assert_close(found[:, k : k + 1], one)


def test_a_follower_pays_nothing_and_a_constant_pays_what_the_views_move():
    """Shift by .1 along x: .01 / (variance + .005), for a filter that stays where it is."""
    followed = torch.rand(N, 1, 2).double() * 0.5
    shift = torch.tensor([0.1, 0.0]).double()
    variance, pair = torch.tensor([0.02]).double(), torch.ones(N, 1).double()
    found = functional.view_errors(followed + shift, followed + shift, variance, pair)
    assert functional.equivariance(found) == 0
    stays = functional.view_errors(followed + shift, followed, variance, pair)
    assert functional.equivariance(stays).item() == pytest.approx(0.01 / 0.025)
    nobody = functional.view_errors(followed + shift, followed, variance, 0 * pair)
    assert functional.equivariance(nobody).item() == 0


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


def test_repulsion_agrees_with_loops():
    groups = torch.rand(N, G, 2).double() * 0.3
    rivals = torch.tensor([[0, 0, 0], [0, 0, 1], [0, 1, 0]]).double()
    member = torch.tensor([[1, 1, 0], [1, 1, 1], [0, 1, 1], [1, 0, 1], [0, 0, 0]]).double()
    total = 0.0
    for n in range(N):
        for g in range(G):
            for h in range(G):
                if rivals[g, h] and member[n, g]:
                    distance = (groups[n, g] - groups[n, h]).norm().item()
                    total += max(0.0, 1 - distance / 0.2) ** 2
    found = functional.repulsion(groups, 0.2, rivals, member)
    assert found.item() == pytest.approx(total / member.sum().item())


def test_repulsion_by_hand():
    """Two rivals at half the radius: (1 - 1/2)^2 each; far apart, or not rivals: nothing."""
    rivals = 1 - torch.eye(2).double()
    near = torch.tensor([[[0.5, 0.5], [0.5, 0.6]]]).double()
    ones = torch.ones(1, 2).double()
    assert functional.repulsion(near, 0.2, rivals, ones).item() == pytest.approx(0.25)
    assert functional.repulsion(near, 0.1, rivals, ones).item() == pytest.approx(0, abs=1e-9)
    assert functional.repulsion(near, 0.2, 0 * rivals, ones).item() == 0


def test_tether_by_hand_and_without_a_pull_on_its_anchor():
    groups = torch.tensor([[[0.0, 0.0], [0.5, 0.0], [0.1, 0.0]]]).double().requires_grad_()
    anchors = groups[:, [0, 0, 0]]
    member = torch.tensor([[0.0, 1.0, 1.0]]).double()
    loss = functional.tether(groups, anchors, 0.2, member)
    assert loss.item() == pytest.approx((0.5 - 0.2) ** 2 / 2)
    (gradient,) = torch.autograd.grad(loss, groups)
    assert gradient[0, 0].tolist() == [0, 0]
    assert gradient[0, 1, 0].item() == pytest.approx(0.3)
    assert gradient[0, 2].tolist() == [0, 0]


def test_responses_beside_the_object_agree_with_loops(maps, member):
    weights = functional.cell_weights(maps, torch.ones(K).double(), 2.0)
    attention = torch.rand(N, 2, weights.shape[2]).double()
    categories = torch.tensor([0, 1, 0, 0])
    found = functional.off_object(weights, attention, categories, member)
    shares = []
    for n in range(N):
        for k in range(K):
            if member[n, k]:
                beside = 1 - attention[n, categories[k]]
                shares.append(sum(w * b for w, b in zip(weights[n, k], beside, strict=True)))
    assert found.item() == pytest.approx(float(sum(shares)) / len(shares))
    everywhere = functional.off_object(weights, attention * 0 + 1, categories, member)
    assert everywhere.item() == pytest.approx(0, abs=1e-12)


def test_coverage_agrees_with_loops(cells):
    """Groups 0 and 2 are of category 0, group 1 is of category 1."""
    groups, attention = torch.rand(N, G, 2).double(), torch.rand(N, 2, len(cells)).double()
    present = torch.tensor([[1, 0], [1, 0], [0, 1], [0, 0], [0, 1]]).double()
    total, weight = 0.0, 0.0
    for n in range(N):
        for c, own in ((0, (0, 2)), (1, (1,))):
            for p in range(len(cells)):
                if present[n, c]:
                    nearest = min((groups[n, g] - cells[p]).square().sum().item() for g in own)
                    weight += attention[n, c, p].item()
                    total += attention[n, c, p].item() * nearest
    found = functional.coverage(groups, cells, attention, present)
    assert found.item() == pytest.approx(total / weight)


def test_coverage_by_hand():
    """Two cells, .2 apart: .01 from the middle of them, 0 with a group on each."""
    cells = torch.tensor([[0.4, 0.5], [0.6, 0.5]]).double()
    ones = torch.ones(1, 1, 2).double()
    between, on_both = torch.tensor([[[0.5, 0.5]]]).double(), cells[None]
    present = torch.ones(1, 1).double()
    assert functional.coverage(between, cells, ones, present).item() == pytest.approx(0.01)
    assert functional.coverage(on_both, cells, ones, present).item() == 0
    first = ones * torch.tensor([1.0, 0.0]).double()  # the second is not of the object
    assert functional.coverage(cells[None, :1], cells, first, present).item() == 0
    assert functional.coverage(between, cells, ones, 0 * present).item() == 0


def test_attention_by_hand_and_without_gradient():
    logits = torch.tensor([-1.0, 0.0, math.log(3.0), 50.0], requires_grad=True)
    found = functional.object_attention(logits)
    torch.testing.assert_close(found, torch.tensor([0.0, 0.0, 0.5, 1.0]))
    assert not found.requires_grad


def everything(maps, cells, member):
    """All terms, as a function of the maps."""
    weights = functional.cell_weights(maps, torch.ones(K).double(), 3.0)
    positions, spreads = functional.soft_positions(weights, cells)
    attention = torch.linspace(0, 1, N * len(cells)).view(N, 1, -1).double()
    assignment = torch.nn.functional.one_hot(torch.arange(K) % G).double()
    groups = functional.group_means(positions, assignment)
    rivals = 1 - torch.eye(G).double()
    variance = functional.position_variance(positions, member)
    errors = functional.view_errors(positions.flip(0), positions, variance, member)
    return torch.stack(
        [
            functional.presence(maps.amax((2, 3)), member, 1 - member),
            functional.concentration(spreads, member),
            functional.equivariance(errors),
            functional.repulsion(groups, 0.5, rivals, member[:, :G]),
            functional.tether(groups, groups[:, [0] * G], 0.01, member[:, :G]),
            functional.agreement(positions, groups, assignment, member),
            functional.off_object(weights, attention, torch.zeros(K).long(), member),
            functional.coverage(groups, cells, attention, member[:, :1]),
        ]
    )


def test_all_terms_pass_gradcheck(maps, cells, member):
    # The anchor of the tether is a constant, so its group must not move in the check.
    anchored = maps.clone()

    def terms(leaf):
        joined = torch.cat([anchored[:, :1], leaf, anchored[:, 2:]], dim=1)
        return everything(joined, cells, member)

    assert torch.autograd.gradcheck(terms, (maps[:, 1:2].clone().requires_grad_(),))


def test_without_images_every_term_is_zero(maps, cells, member):
    assert torch.equal(everything(maps, cells, 0 * member)[1:], torch.zeros(7).double())
