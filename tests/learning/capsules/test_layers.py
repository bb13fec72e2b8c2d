"""Capsule layers: published parameter counts, grouping of atoms, and every routing."""

import pytest
import torch
from torch import nn

from interp_train.learning.capsules.layers import (
    ROUTINGS,
    CapsuleDecoder,
    CategoryCapsules,
    PrimaryCapsules,
)


def parameters(*modules):
    return sum(p.numel() for module in modules for p in module.parameters())


def test_parameter_counts_of_capsnet():
    first, primary = nn.Conv2d(1, 256, 9), PrimaryCapsules(256)
    categories = CategoryCapsules(1152, 8, 10)
    decoder = CapsuleDecoder(10, 16, (1, 28, 28))
    assert [parameters(part) for part in (first, primary, categories, decoder)] == [
        20_992, 5_308_672, 1_474_560, 1_411_344,
    ]  # fmt: skip
    assert parameters(first, primary, categories, decoder) == 8_215_568
    assert parameters(CategoryCapsules(1152, 8, 10, bias=True)) == 1_474_720


def test_atoms_are_channels_of_one_position():
    primary = PrimaryCapsules(3, 4, 2, kernel_size=3, stride=1, squashed=False)
    maps = torch.randn(2, 3, 5, 6)
    units = primary.convolution(maps)
    capsules = primary(maps)
    assert capsules.shape == (2, 4 * 3 * 4, 2)
    for kind in range(4):
        for row in range(3):
            for column in range(4):
                found = capsules[:, (kind * 3 + row) * 4 + column]
                torch.testing.assert_close(found, units[:, 2 * kind : 2 * kind + 2, row, column])
    squashed = PrimaryCapsules(3, 4, 2, kernel_size=1, stride=1, pool_size=2)(maps)
    assert squashed.shape == (2, 16, 2)
    assert (squashed.norm(dim=2) < 1).all()


@pytest.mark.parametrize("routing", ROUTINGS)
@pytest.mark.parametrize("num_types", [None, 4])
def test_every_routing_learns(routing, num_types):
    torch.manual_seed(0)
    layer = CategoryCapsules(12, 3, 5, 6, routing=routing, num_types=num_types)
    inputs = torch.randn(2, 12, 3, requires_grad=True)
    found = layer(inputs)
    assert found.shape == (2, 5, 6)
    assert (found.norm(dim=2) <= 1).all()
    found.square().sum().backward()
    assert all(parameter.grad.isfinite().all() for parameter in layer.parameters())
    assert layer.weights.grad.any()
    assert not layer.coupling.requires_grad
    torch.testing.assert_close(layer.coupling.sum(2), torch.ones(2, 12))


@pytest.mark.parametrize("routing", ROUTINGS)
def test_zero_inputs_have_finite_gradients(routing):
    layer = CategoryCapsules(6, 3, 2, 4, routing=routing)
    inputs = torch.zeros(2, 6, 3, requires_grad=True)
    layer(inputs).sum().backward()
    assert inputs.grad.isfinite().all()
    assert layer.weights.grad.isfinite().all()


def test_the_decoder_sees_one_capsule():
    decoder = CapsuleDecoder(3, 2, (1, 4, 5), hidden=[8])
    capsules = torch.randn(2, 3, 2)
    images = decoder(capsules, torch.tensor([0, 2]))
    assert images.shape == (2, 1, 4, 5)
    assert (images > 0).all()
    assert (images < 1).all()
    other = capsules.clone()
    other[0, 1:], other[1, :2] = 5.0, -5.0
    torch.testing.assert_close(decoder(other, torch.tensor([0, 2])), images)
    other[0, 0] += 1
    assert not torch.equal(decoder(other, torch.tensor([0, 2]))[0], images[0])


def test_bad_arguments():
    with pytest.raises(ValueError, match="`routing` must be one of 'dynamic', 'self'"):
        CategoryCapsules(4, 2, 3, routing="voting")
    with pytest.raises(ValueError, match="`iterations` must be >= 1"):
        CategoryCapsules(4, 2, 3, iterations=0)
    with pytest.raises(ValueError, match="`num_types` must divide"):
        CategoryCapsules(4, 2, 3, num_types=3)
    with pytest.raises(ValueError, match=r"needs 23\.2 GiB .* share weights"):
        CategoryCapsules(1568 * 2, 8, 1000, 62)
