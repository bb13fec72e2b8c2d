import math

import pytest
import torch

from interp_train.visualization.fourier_pictures import (
    Colours,
    colour_covariance,
    colours_of,
    frequency_scale,
    initial_coefficients,
    pictures_of,
)


def slow_plane(spectrum, height, width):
    """A sum of waves over the whole plane, pixel by pixel; the right half mirrors the left."""
    plane = torch.zeros(height, width, dtype=torch.float64)
    for y in range(height):
        for x in range(width):
            total = 0.0
            for v in range(height):
                for u in range(width):
                    half = u <= width // 2
                    coefficient = spectrum[v, u] if half else spectrum[-v % height, -u % width]
                    angle = 2 * math.pi * (v * y / height + u * x / width)
                    turn = complex(math.cos(angle), math.sin(angle))
                    coefficient = complex(coefficient)
                    total += ((coefficient if half else coefficient.conjugate()) * turn).real
            plane[y, x] = total / math.sqrt(height * width)
    return plane


@pytest.mark.parametrize(("height", "width"), [(4, 5), (5, 4)])
def test_pictures_are_sums_of_waves_behind_a_sigmoid(height, width):
    generator = torch.Generator().manual_seed(0)
    shape = (1, 2, height, width // 2 + 1, 2)
    coefficients = torch.randn(shape, generator=generator, dtype=torch.float64)
    # Waves that mirror themselves are real: the others' imaginary halves cancel.
    for u in (0, width // 2) if width % 2 == 0 else (0,):
        for v in range(height):
            mirrored = coefficients[..., -v % height, u, :] * torch.tensor([1.0, -1.0])
            coefficients[..., v, u, :] = (coefficients[..., v, u, :] + mirrored) / 2
            coefficients[..., -v % height, u, :] = coefficients[..., v, u, :] * torch.tensor(
                [1.0, -1.0], dtype=torch.float64
            )
    scale = frequency_scale(height, width, 1.0).double()
    colours = Colours(
        torch.tensor([0.5, -1.0]).double(), torch.tensor([[1.0, 0.2], [0.0, 0.5]]).double()
    )
    found = pictures_of(coefficients, scale, colours, width)
    spectra = torch.view_as_complex(coefficients[0]) * scale
    planes = [slow_plane(spectrum, height, width) for spectrum in spectra]
    for channel in range(2):
        logits = sum(colours.axes[channel, i] * planes[i] for i in range(2))
        torch.testing.assert_close(found[0, channel], (logits + colours.mean[channel]).sigmoid())


def test_no_coefficients_give_the_mean_colour():
    colours = Colours(torch.tensor([0.2, 0.9]).logit(), torch.eye(2))
    found = pictures_of(torch.zeros(1, 2, 6, 4, 2), frequency_scale(6, 6, 1.0), colours, 6)
    torch.testing.assert_close(found[0, 1], torch.full((6, 6), 0.9))


def test_the_scale_falls_with_frequency_and_has_mean_square_1():
    scale = frequency_scale(8, 8, 1.0)
    assert scale[0, 0] == scale[0, 1]  # the mean counts as one wave per image
    torch.testing.assert_close(scale[0, 1] / scale[0, 4], torch.tensor(4.0))
    torch.testing.assert_close(scale[2, 0] / scale[4, 0], torch.tensor(2.0))
    weights = torch.tensor([1.0, 2, 2, 2, 1])  # columns that the half plane stands for
    torch.testing.assert_close((scale**2 * weights).sum() / 64, torch.tensor(1.0))
    assert torch.equal(frequency_scale(8, 8, 0.0), torch.ones(8, 5))


@pytest.mark.parametrize("side", [32, 96])
def test_starts_have_the_same_contrast_at_every_size(side):
    colours = Colours(torch.zeros(1), torch.eye(1))
    start = torch.stack([initial_coefficients(1, (side, side), seed) for seed in range(40)])
    logits = pictures_of(start, frequency_scale(side, side, 1.0), colours, side).logit()
    assert logits.square().mean().sqrt() == pytest.approx(0.01 * math.sqrt(2), rel=0.15)


def test_colours_vary_as_in_the_data():
    generator = torch.Generator().manual_seed(1)
    mix = torch.tensor([[0.05, 0.0], [0.04, 0.02]], dtype=torch.float64)
    noise = torch.randn(2, 20000, generator=generator, dtype=torch.float64)
    pixels = (mix @ noise).T.view(2, 100, 100, 2).permute(0, 3, 1, 2) + 0.5
    mean, covariance = colour_covariance(pixels)
    torch.testing.assert_close(
        covariance, torch.cov(pixels.transpose(0, 1).flatten(1), correction=0)
    )
    colours = colours_of(mean, covariance)
    expected = covariance / covariance[0, 0]  # the slope of the logit is 4 everywhere
    found = colours.axes @ colours.axes.T
    torch.testing.assert_close(found / found[0, 0], expected, atol=5e-3, rtol=5e-3)
    assert colours.axes.norm(dim=0).max() == pytest.approx(1.0)


def test_a_grey_data_set_stays_grey():
    pixels = torch.rand(4, 1, 9, 9, generator=torch.Generator().manual_seed(2)).expand(4, 3, 9, 9)
    colours = colours_of(*colour_covariance(pixels))
    start = torch.stack([100 * initial_coefficients(3, (9, 9), 0)])
    found = pictures_of(start, frequency_scale(9, 9, 1.0), colours, 9)
    assert found.std() > 0.1
    assert (found - found.mean(1, keepdim=True)).abs().max() < 1e-3


@pytest.mark.parametrize("level", [0.0, 0.4, 1.0])
def test_a_data_set_of_one_colour_leaves_all_colours_open(level):
    colours = colours_of(*colour_covariance(torch.full((2, 3, 4, 4), level)))
    assert torch.equal(colours.axes, torch.eye(3))
    assert colours.mean.isfinite().all()


def test_a_covariance_of_another_size_is_refused():
    with pytest.raises(ValueError, match=r"`covariance` must have shape \(3, 3\)"):
        colours_of(torch.rand(3), torch.eye(2))
