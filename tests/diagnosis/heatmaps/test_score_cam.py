import math

import pytest
import torch
from torch import nn

from interp_train.diagnosis.heatmaps.score_cam import ScoreCam, score_cam, stretched
from interp_train.receptive_field import upsampled
from interp_train.structures import LayerGeometry
from tests.diagnosis.heatmaps.networks import labels, random_images, score, small_network


def slow_score_cam(network, image, unit, cut):
    """Map by map; the cells have their centres at the even pixels."""
    with torch.no_grad():
        maps = network[:cut](image[None])[0]
    scores = []
    for values in maps:
        mask = upsampled(values[None, None], (8, 8), LayerGeometry(2.0, 0.0, 1.0))[0, 0]
        low, high = mask.min(), mask.max()
        mask = (mask - low) / (high - low) if high > low else mask * 0
        scores.append(score(network, image * mask, unit))
    weights = [math.exp(value) for value in scores]
    total = sum(
        weight / sum(weights) * values for weight, values in zip(weights, maps, strict=True)
    )
    return total.clamp(min=0)


@pytest.mark.parametrize("layer", ["0", "1", "3"])
def test_agrees_with_a_loop_over_maps_at_the_centres_of_the_cells(layer):
    network, images = small_network(inplace=False), random_images(2)
    found = ScoreCam(layer, batch_size=3)(network, images, labels(2, 0))
    for image, heatmap, unit in zip(images, found, (2, 0), strict=True):
        expected = slow_score_cam(network, image, unit, int(layer) + 1)
        torch.testing.assert_close(heatmap[0, ::2, ::2].double(), expected, atol=1e-6, rtol=1e-5)


def test_hand_number():
    activations = torch.tensor([[[[1.0, 2.0]], [[-5.0, 4.0]]]])
    scores = torch.tensor([[math.log(3.0), 0.0]])
    # Weights 3/4 and 1/4: 3/4 - 5/4 = -1/2, cut off, and 6/4 + 4/4 = 5/2.
    torch.testing.assert_close(score_cam(activations, scores), torch.tensor([[[[0.0, 2.5]]]]))


def test_with_equal_scores_it_is_the_mean_of_the_maps():
    network, images = small_network(inplace=False), random_images(1)
    nn.init.zeros_(network[5].weight)
    with torch.no_grad():
        expected = network[:4](images).mean(1)
    found = ScoreCam("3")(network, images, labels(1))
    torch.testing.assert_close(found[:, 0, ::2, ::2].double(), expected, atol=1e-6, rtol=1e-5)


def test_maps_are_stretched_and_constant_maps_mask_everything():
    maps = torch.tensor([[[[-1.0, 3.0]], [[2.0, 2.0]]]])
    assert stretched(maps).tolist() == [[[[0.0, 1.0]], [[0.0, 0.0]]]]


def test_the_size_of_a_pass_changes_nothing():
    network, images = small_network(), random_images(4)
    expected = ScoreCam("3", batch_size=100)(network, images, labels(0, 1, 2, 0))
    for batch_size in (1, 3, 7):
        found = ScoreCam("3", batch_size=batch_size)(network, images, labels(0, 1, 2, 0))
        torch.testing.assert_close(found, expected)


def test_it_needs_no_gradients():
    network, images = small_network(), random_images(2)
    expected = ScoreCam("3")(network, images, labels(0, 1))

    class Closed(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = network

        def forward(self, images):
            with torch.no_grad():
                return self.body(images)

    assert torch.equal(ScoreCam("body.3")(Closed(), images, labels(0, 1)), expected)


def test_errors():
    with pytest.raises(ValueError, match="`batch_size` must be >= 1, but got 0"):
        ScoreCam(batch_size=0)
    with pytest.raises(ValueError, match=r"`scores` must have shape \(1, 2\)"):
        score_cam(torch.zeros(1, 2, 3, 3), torch.zeros(1, 3))
    with pytest.raises(ValueError, match="`layer` must put out maps"):
        ScoreCam("5")(small_network(), random_images(1), labels(0))
