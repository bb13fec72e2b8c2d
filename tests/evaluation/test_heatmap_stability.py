import functools

import pytest
import torch
from torch import nn

from interp_train.diagnosis.heatmaps.saliency import Saliency
from interp_train.evaluation.heatmap_stability import MaxSensitivityMetric, relative_distance
from interp_train.structures import Target
from interp_train.testing import check_metric_merges, leaves_no_trace

TARGET = Target(None, torch.tensor([0, 1]))


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.Tanh(), nn.Flatten(), nn.Linear(64, 2))


def images(seed=1):
    return torch.randn(2, 3, 6, 6, generator=torch.Generator().manual_seed(seed))


class Pixels:
    """The image's own values as a heatmap."""

    def __call__(self, network, images, target):
        return images.abs().sum(1, keepdim=True)


class Nothing:
    def __call__(self, network, images, target):
        return torch.zeros_like(images[:, :1])


def draws_of(shape, heatmap_shape, number, seed=0):
    """The noise of the metric, draw by draw, between its random heatmaps."""
    generator = torch.Generator().manual_seed(seed)
    torch.empty(heatmap_shape).uniform_(generator=generator)
    for _ in range(number):
        yield torch.empty(shape).uniform_(-1, 1, generator=generator)
        torch.empty(heatmap_shape).uniform_(generator=generator)


@pytest.mark.parametrize("method", [Pixels(), Saliency()])
def test_agrees_with_a_loop(method):
    net, pixels = network(), images()
    metric = MaxSensitivityMetric(0.1, num_samples=3)
    metric.update(method, net, pixels, TARGET)
    first, total = method(net, pixels, TARGET), 0.0
    for row, image in enumerate(pixels):
        largest = 0.0
        for noise in draws_of((3, 6, 6), (2, 1, 6, 6), 3):
            moved = pixels.clone()
            moved[row] += 0.1 * (image.max() - image.min()) * noise
            apart = (method(net, moved, TARGET)[row] - first[row]).norm() / first[row].norm()
            largest = max(largest, apart.item())
        total += largest / 2
    assert metric.compute()["max_sensitivity"].item() == pytest.approx(total, rel=1e-5)


def test_agrees_with_captum():
    metrics = pytest.importorskip("captum.metrics")
    net, pixels = network(), images()
    reach = 0.02 * (pixels.amax((1, 2, 3)) - pixels.amin((1, 2, 3)))[:, None, None, None]
    noise = torch.stack(list(draws_of((3, 6, 6), (2, 1, 6, 6), 4)))

    def perturbed(values):
        # The library repeats each image for each sample, one after the other.
        return ((pixels[:, None] + reach[:, None] * noise).flatten(0, 1),)

    def explained(inputs):
        (values,) = inputs
        units = TARGET.units.repeat_interleave(len(values) // 2)
        return (Saliency()(net, values, Target(None, units)),)

    expected = metrics.sensitivity_max(explained, (pixels,), perturbed, n_perturb_samples=4)
    metric = MaxSensitivityMetric(num_samples=4)
    metric.update(Saliency(), net, pixels, TARGET)
    found = metric.compute()["max_sensitivity"]
    torch.testing.assert_close(found.float(), expected.mean(), atol=1e-6, rtol=1e-5)


def test_hand_number():
    original = torch.tensor([[[[3.0, 4.0]]], [[[0.0, 0.0]]]])
    changed = torch.tensor([[[[3.0, 3.0]]], [[[1.0, 0.0]]]])
    found = relative_distance(changed, original)
    assert found[0].item() == pytest.approx(0.2)
    assert found[1].isnan()


def test_without_noise_nothing_changes_and_random_heatmaps_always_do():
    metric = MaxSensitivityMetric(0.0, num_samples=2)
    metric.update(Saliency(), network(), images(), TARGET)
    found = metric.compute()
    assert found["max_sensitivity"] == found["max_sensitivity_oracle"] == 0
    # Two uniform draws lie sqrt(1/6) apart per pixel, and are sqrt(1/3) long: about 0.7.
    assert 0.5 < found["max_sensitivity_random"] < 1.0


def test_zero_heatmaps_do_not_pass_for_stable_ones():
    metric = MaxSensitivityMetric(num_samples=1)
    metric.update(Nothing(), network(), images(), TARGET)
    found = metric.compute()
    assert "max_sensitivity" not in found
    assert found["zero_heatmaps"] == 1


def test_leaves_no_trace():
    net, pixels = network(), images()
    metric = MaxSensitivityMetric(num_samples=1)
    with torch.inference_mode(), leaves_no_trace(net, pixels):
        metric.update(Saliency(), net, pixels.clone(), TARGET)
    assert metric.compute()["max_sensitivity"] > 0


def test_equal_over_processes(two_processes):
    updates = [(Saliency(), network(), images(seed), TARGET) for seed in range(3)]
    make = functools.partial(MaxSensitivityMetric, num_samples=2)
    check_metric_merges(make, updates, run_on_two=two_processes)


def test_errors():
    with pytest.raises(ValueError, match="`radius` must be >= 0, but got -1"):
        MaxSensitivityMetric(-1)
    with pytest.raises(ValueError, match="`num_samples` must be >= 1, but got 0"):
        MaxSensitivityMetric(num_samples=0)
    with pytest.raises(ValueError, match=r"`changed` must have shape \(1, 1, 2, 2\)"):
        relative_distance(torch.zeros(1, 1, 2, 3), torch.zeros(1, 1, 2, 2))
