"""Squashing, losses and routings against loops in double precision."""

import math

import pytest
import torch
from torch import nn

from interp_train import coupled_products
from interp_train.learning.capsules import functional as caps

NUM, INS, ATOMS, OUTS, SIZE = 2, 6, 3, 4, 5


def tensors(*shapes):
    torch.manual_seed(0)
    return [torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in shapes]


def predicted(inputs, weights):
    """Predictions ``(N, I, J, O)``, one by one."""
    positions = inputs.shape[1] // len(weights)
    return torch.stack(
        [
            torch.stack(
                [
                    torch.stack([capsule @ weights[i // positions, :, j] for j in range(OUTS)])
                    for i, capsule in enumerate(image)
                ]
            )
            for image in inputs
        ]
    )


def assert_equal_with_gradients(found, expected, leaves):
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-7)
    weights = [torch.randn_like(value) for value in expected]
    gradients = [
        torch.autograd.grad(
            sum((value * weight).sum() for value, weight in zip(values, weights, strict=True)),
            leaves,
        )
        for values in (found, expected)
    ]
    for ours, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-6)


def test_squash_keeps_directions_and_bounds_lengths():
    capsules = torch.tensor([[3.0, 4.0], [0.0, 0.1], [300.0, 400.0]], dtype=torch.float64)
    squashed = caps.squash(capsules)
    wanted = torch.tensor([25 / 26, 0.01 / 1.01, 250000 / 250001], dtype=torch.float64)
    torch.testing.assert_close(squashed.norm(dim=1), wanted, rtol=1e-6, atol=0)
    torch.testing.assert_close(squashed[0] / squashed[0].norm(), capsules[0] / 5)
    steep = caps.squash_exponentially(capsules).norm(dim=1)
    torch.testing.assert_close(steep, 1 - torch.exp(-capsules.norm(dim=1)), rtol=1e-6, atol=0)


@pytest.mark.parametrize("function", [caps.squash, caps.squash_exponentially, caps.lengths])
def test_zero_capsules_have_finite_gradients(function):
    capsules = torch.zeros(2, 4, requires_grad=True)
    found = function(capsules)
    found.sum().backward()
    assert found.abs().max() <= 1.1e-4
    assert capsules.grad.isfinite().all()


def test_half_precision_is_squashed_in_single():
    capsules = (torch.randn(3, 8) * 100).bfloat16()
    assert caps.squash(capsules).dtype == torch.float32
    assert (caps.squash(capsules).norm(dim=1) <= 1).all()


def test_margin_loss_by_hand():
    found = torch.tensor([[0.95, 0.3, 0.05], [0.5, 0.0, 1.0]])
    targets = torch.tensor([[1.0, 0.0, 0.0], [1.0, 0.0, 1.0]])
    first = 0.5 * (0.3 - 0.1) ** 2
    second = (0.9 - 0.5) ** 2
    assert caps.margin_loss(found, targets).item() == pytest.approx((first + second) / 2)


def test_spread_loss_by_hand():
    activations = torch.tensor([[0.8, 0.5, 0.1]])
    loss = caps.spread_loss(activations, torch.tensor([0]), margin=0.4)
    assert loss.item() == pytest.approx((0.4 - 0.3) ** 2, abs=1e-7)
    assert caps.spread_loss(activations, torch.tensor([1]), 0.2).item() == pytest.approx(0.25)


@pytest.mark.parametrize("types", [INS, 2, 1])
def test_predictions(types):
    inputs, weights = tensors((NUM, INS, ATOMS), (types, ATOMS, OUTS, SIZE))
    found = caps.predictions(inputs, weights).transpose(0, 1)
    assert_equal_with_gradients([found], [predicted(inputs, weights)], (inputs, weights))


def slow_routing(inputs, weights, iterations, bias, leaky):
    votes = predicted(inputs, weights)
    logits = torch.zeros(NUM, INS, OUTS + leaky, dtype=torch.float64)
    for _ in range(iterations):
        coupling = logits.softmax(dim=2)[:, :, :OUTS]
        sums = (coupling[..., None] * votes).sum(dim=1)
        sums = sums if bias is None else sums + bias
        squared = sums.square().sum(-1, keepdim=True)
        outputs = squared / (1 + squared) * sums / squared.sqrt()
        agreement = (votes * outputs[:, None]).sum(-1)
        logits = logits + nn.functional.pad(agreement, (0, int(leaky)))
    return outputs, coupling


@pytest.mark.parametrize("types", [INS, 2])
@pytest.mark.parametrize("iterations", [1, 2, 3])
@pytest.mark.parametrize("leaky", [False, True])
@pytest.mark.parametrize("biased", [False, True])
def test_dynamic_routing_equals_a_loop(types, iterations, leaky, biased):
    inputs, weights, bias = tensors((NUM, INS, ATOMS), (types, ATOMS, OUTS, SIZE), (OUTS, SIZE))
    leaves = (inputs, weights, *([bias] if biased else []))
    found = caps.dynamic_routing(
        inputs, weights, iterations, bias=bias if biased else None, leaky=leaky
    )
    found = (found[0], found[1] + 0 * inputs.sum())  # one iteration: constant coefficients
    expected = slow_routing(inputs, weights, iterations, bias if biased else None, leaky)
    expected = (expected[0], expected[1] + 0 * inputs.sum())
    assert_equal_with_gradients(found, expected, leaves)
    sums = found[1].sum(dim=2)
    assert (sums <= 1 + 1e-6).all()
    if not leaky:
        torch.testing.assert_close(sums, torch.ones_like(sums), rtol=0, atol=1e-6)


def test_detached_routing_has_the_same_outputs_and_gradients_of_the_last_iteration():
    inputs, weights = tensors((NUM, INS, ATOMS), (INS, ATOMS, OUTS, SIZE))
    full, coupling = caps.dynamic_routing(inputs, weights, 3)
    short, same = caps.dynamic_routing(inputs, weights, 3, detach=True)
    torch.testing.assert_close(short, full)
    torch.testing.assert_close(same, coupling)
    expected = caps.squash(
        torch.einsum("nij,nijo->njo", coupling.detach(), predicted(inputs, weights))
    )
    for ours, theirs in zip(
        torch.autograd.grad(short.sin().sum(), (inputs, weights)),
        torch.autograd.grad(expected.sin().sum(), (inputs, weights)),
        strict=True,
    ):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-7)


