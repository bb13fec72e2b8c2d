import pytest
import torch
from torch import nn

from interp_train.diagnosis.heatmaps.saliency import Saliency, strongest_channel
from interp_train.structures import Target
from tests.diagnosis.heatmaps.networks import (
    labels,
    linear_network,
    pixel_network,
    random_images,
    slow_gradient,
    small_network,
)


def test_agrees_with_central_differences():
    network, images = small_network(), random_images(2)
    found = Saliency()(network, images, labels(2, 0))
    for image, heatmap, unit in zip(images, found, (2, 0), strict=True):
        expected = slow_gradient(network, image, unit).abs().max(0).values
        torch.testing.assert_close(heatmap[0].double(), expected, atol=1e-6, rtol=1e-5)


def test_agrees_with_captum():
    attr = pytest.importorskip("captum.attr")
    network, images, units = small_network(1, inplace=False), random_images(3), [0, 1, 2]
    attributions = attr.Saliency(network).attribute(
        images.clone().requires_grad_(), torch.tensor(units)
    )
    found = Saliency()(network, images, labels(*units))
    torch.testing.assert_close(found.double(), attributions.amax(1, keepdim=True))


def test_hand_number():
    attributions = torch.tensor([[[[1.0, -2.0]], [[-3.0, 0.5]]]])
    assert strongest_channel(attributions).tolist() == [[[[3.0, 2.0]]]]


def test_of_a_linear_network_it_is_the_largest_weight():
    network = linear_network()
    images = random_images(1, 2, 4)
    expected = network[1].weight[1].detach().view(2, 4, 4).abs().amax(0)
    found = Saliency()(network, images, labels(1))
    torch.testing.assert_close(found[0, 0].double(), expected, atol=1e-7, rtol=1e-6)


def test_a_unit_of_a_layer_is_a_target_by_its_highest_activation():
    network, images = pixel_network(), random_images(1, 2, 5)
    maximum = nn.Sequential(network[:3], nn.AdaptiveMaxPool2d(1), nn.Flatten())
    found = Saliency()(network, images, Target("2", torch.tensor([4])))
    expected = slow_gradient(maximum, images[0], 4).abs().amax(0)
    torch.testing.assert_close(found[0, 0].double(), expected, atol=1e-6, rtol=1e-5)


def test_no_gradient_is_an_error():
    class Blind(nn.Module):
        def forward(self, images):
            return torch.ones(len(images), 2)

    with pytest.raises(ValueError, match="the score does not depend on 'images'"):
        Saliency()(Blind(), torch.zeros(1, 3, 4, 4), labels(0))
    with pytest.raises(ValueError, match=r"`attributions` must have shape \(N, channels, H, W\)"):
        strongest_channel(torch.zeros(2, 2))
