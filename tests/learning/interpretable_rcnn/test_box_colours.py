"""Colours of boxes against their definition."""

import pytest
import torch
from torch import nn
from torchvision.ops import MultiScaleRoIAlign

from interp_train.learning.interpretable_rcnn.box_colours import (
    ColourRoIAlign,
    MapsOfImages,
    keep_images,
    whitened,
)

BOXES = [torch.tensor([[4.0, 2.0, 24.0, 32.0], [10.0, 10.0, 15.0, 14.0]]), torch.zeros(0, 4)]


def ramp(size=(40, 48)):
    """Each channel is linear in the place, so that a cell's mean is the value at its centre."""
    y, x = (torch.arange(length) + 0.5 for length in size)
    return torch.stack([x + 0 * y[:, None], 0 * x + y[:, None], 2 * x - 3 * y[:, None]])


def test_pooling_equals_torchvision_s_and_the_colours_at_the_centres():
    maps = {"0": torch.randn(2, 5, 10, 12), "1": torch.randn(2, 5, 5, 6)}
    images = torch.stack([ramp(), torch.zeros(3, 40, 48)])
    plain = MultiScaleRoIAlign(["0", "1"], 5, 2)
    pool = ColourRoIAlign(plain)
    sizes = [(40, 48), (40, 48)]
    found = pool(MapsOfImages(maps, images), BOXES, sizes)
    assert found.shape == (2, 8, 5, 5)
    torch.testing.assert_close(found[:, :5], plain(maps, BOXES, sizes))
    for (left, top, right, bottom), colours in zip(BOXES[0].tolist(), found[:, 5:], strict=True):
        for row in range(5):
            for column in range(5):
                x = left + (column + 0.5) / 5 * (right - left)
                y = top + (row + 0.5) / 5 * (bottom - top)
                expected = torch.tensor([x, y, 2 * x - 3 * y])
                torch.testing.assert_close(colours[:, row, column], expected)


def test_no_boxes_have_no_colours():
    maps = MapsOfImages({"0": torch.randn(1, 5, 10, 12)}, torch.zeros(1, 3, 40, 48))
    pool = ColourRoIAlign(MultiScaleRoIAlign(["0"], 7, 2))
    assert pool(maps, [torch.zeros(0, 4)], [(40, 48)]).shape == (0, 8, 7, 7)


def test_the_hook_keeps_the_images_of_one_map_and_of_many():
    images = torch.rand(2, 3, 8, 8, requires_grad=True)
    single = nn.Conv2d(3, 4, 3)
    expected = single(images)
    single.register_forward_hook(keep_images)
    maps = single(images)
    assert isinstance(maps, MapsOfImages)
    assert list(maps) == ["0"]
    assert torch.equal(maps["0"], expected)
    assert torch.equal(maps.images, images)
    assert not maps.images.requires_grad
    many = keep_images(single, (images,), {"a": images, "b": expected})
    assert list(many.values())[1] is expected


def test_whitened_colours_vary_alike_along_all_axes():
    torch.manual_seed(0)
    mixing = torch.randn(3, 3, dtype=torch.float64)
    colours = torch.einsum("ij,njhw->nihw", mixing, torch.randn(4, 3, 6, 5, dtype=torch.float64))
    found = whitened(20 + colours).flatten(2)
    torch.testing.assert_close(found.mean(2), torch.zeros(4, 3, dtype=torch.float64))
    for box, cells in zip(colours.flatten(2), found, strict=True):
        covariance = torch.cov(box, correction=0)
        least = 0.01 * covariance.trace() * torch.eye(3, dtype=torch.float64)
        inverse = (covariance + least).inverse()
        centred = box - box.mean(1, keepdim=True)
        for i in range(30):
            for j in range(30):
                expected = centred[:, i] @ inverse @ centred[:, j]
                assert cells[:, i] @ cells[:, j] == pytest.approx(expected.item())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_box_of_one_colour_has_nothing_that_differs(dtype):
    even = torch.full((2, 3, 4, 4), 0.25, dtype=dtype)
    assert torch.equal(whitened(even), torch.zeros_like(even))
    grey = torch.rand(1, 1, 4, 4, dtype=dtype).expand(1, 3, 4, 4)
    assert whitened(grey).isfinite().all()
    assert whitened(even[:0]).shape == (0, 3, 4, 4)
