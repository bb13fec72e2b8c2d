"""Sums and agreements with coefficients against all images of all inputs."""

import pytest
import torch

from interp_train.coupled_products import coupled_agreement, coupled_sums

NUM, INS, ATOMS, OUTS, SIZE = 3, 5, 2, 4, 6


@pytest.fixture
def tensors():
    torch.manual_seed(0)
    shapes = {
        "coefficients": (OUTS, NUM, INS), "outputs": (OUTS, NUM, SIZE),
        "inputs": (NUM, ATOMS, INS), "weights": (OUTS, ATOMS * INS, SIZE),
    }  # fmt: skip
    return {
        name: torch.randn(shape, dtype=torch.float64, requires_grad=True)
        for name, shape in shapes.items()
    }


def images(inputs, weights):
    """Image of each input for each output, ``(J, N, I, O)``, one by one."""
    found = torch.zeros(OUTS, NUM, INS, SIZE, dtype=torch.float64)
    for j in range(OUTS):
        for n in range(NUM):
            for i in range(INS):
                for d in range(ATOMS):
                    found[j, n, i] += inputs[n, d, i].detach() * weights[j, d * INS + i].detach()
    return found


def test_sums_weigh_the_images(tensors):
    everything = images(tensors["inputs"], tensors["weights"])
    expected = (tensors["coefficients"][..., None] * everything).sum(2)
    found = coupled_sums(tensors["coefficients"], tensors["inputs"], tensors["weights"])
    torch.testing.assert_close(found, expected)


def test_agreement_multiplies_images_and_outputs(tensors):
    everything = images(tensors["inputs"], tensors["weights"])
    expected = (everything * tensors["outputs"][:, :, None]).sum(3)
    found = coupled_agreement(tensors["outputs"], tensors["inputs"], tensors["weights"])
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize(
    ("function", "first"), [(coupled_sums, "coefficients"), (coupled_agreement, "outputs")]
)
def test_gradients_are_right_and_no_product_is_kept(tensors, function, first):
    arguments = (tensors[first], tensors["inputs"], tensors["weights"])
    assert torch.autograd.gradcheck(function, arguments)
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(x) or x, lambda x: x):
        function(*arguments)
    assert [tuple(value.shape) for value in kept] == [tuple(value.shape) for value in arguments]


def test_coefficients_without_gradient_are_left_out(tensors):
    fixed = tensors["coefficients"].detach()
    coupled_sums(fixed, tensors["inputs"], tensors["weights"]).sum().backward()
    assert fixed.grad is None
    assert tensors["inputs"].grad.abs().sum() > 0
