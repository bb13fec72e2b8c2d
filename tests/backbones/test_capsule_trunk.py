"""The trunks of capsule networks: layers, parameters, and what is refused."""

import pytest
import torch
from torch import nn

from interp_train.backbones.capsule_trunk import capsule_trunk
from tests.contracts.options import built


def test_layers_and_parameters():
    first = capsule_trunk()
    assert first.chain == ("convolution_1", "relu_1")
    assert sum(p.numel() for p in first.parameters()) == 20_992
    assert first.feature_shape() == (256, 20, 20)
    efficient = built("backbone", "efficient_capsule_trunk")
    assert sum(p.numel() for p in efficient.parameters()) == 130_688
    assert efficient.feature_shape() == (128, 9, 9)
    assert [name.rpartition("_")[0] for name in efficient.chain[:4]] == [
        "convolution", "relu", "norm", "convolution",
    ]  # fmt: skip


def test_maps_are_those_of_the_layers():
    trunk = capsule_trunk([3, 5], [3, 2], [2, 1], image_size=9, in_channels=2)
    images = torch.randn(2, 2, 9, 9)
    maps = nn.functional.conv2d(
        images, trunk.convolution_1.weight, trunk.convolution_1.bias, stride=2
    ).relu()
    maps = nn.functional.conv2d(maps, trunk.convolution_2.weight, trunk.convolution_2.bias).relu()
    torch.testing.assert_close(trunk.forward_chain(images), maps)
    std = capsule_trunk(initial_std=0.05).convolution_1.weight
    assert std.abs().max() <= 0.1
    assert std.std().item() == pytest.approx(0.05 * 0.88, rel=0.05)  # truncated at two deviations


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="one entry for each of the 1 `widths`, but have 2 and 1"):
        capsule_trunk([4], [3, 3], [1])
    with pytest.raises(ValueError, match=r"with 11 pixels a kernel of 9 meets a map of 3"):
        capsule_trunk([4, 4], [9, 9], [1, 1], image_size=11)
