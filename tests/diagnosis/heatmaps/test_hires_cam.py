import pytest
import torch

from interp_train.diagnosis.heatmaps.grad_cam import GradCam
from interp_train.diagnosis.heatmaps.hires_cam import HiResCam, hires_cam
from tests.diagnosis.heatmaps.networks import (
    labels,
    pooled_network,
    random_images,
    slow_gradient,
    small_network,
)


@pytest.mark.parametrize("layer", ["1", "3"])
def test_agrees_with_central_differences_at_the_centres_of_the_cells(layer):
    network, images = small_network(), random_images(2)
    cut = int(layer) + 1
    found = HiResCam(layer)(network, images, labels(2, 0))
    for image, heatmap, unit in zip(images, found, (2, 0), strict=True):
        with torch.no_grad():
            maps = network[:cut](image[None])[0]
        expected = (maps * slow_gradient(network[cut:], maps, unit)).sum(0).clamp(min=0)
        torch.testing.assert_close(heatmap[0, ::2, ::2].double(), expected, atol=1e-6, rtol=1e-4)


def test_agrees_with_captum():
    attr = pytest.importorskip("captum.attr")
    network, images, units = small_network(1, inplace=False), random_images(3), [0, 1, 2]
    products = attr.LayerGradientXActivation(network, network[3]).attribute(
        images, torch.tensor(units)
    )
    expected = products.detach().sum(1, keepdim=True).clamp(min=0)
    found = HiResCam("3")(network, images, labels(*units))
    torch.testing.assert_close(found[..., ::2, ::2].double(), expected)


def test_hand_number():
    activations = torch.tensor([[[[1.0, 2.0]], [[3.0, 0.0]]]])
    gradients = torch.tensor([[[[1.0, 3.0]], [[-1.0, 5.0]]]])
    # 1*1 - 3*1 = -2, cut off, and 2*3 + 0*5 = 6.
    assert hires_cam(activations, gradients).tolist() == [[[[0.0, 6.0]]]]


def test_with_global_average_pooling_it_is_grad_cam():
    network, images = pooled_network(), random_images(3, 3, 5)
    expected = GradCam("1")(network, images, labels(3, 0, 1))
    torch.testing.assert_close(HiResCam("1")(network, images, labels(3, 0, 1)), expected)


def test_errors():
    with pytest.raises(ValueError, match=r"`gradients` must have shape \(1, 1, 1, 2\)"):
        hires_cam(torch.zeros(1, 1, 1, 2), torch.zeros(1, 1, 2, 1))
    with pytest.raises(ValueError, match="`layer` must put out maps"):
        HiResCam("5")(small_network(), random_images(1), labels(0))