@pytest.mark.parametrize("detach", [False, True])
def test_routing_in_pieces_is_routing_of_the_whole(monkeypatch, detach):
    inputs, weights = tensors((NUM, INS, ATOMS), (INS, ATOMS, OUTS, SIZE))
    leaves = (inputs, weights)
    whole = caps.dynamic_routing(inputs, weights, 3, detach=detach)
    monkeypatch.setattr(coupled_products, "_BLOCK_BYTES", (0, 0))
    monkeypatch.setattr(coupled_products, "_LEAST_BLOCK", 4)
    assert INS == 6  # blocks of 4 and 2
    parts = caps.dynamic_routing(inputs, weights, 3, detach=detach)
    found, expected = ((out, used + 0 * inputs.sum()) for out, used in (parts, whole))
    assert_equal_with_gradients(found, expected, leaves)


def test_self_routing_equals_a_loop():
    inputs, weights, decide, offset, raw = tensors(
        (NUM, INS, ATOMS), (INS, ATOMS, OUTS, SIZE), (INS, ATOMS, OUTS), (INS, OUTS), (NUM, INS)
    )
    found = caps.self_routing(inputs, raw.sigmoid(), weights, (decide, offset))
    activations, votes = raw.sigmoid(), predicted(inputs, weights)
    poses, mass, coupling = [], [], []
    for n in range(NUM):
        shares = torch.stack(
            [(inputs[n, i] @ decide[i] + offset[i]).softmax(0) for i in range(INS)]
        )
        weighted = shares * activations[n, :, None]
        coupling.append(shares)
        mass.append(weighted.sum(0) / activations[n].sum())
        poses.append((weighted[..., None] * votes[n]).sum(0) / weighted.sum(0)[:, None])
    expected = tuple(map(torch.stack, (poses, mass, coupling)))
    assert_equal_with_gradients(found, expected, (inputs, weights, decide, offset, raw))
    torch.testing.assert_close(found[1].sum(1), torch.ones(NUM, dtype=torch.float64))


def test_inverted_routing_equals_a_loop():
    inputs, weights = tensors((NUM, INS, ATOMS), (INS, ATOMS, OUTS, SIZE))
    norm = nn.LayerNorm(SIZE).double()
    found = caps.inverted_routing(inputs, weights, norm, iterations=2)
    votes = predicted(inputs, weights)
    coupling = torch.full((NUM, INS, OUTS), 1 / OUTS, dtype=torch.float64)
    outputs = norm((coupling[..., None] * votes).sum(1))
    for _ in range(2):
        coupling = ((votes * outputs[:, None]).sum(-1) / math.sqrt(SIZE)).softmax(2)
        outputs = norm((coupling[..., None] * votes).sum(1))
    assert_equal_with_gradients(found, (outputs, coupling), (inputs, weights))


def test_attention_routing_equals_a_loop_over_pairs():
    inputs, weights, bias = tensors((NUM, INS, ATOMS), (INS, ATOMS, OUTS, SIZE), (INS, OUTS))
    found = caps.attention_routing(inputs, weights, bias)
    votes = predicted(inputs, weights)
    agreement = torch.zeros(NUM, INS, OUTS, dtype=torch.float64)
    for i in range(INS):
        for k in range(INS):
            agreement[:, i] = agreement[:, i] + (votes[:, i] * votes[:, k]).sum(-1)
    coupling = (agreement / math.sqrt(SIZE)).softmax(2) + bias
    sums = (coupling[..., None] * votes).sum(1)
    length = sums.norm(dim=-1, keepdim=True)
    expected = ((1 - torch.exp(-length)) * sums / length, coupling)
    assert_equal_with_gradients(found, expected, (inputs, weights, bias))


