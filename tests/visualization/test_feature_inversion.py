import math

import pytest
import torch
from torch import nn

from interp_train.visualization.feature_inversion import (
    NATURAL_SIZE,
    NATURAL_STEP,
    FeatureInversion,
    alpha_norm,
    relative_errors,
    total_variation,
)
from tests.contracts.options import small_network
from tests.visualization.networks import units

HALF = {"mean": (0.5, 0.5, 0.5), "std": (0.25, 0.25, 0.25)}


def photos(number=3, side=24, seed=3):
    """Smooth random images, normalised as `HALF` says."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(number, 3, 5, 5, generator=generator)
    fine = nn.functional.interpolate(coarse, (side, side), mode="bicubic").clamp(0, 1)
    return (fine - 0.5) / 0.25


def network(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(inplace=True), nn.MaxPool2d(2),
        nn.Conv2d(16, 16, 3, padding=1), nn.ReLU(inplace=True), nn.MaxPool2d(2),
        nn.Conv2d(16, 16, 3, padding=1), nn.ReLU(inplace=True),
        nn.Flatten(), nn.Linear(16 * 36, 4),
    )  # fmt: skip


def pixel_error(found, images):
    return (found - (images * 0.25 + 0.5)).square().mean().item()


def test_pixels_and_features_come_back_and_late_layers_forget():
    net, images = network(), photos()
    mean_error = (images * 0.25).square().mean().item()
    errors = []
    for layer in ("1", "7"):
        found = FeatureInversion(steps=150, beta_weight=0.01, **HALF)(net, units(layer, 0), images)
        assert found.shape == (3, 3, 24, 24)
        errors.append(pixel_error(found, images))
        with torch.no_grad():
            maps, wanted = (net[: int(layer) + 1](x) for x in ((found - 0.5) / 0.25, images))
            grey = net[: int(layer) + 1](torch.zeros_like(images))
        assert relative_errors(maps, wanted).max() < 0.3 * relative_errors(grey, wanted).min()
    assert errors[0] < 0.25 * mean_error
    assert errors[0] < errors[1] < 0.7 * mean_error


def test_the_layer_of_pixels_gives_the_image_back():
    net = nn.Sequential(nn.Identity(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    images = photos(1)
    method = FeatureInversion(steps=200, alpha_weight=0, beta_weight=0, jitter=0, **HALF)
    assert pixel_error(method(net, units("0", 0), images), images) < 1e-4


def test_without_a_layer_s_evidence_the_smoothest_image_is_the_mean_colour():
    net = nn.Sequential(nn.Conv2d(3, 2, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    nn.init.zeros_(net[0].weight)
    found = FeatureInversion(steps=200, **HALF)(net, units("0", 0), photos(1))
    torch.testing.assert_close(found, torch.full_like(found, 0.5), atol=0.03, rtol=0)


def slow_variation(image, beta):
    total, count = 0.0, 0
    channels, height, width = image.shape
    for c in range(channels):
        for y in range(height - 1):
            for x in range(width - 1):
                right = (image[c, y, x + 1] - image[c, y, x]).item() / NATURAL_STEP
                down = (image[c, y + 1, x] - image[c, y, x]).item() / NATURAL_STEP
                total += math.hypot(right, down) ** beta
                count += 1
    return total / count


@pytest.mark.parametrize("beta", [1.0, 2.0, 3.0])
def test_total_variation_agrees_with_a_loop_over_pixels(beta):
    images = torch.rand(2, 3, 5, 7, generator=torch.Generator().manual_seed(0)).double()
    expected = torch.tensor([slow_variation(image, beta) for image in images]).double()
    torch.testing.assert_close(total_variation(images, beta), expected, rtol=1e-5, atol=1e-6)


def test_regularisers_are_1_for_natural_images():
    flat = torch.full((1, 3, 4, 4), -NATURAL_SIZE)
    assert alpha_norm(flat, 6.0).item() == pytest.approx(1.0)
    assert alpha_norm(2 * flat, 6.0).item() == pytest.approx(64.0)
    ramp = (NATURAL_STEP * torch.arange(6.0)).expand(1, 3, 5, 6)
    assert total_variation(ramp, 2.0).item() == pytest.approx(1.0, rel=1e-5)


@pytest.mark.parametrize("term", [lambda x: alpha_norm(x, 6.0), lambda x: total_variation(x, 1.5)])
def test_regularisers_have_the_right_gradient(term):
    images = torch.rand(1, 2, 3, 4, generator=torch.Generator().manual_seed(0)).double() * 0.4
    assert torch.autograd.gradcheck(term, images.requires_grad_())


def test_relative_error_by_hand():
    wanted = torch.tensor([[3.0, 4.0], [0.0, 0.0]]).view(2, 2, 1, 1)
    maps = torch.tensor([[3.0, 1.0], [1.0, 1.0]]).view(2, 2, 1, 1)
    torch.testing.assert_close(relative_errors(maps, wanted), torch.tensor([9 / 25, 2.0]))


def test_batches_do_not_matter():
    net, images = network(), photos()
    whole, parts = (
        FeatureInversion(steps=10, batch_size=size, **HALF)(net, units("4", 0), images)
        for size in (8, 2)
    )
    torch.testing.assert_close(whole, parts, atol=1e-4, rtol=1e-4)


def test_a_backbone_in_training_mode_is_left_so():
    net = small_network().train()
    images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    found = FeatureInversion(steps=2)(net, units("top", 0), images)
    assert net.training
    assert torch.equal(found, FeatureInversion(steps=2)(net.eval(), units("top", 0), images))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"batch_size": 0}, "`batch_size` must be >= 1"),
        ({"alpha": 0.5}, "`alpha` must be >= 1"),
        ({"beta": 0.0}, "`beta` must be >= 1"),
        ({"jitter": -1}, "`jitter` must be >= 0"),
        ({"beta_weight": -1.0}, "`beta_weight` must be >= 0"),
    ],
)
def test_numbers_out_of_range_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        FeatureInversion(**change)
