"""The pyramid over a backbone: its maps, and what it refuses."""

import pytest
import torch

from interp_train.activations import ActivationTap
from interp_train.backbones.small_cnn import small_cnn
from interp_train.backbones.torchvision_backbone import torchvision_backbone
from interp_train.learning.interpretable_rcnn.feature_pyramid import BackbonePyramid


def test_maps_are_made_from_the_layers():
    network = small_cnn((4, 6, 8, 8), image_size=64)
    pyramid = BackbonePyramid(network, ["features.pool_2", "last"], 5, coarser_level=True)
    assert pyramid.strides == [4, 8, 16]
    images = torch.randn(2, 3, 64, 48)
    maps = pyramid(images)
    assert [tuple(m.shape) for m in maps.values()] == [
        (2, 5, 16, 12), (2, 5, 8, 6), (2, 5, 4, 3),
    ]  # fmt: skip
    with ActivationTap(network, pyramid.layers) as tap:
        network.forward_chain(images)
    fine, coarse = (tap.activations[layer] for layer in pyramid.layers)
    blocks = pyramid.pyramid
    top = blocks.inner_blocks[1](coarse)
    below = blocks.inner_blocks[0](fine) + torch.nn.functional.interpolate(top, scale_factor=2)
    torch.testing.assert_close(maps["0"], blocks.layer_blocks[0](below))
    torch.testing.assert_close(maps["1"], blocks.layer_blocks[1](top))


def test_the_backbone_is_not_owned():
    network = small_cnn((4, 6, 8, 8), image_size=64)
    pyramid = BackbonePyramid(network, ["features.relu_4"], 5, coarser_level=False)
    own = {id(parameter) for parameter in pyramid.parameters()}
    assert not own & {id(parameter) for parameter in network.parameters()}
    assert all(name.startswith("pyramid.") for name in pyramid.state_dict())


def test_wrong_levels_are_named():
    network = small_cnn((4, 6, 8, 8), image_size=64)
    with pytest.raises(ValueError, match=r"growing stride.*of strides \[8, 4\]"):
        BackbonePyramid(network, ["features.relu_4", "features.pool_2"], 5, False)
    with pytest.raises(ValueError, match=r"must end with .*features.relu_4.*backbone.cut=features"):
        BackbonePyramid(network, ["features.relu_1", "features.pool_2"], 5, False)
    with pytest.raises(ValueError, match="of strides .."):
        BackbonePyramid(network, [], 5, False)


def test_torchvision_networks_give_maps():
    network = torchvision_backbone("resnet18", image_size=64, classifier=False)
    pyramid = BackbonePyramid(network, ["layer3", "layer4"], 4, coarser_level=False)
    assert pyramid.strides == [16, 32]
    assert [m.shape[-1] for m in pyramid(torch.zeros(1, 3, 64, 64)).values()] == [4, 2]
