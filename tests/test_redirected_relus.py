import pytest
import torch
from torch import nn
from torch.nn import functional

from interp_train.redirected_relus import RedirectedRelus, redirected_relu


def gradient_through(values, gradient, high=float("inf")):
    values = torch.tensor(values).requires_grad_()
    (found,) = torch.autograd.grad(redirected_relu(values, high), values, torch.tensor(gradient))
    return found.tolist()


def test_an_image_with_an_open_relu_gets_the_plain_gradient():
    assert gradient_through([[1.0, -1.0]], [[2.0, -3.0]]) == [[2.0, 0.0]]


def test_a_closed_image_gets_what_opens_it_and_not_what_closes_it():
    assert gradient_through([[-1.0, -2.0]], [[2.0, -3.0]]) == [[0.0, -3.0]]
    # Each image by itself: the first is open.
    assert gradient_through([[1.0, -1.0], [-1.0, -1.0]], [[-1.0, -1.0]] * 2) == [[-1, 0], [-1, -1]]


def test_an_open_relu_without_a_gradient_does_not_count():
    assert gradient_through([[1.0, -1.0]], [[0.0, -3.0]]) == [[0.0, -3.0]]


def test_a_relu6_is_redirected_at_both_ends():
    assert gradient_through([[-1.0, 7.0]], [[-1.0, -1.0]], 6.0) == [[-1.0, 0.0]]
    assert gradient_through([[-1.0, 7.0]], [[1.0, 1.0]], 6.0) == [[0.0, 1.0]]
    assert gradient_through([[1.0, 7.0]], [[1.0, 1.0]], 6.0) == [[1.0, 0.0]]


RELUS = [
    nn.ReLU(),
    nn.ReLU(inplace=True),
    nn.ReLU6(),
    nn.Hardtanh(0.0, 3.0),
    functional.relu,
    functional.relu6,
    torch.relu,
    torch.Tensor.relu,
    lambda values: functional.relu(input=values),
]


@pytest.mark.parametrize("relu", RELUS)
def test_every_relu_is_redirected_inside_the_block_only(relu):
    leaf = torch.tensor([[-1.0, -2.0]], requires_grad=True)
    with RedirectedRelus():
        inside = relu(leaf.clone())
        assert inside.tolist() == [[0.0, 0.0]]
    (gradient,) = torch.autograd.grad(-inside.sum(), leaf)
    assert gradient.tolist() == [[-1.0, -1.0]]
    (gradient,) = torch.autograd.grad(-relu(leaf.clone()).sum(), leaf)
    assert gradient.tolist() == [[0.0, 0.0]]


def test_other_functions_are_as_they_were():
    values = torch.tensor([-3.0, 0.5])
    with RedirectedRelus():
        assert nn.Hardtanh()(values).tolist() == [-1.0, 0.5]
        assert functional.leaky_relu(values, 0.5).tolist() == [-1.5, 0.5]