@pytest.mark.parametrize("detach", [False, True])
def test_bfloat16_is_close_to_single_precision(detach):
    torch.manual_seed(1)
    inputs, weights = torch.randn(4, 32, 8) * 0.3, torch.randn(32, 8, 10, 16) * 0.1
    exact, _ = caps.dynamic_routing(inputs, weights, 3, detach=detach)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rough, coupling = caps.dynamic_routing(inputs, weights, 3, detach=detach)
    assert rough.dtype == coupling.dtype == torch.float32
    assert (rough - exact).norm() < 0.03 * exact.norm()


def slow_em(votes, activations, costs, iterations):
    """One image: M-step and E-step of Hinton et al. 2018, capsule by capsule."""
    use_cost, use_gain = costs
    coupling = torch.full((INS, OUTS), 1 / OUTS, dtype=torch.float64)
    for t in range(1, iterations + 1):
        poses, found, fits = [], [], []
        for j in range(OUTS):
            shares = [coupling[i, j] * activations[i] for i in range(INS)]
            total = sum(shares)
            mean = sum(shares[i] * votes[i, j] for i in range(INS)) / total
            spread = sum(shares[i] * (votes[i, j] - mean) ** 2 for i in range(INS)) / total + 1e-6
            cost = sum(use_cost[j] + spread[h].sqrt().log() for h in range(SIZE))
            data = total / (INS / OUTS)
            found.append(torch.sigmoid((1 - 0.95**t) * (use_gain[j] - data * cost)))
            poses.append(mean)
            normal = torch.distributions.Normal(mean, spread.sqrt())
            fits.append(torch.stack([normal.log_prob(votes[i, j]).sum() for i in range(INS)]))
        if t < iterations:
            chances = torch.stack([a * fit.exp() for a, fit in zip(found, fits, strict=True)], 1)
            coupling = chances / chances.sum(1, keepdim=True)
    return torch.stack(poses), torch.stack(found), coupling


@pytest.mark.parametrize("iterations", [1, 3])
def test_em_routing_equals_a_loop(iterations):
    inputs, weights, raw, use_cost, use_gain = tensors(
        (NUM, INS, ATOMS), (INS, ATOMS, OUTS, SIZE), (NUM, INS), (OUTS,), (OUTS,)
    )
    costs = use_cost, use_gain
    found = caps.em_routing(inputs, raw.sigmoid(), weights, costs, iterations=iterations)
    votes = predicted(inputs, weights)
    each = [slow_em(votes[n], raw[n].sigmoid(), costs, iterations) for n in range(NUM)]
    expected = tuple(map(torch.stack, zip(*each, strict=True)))
    assert_equal_with_gradients(found, expected, (inputs, weights, raw, use_cost, use_gain))
    torch.testing.assert_close(found[2].sum(2), torch.ones(NUM, INS, dtype=torch.float64))


def test_em_routing_gives_a_tight_cluster_its_input_capsules():
    """Two output capsules: predictions for the first agree, for the second they do not."""
    votes = torch.randn(1, 8, 2, 3, dtype=torch.float64)
    votes[:, :, 0] = 0.5 + 0.01 * votes[:, :, 0]
    inputs = torch.eye(8, dtype=torch.float64)[None]  # capsule i predicts row i of its weights
    weights = votes[0, :, None].expand(8, 8, 2, 3)
    zero = torch.zeros(2, dtype=torch.float64)
    present = torch.ones(1, 8, dtype=torch.float64)
    poses, found, coupling = caps.em_routing(inputs, present, weights, (zero, zero))
    assert (coupling[0, :, 0] > 0.95).all()
    assert found[0, 0] > found[0, 1]
    torch.testing.assert_close(poses[0, 0], votes[0, :, 0].mean(0), rtol=0, atol=0.01)


def test_directions_have_length_one():
    capsules = torch.tensor([[3.0, 4.0], [0.0, 0.0]])
    wanted = torch.tensor([[0.6, 0.8], [0.0, 0.0]])
    torch.testing.assert_close(caps.directions(capsules), wanted)


def test_votes_lie_where_the_voting_capsules_lie():
    coupling = torch.rand(2, 12, 3)
    activity = torch.rand(2, 2, 2, 3)
    found = caps.vote_maps(coupling, activity, torch.tensor([2, 0]))
    for image, category in enumerate((2, 0)):
        for row in range(2):
            for column in range(3):
                wanted = sum(
                    coupling[image, (kind * 2 + row) * 3 + column, category]
                    * activity[image, kind, row, column]
                    for kind in range(2)
                )
                assert float(found[image, 0, row, column]) == pytest.approx(float(wanted))
