import pytest
import torch

from interp_train.diagnosis.heatmaps.layer_evidence import layer_evidence, layer_maps
from interp_train.structures import Target
from interp_train.target_scores import scores_of_target
from tests.diagnosis.heatmaps.networks import (
    labels,
    random_images,
    slow_gradient,
    small_network,
)


def test_maps_and_gradients_are_those_of_the_layer():
    network, images = small_network(), random_images(2)
    evidence = layer_evidence(network, images, "1", labels(2, 0))
    with torch.no_grad():
        maps = network[:2](images)
    torch.testing.assert_close(evidence.activations, maps)
    for values, gradient, unit in zip(maps, evidence.gradients, (2, 0), strict=True):
        torch.testing.assert_close(gradient, slow_gradient(network[2:], values, unit))


def test_a_layer_may_be_its_own_target():
    network, images = small_network(), random_images(2)
    evidence = layer_evidence(network, images, "3", Target("3", torch.tensor([4, 1])))
    peaks = evidence.activations.amax((-2, -1), keepdim=True)
    expected = torch.zeros_like(evidence.activations)
    for row, unit in enumerate((4, 1)):
        expected[row, unit] = (evidence.activations == peaks)[row, unit]
    torch.testing.assert_close(evidence.gradients, expected)


def test_maps_alone_are_the_same_without_gradients():
    network, images = small_network(), random_images(2)
    with scores_of_target(network, images, labels(2, 0)) as scores:
        found = layer_maps(scores, "1")
    expected = layer_evidence(network, images, "1", labels(2, 0))
    assert torch.equal(found.activations, expected.activations)
    assert found.gradients.numel() == 0
    assert not found.activations.requires_grad


def test_values_stand_at_the_centres_of_receptive_fields():
    evidence = layer_evidence(small_network(), random_images(1), "1", labels(0))
    maps = torch.arange(16.0).view(1, 1, 4, 4)
    assert torch.equal(evidence.at_image_resolution(maps)[..., ::2, ::2], maps)


def test_half_precision_becomes_single():
    network, images = small_network().bfloat16(), random_images(1).bfloat16()
    evidence = layer_evidence(network, images, "1", labels(0))
    assert evidence.activations.dtype == evidence.gradients.dtype == torch.float32


def test_a_layer_without_maps_is_refused():
    network, images = small_network(), random_images(1)
    with pytest.raises(ValueError, match=r"`layer` must put out maps .* '5' put out \(1, 3\)"):
        layer_evidence(network, images, "5", labels(0))
    with (
        scores_of_target(network, images, labels(0)) as scores,
        pytest.raises(ValueError, match=r"`layer` must put out maps .* '5' put out \(1, 3\)"),
    ):
        layer_maps(scores, "5")
