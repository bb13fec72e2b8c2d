import copy

import pytest
import torch
from torch import nn
from torch.nn import functional

from interp_train.backbones.dilation import replace_strides
from interp_train.backbones.torchvision_backbone import torchvision_backbone
from interp_train.layer_geometry import measure_geometry


def small_network(seed=0):
    """Windows of all kinds, three of which move by two cells."""
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(3, stride=2, padding=1),
        nn.Conv2d(4, 5, 3, padding=1),
        nn.Conv2d(5, 5, (3, 1), stride=(2, 1), padding=(1, 0)),
        nn.MaxPool2d((1, 3), stride=(1, 2)),
        nn.Conv2d(5, 6, 3, padding=1),
    ).eval()


def finer(network, first, size=64):
    changed = copy.deepcopy(network)
    replace_strides(changed, dict(changed.named_children()), first, size)
    return changed


@pytest.mark.parametrize("first", ["1", "2", "4"])
def test_cells_between_are_those_of_shifted_images(first):
    """Shift and stitch: moving the image by a cell of the fine map shows the cells between."""
    network, images = small_network(), torch.randn(1, 3, 96, 96)
    fine = finer(network, first, 96)
    stride = {"1": 2, "2": 2, "4": 4}[first]  # of the maps that the first step takes, in pixels
    factor = 8 // stride
    with torch.no_grad():
        maps = fine(images)
        for y in range(factor):
            for x in range(factor):
                shifted = images.roll((-y * stride, -x * stride), (2, 3))
                cells = maps[..., y::factor, x::factor][..., 4:-4, 4:-4]
                torch.testing.assert_close(cells, network(shifted)[..., 4:-4, 4:-4])


def test_hand_made_windows():
    network = finer(small_network(), "2")
    assert (network[0].stride, network[0].dilation) == ((2, 2), (1, 1))
    assert (network[2].stride, network[2].dilation, network[2].padding) == ((1, 1), 1, 1)
    assert (network[3].stride, network[3].dilation, network[3].padding) == ((1, 1), (2, 2), (2, 2))
    assert (network[4].stride, network[4].dilation, network[4].padding) == ((1, 1), (2, 2), (2, 0))
    assert (network[5].stride, network[5].dilation, network[5].padding) == ((1, 1), (4, 2), (0, 0))
    assert (network[6].stride, network[6].dilation, network[6].padding) == ((1, 1), (4, 4), (4, 4))


def test_without_strides_behind_nothing_changes():
    network = small_network()
    same = finer(network, "6")
    images = torch.randn(2, 3, 64, 64)
    assert torch.equal(same(images), network(images))


@pytest.mark.parametrize(
    ("name", "first", "cut", "factor"),
    [
        ("mobilenet_v2", "features.14", "features.16", 2),
        ("resnet18", "layer4", "layer4", 2),
        ("resnet50", "layer3", "layer4", 4),
        ("vgg16", "features.16", "features.30", 8),
        ("alexnet", "features.5", "features.12", 4),
        ("densenet121", "features.transition3", "features.denseblock4", 2),
        ("convnext_tiny", "features.6", "features.7", 2),
        ("efficientnet_b0", "features.6", "features.7", 2),
        ("squeezenet1_0", "features.12", "features.12", 1),
    ],
)
def test_maps_keep_their_values_in_every_second_cell(name, first, cut, factor):
    networks = []
    for dilate in (None, first):
        torch.manual_seed(0)
        networks.append(torchvision_backbone(name, cut=cut, dilate=dilate, image_size=128).eval())
    coarse, fine = networks
    images = torch.randn(1, 3, 128, 128)
    with torch.no_grad():
        maps = [network.forward_chain(images) for network in networks]
    old, new = maps[0], maps[1][..., ::factor, ::factor]
    torch.testing.assert_close(new / old.abs().max(), old / old.abs().max(), rtol=0, atol=1e-5)
    assert list(fine.state_dict()) == list(coarse.state_dict())
    before, after = (network.geometry(cut) for network in networks)
    assert after == before._replace(stride=before.stride / factor)


def test_the_table_of_cells_agrees_with_measured_gradients():
    fine = torchvision_backbone("resnet18", cut="layer2", dilate="layer2")
    measured = measure_geometry(fine, ["layer2"], image_sizes=[224], method="forward_chain")
    assert measured == {"layer2": fine.geometry("layer2")}
    assert fine.geometry("layer2").stride == 4


def test_cached_activations_of_the_two_are_not_confused():
    torch.manual_seed(0)
    coarse = torchvision_backbone("mobilenet_v2", freeze="features.16", cut="features.16")
    fine = torchvision_backbone(
        "mobilenet_v2", freeze="features.16", cut="features.16", dilate="features.14"
    )
    fine.load_state_dict(coarse.state_dict())
    assert coarse.weights_hash() != fine.weights_hash()


class Strided(nn.Module):
    """A stride in a function, which no module tells of."""

    def __init__(self):
        super().__init__()
        self.convolution = nn.Conv2d(3, 4, 3, stride=2, padding=1)

    def forward(self, images):
        return functional.max_pool2d(self.convolution(images), 2)


@pytest.mark.parametrize(
    ("network", "first", "message"),
    [
        (small_network(), "7", r"`dilate` must name a step of the network, but got '7'"),
        (nn.Sequential(Strided()), "0", r"'0' would put out 32 cells a side, .* its 16"),
        (
            nn.Sequential(nn.MaxPool2d(2), nn.AvgPool2d(2)),
            "0",
            r"got '0': the mean over windows in '1' cannot be dilated\. Name a later step",
        ),
        (
            nn.Sequential(nn.MaxPool2d(2), nn.MaxPool2d(3, stride=2, padding=1)),
            "0",
            r"the maximum over padded windows in '1' cannot be dilated",
        ),
        (nn.Sequential(nn.MaxPool2d(3, 2, ceil_mode=True)), "0", r"would put out 62 cells .* 32"),
        (
            nn.Sequential(nn.PixelUnshuffle(2), nn.Conv2d(12, 3, 3, padding=1)),
            "1",
            r"where the cells of '0' lie is not known",
        ),
    ],
)
def test_networks_that_cannot_be_made_finer(network, first, message):
    with pytest.raises(ValueError, match=message):
        finer(network, first)
