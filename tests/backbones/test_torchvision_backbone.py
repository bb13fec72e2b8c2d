import copy

import pytest
import torch
from torch import nn
from torchvision import models

from interp_train.activations import ActivationTap
from interp_train.backbones.torchvision_backbone import torchvision_backbone
from interp_train.layer_geometry import measure_geometry
from interp_train.structures import LayerGeometry
from tests.backbones.networks import TwoPaths, torchvision_network

TESTED = (
    "alexnet",
    "vgg16",
    "vgg16_bn",
    "resnet18",
    "resnet50",
    "densenet121",
    "squeezenet1_0",
    "mobilenet_v2",
    "convnext_tiny",
)


@pytest.fixture
def build(monkeypatch):
    """`torchvision_backbone` of a given network instead of one made by torchvision."""

    def build(name, network, **options):
        with monkeypatch.context() as context:
            context.setattr(models, "get_model", lambda *args, **kwargs: copy.deepcopy(network))
            return torchvision_backbone(name, **options)

    return build


@pytest.mark.parametrize("name", TESTED)
def test_same_outputs_and_keys_as_torchvision_and_nothing_in_place(build, name):
    network = torchvision_network(name)
    backbone = build(name, network).eval()
    assert list(backbone.state_dict()) == list(network.state_dict())
    images = torch.randn(2, 3, 96, 96)
    with torch.no_grad():
        torch.testing.assert_close(backbone(images), network(images), rtol=0, atol=0)
    assert not any(getattr(module, "inplace", False) for module in backbone.modules())
    top = backbone.get_submodule(backbone.taps["top"])
    assert backbone.num_channels("top") == backbone.feature_shape(96)[0]
    assert isinstance(top, nn.Module)


def test_same_loss_gradient_and_statistics_while_training():
    network = models.resnet18()
    backbone = torchvision_backbone("resnet18")
    backbone.load_state_dict(network.state_dict())
    images = torch.randn(4, 3, 64, 64)
    for each in (network, backbone):
        each.train()
        each(images).logsumexp(1).sum().backward()
    torch.testing.assert_close(
        backbone.conv1.weight.grad, network.conv1.weight.grad, rtol=1e-5, atol=1e-6
    )
    torch.testing.assert_close(
        backbone.layer4[1].bn2.running_var, network.layer4[1].bn2.running_var
    )


@pytest.mark.parametrize("name", ["squeezenet1_0", "densenet121", "googlenet"])
def test_recorded_activations_are_not_overwritten(name):
    backbone = torchvision_backbone(name).eval()
    kinds = (nn.Conv2d, nn.BatchNorm2d)
    layers = [key for key, module in backbone.named_modules() if isinstance(module, kinds)]
    copies = {}
    for layer in layers:
        backbone.get_submodule(layer).register_forward_hook(
            lambda module, inputs, output, layer=layer: copies.update({layer: output.clone()})
        )
    with torch.no_grad(), ActivationTap(backbone, layers) as tap:
        backbone(torch.randn(1, 3, 64, 64))
    assert all(torch.equal(tap.activations[layer], copies[layer]) for layer in layers)


# VGG-16: stride 16 and centre 8.5 counted from 1, as the released programme of interpretable CNNs
# states. The others by hand: a layer adds (kernel - 1) times the stride below it. ResNet-18:
# 7 + 2*2 after the pooling, + 4*(2*4) = 43 after layer1, + 2*4 + 3*(2*8) = 99 after layer2,
# + 2*8 + 3*(2*16) = 211 after layer3, + 2*16 + 3*(2*32) = 435 after layer4.
@pytest.mark.parametrize(
    ("name", "layer", "expected"),
    [
        ("vgg16", "features.29", (16, 7.5, 196)),
        ("alexnet", "features.11", (16, 15, 163)),
        ("squeezenet1_0", "features.10", (8, 9, 107)),
        ("resnet18", "layer4", (32, 0, 435)),
        ("mobilenet_v2", "features.18", (32, 0, 491)),
    ],
)
def test_known_receptive_fields(build, name, layer, expected):
    backbone = build(name, torchvision_network(name))
    assert backbone.geometry(layer) == LayerGeometry(*map(float, expected))


