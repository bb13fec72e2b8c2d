import pytest
import torch
from torch import nn

from interp_train.diagnosis.heatmaps.grad_cam import GradCam
from interp_train.diagnosis.heatmaps.guided_backprop import GuidedBackprop
from interp_train.diagnosis.heatmaps.guided_grad_cam import GuidedGradCam
from tests.diagnosis.heatmaps.networks import labels, pixel_network, random_images
from tests.diagnosis.heatmaps.test_grad_cam import slow_grad_cam
from tests.diagnosis.heatmaps.test_guided_backprop import slow_guided


def test_agrees_with_the_product_of_two_slow_versions():
    network, images = pixel_network(3), random_images(2, 2, 5)
    found = GuidedGradCam("3")(network, images, labels(1, 0))
    assert found.sum() > 0
    for image, heatmap, unit in zip(images, found, (1, 0), strict=True):
        with torch.no_grad():
            maps = network[:4](image[None])[0]
            coarse = slow_grad_cam(network[4:], maps, unit)
        expected = (coarse * slow_guided(network, image, unit)).abs().amax(0)
        torch.testing.assert_close(heatmap[0].double(), expected, atol=1e-6, rtol=1e-4)


@pytest.mark.filterwarnings("ignore:.*backward hooks:UserWarning")
def test_agrees_with_captum():
    attr = pytest.importorskip("captum.attr")
    network, images, units = pixel_network(1), random_images(3, 2, 5), [0, 1, 2]
    expected = attr.GuidedGradCam(network, network[3]).attribute(
        images.clone().requires_grad_(), torch.tensor(units)
    )
    found = GuidedGradCam("3")(network, images, labels(*units))
    torch.testing.assert_close(found.double(), expected.detach().abs().amax(1, keepdim=True))


def test_hand_number():
    network = nn.Sequential(
        nn.Conv2d(1, 1, 1, bias=False), nn.ReLU(), nn.Flatten(), nn.Linear(2, 1, bias=False)
    )
    with torch.no_grad():
        network[0].weight.fill_(2.0)
        network[3].weight.copy_(torch.tensor([[3.0, -1.0]]))
    # Maps (2, 8); mean gradient 1, so Grad-CAM is (2, 8); guided gradients are (6, 0).
    found = GuidedGradCam("1")(network, torch.tensor([[[[1.0, 4.0]]]]), labels(0))
    assert found.tolist() == [[[[12.0, 0.0]]]]


def test_it_is_zero_where_either_is_zero():
    network, images = pixel_network(), random_images(4, 2, 5)
    units = labels(0, 1, 2, 0)
    found = GuidedGradCam("3")(network, images, units)
    coarse, fine = GradCam("3")(network, images, units), GuidedBackprop()(network, images, units)
    assert torch.equal(found == 0, (coarse == 0) | (fine == 0))


def test_errors_are_those_of_its_two_parts():
    network, images = pixel_network(), random_images(1, 2, 5)
    with pytest.raises(ValueError, match="`layer` must name a module of the network"):
        GuidedGradCam("9")(network, images, labels(0))
    network[1] = network[3] = nn.Tanh()
    with pytest.raises(ValueError, match="`network` must apply its ReLUs as modules"):
        GuidedGradCam("3")(network, images, labels(0))
