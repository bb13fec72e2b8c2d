"""Codes, what Q says of them, and losses, against slow versions and known values."""

import math

import pytest
import torch

from interp_train.learning.infogan.functional import (
    Latents,
    Prior,
    code_estimates,
    discriminator_loss,
    drawn_latents,
    generator_input,
    generator_loss,
    gradient_penalty,
    information_bounds,
    log_likelihoods,
    parsed_codes,
    partners,
    shared_codes,
)

MIXED = ("categorical_3", "uniform", "bernoulli")


def test_codes_are_read():
    codes = parsed_codes(["categorical_10", "uniform", "bernoulli"], fixed_deviation=False)
    assert [(code.name, code.width, code.outputs) for code in codes] == [
        ("0_categorical", 10, 10), ("1_uniform", 1, 2), ("2_bernoulli", 1, 1),
    ]  # fmt: skip
    assert codes[0].entropy == pytest.approx(2.302585)
    assert codes[1].entropy == codes[2].entropy == math.log(2)


@pytest.mark.parametrize("wrong", ["categorical", "categorical_1", "categorical_9999999", "normal"])
def test_wrong_codes_are_refused(wrong):
    with pytest.raises(ValueError, match=f"`codes` must be entries .* but got '{wrong}'"):
        parsed_codes(["uniform", wrong])
    with pytest.raises(ValueError, match="`codes` must hold at least one code"):
        parsed_codes([])


def test_latents_have_their_prior():
    prior = Prior(parsed_codes(MIXED), 2, "uniform")
    drawn = drawn_latents(prior, torch.arange(6000), 0, 0, 0)
    category, number, coin = drawn.values.T
    assert (category.long().bincount() / 6000 - 1 / 3).abs().max() < 0.02
    assert coin.unique().tolist() == [0, 1]
    assert abs(coin.mean() - 0.5) < 0.02
    for values in (number, *drawn.noise.T):
        assert -1 <= values.min() < -0.99
        assert 0.99 < values.max() < 1
        assert abs(values.var() - 1 / 3) < 0.01
    together = torch.corrcoef(torch.cat([drawn.values, drawn.noise], 1).T)
    assert (together - torch.eye(5)).abs().max() < 0.05
    normal = drawn_latents(prior._replace(noise="normal"), torch.arange(6000), 0, 0, 0)
    assert abs(normal.noise.std() - 1) < 0.03
    assert torch.equal(normal.values, drawn.values)


def test_the_generators_input_by_hand():
    codes = parsed_codes(MIXED)
    latents = Latents(torch.tensor([[7.0, 8.0]]), torch.tensor([[2.0, -0.5, 1.0]]))
    assert generator_input(latents, codes).tolist() == [[7, 8, 0, 0, 1, -0.5, 1]]
    assert Prior(codes, 2, "uniform").size == 7


def slow_likelihood(said, value, kind):
    if kind == "categorical":
        total = sum(math.exp(logit) for logit in said)
        return math.log(math.exp(said[int(value)]) / total)
    if kind == "bernoulli":
        one = 1 / (1 + math.exp(-said[0]))
        return math.log(one if value else 1 - one)
    mean, deviation = said[0], math.exp(said[1] / 2) if len(said) > 1 else 1.0
    density = math.exp(-((value - mean) ** 2) / (2 * deviation**2))
    return math.log(density / (deviation * math.sqrt(2 * math.pi)))


@pytest.mark.parametrize("fixed", [True, False])
def test_likelihoods_and_bounds_against_a_slow_version(fixed):
    codes = parsed_codes([*MIXED, "uniform"], fixed_deviation=fixed)
    outputs = torch.randn(5, sum(code.outputs for code in codes)).double()
    values = drawn_latents(Prior(codes, 1, "uniform"), torch.arange(5), 1).values.double()
    found = log_likelihoods(outputs, values, codes)
    for row in range(5):
        start = 0
        for place, code in enumerate(codes):
            said = outputs[row, start : start + code.outputs].tolist()
            start += code.outputs
            expected = slow_likelihood(said, values[row, place].item(), code.kind)
            assert found[row, place].item() == pytest.approx(expected)
    bounds = information_bounds(found, codes)
    for place, code in enumerate(codes):
        expected = found[:, place].mean().item() + code.entropy
        assert bounds[place].item() == pytest.approx(expected)
    assert torch.autograd.gradcheck(
        lambda given: log_likelihoods(given, values, codes), outputs.clone().requires_grad_()
    )


