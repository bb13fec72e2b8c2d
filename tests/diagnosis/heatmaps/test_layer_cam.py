import pytest
import torch

from interp_train.diagnosis.heatmaps.hires_cam import HiResCam
from interp_train.diagnosis.heatmaps.layer_cam import LayerCam, layer_cam
from tests.diagnosis.heatmaps.networks import (
    labels,
    random_images,
    slow_gradient,
    small_network,
)


@pytest.mark.parametrize("layer", ["1", "3"])
def test_agrees_with_central_differences_at_the_centres_of_the_cells(layer):
    network, images = small_network(), random_images(2)
    cut = int(layer) + 1
    found = LayerCam(layer)(network, images, labels(2, 0))
    for image, heatmap, unit in zip(images, found, (2, 0), strict=True):
        with torch.no_grad():
            maps = network[:cut](image[None])[0]
        gradient = slow_gradient(network[cut:], maps, unit)
        expected = torch.zeros(4, 4, dtype=torch.float64)
        for k in range(len(maps)):
            for i in range(4):
                for j in range(4):
                    expected[i, j] += max(gradient[k, i, j].item(), 0) * maps[k, i, j]
        torch.testing.assert_close(heatmap[0, ::2, ::2].double(), expected, atol=1e-6, rtol=1e-4)


def test_agrees_with_captum_where_all_gradients_are_positive():
    attr = pytest.importorskip("captum.attr")
    network, images, units = small_network(1, inplace=False), random_images(3), [0, 1, 2]
    network[5].weight.data.abs_()
    products = attr.LayerGradientXActivation(network, network[3]).attribute(
        images, torch.tensor(units)
    )
    found = LayerCam("3")(network, images, labels(*units))
    torch.testing.assert_close(
        found[..., ::2, ::2].double(), products.detach().sum(1, keepdim=True)
    )


def test_hand_number():
    activations = torch.tensor([[[[1.0, 2.0]], [[3.0, -4.0]]]])
    gradients = torch.tensor([[[[2.0, 3.0]], [[-1.0, 2.0]]]])
    # 1*2 + 0 = 2; 2*3 - 4*2 = -2, cut off.
    assert layer_cam(activations, gradients).tolist() == [[[[2.0, 0.0]]]]


def test_with_positive_gradients_it_is_hires_cam():
    network, images = small_network(), random_images(2)
    network[5].weight.data.abs_()
    expected = HiResCam("3")(network, images, labels(0, 2))
    torch.testing.assert_close(LayerCam("3")(network, images, labels(0, 2)), expected)


def test_errors():
    with pytest.raises(ValueError, match=r"`gradients` must have shape \(1, 1, 1, 2\)"):
        layer_cam(torch.zeros(1, 1, 1, 2), torch.zeros(1, 1, 2, 1))
    with pytest.raises(ValueError, match="`layer` must name a module of the network"):
        LayerCam("9")(small_network(), random_images(1), labels(0))
