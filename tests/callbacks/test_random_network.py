import pytest
import torch
from torch import nn

from interp_train.callbacks.random_network import (
    activations_of,
    channels_last,
    random_network_of,
    reinitialised,
)
from tests.callbacks.spot_run import ForeignModule


class Scaled(nn.Module):
    """Has a parameter that no module can draw."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.arange(50.0))
        self.layers = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU())

    def forward(self, images):
        return self.layers(images)


def test_all_weights_are_new_and_the_original_is_not_touched():
    network = Scaled()
    with torch.no_grad():
        for parameter in network.layers.parameters():
            parameter.fill_(7.0)
        network.layers[1].running_mean.fill_(5.0)
    state = {name: value.clone() for name, value in network.state_dict().items()}
    random_state = torch.get_rng_state()
    twin = reinitialised(network)
    assert torch.equal(torch.get_rng_state(), random_state)
    assert all(torch.equal(value, network.state_dict()[name]) for name, value in state.items())
    assert not (twin.layers[0].weight == 7).any()
    assert (twin.layers[1].weight == 1).all()
    assert (twin.layers[1].running_mean == 0).all()
    assert torch.equal(twin.scale.sort().values, network.scale)
    assert not torch.equal(twin.scale, network.scale)
    assert not twin.training
    assert not any(parameter.requires_grad for parameter in twin.parameters())


def test_weights_depend_on_the_seed_only():
    torch.manual_seed(1)
    first = reinitialised(Scaled(), seed=4).state_dict()
    torch.manual_seed(2)
    second = reinitialised(Scaled(), seed=4).state_dict()
    other = reinitialised(Scaled(), seed=5).state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not torch.equal(first["layers.0.weight"], other["layers.0.weight"])


def test_hooks_of_the_original_are_not_copied():
    network, seen = Scaled(), []
    network.layers.register_forward_hook(lambda *args: seen.append(args))
    reinitialised(network)(torch.zeros(1, 3, 8, 8))
    assert seen == []


def test_what_cannot_be_copied_is_named():
    network = Scaled()
    network.result = network.scale * 2  # not a leaf
    with pytest.raises(ValueError, match="needs a network that can be copied, but Scaled cannot"):
        reinitialised(network)


def test_activations_without_gradients_and_without_hooks_left():
    network = Scaled()
    maps = activations_of(network, ["layers.2"], torch.zeros(2, 3, 8, 8))
    assert maps["layers.2"].shape == (2, 4, 6, 6)
    assert not maps["layers.2"].requires_grad
    assert not network.layers[2]._forward_hooks


def test_channels_last_changes_the_speed_only():
    torch.manual_seed(0)
    network, images = Scaled(), torch.rand(2, 3, 8, 8)
    expected = activations_of(network, ["layers.0"], images)["layers.0"]
    found = activations_of(channels_last(network), ["layers.0"], images)["layers.0"]
    assert found.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(found, expected)


def test_one_twin_and_one_pass_for_all_who_hold_it():
    module = ForeignModule()
    first, second = random_network_of(module), random_network_of(module)
    assert first is second
    first.request_layers(["model.relu"])
    images, batch = torch.rand(2, 3, 48, 48), object()
    once = first.activations(batch, images)["model.relu"]
    assert second.activations(batch, images)["model.relu"] is once
    second.request_layers(["model.colours"])
    assert set(first.activations(batch, images)) == {"model.relu", "model.colours"}
    other = first.activations(object(), images * 2)["model.relu"]
    assert not torch.equal(other, once)
    del first
    assert random_network_of(module) is second
    del second
    assert random_network_of(module)._layers == {}
