import pytest
import torch

from interp_train.diagnosis.heatmaps.saliency import Saliency
from interp_train.diagnosis.heatmaps.smooth_grad import SmoothGrad, standard_noise
from tests.diagnosis.heatmaps.networks import (
    labels,
    linear_network,
    random_images,
    slow_gradient,
    small_network,
)


def noisy_copies(image, number, level, seed):
    """One draw after the other, each from its own generator."""
    sigma = level * (image.max() - image.min())
    for draw in range(number):
        generator = torch.Generator().manual_seed(seed * number + draw)
        noise = torch.empty_like(image).normal_(generator=generator)
        yield image + sigma * noise


def test_agrees_with_a_loop_over_draws():
    network, images = small_network(), random_images(2)
    method = SmoothGrad(num_samples=4, noise_level=0.3, batch_size=3, seed=7)
    found = method(network, images, labels(2, 0))
    for image, heatmap, unit in zip(images, found, (2, 0), strict=True):
        total = sum(slow_gradient(network, copy, unit) for copy in noisy_copies(image, 4, 0.3, 7))
        expected = (total / 4).abs().amax(0)
        torch.testing.assert_close(heatmap[0].double(), expected, atol=1e-6, rtol=1e-5)


def test_agrees_with_captum():
    attr = pytest.importorskip("captum.attr")
    network, images, units = small_network(1, inplace=False), random_images(2), [1, 2]
    found = SmoothGrad(num_samples=5)(network, images, labels(*units))
    for image, heatmap, unit in zip(images, found, units, strict=True):
        copies = torch.stack(list(noisy_copies(image, 5, 0.15, 0))).requires_grad_()
        gradients = attr.Saliency(network).attribute(copies, unit, abs=False)
        torch.testing.assert_close(heatmap.double(), gradients.mean(0).abs().amax(0, keepdim=True))


def test_without_noise_it_is_the_saliency():
    network, images = small_network(), random_images(2)
    found = SmoothGrad(num_samples=3, noise_level=0.0)(network, images, labels(0, 1))
    torch.testing.assert_close(found, Saliency()(network, images, labels(0, 1)))


def test_noise_leaves_the_gradient_of_a_linear_network():
    network, images = linear_network(), random_images(2, 2, 4)
    found = SmoothGrad(num_samples=3, noise_level=5.0)(network, images, labels(0, 1))
    torch.testing.assert_close(found, Saliency()(network, images, labels(0, 1)))


def test_a_heatmap_depends_neither_on_the_batch_nor_on_its_size():
    network, images = small_network(), random_images(5)
    whole = SmoothGrad(num_samples=6)(network, images, labels(0, 1, 2, 0, 1))
    for batch_size in (1, 2, 4, 7):
        found = SmoothGrad(6, batch_size=batch_size)(network, images, labels(0, 1, 2, 0, 1))
        torch.testing.assert_close(found, whole)
    alone = SmoothGrad(num_samples=6)(network, images[3:4], labels(0))
    torch.testing.assert_close(alone, whole[3:4])


def test_seeds_share_no_draw_and_the_noise_is_standard_normal():
    like = torch.zeros(3, 40, 40)
    noise = standard_noise(like, range(4))
    assert abs(noise.mean()) < 0.02
    assert abs(noise.std() - 1) < 0.02
    torch.testing.assert_close(standard_noise(like, range(2, 4)), noise[2:])
    network, images = small_network(), random_images(1)
    first, second = (SmoothGrad(2, seed=seed)(network, images, labels(0)) for seed in (0, 1))
    assert (first - second).abs().max() > 1e-3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_samples": 0}, "`num_samples` must be >= 1, but got 0"),
        ({"noise_level": -0.1}, "`noise_level` must be >= 0, but got -0.1"),
        ({"batch_size": 0}, "`batch_size` must be >= 1, but got 0"),
        ({"seed": -1}, "`seed` must be >= 0, but got -1"),
    ],
)
def test_constructor_checks(options, message):
    with pytest.raises(ValueError, match=message):
        SmoothGrad(**options)
