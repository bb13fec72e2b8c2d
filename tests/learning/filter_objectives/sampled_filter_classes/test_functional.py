import math

import pytest
import torch

from interp_train.counter_random import uniform_numbers
from interp_train.learning.filter_objectives.sampled_filter_classes import functional
from interp_train.structures import BACKGROUND

N, K, C = 5, 4, 3


@pytest.mark.parametrize("background", [True, False])
def test_class_probabilities_agree_with_loops(background):
    logits = torch.randn(N, C, dtype=torch.double)
    found = functional.class_probabilities(logits, background)
    for n in range(N):
        powers = [math.exp(value) for value in logits[n].tolist()] + [1.0] * background
        expected = [power / sum(powers) for power in powers]
        assert found[n].tolist() == pytest.approx(expected)


def test_one_category_against_the_background_is_the_sigmoid():
    logits = torch.randn(N, 1)
    found = functional.class_probabilities(logits, background=True)
    torch.testing.assert_close(found[:, :1], logits.sigmoid())
    labels = torch.tensor([0, BACKGROUND, 0])
    assert functional.class_indices(labels, 1).tolist() == [0, 1, 0]


def test_drawn_classes_by_hand():
    """Shares .25, 0, .5, .25: the ends of the intervals belong to the class that follows."""
    probabilities = torch.tensor([0.25, 0.0, 0.5, 0.25]).expand(6, 4)
    uniform = torch.tensor([0.0, 0.2, 0.25, 0.6, 0.75, 0.9999])
    assert functional.drawn_classes(probabilities, uniform).tolist() == [0, 0, 2, 2, 3, 3]
    # Rounding may leave the last sum below 1.
    short = torch.tensor([[0.5, 0.4999]])
    assert functional.drawn_classes(short, torch.tensor([0.99995])).tolist() == [1]


def slow_filters(assignment, classes, uniform):
    """Image by image, filter by filter."""
    return [
        [float(uniform[n, k] < assignment[k, classes[n]]) for k in range(len(assignment))]
        for n in range(len(classes))
    ]


def test_drawn_filters_agree_with_loops():
    assignment = torch.randn(K, C, dtype=torch.double).softmax(1)
    probabilities = torch.randn(N, C, dtype=torch.double).softmax(1)
    classes, uniform = torch.randint(0, C, (N,)), torch.rand(N, K)
    found = functional.drawn_filters(assignment, probabilities, classes, uniform)
    expected = torch.tensor(slow_filters(assignment, classes.tolist(), uniform)).double()
    torch.testing.assert_close(found, expected)
    assert 0 < expected.sum() < N * K


def test_the_gradient_is_that_of_the_expectation():
    """By autograd of what is drawn, and by gradcheck of ``P(class) P(filter | class)``."""
    scores = torch.randn(K, C, dtype=torch.double, requires_grad=True)
    logits = torch.randn(N, C, dtype=torch.double, requires_grad=True)
    factors = torch.randn(N, K, dtype=torch.double)
    classes, uniform = torch.randint(0, C, (N,)), torch.rand(N, K)
    drawn = functional.drawn_filters(scores.softmax(1), logits.softmax(1), classes, uniform)
    found = torch.autograd.grad((drawn * factors).sum(), [scores, logits])
    # To the matrix: of the class that was drawn. To the logits: of all classes.
    one_hot = torch.nn.functional.one_hot(classes, C).double()
    (to_scores,) = torch.autograd.grad(((one_hot @ scores.softmax(1).T) * factors).sum(), scores)
    chance = logits.softmax(1) @ scores.detach().softmax(1).T
    (to_logits,) = torch.autograd.grad((chance * factors).sum(), logits)
    torch.testing.assert_close(found, (to_scores, to_logits))
    assert torch.autograd.gradcheck(
        lambda scores, logits: logits.softmax(1) @ scores.softmax(1).T, (scores, logits)
    )


def test_shares_of_draws_approach_their_probabilities():
    number = 20000
    uniform = uniform_numbers(torch.arange(number), 1 + K, 0)
    probabilities = torch.tensor([0.2, 0.5, 0.3])
    assignment = torch.tensor([[0.1, 0.2, 0.7], [1.0, 0.0, 0.0], [0.4, 0.4, 0.2], [0.0, 0.5, 0.5]])
    everyone = probabilities.expand(number, C)
    classes = functional.drawn_classes(everyone, uniform[:, 0])
    shares = classes.bincount(minlength=C) / number
    torch.testing.assert_close(shares, probabilities, rtol=0, atol=0.015)
    kept = functional.drawn_filters(assignment, everyone, classes, uniform[:, 1:])
    for own in range(C):
        mean = kept[classes == own].mean(0)
        torch.testing.assert_close(mean, assignment[:, own], rtol=0, atol=0.03)
