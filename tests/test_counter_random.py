"""Numbers that follow from their key: against a slow version, and against what randomness is."""

import math

import pytest
import torch

from interp_train.counter_random import normal_numbers, uniform_numbers, whole_numbers

MASK = 2**64 - 1


def slow_mixed(bits):
    """The output function of SplitMix64, in Python's whole numbers."""
    bits = ((bits ^ (bits >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    bits = ((bits ^ (bits >> 27)) * 0x94D049BB133111EB) & MASK
    return bits ^ (bits >> 31)


def slow_uniform(sample, column, *key):
    step = 0x9E3779B97F4A7C15
    state = len(key)
    for number in key:
        state = slow_mixed(state ^ slow_mixed((number + step) & MASK))
    row = slow_mixed(state ^ slow_mixed((sample + step) & MASK))
    return (slow_mixed((row + (column + 1) * step) & MASK) >> 40) / 2**24


def test_numbers_equal_those_of_a_slow_version():
    ids = torch.tensor([0, 5, 1_000_003])
    found = uniform_numbers(ids, 4, 7, 2**40 - 1)
    for row, sample in enumerate(ids.tolist()):
        for column in range(4):
            assert found[row, column].item() == slow_uniform(sample, column, 7, 2**40 - 1)


def test_the_published_generator_of_splitmix64():
    """First outputs for seed 1234567, as published with the generator (Vigna, splitmix64.c)."""
    state, found = 1234567, []
    for _ in range(3):
        state = (state + 0x9E3779B97F4A7C15) & MASK
        found.append(slow_mixed(state))
    assert found == [6457827717110365317, 3203168211198807973, 9817491932198370423]


def test_numbers_do_not_depend_on_the_batch_but_on_every_part_of_the_key():
    ids = torch.arange(50)
    whole = uniform_numbers(ids, 3, 1, 2)
    assert torch.equal(whole[ids % 2 == 1], uniform_numbers(ids[1::2], 3, 1, 2))
    assert torch.equal(whole[:, :2], uniform_numbers(ids, 2, 1, 2))
    for other in ((1, 3), (2, 2), (2, 1), (1, 2, 0), (1,)):
        assert (uniform_numbers(ids, 3, *other) == whole).float().mean() < 0.01


def test_numbers_are_spread_as_they_should_be():
    ids = torch.arange(20_000)
    uniform = uniform_numbers(ids, 2, 0, 0).double()
    assert uniform.min() >= 0
    assert uniform.max() < 1
    torch.testing.assert_close(uniform.mean(0), torch.full((2,), 0.5).double(), rtol=0, atol=0.01)
    correlation = torch.corrcoef(torch.stack((*uniform.T, uniform[:, 0].roll(1))))
    assert (correlation - torch.eye(3)).abs().max() < 0.03
    whole = whole_numbers(ids, 1, 5, 0, 0)
    counts = whole.flatten().bincount(minlength=5).double()
    assert ((counts - 4000) ** 2 / 4000).sum() < 13.3  # chi-squared, 4 degrees, 1 % level


def test_normal_numbers_have_the_normal_distribution():
    """Kolmogorov's statistic has mean 0.8687 and standard deviation 0.26."""
    ids, ranks = torch.arange(5000), (torch.arange(5000).double() + 0.5) / 5000
    found = []
    for key in range(50):
        normal = normal_numbers(ids, 1, key).double()[:, 0].sort().values
        found.append((torch.special.ndtr(normal) - ranks).abs().max() * math.sqrt(5000))
    assert abs(torch.stack(found).mean() - 0.8687) < 3 * 0.26 / math.sqrt(50)


@pytest.mark.gpu
def test_numbers_are_the_same_on_an_accelerator():
    ids = torch.arange(100)
    assert torch.equal(uniform_numbers(ids.cuda(), 3, 4).cpu(), uniform_numbers(ids, 3, 4))
