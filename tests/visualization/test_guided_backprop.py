import pytest
import torch
from torch import nn
from torch.nn import functional

from interp_train.structures import Target
from interp_train.visualization.guided_backprop import GuidedBackprop
from tests.contracts.options import small_network
from tests.visualization.networks import random_images, units
from tests.visualization.slow_rules import pooled_layers, slow_backprojection


@pytest.mark.parametrize("layer", ["0", "3", "4", "6"])
@pytest.mark.parametrize("inplace", [False, True])
def test_agrees_with_the_rule_applied_layer_by_layer(layer, inplace):
    network, images = pooled_layers(inplace=inplace), random_images(5)
    found = GuidedBackprop(num_patches=2, batch_size=3).backprojections(
        network, units(layer, 3, 0), images
    )
    layers = pooled_layers(inplace=False)[: int(layer) + 1]
    with torch.no_grad():
        maps = layers(images)
    for row, unit in enumerate((3, 0)):
        order = maps[:, unit].amax((-2, -1)).argsort(descending=True)[:2]
        assert found.peaks.rows[row].tolist() == order.tolist()
        for place, image in enumerate(order.tolist()):
            flat = int(maps[image, unit].argmax())
            cell = (flat % maps.shape[-1], flat // maps.shape[-1])
            expected = slow_backprojection(layers, images[image], unit, cell, "guided")
            if maps[image, unit].max() == 0:  # silent: there is no peak to start from
                expected = torch.zeros_like(expected)
            torch.testing.assert_close(found.gradients[row, place], expected)


def test_closed_relus_pass_nothing():
    network = nn.Sequential(
        nn.Conv2d(1, 2, 1, bias=False), nn.ReLU(), nn.Conv2d(2, 1, 1, bias=False)
    )
    with torch.no_grad():
        network[0].weight.copy_(torch.tensor([1.0, -4.0]).view(2, 1, 1, 1))
        network[2].weight.copy_(torch.tensor([2.0, 3.0]).view(1, 2, 1, 1))
    found = GuidedBackprop(std=(1.0,)).backprojections(
        network, units("2", 0), torch.ones(1, 1, 1, 1)
    )
    assert found.gradients.item() == 2.0


def test_pictures_show_the_fields_of_the_peaks_on_grey():
    network, images = pooled_layers(), random_images(5)
    method = GuidedBackprop(num_patches=3, patch_size=24)
    found = method.backprojections(network, units("3", 1), images)
    assert found.side == 8  # 3 + 1 from pooling, then + 2 * 2
    picture = method(network, units("3", 1), images)
    assert picture.shape == (1, 3, 49, 49)
    for place in range(3):
        top, left = place // 2 * 25, place % 2 * 25
        patch = picture[0, :, top : top + 24, left : left + 24]
        assert max(patch.max() - 0.5, 0.5 - patch.min()) > 0.3
    assert picture[0, :, 25:, 25:].min() == 1.0  # no fourth patch


def test_outside_the_receptive_field_nothing_is_found():
    network, images = pooled_layers(), random_images(5)
    found = GuidedBackprop(num_patches=5).backprojections(network, units("3", 2), images)
    for gradient, (x, y) in zip(found.gradients[0], found.peaks.positions[0], strict=True):
        rows, columns = (gradient.abs().sum(0).sum(axis).nonzero().flatten() for axis in (1, 0))
        assert (rows - y).abs().max() <= 4
        assert (columns - x).abs().max() <= 4


def test_a_silent_unit_is_white():
    network = pooled_layers()
    with torch.no_grad():
        network[3].bias[1] = -100.0
    assert GuidedBackprop()(network, units("4", 1), random_images(3)).min() == 1.0


def test_networks_with_functional_relus_are_refused():
    class Functional(nn.Module):
        def __init__(self):
            super().__init__()
            self.below, self.above = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 2, 3)
            self.relu = nn.ReLU()

        def forward(self, images):
            return self.relu(self.above(functional.relu(self.below(images)))).mean((-2, -1))

    network, images = Functional(), random_images(2).float()
    with pytest.raises(ValueError, match="must apply its ReLUs as modules for .*1 are function"):
        GuidedBackprop()(network, Target("above", torch.tensor([0])), images)
    assert not network.relu._forward_hooks
    assert not network.relu._forward_pre_hooks
    GuidedBackprop()(network, Target("below", torch.tensor([0])), images)  # no ReLU below


def test_a_backbone_and_its_aliases_work():
    network, images = small_network(), random_images(3, side=64).float()
    method = GuidedBackprop(num_patches=2, patch_size=16)
    first = method(network, units("mid", 1, 2), images)
    assert torch.equal(first, method(network, units(network.resolve("mid"), 1, 2), images))


@pytest.mark.parametrize("name", ["num_patches", "patch_size", "batch_size"])
def test_numbers_out_of_range_are_refused(name):
    with pytest.raises(ValueError, match=f"`{name}` must be >= 1"):
        GuidedBackprop(**{name: 0})
