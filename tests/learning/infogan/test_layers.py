"""Sizes as published, values in the data's range, and what is refused."""

import pytest
import torch

from interp_train.backbones.gan_trunk import gan_trunk
from interp_train.learning.infogan.layers import CodeHead, Generator, PairHead, Scores
from tests.contracts.options import built


def parameters(module):
    return sum(weight.numel() for weight in module.parameters())


def test_the_mnist_networks_have_the_sizes_of_the_papers_table():
    """Chen et al., table 1: fully connected and 4x4 (up-)convolutions, each with biases."""
    generator = Generator(74, (1, 28, 28), (0.0,), (1.0,))
    norm = 2 * (1024 + 7 * 7 * 128 + 64)
    linear = (74 + 1) * 1024 + (1024 + 1) * 7 * 7 * 128
    assert parameters(generator) == linear + 16 * 128 * 64 + 64 + 16 * 64 + 1 + norm == 6_652_481
    trunk = built("backbone", "gan_trunk")
    assert (
        parameters(trunk)
        == 16 * 64 + 64 + 16 * 64 * 128 + 128 + 2 * 128 + (7 * 7 * 128 + 1) * 1024 + 2 * 1024
        == 6_558_144
    )
    assert parameters(Scores(1024, spectral_norm=False)) == 1025
    head = CodeHead(1024, 14, units=128, slope=0.01, batch_norm=True)
    assert parameters(head) == 1025 * 128 + 256 + 129 * 14
    assert trunk.geometry("top")[0] == 4.0
    assert trunk.feature_shape() == (128, 7, 7)


def test_the_networks_for_colour_images_have_their_published_maps():
    generator = Generator(
        168, (3, 32, 32), (0.5,) * 3, (0.5,) * 3, hidden=(), widths=(448, 256, 128, 64)
    )
    assert generator.body[0].out_features == 2 * 2 * 448
    assert generator(torch.zeros(2, 168)).shape == (2, 3, 32, 32)
    large = Generator(189, (3, 64, 64), (0.5,) * 3, (0.5,) * 3, hidden=(16,), widths=(8, 6, 4))
    assert large(torch.zeros(2, 189)).shape == (2, 3, 64, 64)


def test_images_lie_in_the_values_of_the_data():
    torch.manual_seed(0)
    latents = 100 * torch.randn(64, 5)
    for mean, std, low, high in ((0.0, 1.0, 0, 1), (0.5, 0.5, -1, 1), (0.4, 0.2, -2, 3)):
        generator = Generator(5, (1, 8, 8), (mean,), (std,), hidden=(9,), widths=(4,))
        with torch.no_grad():
            generator.body[-1].weight *= 1e4
            images = generator(latents)
        assert images.min().item() == pytest.approx(low, abs=1e-5)
        assert images.max().item() == pytest.approx(high, abs=1e-5)


def test_spectral_norm_bounds_the_trunk():
    trunk = gan_trunk((4, 6), 8, normalisation="none", spectral_norm=True, image_size=8)
    for _ in range(30):
        trunk(torch.zeros(1, 1, 8, 8))
    weights = [trunk.convolution_1.weight, trunk.convolution_2.weight, trunk.features.weight]
    for weight in weights:
        assert torch.linalg.matrix_norm(weight.flatten(1), 2).item() == pytest.approx(1, abs=0.02)
    scores = Scores(8, spectral_norm=True)
    assert scores(torch.zeros(2, 8)).shape == (2,)


def test_a_pair_is_not_symmetric_and_gets_one_logit_per_code():
    torch.manual_seed(0)
    head = PairHead((3, 8, 8), 5, units=6, slope=0.1, widths=(4, 4)).eval()
    first, second = torch.randn(2, 2, 3, 8, 8)
    assert head(first, second).shape == (2, 5)
    assert not torch.allclose(head(first, second), head(second, first))


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match=r"got 3 entries for 28 pixels.*data.image_size=32"):
        Generator(5, (1, 28, 28), (0.0,), (1.0,), widths=(8, 4, 2))
    with pytest.raises(ValueError, match=r"`codes` and `hidden` .* GB"):
        Generator(2**20, (1, 28, 28), (0.0,), (1.0,), hidden=(2**20,))
    with pytest.raises(ValueError, match="`image_size` must be >= 8, but got 7"):
        gan_trunk((4, 4, 4), image_size=7)
    with pytest.raises(ValueError, match="`normalisation` must be one of"):
        gan_trunk(normalisation="layer")
