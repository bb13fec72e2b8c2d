import pytest
import torch

from interp_train.diagnosis.heatmaps.occlusion import Occlusion, covered, mean_falls
from tests.diagnosis.heatmaps.networks import (
    labels,
    linear_network,
    random_images,
    score,
    small_network,
)


def slow_occlusion(network, image, unit, method):
    """Position by position, then pixel by pixel."""
    side = image.shape[-1]
    total, count = torch.zeros(side, side).double(), torch.zeros(side, side).double()
    whole = score(network, image, unit)
    positions, start = [0], 0
    while start + method.patch_size < side:
        start += method.stride
        positions.append(start)
    for y in positions:
        for x in positions:
            moved = image.clone()
            moved[:, y : y + method.patch_size, x : x + method.patch_size] = method.fill
            total[y : y + method.patch_size, x : x + method.patch_size] += whole - score(
                network, moved, unit
            )
            count[y : y + method.patch_size, x : x + method.patch_size] += 1
    return total / count


METHODS = [Occlusion(3, 2, 0.5), Occlusion(4, 4), Occlusion(1, 1), Occlusion(8, 8), Occlusion(5, 3)]


@pytest.mark.parametrize("method", METHODS)
def test_agrees_with_a_loop_over_positions(method):
    network, images = small_network(), random_images(2)
    found = method.attributions(network, images, labels(2, 0))
    for image, attributions, unit in zip(images, found, (2, 0), strict=True):
        expected = slow_occlusion(network, image, unit, method)
        torch.testing.assert_close(attributions[0], expected)
    heatmaps = method(network, images, labels(2, 0))
    torch.testing.assert_close(heatmaps.double(), found.clamp(min=0), atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("method", METHODS)
def test_agrees_with_captum(method):
    attr = pytest.importorskip("captum.attr")
    network, images, units = small_network(1, inplace=False), random_images(3), [0, 1, 2]
    patch, stride = method.patch_size, method.stride
    expected = attr.Occlusion(network).attribute(
        images, (3, patch, patch), (3, stride, stride), method.fill, torch.tensor(units)
    )
    found = method.attributions(network, images, labels(*units))
    torch.testing.assert_close(found.expand_as(images).float(), expected)  # captum rounds


def test_hand_number():
    # Positions 0 and 2 of a patch of 2 cover pixels 0, 1 and 2 (the last one hangs over).
    rows = covered(1, 1, 1)
    columns = covered(3, 2, 2)
    assert columns.tolist() == [[True, True, False], [False, False, True]]
    found = mean_falls(torch.tensor([[[4.0, -6.0]]]), rows, columns)
    assert found.tolist() == [[[[4.0, 4.0, -6.0]]]]
    # Positions 0 and 1 overlap in pixel 1: the mean of 4 and -6 is -1.
    found = mean_falls(torch.tensor([[[4.0, -6.0]]]), rows, covered(3, 2, 1))
    assert found.tolist() == [[[[4.0, -1.0, -6.0]]]]


def test_single_pixels_of_a_linear_network_give_weight_times_value():
    network, images = linear_network(), random_images(1, 2, 4)
    weight = network[1].weight[1].detach().view(1, 2, 4, 4)
    found = Occlusion(1, 1).attributions(network, images, labels(1))
    torch.testing.assert_close(found, (images * weight).sum(1, keepdim=True))


def test_the_size_of_a_pass_changes_nothing():
    network, images = small_network(), random_images(4)
    expected = Occlusion(3, 2, batch_size=1000)(network, images, labels(0, 1, 2, 0))
    for batch_size in (1, 3, 7):
        found = Occlusion(3, 2, batch_size=batch_size)(network, images, labels(0, 1, 2, 0))
        torch.testing.assert_close(found, expected)


def test_errors():
    with pytest.raises(ValueError, match="`patch_size` must be >= 1 and <= 8, but got 9"):
        Occlusion(9)(small_network(), random_images(1), labels(0))
    with pytest.raises(ValueError, match="`stride` must be >= 1 and <= 4, but got 5"):
        Occlusion(4, 5)
    with pytest.raises(ValueError, match="`patch_size` must be >= 1, but got 0"):
        Occlusion(0, 0)
    with pytest.raises(ValueError, match="`batch_size` must be >= 1, but got 0"):
        Occlusion(batch_size=0)
    with pytest.raises(ValueError, match=r"`falls` must have shape \(N, 1, 2\)"):
        mean_falls(torch.zeros(1, 2, 1), covered(1, 1, 1), covered(3, 2, 2))