def test_the_bound_of_a_q_that_knows_and_of_one_that_does_not():
    """L_I is H(c) for a Q that knows the codes, 0 for one that answers with the prior."""
    codes = parsed_codes(["categorical_4", "bernoulli"])
    values = drawn_latents(Prior(codes, 1, "uniform"), torch.arange(1000), 0).values
    one_hot = torch.nn.functional.one_hot(values[:, 0].long(), 4)
    knows = torch.cat([100.0 * one_hot, 200.0 * values[:, 1:] - 100], 1)
    bounds = information_bounds(log_likelihoods(knows, values, codes), codes)
    torch.testing.assert_close(bounds, torch.tensor([math.log(4), math.log(2)]))
    bounds = information_bounds(log_likelihoods(0 * knows, values, codes), codes)
    torch.testing.assert_close(bounds, torch.zeros(2))
    # A noisy channel: right with probability 0.7, else any other. Its capacity is known.
    generator = torch.Generator().manual_seed(0)
    truth = torch.randint(0, 4, (200_000,), generator=generator)
    wrong = torch.rand(len(truth), generator=generator) < 0.3
    seen = (truth + wrong * torch.randint(1, 4, (len(truth),), generator=generator)) % 4
    channel = torch.full((4, 4), 0.1) + 0.6 * torch.eye(4)
    (code,) = parsed_codes(["categorical_4"])
    likelihoods = log_likelihoods(channel.log()[seen], truth[:, None].float(), [code])
    capacity = math.log(4) + 0.7 * math.log(0.7) + 0.3 * math.log(0.1)
    assert information_bounds(likelihoods, [code]).item() == pytest.approx(capacity, abs=0.005)


def test_estimates_by_hand():
    codes = parsed_codes(MIXED, fixed_deviation=False)
    said = torch.tensor([[0.0, 3.0, 1.0, 0.25, 9.0, 0.0]])
    assert code_estimates(said, codes).tolist() == [[1.0, 0.25, 0.5]]


def test_adversarial_losses_by_hand():
    real, generated = torch.tensor([2.0, -1.0]), torch.tensor([0.5])
    sigmoid = [1 / (1 + math.exp(-score)) for score in (2.0, -1.0, 0.5)]
    expected = -(math.log(sigmoid[0]) + math.log(sigmoid[1])) / 2 - math.log(1 - sigmoid[2])
    assert discriminator_loss(real, generated).item() == pytest.approx(expected)
    assert generator_loss(generated).item() == pytest.approx(-math.log(sigmoid[2]))
    zeros = torch.zeros(3)
    assert discriminator_loss(zeros, zeros).item() == pytest.approx(math.log(4))
    assert discriminator_loss(real + 1e4, generated - 1e4).isfinite()


def test_the_gradient_penalty_of_a_quadratic():
    """Scores a |x|²: gradients 2 a x, so the penalty is 2 a² mean |x|²."""
    images = torch.randn(4, 1, 2, 2).double().requires_grad_()
    scale = torch.tensor(0.7).double().requires_grad_()
    penalty = gradient_penalty(scale * images.square().flatten(1).sum(1), images)
    squares = images.detach().square().flatten(1).sum(1).mean()
    torch.testing.assert_close(penalty.detach(), 2 * 0.49 * squares)
    (slope,) = torch.autograd.grad(penalty, scale)
    torch.testing.assert_close(slope, 4 * 0.7 * squares)


def test_partners_share_one_code_and_nothing_else():
    prior = Prior(parsed_codes(["categorical_9", "uniform", "uniform"]), 3, "uniform")
    ids = torch.arange(300)
    first, others = (drawn_latents(prior, ids, key) for key in (0, 1))
    shared = shared_codes(ids, 3, 5)
    assert (shared.bincount() > 70).all()
    second = partners(first, others, shared)
    assert torch.equal(second.noise, others.noise)
    equal = first.values == second.values
    assert equal[torch.arange(300), shared].all()
    assert not equal[:, 1:].all(1).any()
    assert torch.equal(second.values[shared != 1, 1], others.values[shared != 1, 1])
