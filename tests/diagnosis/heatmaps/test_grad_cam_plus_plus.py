import pytest
import torch

from interp_train.diagnosis.heatmaps.grad_cam import GradCam
from interp_train.diagnosis.heatmaps.grad_cam_plus_plus import (
    GradCamPlusPlus,
    grad_cam_plus_plus,
)
from tests.diagnosis.heatmaps.networks import (
    labels,
    pooled_network,
    random_images,
    slow_gradient,
    small_network,
)


def slow_cam(maps, gradient):
    """Eqs. 5 and 19, with squares and cubes as printed."""
    total = torch.zeros(maps.shape[1:], dtype=maps.dtype)
    for a, g in zip(maps, gradient, strict=True):
        weight = 0.0
        for i in range(a.shape[0]):
            for j in range(a.shape[1]):
                below = 2 * g[i, j] ** 2 + a.sum() * g[i, j] ** 3
                alpha = (g[i, j] ** 2 / below).item() if below != 0 else 0.0
                weight += alpha * max(g[i, j].item(), 0.0)
        total += weight * a
    return total.clamp(min=0)


@pytest.mark.parametrize("layer", ["0", "1", "3"])
def test_agrees_with_the_printed_equations_at_the_centres_of_the_cells(layer):
    network, images = small_network(inplace=False), random_images(2)
    cut = int(layer) + 1
    found = GradCamPlusPlus(layer)(network, images, labels(2, 0))
    for image, heatmap, unit in zip(images, found, (2, 0), strict=True):
        with torch.no_grad():
            maps = network[:cut](image[None])[0]
        expected = slow_cam(maps, slow_gradient(network[cut:], maps, unit))
        torch.testing.assert_close(heatmap[0, ::2, ::2].double(), expected, atol=1e-6, rtol=1e-4)


def test_hand_number():
    activations = torch.tensor([[[[1.0, 3.0]]]])
    gradients = torch.tensor([[[[0.5, -1.0]]]])
    # alpha = .25 / (2 * .25 + 4 * .125) = 1/4; the weight is 1/8, the negative gradient adds none.
    expected = torch.tensor([[[[0.125, 0.375]]]])
    torch.testing.assert_close(grad_cam_plus_plus(activations, gradients), expected)


def test_zero_and_tiny_gradients_give_no_gaps():
    activations = torch.ones(1, 2, 2, 2)
    assert grad_cam_plus_plus(activations, torch.zeros(1, 2, 2, 2)).abs().sum() == 0
    tiny = grad_cam_plus_plus(activations, torch.full((1, 2, 2, 2), 1e-30))
    torch.testing.assert_close(tiny, torch.full((1, 1, 2, 2), 4e-30), rtol=1e-5, atol=0)
    # A denominator of 0 counts as alpha = 0.
    zero = grad_cam_plus_plus(-activations, torch.full((1, 2, 2, 2), 0.5))
    assert zero.abs().sum() == 0


def test_with_small_equal_positive_gradients_it_is_grad_cam_over_twice_the_cells():
    network, images = pooled_network(), random_images(2, 3, 5)
    network[4].weight.data.abs_().mul_(1e-7)
    found = GradCamPlusPlus("1")(network, images, labels(3, 1))
    # Without the cubes alpha is 1/2 everywhere: the sum of gradients over 2, not their mean.
    expected = GradCam("1")(network, images, labels(3, 1)) * 25 / 2
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-12)


def test_errors():
    with pytest.raises(ValueError, match=r"`gradients` must have shape \(1, 1, 1, 2\)"):
        grad_cam_plus_plus(torch.zeros(1, 1, 1, 2), torch.zeros(1, 1, 2, 1))
    with pytest.raises(ValueError, match="`layer` must put out maps"):
        GradCamPlusPlus("5")(small_network(), random_images(1), labels(0))
