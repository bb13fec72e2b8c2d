import pytest
import torch
from torch import nn
from torch.nn import functional

from interp_train.layer_responses import responses_of_layer
from interp_train.structures import LayerGeometry, Target
from interp_train.testing import leaves_no_trace
from tests.visualization.networks import random_images, two_layers, units


@pytest.mark.parametrize("layer", ["0", "1", "2", "3"])
def test_maps_are_those_of_the_layer_in_every_pass(layer):
    network, images = two_layers(), random_images(3)
    with torch.no_grad():
        expected = two_layers(inplace=False)[: int(layer) + 1](images)
    with (
        leaves_no_trace(network, images),
        responses_of_layer(network, units(layer, 1), images) as responses,
    ):
        for _ in range(2):  # from the second pass on, what lies above does not run
            torch.testing.assert_close(responses(), expected)
        torch.testing.assert_close(responses.of_units(2), expected[:, 1:2])
        assert not responses.of_units(2).requires_grad


def test_layers_above_do_not_run_again():
    class Counting(nn.Module):
        count = 0

        def forward(self, maps):
            self.count += 1
            return maps

    network = two_layers()
    network[4] = nn.Sequential(Counting(), nn.Flatten())
    with responses_of_layer(network, units("1", 0), random_images(1)) as responses:
        for _ in range(3):
            responses()
    assert network[4][0].count == 1


def test_a_layer_that_runs_twice_answers_with_its_last_output():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.body, self.relu = nn.Conv2d(3, 3, 1), nn.ReLU()

        def forward(self, images):
            return self.relu(self.body(self.relu(self.body(images)))).mean((-2, -1))

    network, images = Twice(), random_images(1).float()
    with responses_of_layer(network, units("relu", 0), images) as responses:
        first, second = responses(), responses()
        expected = network.relu(network.body(network.relu(network.body(images))))
    torch.testing.assert_close(first, expected)
    torch.testing.assert_close(second, expected)


def test_logits_are_maps_of_one_cell_that_sees_the_image():
    network, images = two_layers(), random_images(2)
    with responses_of_layer(network, units(None, 2), images) as responses:
        maps = responses()
        assert maps.shape == (2, 3, 1, 1)
        assert responses.geometry(maps) == LayerGeometry(12.0, 5.5, 12.0)
    with responses_of_layer(network, units("3", 2), images) as responses:
        assert responses.geometry(responses()) == LayerGeometry(2.0, 0.0, 7.0)


def test_gradients_reach_the_images_also_from_inference_mode():
    network = two_layers()
    with torch.inference_mode():
        images = random_images(2)
        with responses_of_layer(network, units("3", 0), images) as responses:
            leaf = responses.images.requires_grad_()
            (gradient,) = torch.autograd.grad(responses(leaf.clone()).sum(), leaf)
    assert gradient.abs().sum() > 0
    assert all(parameter.grad is None for parameter in network.parameters())


def test_half_precision_networks_answer_in_full():
    network, images = two_layers().bfloat16(), random_images(2).float()
    with (
        torch.autocast("cpu", torch.bfloat16),
        responses_of_layer(network, units("3", 0), images) as responses,
    ):
        assert responses().dtype == torch.float32


class Loose(nn.Module):
    def __init__(self):
        super().__init__()
        self.body, self.unused = nn.Conv2d(3, 2, 3), nn.Identity()
        self.sequence = nn.Flatten(2)

    def forward(self, images):
        return functional.relu(self.sequence(self.body(images))).mean(-1)


@pytest.mark.parametrize(
    ("target", "number", "message"),
    [
        (units("nowhere", 0), 1, "`layer` must name a module of the network, but got 'nowhere'"),
        (units("unused", 0), 1, "must run in the forward pass, but 'unused' did not"),
        (units("sequence", 0), 1, r"output` must have shape \(N, K, h, w\)"),
        (units("body", 2), 1, "`target.units` must be >= 0 and < 2"),
        (units("body", -1), 1, "`target.units` must be >= 0 and < 2"),
        (units("body"), 1, r"`len\(target.units\)` must be >= 1"),
        (Target("body", torch.zeros(1, 1).long()), 1, r"`target.units` must have shape \(U\)"),
        (units("body", 0), 0, r"`len\(images\)` must be >= 1"),
    ],
)
def test_what_cannot_be_asked_is_refused_and_leaves_no_hook(target, number, message):
    network = Loose()
    with (
        pytest.raises(ValueError, match=message),
        responses_of_layer(network, target, random_images(number).float()) as responses,
    ):
        responses()
    assert not any(module._forward_hooks for module in network.modules())
