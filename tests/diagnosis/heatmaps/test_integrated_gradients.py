import pytest
import torch
from torch import nn

from interp_train.diagnosis.heatmaps.integrated_gradients import (
    IntegratedGradients,
    points_on_the_way,
    positive_evidence,
)
from tests.diagnosis.heatmaps.networks import (
    labels,
    linear_network,
    pixel_network,
    random_images,
    score,
    slow_gradient,
    small_network,
)


def slow_attributions(network, image, unit, steps, blank):
    """Eq. 3 with the middle of each step, and gradients from central differences."""
    total = torch.zeros_like(image)
    for step in range(steps):
        point = blank + (step + 0.5) / steps * (image - blank)
        total += slow_gradient(network, point, unit)
    return (image - blank) * total / steps


def test_agrees_with_a_loop_over_steps():
    network, images = pixel_network(), random_images(2, 2, 5)
    method = IntegratedGradients(num_steps=5, blank=-0.3, batch_size=3)
    found = method.attributions(network, images, labels(2, 0))
    for image, attributions, unit in zip(images, found, (2, 0), strict=True):
        expected = slow_attributions(network, image, unit, 5, -0.3)
        torch.testing.assert_close(attributions, expected, atol=1e-7, rtol=1e-5)
    heatmaps = method(network, images, labels(2, 0))
    torch.testing.assert_close(heatmaps[:, 0].double(), found.sum(1).clamp(min=0))


def test_agrees_with_captum():
    attr = pytest.importorskip("captum.attr")
    network, images, units = small_network(1, inplace=False), random_images(3), [0, 1, 2]
    expected = attr.IntegratedGradients(network).attribute(
        images, 0.5, torch.tensor(units), n_steps=20, method="riemann_middle"
    )
    found = IntegratedGradients(20, blank=0.5).attributions(network, images, labels(*units))
    torch.testing.assert_close(found, expected)


def test_attributions_sum_to_the_rise_of_the_score():
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(2, 4, 3), nn.Softplus(), nn.Flatten(), nn.Linear(36, 2), nn.Tanh()
    ).double()
    image = random_images(1, 2, 5)
    found = IntegratedGradients(num_steps=400).attributions(network, image, labels(1))
    rise = score(network, image[0], 1) - score(network, torch.zeros_like(image[0]), 1)
    assert found.sum().item() == pytest.approx(rise, abs=1e-6)


def test_of_a_linear_network_it_is_weight_times_value():
    network, images = linear_network(), random_images(1, 2, 4)
    weight = network[1].weight[1].detach().view(1, 2, 4, 4)
    found = IntegratedGradients(num_steps=1).attributions(network, images, labels(1))
    torch.testing.assert_close(found, images * weight)


def test_of_a_square_by_hand():
    class Square(nn.Module):
        def forward(self, images):
            return images.square().sum((-3, -2, -1))[:, None]

    # The mean of 2 a from 1 to 3 is 4, times the way of 2: 8 = 9 - 1.
    image = torch.full((1, 1, 1, 1), 3.0)
    found = IntegratedGradients(2, blank=1.0).attributions(Square(), image, labels(0))
    assert found.item() == pytest.approx(8.0)
    assert points_on_the_way(image, 1.0, torch.tensor([0.25])).item() == 1.5
    assert positive_evidence(torch.tensor([[[[1.0]], [[-3.0]]]])).item() == 0.0


def test_the_size_of_a_pass_changes_nothing():
    network, images = small_network(), random_images(5)
    expected = IntegratedGradients(7, batch_size=100)(network, images, labels(0, 1, 2, 0, 1))
    for batch_size in (1, 3, 5, 11):
        method = IntegratedGradients(7, batch_size=batch_size)
        torch.testing.assert_close(method(network, images, labels(0, 1, 2, 0, 1)), expected)


def test_constructor_checks():
    with pytest.raises(ValueError, match="`num_steps` must be >= 1, but got 0"):
        IntegratedGradients(num_steps=0)
    with pytest.raises(ValueError, match="`batch_size` must be >= 1, but got 0"):
        IntegratedGradients(batch_size=0)
