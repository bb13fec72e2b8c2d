"""Capsule layers: published parameter counts, grouping of atoms, and every routing."""

import pytest
import torch
from torch import nn

from interp_train.activations import ActivationTap
from interp_train.learning.capsules.functional import predictions
from interp_train.learning.capsules.layers import (
    ROUTINGS,
    CategoryCapsules,
    PrimaryCapsules,
    scaled_places,
)
from interp_train.learning.capsules.memory import check_predictions, memory_of


def parameters(*modules):
    return sum(p.numel() for module in modules for p in module.parameters())


def test_parameter_counts_of_capsnet():
    first, primary = nn.Conv2d(1, 256, 9), PrimaryCapsules(256)
    categories = CategoryCapsules(1152, 8, 10)
    assert [parameters(part) for part in (first, primary, categories)] == [
        20_992, 5_308_672, 1_474_560,
    ]  # fmt: skip
    assert parameters(CategoryCapsules(1152, 8, 10, bias=True)) == 1_474_720


def test_atoms_are_channels_of_one_position():
    primary = PrimaryCapsules(3, 4, 2, kernel_size=3, stride=1, squash="none")
    maps = torch.randn(2, 3, 5, 6)
    units = primary.convolution(maps)
    capsules = primary(maps)
    assert capsules.shape == (2, 4 * 3 * 4, 2)
    for kind in range(4):
        for row in range(3):
            for column in range(4):
                found = capsules[:, (kind * 3 + row) * 4 + column]
                torch.testing.assert_close(found, units[:, 2 * kind : 2 * kind + 2, row, column])


@pytest.mark.parametrize("squash", ["quadratic", "exponential"])
def test_the_layer_of_lengths_puts_out_how_long_capsules_are(squash):
    primary = PrimaryCapsules(3, 4, 2, kernel_size=3, stride=1, pool_size=4, squash=squash)
    maps = 4 * torch.randn(2, 3, 9, 9)
    assert primary.map_size((9, 9)) == (2, 2)
    with ActivationTap(primary, ["lengths"]) as tap:
        capsules = primary(maps)
        found = tap.take()["lengths"]
    assert found.shape == (2, 4, 2, 2)
    torch.testing.assert_close(capsules.norm(dim=2), found.flatten(1), rtol=1e-5, atol=1e-5)
    units = primary.convolution(nn.functional.adaptive_avg_pool2d(maps, 4)).unflatten(1, (4, 2))
    raw = units.norm(dim=2)
    wanted = raw**2 / (1 + raw**2) if squash == "quadratic" else 1 - torch.exp(-raw)
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)
    directions = units.permute(0, 1, 3, 4, 2).flatten(1, 3)
    cosine = nn.functional.cosine_similarity(capsules, directions, dim=2)
    torch.testing.assert_close(cosine, torch.ones_like(cosine), rtol=0, atol=1e-4)


def test_each_unit_may_read_one_channel_only():
    primary = PrimaryCapsules(8, 4, 2, kernel_size=3, depthwise=True, squash="none")
    maps = torch.zeros(1, 8, 3, 3)
    maps[0, 5] = 1.0
    changed = (primary(maps) - primary(torch.zeros_like(maps))).flatten()
    assert changed.nonzero().flatten().tolist() == [5]
    with pytest.raises(ValueError, match="4 x 2 is none of 6"):
        PrimaryCapsules(6, 4, 2, depthwise=True)


@pytest.mark.parametrize("routing", ROUTINGS)
@pytest.mark.parametrize("num_types", [None, 4])
def test_every_routing_learns(routing, num_types):
    torch.manual_seed(0)
    layer = CategoryCapsules(12, 3, 5, 6, routing=routing, num_types=num_types)
    inputs = torch.randn(2, 12, 3, requires_grad=True)
    with ActivationTap(layer, ["coupling"]) as tap:
        found = layer(inputs)
        coupling = tap.take()["coupling"]
    assert found.shape == (2, 5, 6)
    assert (found.norm(dim=2) <= 1).all()
    found.square().sum().backward()
    assert all(parameter.grad.isfinite().all() for parameter in layer.parameters())
    assert layer.weights.grad.any()
    assert not coupling.requires_grad
    torch.testing.assert_close(coupling.sum(2), torch.ones(2, 12))


