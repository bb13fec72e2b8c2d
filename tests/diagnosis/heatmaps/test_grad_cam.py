import pytest
import torch
from torch import nn

from interp_train.diagnosis.heatmaps.grad_cam import GradCam, grad_cam
from interp_train.structures import Target
from tests.diagnosis.heatmaps.networks import labels, small_network


def slow_grad_cam(above, activations, unit, step=1e-6):
    """Eqs. 1 and 2 with gradients from central differences, cell by cell."""
    channels, height, width = activations.shape
    total = torch.zeros(height, width, dtype=activations.dtype)
    for k in range(channels):
        weight = 0.0
        for i in range(height):
            for j in range(width):
                scores = []
                for sign in (1, -1):
                    moved = activations.clone()
                    moved[k, i, j] += sign * step
                    scores.append(above(moved[None])[0, unit].item())
                weight += (scores[0] - scores[1]) / (2 * step) / (height * width)
        total += weight * activations[k]
    return total.clamp(min=0)


@pytest.mark.parametrize("layer", ["1", "3"])
def test_agrees_with_central_differences_at_the_centres_of_the_cells(layer):
    network = small_network()
    images = torch.randn(2, 3, 8, 8, dtype=torch.float64)
    heatmaps = GradCam(layer)(network, images, labels(2, 0))
    cut = int(layer) + 1
    for image, heatmap, unit in zip(images, heatmaps, (2, 0), strict=True):
        with torch.no_grad():
            activations = network[:cut](image[None])[0]
            expected = slow_grad_cam(network[cut:], activations, unit)
        # The cells' receptive fields have their centres at the even pixels.
        torch.testing.assert_close(heatmap[0, ::2, ::2].double(), expected, atol=1e-6, rtol=1e-4)


def test_agrees_with_captum():
    attr = pytest.importorskip("captum.attr")
    network = small_network(1, inplace=False)
    images = torch.randn(3, 3, 8, 8, dtype=torch.float64)
    units = torch.tensor([0, 1, 2])
    expected = attr.LayerGradCam(network, network[3]).attribute(
        images, units, relu_attributions=True
    )
    heatmaps = GradCam("3")(network, images, Target(None, units))
    torch.testing.assert_close(heatmaps[..., ::2, ::2].double(), expected.detach())


def test_hand_number():
    activations = torch.tensor([[[[1.0, 2.0]], [[3.0, 0.0]]]])
    gradients = torch.tensor([[[[1.0, 3.0]], [[-1.0, 0.0]]]])
    # Weights 2 and -1/2: 2*1 - 3/2 = 1/2 and 2*2 - 0 = 4.
    torch.testing.assert_close(grad_cam(activations, gradients), torch.tensor([[[[0.5, 4.0]]]]))


def test_with_global_average_pooling_it_is_the_class_activation_map_over_the_cells():
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(3, 6, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(6, 4),
    )  # fmt: skip
    images = torch.randn(1, 3, 5, 5)
    with torch.no_grad():
        maps = network[:2](images)
    expected = torch.einsum("k,nkij->nij", network[4].weight[3].detach(), maps).relu() / 25
    heatmap = GradCam("1")(network, images, labels(3))
    torch.testing.assert_close(heatmap[:, 0], expected)


def test_a_unit_of_a_layer_is_a_target_by_its_highest_activation():
    network = small_network()
    images = torch.randn(1, 3, 8, 8, dtype=torch.float64)
    heatmap = GradCam("1")(network, images, Target("2", torch.tensor([4])))
    activations = network[:2](images).detach()

    def above(maps):
        return network[2](maps).amax((-2, -1))

    expected = slow_grad_cam(above, activations[0], 4)
    torch.testing.assert_close(heatmap[0, 0, ::2, ::2].double(), expected, atol=1e-6, rtol=1e-4)


def test_leaves_no_trace():
    network = nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(inplace=True), nn.Dropout(0.5),
        nn.Flatten(), nn.Linear(4 * 36, 2),
    )  # fmt: skip
    network[1].eval()
    images = torch.randn(2, 3, 6, 6)
    network(images).sum().backward()
    gradients = [parameter.grad.clone() for parameter in network.parameters()]
    state = {name: value.clone() for name, value in network.state_dict().items()}
    before, modes = torch.get_rng_state(), [module.training for module in network.modules()]
    with torch.inference_mode():
        heatmap = GradCam("2")(network, images, labels(0, 1))
    assert not heatmap.requires_grad
    assert torch.equal(torch.get_rng_state(), before)
    assert [module.training for module in network.modules()] == modes
    assert all(not module._forward_hooks for module in network.modules())
    for parameter, gradient in zip(network.parameters(), gradients, strict=True):
        assert torch.equal(parameter.grad, gradient)
    for name, value in network.state_dict().items():
        assert torch.equal(value, state[name])


def test_frozen_weights_are_no_obstacle():
    network = small_network()
    images = torch.randn(1, 3, 8, 8, dtype=torch.float64)
    expected = GradCam("3")(network, images, labels(1))
    frozen = GradCam("3")(network.requires_grad_(False), images, labels(1))
    assert torch.equal(frozen, expected)


class Pooled(nn.Module):
    """Stops gradients after its first layer, as a cached frozen prefix does."""

    def __init__(self):
        super().__init__()
        self.below = nn.Conv2d(3, 4, 3, padding=1)
        self.above = nn.Conv2d(4, 2, 3, padding=1)

    def forward(self, images):
        with torch.no_grad():
            maps = self.below(images)
        return self.above(maps).mean((-2, -1))


def test_errors_name_the_rule_and_the_way_out():
    network = small_network()
    images = torch.randn(1, 3, 8, 8, dtype=torch.float64)
    with pytest.raises(ValueError, match=r"`layer` must name a module of the network, but got '9'"):
        GradCam("9")(network, images, labels(0))
    with pytest.raises(ValueError, match="`layer` must be given for a network without taps"):
        GradCam()(network, images, labels(0))
    with pytest.raises(ValueError, match=r"`layer` must put out maps .* '5' put out \(1, 3\)"):
        GradCam("5")(network, images, labels(0))
    with pytest.raises(ValueError, match=r"`target.units` must be >= 0 and < 3, but got \[3\]"):
        GradCam("3")(network, images, labels(3))
    with pytest.raises(ValueError, match=r"`target.units` must have shape \(1\)"):
        GradCam("3")(network, images, labels(0, 1))
    with pytest.raises(ValueError, match="the score does not depend on 'below'"):
        GradCam("below")(Pooled(), torch.randn(1, 3, 8, 8), labels(0))