@pytest.mark.parametrize(
    ("name", "layers", "size"),
    [
        ("squeezenet1_0", ["features.5", "features.10", "features.12"], 256),
        ("alexnet", ["features.1", "features.4", "features.11"], 288),
        ("resnet18", ["layer1", "layer2"], 224),
        ("densenet121", ["features.transition1.relu"], 160),
        ("mobilenet_v2", ["features.3", "features.6"], 224),
        ("convnext_tiny", ["features.0", "features.1"], 160),
        pytest.param("vgg16", ["features.15", "features.29"], 352, marks=pytest.mark.slow),
        pytest.param("resnet18", ["layer3", "layer4"], 1056, marks=pytest.mark.slow),
        pytest.param("resnet50", ["layer3"], 672, marks=pytest.mark.slow),
        pytest.param("mobilenet_v2", ["features.13"], 672, marks=pytest.mark.slow),
    ],
)
def test_the_table_agrees_with_measured_gradients(build, name, layers, size):
    backbone = build(name, torchvision_network(name))
    measured = measure_geometry(backbone, layers, image_sizes=[size], method="forward_chain")
    assert measured == {layer: backbone.geometry(layer) for layer in layers}


def test_aliases_name_activations_by_stride():
    backbone = torchvision_backbone("densenet121")
    assert backbone.taps["mid"] == "features.transition3.relu"
    assert [backbone.geometry(alias).stride for alias in ("early", "mid", "top")] == [4, 16, 32]
    assert torchvision_backbone("resnet18").taps == {
        "early": "layer1",
        "mid": "layer3",
        "top": "layer4",
        "last": "layer4",
    }


def test_a_cut_removes_what_follows_and_the_classifier():
    backbone = torchvision_backbone("squeezenet1_0", cut="features.11", freeze="features.11")
    assert backbone.chain[-1] == "features.11"
    assert backbone.prefix == "features.11"
    assert not any("features.12" in key or "classifier" in key for key in backbone.state_dict())
    assert backbone.taps["top"] == "features.10"  # fire8; the pooling is no layer of its own
    assert backbone.feature_shape(224) == (512, 13, 13)
    assert backbone.resolve("features") == "features.11"


def test_a_cut_inside_a_stage_opens_it():
    backbone = torchvision_backbone("resnet18", cut="layer3.0", freeze="layer2.0")
    assert backbone.chain[-3:] == ("layer2.0", "layer2.1", "layer3.0")
    assert backbone.resolve("layer2") == "layer2.1"
    assert "layer3.0.conv1.weight" in backbone.state_dict()


@pytest.mark.parametrize("name", ["squeezenet1_0", "resnet18", "mobilenet_v2", "convnext_tiny"])
def test_a_resized_classifier_gives_logits_of_both_signs(name):
    backbone = torchvision_backbone(name)
    backbone.resize_classifier(20)
    logits = backbone.eval()(torch.randn(4, 3, 64, 64))
    assert logits.shape == (4, 20)
    assert logits.min() < 0 < logits.max()


def test_without_a_classifier_there_are_no_logits():
    backbone = torchvision_backbone("squeezenet1_0", classifier=False)
    assert not any(key.startswith("classifier") for key in backbone.state_dict())
    with pytest.raises(ValueError, match=r"attach_head"):
        backbone(torch.zeros(1, 3, 64, 64))


def test_an_unknown_name_is_refused_with_the_closest():
    with pytest.raises(ValueError, match=r"`name` must name .* 'resnet19'.*'resnet1"):
        torchvision_backbone("resnet19")


def test_a_network_that_is_no_chain_is_refused(build):
    with pytest.raises(ValueError, match=r"chain of convolutional steps, but 'vit_b_16' is not"):
        build("vit_b_16", TwoPaths())
