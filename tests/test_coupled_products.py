"""Sums and agreements with coefficients against all images of all inputs."""

import pytest
import torch

from interp_train import coupled_products
from interp_train.coupled_products import coupled_agreement, coupled_sums

NUM, INS, ATOMS, OUTS, SIZE = 3, 5, 2, 4, 6


@pytest.fixture(params=["one block", "blocks"])
def tensors(request, monkeypatch):
    if request.param == "blocks":  # of 2, 2 and 1 inputs
        monkeypatch.setattr(coupled_products, "_BLOCK_BYTES", (0, 0))
        monkeypatch.setattr(coupled_products, "_LEAST_BLOCK", 2)
    torch.manual_seed(0)
    shapes = {
        "coefficients": (OUTS, INS, NUM), "outputs": (OUTS, SIZE, NUM),
        "inputs": (ATOMS, INS, NUM), "weights": (OUTS, ATOMS * INS, SIZE),
    }  # fmt: skip
    return {
        name: torch.randn(shape, dtype=torch.float64, requires_grad=True)
        for name, shape in shapes.items()
    }


def images(inputs, weights):
    """Image of each input for each output, ``(J, O, I, N)``, one by one."""
    found = torch.zeros(OUTS, SIZE, INS, NUM, dtype=torch.float64)
    for j in range(OUTS):
        for n in range(NUM):
            for i in range(INS):
                for d in range(ATOMS):
                    found[j, :, i, n] += inputs[d, i, n].detach() * weights[j, d * INS + i].detach()
    return found


def test_sums_weigh_the_images(tensors):
    everything = images(tensors["inputs"], tensors["weights"])
    expected = (tensors["coefficients"][:, None] * everything).sum(2)
    found = coupled_sums(tensors["coefficients"], tensors["inputs"], tensors["weights"])
    torch.testing.assert_close(found, expected)


def test_agreement_multiplies_images_and_outputs(tensors):
    everything = images(tensors["inputs"], tensors["weights"])
    expected = (everything * tensors["outputs"][:, :, None]).sum(1)
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


def test_many_blocks_in_half_precision_are_as_exact_as_one(monkeypatch):
    torch.manual_seed(1)
    coefficients, inputs = torch.rand(2, 400, 3), torch.rand(2, 400, 3)
    weights = torch.rand(2, 800, 4).bfloat16()
    expected = coupled_sums(coefficients, inputs, weights.float())
    monkeypatch.setattr(coupled_products, "_BLOCK_BYTES", (0, 0))
    monkeypatch.setattr(coupled_products, "_LEAST_BLOCK", 2)
    found = coupled_sums(coefficients, inputs, weights)
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found.float(), expected, rtol=0.004, atol=0)  # one rounding
