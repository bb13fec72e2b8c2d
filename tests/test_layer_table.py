import copy

import pytest
import torch
from torch import nn

from interp_train.backbones.backbone import Backbone
from interp_train.backbones.heads import ConvolutionalHead
from interp_train.backbones.torchvision_backbone import torchvision_backbone
from interp_train.layer_table import layer_table
from tests.backbones.networks import tiny_backbone


def test_rows_by_hand():
    backbone = tiny_backbone(freeze="pool")
    rows = {row.layer: row for row in layer_table(backbone, 48)}
    assert list(rows) == [*backbone.chain, "avgpool", "flatten", "fc"]
    assert rows["pool"] == ("pool", "MaxPool2d", (4, 12, 12), 4, 4.0, 5.0, 1.0, (), True)
    top = rows["features.2"]
    assert top == ("features.2", "ReLU", (6, 12, 12), 6, 4.0, 37.0, 1.0, ("top", "last"), False)
    assert rows["fc"] == ("fc", "Linear", (5,), 5, None, None, None, (), False)


def test_shapes_are_those_of_a_real_run():
    backbone = tiny_backbone().eval()
    shapes = {}
    for name, module in backbone.named_modules():
        if name:
            module.register_forward_hook(
                lambda module, inputs, output, name=name: shapes.update({name: output.shape[1:]})
            )
    backbone(torch.zeros(1, 3, 40, 40))
    rows = layer_table(backbone, 40, inner=True)
    assert {row.layer: row.shape for row in rows} == {k: tuple(v) for k, v in shapes.items()}


def test_layers_of_a_head_and_tapped_inner_layers_are_shown():
    backbone = tiny_backbone(taps={"inside": "blocks.0.conv1"})
    backbone.attach_head(ConvolutionalHead(6, 2, in_size=(8, 8)))
    rows = {row.layer: row for row in layer_table(backbone, 32)}
    assert rows["blocks.0.conv1"].aliases == ("inside",)
    assert rows["head.relu_1"].aliases == ("last", "added_1")
    assert rows["head.relu_1"].receptive_field == 45.0
    assert "blocks.0.conv2" not in rows


def test_a_network_without_classifier_has_rows_too():
    rows = layer_table(torchvision_backbone("squeezenet1_0", cut="features.11"), 224)
    assert rows[-1][:4] == ("features.11", "MaxPool2d", (512, 13, 13), 512)


def test_a_layer_without_a_table_is_measured():
    chain = {"conv": nn.Conv2d(3, 4, 3, 2, 1), "up": nn.Upsample(scale_factor=2)}
    rows = {row.layer: row for row in layer_table(Backbone(chain, image_size=32), 32)}
    assert rows["up"].shape == (4, 32, 32)
    assert rows["up"].stride == 1.0
    assert rows["up"].receptive_field == 3.0


def test_nothing_changes():
    backbone = tiny_backbone().train()
    state = copy.deepcopy(backbone.state_dict())
    layer_table(backbone, 32)
    assert all(value.equal(state[key]) for key, value in backbone.state_dict().items())


def test_images_that_are_too_small_are_refused():
    backbone = torchvision_backbone("alexnet")
    with pytest.raises(ValueError, match=r"`image_size` must suit the network, but with 16 it"):
        layer_table(backbone, 16)
