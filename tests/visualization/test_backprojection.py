import pytest
import torch
from torch import nn
from torch.nn import functional

from interp_train.relu_gradients import RULES
from interp_train.structures import Target
from interp_train.visualization.backprojection import Backprojection, on_grey
from tests.contracts.options import small_network
from tests.visualization.networks import random_images, units
from tests.visualization.slow_rules import pooled_layers, slow_backprojection


@pytest.fixture(params=RULES)
def rule(request):
    return request.param


@pytest.mark.parametrize("layer", ["0", "3", "4", "6"])
@pytest.mark.parametrize("inplace", [False, True])
def test_agrees_with_the_rule_applied_layer_by_layer(rule, layer, inplace):
    network, images = pooled_layers(inplace=inplace), random_images(5)
    found = Backprojection(rule, num_patches=2, batch_size=3).backprojections(
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
            expected = slow_backprojection(layers, images[image], unit, cell, rule)
            if maps[image, unit].max() == 0:  # silent: there is no peak to start from
                expected = torch.zeros_like(expected)
            torch.testing.assert_close(found.gradients[row, place], expected)


@pytest.mark.parametrize(
    # The second ReLU is closed; in the deconvnet its 3 goes back all the same: 2 * 1 + 3 * -4.
    ("rule", "gradient"),
    [("deconvnet", -10.0), ("guided", 2.0)],
)
def test_closed_relus_pass_what_is_positive_in_the_deconvnet_alone(rule, gradient):
    network = nn.Sequential(
        nn.Conv2d(1, 2, 1, bias=False), nn.ReLU(), nn.Conv2d(2, 1, 1, bias=False)
    )
    with torch.no_grad():
        network[0].weight.copy_(torch.tensor([1.0, -4.0]).view(2, 1, 1, 1))
        network[2].weight.copy_(torch.tensor([2.0, 3.0]).view(1, 2, 1, 1))
    found = Backprojection(rule, std=(1.0,)).backprojections(
        network, units("2", 0), torch.ones(1, 1, 1, 1)
    )
    assert found.gradients.item() == gradient


def test_pictures_show_the_fields_of_the_peaks_on_grey(rule):
    network, images = pooled_layers(), random_images(5)
    method = Backprojection(rule, num_patches=3, patch_size=24)
    found = method.backprojections(network, units("3", 1), images)
    assert found.side == 8  # 3 + 1 from pooling, then + 2 * 2
    picture = method(network, units("3", 1), images)
    assert picture.shape == (1, 3, 49, 49)
    for place in range(3):
        top, left = place // 2 * 25, place % 2 * 25
        patch = picture[0, :, top : top + 24, left : left + 24]
        assert max(patch.max() - 0.5, 0.5 - patch.min()) > 0.3
    assert picture[0, :, 25:, 25:].min() == 1.0  # no fourth patch


def test_outside_the_receptive_field_nothing_is_found(rule):
    network, images = pooled_layers(), random_images(5)
    found = Backprojection(rule, num_patches=5).backprojections(network, units("3", 2), images)
    for gradient, (x, y) in zip(found.gradients[0], found.peaks.positions[0], strict=True):
        rows, columns = (gradient.abs().sum(0).sum(axis).nonzero().flatten() for axis in (1, 0))
        assert (rows - y).abs().max() <= 4
        assert (columns - x).abs().max() <= 4


def test_a_silent_unit_is_white(rule):
    network = pooled_layers()
    with torch.no_grad():
        network[3].bias[1] = -100.0
    assert Backprojection(rule)(network, units("4", 1), random_images(3)).min() == 1.0


def test_networks_with_functional_relus_are_refused(rule):
    class Functional(nn.Module):
        def __init__(self):
            super().__init__()
            self.below, self.above = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 2, 3)
            self.relu = nn.ReLU()

        def forward(self, images):
            return self.relu(self.above(functional.relu(self.below(images)))).mean((-2, -1))

    network, images = Functional(), random_images(2).float()
    with pytest.raises(ValueError, match="must apply its ReLUs as modules for .*1 are function"):
        Backprojection(rule)(network, Target("above", torch.tensor([0])), images)
    assert not network.relu._forward_hooks
    assert not network.relu._forward_pre_hooks
    Backprojection(rule)(network, Target("below", torch.tensor([0])), images)  # no ReLU below


def test_a_backbone_and_its_aliases_work(rule):
    network, images = small_network(), random_images(3, side=64).float()
    method = Backprojection(rule, num_patches=2, patch_size=16)
    first = method(network, units("mid", 1, 2), images)
    assert torch.equal(first, method(network, units(network.resolve("mid"), 1, 2), images))


@pytest.mark.parametrize("name", ["num_patches", "patch_size", "batch_size"])
def test_numbers_out_of_range_are_refused(name):
    with pytest.raises(ValueError, match=f"`{name}` must be >= 1"):
        Backprojection(**{name: 0})


def test_an_unknown_rule_is_refused():
    with pytest.raises(ValueError, match="`rule` must be one of 'guided', 'deconvnet'"):
        Backprojection("open")


def test_zero_is_grey_and_the_strongest_hundredth_is_black_or_white():
    gradients = torch.zeros(2, 1, 10, 10)
    gradients[0, 0, 0, :2] = torch.tensor([-4.0, 4.0])
    gradients[0, 0, 1] = 1.0
    found = on_grey(gradients, (0.5,))
    assert found.shape == (2, 3, 10, 10)
    assert found[0, :, 0, :3].tolist() == [[0.0, 1.0, 0.5]] * 3
    # Rank 98.01 of 0 .. 99: 98 is the first 4, so the scale is 4 and 1 is a quarter of it.
    torch.testing.assert_close(found[0, :, 1], torch.full((3, 10), 0.625))
    assert torch.equal(found[1], torch.full((3, 10, 10), 0.5))


def test_a_single_strong_value_is_the_scale():
    gradients = torch.zeros(1, 1, 20, 20)
    gradients[0, 0, 3, 3] = -2.0
    assert on_grey(gradients, (1.0,))[0, 0, 3, 3] == 0.0


def test_channels_are_undone_one_by_one():
    gradients = torch.ones(1, 3, 1, 1)
    found = on_grey(gradients, (0.5, 1.0, 2.0))[0, :, 0, 0] - 0.5
    torch.testing.assert_close(found / found[1], torch.tensor([found[0] / found[1], 1.0, 0.5]))
    torch.testing.assert_close(found[2] / found[1], torch.tensor(0.5))