@pytest.mark.parametrize("routing", ROUTINGS)
def test_zero_inputs_have_finite_gradients(routing):
    layer = CategoryCapsules(6, 3, 2, 4, routing=routing)
    inputs = torch.zeros(2, 6, 3, requires_grad=True)
    layer(inputs).sum().backward()
    assert inputs.grad.isfinite().all()
    assert layer.weights.grad.isfinite().all()


@pytest.mark.parametrize("routing", ROUTINGS)
def test_lengths_differ_between_categories(routing):
    layer = CategoryCapsules(12, 3, 5, 6, routing=routing, initial_std=1.0)
    if routing == "self":  # zero at the start, so that all are alike
        nn.init.normal_(layer.routing_weights)
    found = layer(torch.randn(2, 12, 3)).norm(dim=2)
    assert found.std(dim=1).min() > 1e-3


def test_places_are_added_to_two_atoms_of_the_predictions():
    layer = CategoryCapsules(12, 3, 5, 6, num_types=2, coordinates=(2, 3))
    inputs = torch.randn(2, 12, 3)
    found = predictions(*layer._placed(inputs))
    expected = predictions(inputs, layer.weights).clone()
    for kind in range(2):
        for row in range(2):
            for column in range(3):
                place = (kind * 2 + row) * 3 + column
                expected[place, :, :, 0] += (column + 0.5) / 3
                expected[place, :, :, 1] += (row + 0.5) / 2
    torch.testing.assert_close(found, expected)
    with pytest.raises(ValueError, match="2 x 5 cells do not divide"):
        scaled_places((2, 5), 12)


def test_bad_arguments():
    with pytest.raises(ValueError, match="`routing` must be one of 'dynamic', 'self'"):
        CategoryCapsules(4, 2, 3, routing="voting")
    with pytest.raises(ValueError, match="`iterations` must be >= 1"):
        CategoryCapsules(4, 2, 3, iterations=0)
    with pytest.raises(ValueError, match="`num_types` must divide"):
        CategoryCapsules(4, 2, 3, num_types=3)
    with pytest.raises(ValueError, match="`squash` must be one of 'quadratic'"):
        PrimaryCapsules(4, squash="linear")
    with pytest.raises(ValueError, match=r"needs 23\.2 GiB .* share weights"):
        CategoryCapsules(1568 * 2, 8, 1000, 62)


@pytest.mark.parametrize("whole", [False, True])
def test_predictions_that_do_not_fit_are_refused_before_they_are_formed(monkeypatch, whole):
    path = "interp_train.learning.capsules.memory.machine_memory"
    inputs, weights = torch.zeros(4, 6, 2), torch.zeros(6, 2, 3, 5)
    needed = 4 * 4 * 6 * 3 * (2 * 5 if whole else 8)
    monkeypatch.setattr(path, lambda: needed)
    assert memory_of(inputs.device) == needed
    check_predictions(inputs, weights, whole=whole)
    monkeypatch.setattr(path, lambda: needed - 1)
    with pytest.raises(ValueError, match="6 input capsules of each of 4 images to 3 .* smaller"):
        check_predictions(inputs, weights, whole=whole)


@pytest.mark.parametrize("routing", ROUTINGS)
def test_images_may_be_routed_in_pieces(routing):
    layer = CategoryCapsules(12, 3, 5, 6, routing=routing, chunk_size=2).double()
    inputs = torch.randn(5, 12, 3, dtype=torch.float64, requires_grad=True)
    weights = torch.randn(5, 5, 6, dtype=torch.float64)
    results = []
    for layer.chunk_size in (2, None):
        with ActivationTap(layer, ["coupling"]) as tap:
            found = layer(inputs)
            leaves = (inputs, *layer.parameters())
            gradients = torch.autograd.grad((found * weights).sum(), leaves, allow_unused=True)
            results.append([found, tap.take()["coupling"], *gradients])
    for ours, whole in zip(*results, strict=True):
        assert (ours is None) == (whole is None)
        if ours is not None:
            torch.testing.assert_close(ours, whole, rtol=1e-5, atol=1e-6)
