"""Contributions of units, against weights times pooled activations and against slow gradients."""

import pytest
import torch
from torch import nn

from interp_train.diagnosis.unit_contributions import (
    summed_contributions,
    unit_contributions,
)
from tests.diagnosis.heatmaps.networks import (
    labels,
    linear_network,
    pooled_network,
    random_images,
    small_network,
)


def test_one_number_by_hand():
    activations = torch.tensor([[[[1.0, 2.0]], [[3.0, 0.0]]]])
    gradients = torch.tensor([[[[0.5, -1.0]], [[2.0, 7.0]]]])
    assert summed_contributions(activations, gradients).tolist() == [[-1.5, 6.0]]


def test_a_linear_head_gives_weight_times_pooled_activation_and_the_bias():
    network, images = pooled_network(), random_images(3)
    found = unit_contributions(network, images, labels(1, 0, 3), "1")
    with torch.no_grad():
        pooled = network[1](network[0](images)).mean((-2, -1))
    linear = network[4]
    expected = pooled * linear.weight[[1, 0, 3]]
    torch.testing.assert_close(found.contributions, expected.detach())
    torch.testing.assert_close(found.remainders, linear.bias[[1, 0, 3]].detach())
    torch.testing.assert_close(found.scores, network(images)[[0, 1, 2], [1, 0, 3]].detach())
    assert found.exact.all()


def test_a_nonlinear_rest_gives_gradient_times_activation():
    network, images = small_network(inplace=False), random_images(2)
    found = unit_contributions(network, images, labels(2, 1), "1")
    with torch.no_grad():
        maps = network[1](network[0](images))
    for image, unit in enumerate((2, 1)):
        for channel in range(maps.shape[1]):
            total = 0.0
            for y in range(maps.shape[2]):
                for x in range(maps.shape[3]):
                    total += maps[image, channel, y, x] * slow_slope(
                        network, maps[image], unit, (channel, y, x)
                    )
            assert found.contributions[image, channel].item() == pytest.approx(
                float(total), abs=1e-5
            )
    assert not found.exact.any()
    torch.testing.assert_close(found.scores, found.contributions.sum(1) + found.remainders)


def slow_slope(network, maps, unit, place, step=1e-6):
    """Derivative of a logit by one activation, from central differences."""
    ends = []
    for sign in (1, -1):
        moved = maps.clone()
        moved[place] += sign * step
        with torch.no_grad():
            ends.append(network[2:](moved[None])[0, unit].item())
    return (ends[0] - ends[1]) / (2 * step)


def test_no_trace_is_left():
    network, images = small_network(), random_images(2)
    network.train()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    unit_contributions(network, images, labels(0, 1), "3")
    assert network.training
    assert all(p.grad is None for p in network.parameters())
    assert all(not module._forward_hooks for module in network.modules())
    for name, value in network.state_dict().items():
        assert torch.equal(value, before[name])


def test_works_inside_inference_mode():
    network, images = pooled_network(), random_images(1)
    expected = unit_contributions(network, images, labels(1), "1").contributions
    with torch.inference_mode():
        found = unit_contributions(network, images.clone(), labels(1), "1").contributions
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize(
    ("network", "layer", "message"),
    [
        (pooled_network(), "conv", "`layer` must name a module of the network, but got 'conv'"),
        (pooled_network(), None, "`layer` must be given for a network without taps"),
        (pooled_network(), "3", r"`layer` must put out maps \(N, K, h, w\), but '3'"),
        (nn.Sequential(nn.Conv2d(3, 2, 1), nn.Identity(), linear_network(2, 8)), "0", None),
    ],
)
def test_errors(network, layer, message):
    images = random_images(1)
    if message is None:
        network.double()
        network[1].forward = lambda values: values.detach()
        message = "`network` must let gradients pass .* does not depend on '0'"
    with pytest.raises(ValueError, match=message):
        unit_contributions(network, images, labels(0), layer)
