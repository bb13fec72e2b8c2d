import pytest
import torch

from interp_train import targets
from interp_train.activations import ActivationTap
from interp_train.backbones.custom_backbone import custom_backbone
from interp_train.backbones.heads import ConvolutionalHead
from tests.backbones import networks

HERE = "tests.backbones.networks"


@pytest.fixture(autouse=True)
def trusted(monkeypatch):
    monkeypatch.setattr(targets, "_TRUSTED", [*targets.trusted_packages(), HERE])


def test_an_untrusted_package_is_refused(monkeypatch):
    monkeypatch.setattr(targets, "_TRUSTED", ["interp_train"])
    with pytest.raises(ValueError, match=r"Add `--trust tests` if you trust"):
        custom_backbone(f"{HERE}.Functional")


@pytest.mark.parametrize(
    ("name", "size"), [("Functional", 16), ("sequential", 16), ("TwoPaths", 16)]
)
def test_same_outputs_as_the_users_network(name, size):
    torch.manual_seed(0)
    expected = getattr(networks, name)()
    torch.manual_seed(0)
    backbone = custom_backbone(f"{HERE}.{name}", image_size=size)
    images = torch.randn(2, 3, size, size)
    torch.testing.assert_close(backbone(images), expected(images), rtol=0, atol=0)


def test_a_chain_keeps_its_keys_and_can_be_cut_frozen_and_given_a_head(tmp_path):
    source = networks.Functional(classes=9)
    torch.save(source.state_dict(), tmp_path / "weights.pth")
    backbone = custom_backbone(
        f"{HERE}.Functional",
        {"classes": 5},
        str(tmp_path / "weights.pth"),
        freeze="pool",
        classifier=False,
        taps={"edges": "conv1"},
        image_size=16,
    )
    assert list(backbone.state_dict()) == [
        "conv1.weight",
        "conv1.bias",
        "conv2.weight",
        "conv2.bias",
    ]
    assert torch.equal(backbone.conv2.weight, source.conv2.weight)
    assert backbone.prefix_steps == ("conv1", "relu", "pool")
    assert backbone.geometry("top").stride == 2
    channels, *in_size = backbone.feature_shape(16)
    backbone.attach_head(ConvolutionalHead(channels, 2, in_size=in_size))
    assert backbone(torch.zeros(1, 3, 16, 16)).shape == (1, 2)


def test_layers_of_a_network_that_is_no_chain_are_tapped_by_their_own_names():
    backbone = custom_backbone(
        f"{HERE}.TwoPaths", taps={"top": "relu"}, learning_rates={"fc": 2.0}, image_size=32
    )
    assert backbone.chain == ()
    assert backbone.resolve("left") == "model.left"
    assert backbone.resolve("top") == "model.relu"
    assert backbone.geometry("right")[:] == (2.0, 0.0, 5.0)
    assert backbone.geometry("top")[:] == (2.0, 0.0, 5.0)
    assert backbone.num_channels("top") == 4
    with ActivationTap(backbone, ["model.left"]) as tap:
        backbone(torch.randn(1, 3, 32, 32))
    assert tap.activations["model.left"].min() < 0  # the in-place ReLU was made to copy
    assert {group["name"] for group in backbone.parameter_groups(1.0)} == {"rest", "model.fc"}


def test_a_map_maker_that_is_no_chain_takes_a_head():
    backbone = custom_backbone(f"{HERE}.TwoPathMaps", image_size=32)
    assert backbone.chain == ("model",)
    backbone.resize_classifier(3)
    assert backbone(torch.zeros(2, 3, 32, 32)).shape == (2, 3)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("TwoPaths", {"freeze": "left"}, r"`cut`, `freeze` and `classifier` must be left alone"),
        ("TwoPaths", {"cut": "left"}, r"'tests.backbones.networks.TwoPaths' is not a plain seq"),
        ("TwoPaths", {"in_channels": 1}, r"`image_size` and `in_channels` must suit the network"),
        ("Functional", {"cut": "conv3", "image_size": 16}, r"`cut` must name a step .*'conv2'"),
        ("models.list_models", {}, r"`path` must lead to an nn.Module .* gives a list"),
    ],
)
def test_errors(name, options, message):
    with pytest.raises(ValueError, match=message):
        custom_backbone(f"{HERE}.{name}", **options)
