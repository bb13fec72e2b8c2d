import copy
import pickle

import pytest
import torch
from torch import nn

from interp_train.activations import ActivationTap
from interp_train.backbones.backbone import Backbone
from interp_train.backbones.heads import ConvolutionalHead
from interp_train.structures import LayerGeometry
from tests.backbones.networks import tiny_backbone


def with_head(**options):
    backbone = tiny_backbone(**options)
    channels, *in_size = backbone.feature_shape(32)
    backbone.attach_head(ConvolutionalHead(channels, 3, in_size=in_size, added_convolutions=2))
    return backbone


IMAGES = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(3))


@pytest.mark.parametrize("freeze", [None, "conv", "blocks.0", "features.2"])
@pytest.mark.parametrize("training", [False, True])
def test_prefix_and_suffix_make_the_whole_bit_by_bit(freeze, training):
    backbone = with_head(freeze=freeze).train(training)
    torch.manual_seed(1)
    whole = backbone(IMAGES)
    torch.manual_seed(1)
    parts = backbone.forward_suffix(backbone.forward_prefix(IMAGES))
    assert torch.equal(whole, parts)
    torch.manual_seed(1)
    by_hand = IMAGES
    for step in backbone.chain:
        by_hand = backbone.get_submodule(step)(by_hand)
    assert torch.equal(whole, backbone.head(by_hand))


def test_an_unfrozen_prefix_is_the_image():
    assert tiny_backbone().forward_prefix(IMAGES) is IMAGES


def test_a_frozen_prefix_neither_learns_nor_changes_its_statistics():
    backbone = with_head(freeze="features.1").train()
    before = {key: value.clone() for key, value in backbone.state_dict().items()}
    optimiser = torch.optim.SGD(backbone.parameter_groups(0.1), lr=0.1)
    for _ in range(2):
        backbone(IMAGES).square().sum().backward()
        optimiser.step()
    changed = {key for key, value in backbone.state_dict().items() if not value.equal(before[key])}
    assert changed
    assert all(key.startswith("head.") for key in changed)
    assert not backbone.norm.training
    assert backbone.head.training


def test_statistics_above_the_prefix_still_change():
    backbone = with_head(freeze="pool").train()
    backbone(IMAGES)
    assert backbone.norm.num_batches_tracked == 0
    assert backbone.features[1].num_batches_tracked == 1


def test_gradients_of_images_pass_through_a_frozen_prefix():
    backbone = with_head(freeze="features.2").eval()
    assert not backbone.forward_prefix(IMAGES).requires_grad
    images = IMAGES.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(backbone(images).sum(), images)
    assert gradient.abs().sum() > 0


def test_taps_are_found_by_stride_and_extended_by_a_head():
    backbone = tiny_backbone(taps={"first": "blocks.0.conv1"})
    assert backbone.taps == {
        "early": "relu",
        "mid": "relu",
        "top": "features.2",
        "last": "features.2",
        "first": "blocks.0.conv1",
    }
    backbone.attach_head(ConvolutionalHead(6, 3, in_size=(8, 8), added_convolutions=2))
    assert backbone.taps["added_1"] == "head.relu_1"
    assert backbone.taps["last"] == backbone.taps["added_2"] == "head.relu_2"
    assert backbone.taps["top"] == "features.2"


def test_a_second_head_takes_the_place_of_the_first():
    backbone = with_head()
    backbone.attach_head(nn.Sequential(nn.Flatten(), nn.Linear(6 * 8 * 8, 2)))
    assert backbone.taps["last"] == "features.2"
    assert "added_1" not in backbone.taps
    assert backbone(IMAGES).shape == (2, 2)


@pytest.mark.parametrize(
    ("layer", "expected"),
    [("top", "features.2"), ("blocks.1.relu", "blocks.1.relu"), ("features", "features.2")],
)
def test_layers_are_resolved(layer, expected):
    assert tiny_backbone().resolve(layer) == expected


def test_every_alias_can_be_tapped():
    backbone = with_head().eval()
    names = [backbone.resolve(alias) for alias in backbone.taps]
    with ActivationTap(backbone, names) as tap:
        backbone(IMAGES)
    for name in names:
        assert tap.activations[name].shape[1] == backbone.num_channels(name)


def test_geometry_of_steps_and_head_by_hand():
    # conv: 3 px, stride 2, centre 0. pool 2/2: 5 px, stride 4, centre 1. Two blocks of two 3x3
    # convolutions: + 4 * 2 * 4 = 37 px. Head: + 8 and + 8.
    backbone = with_head()
    assert backbone.geometry("relu") == LayerGeometry(2.0, 0.0, 3.0)
    assert backbone.geometry("pool") == LayerGeometry(4.0, 1.0, 5.0)
    assert backbone.geometry("top") == LayerGeometry(4.0, 1.0, 37.0)
    assert backbone.geometry("added_1") == LayerGeometry(4.0, 1.0, 45.0)
    assert backbone.geometry("last") == LayerGeometry(4.0, 1.0, 53.0)
    assert backbone.geometry("head.pool") == LayerGeometry(8.0, 3.0, 57.0)


def test_a_layer_without_a_table_is_measured_and_its_head_follows():
    chain = {"conv": nn.Conv2d(3, 4, 3, padding=1), "up": nn.Upsample(scale_factor=2)}
    backbone = Backbone(chain, image_size=32)
    backbone.attach_head(ConvolutionalHead(4, 1, in_size=(64, 64)))
    assert backbone.geometry("conv") == LayerGeometry(1.0, 0.0, 3.0)
    assert backbone.geometry("up").stride == 0.5
    assert backbone.geometry("up").size == 3.0
    assert backbone.geometry("last").size == 3.0 + 2 * 0.5


def test_pickled_and_copied_networks_are_the_same_function():
    backbone = with_head(freeze="pool").eval()
    expected = backbone(IMAGES)
    for other in (copy.deepcopy(backbone), pickle.loads(pickle.dumps(backbone))):
        assert torch.equal(other(IMAGES), expected)
        assert other.taps == backbone.taps
        assert other.geometry("last") == backbone.geometry("last")


def test_compiles_as_one_graph():
    backbone = with_head(freeze="pool").eval()
    compiled = torch.compile(backbone, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(IMAGES), backbone(IMAGES))


def test_channels_last_and_reduced_precision():
    backbone = with_head(freeze="pool").eval()
    expected = backbone(IMAGES)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.allclose(backbone(IMAGES).float(), expected, atol=0.05)
    backbone = backbone.to(memory_format=torch.channels_last)
    found = backbone(IMAGES.to(memory_format=torch.channels_last))
    torch.testing.assert_close(found, expected)


def test_looking_layers_up_leaves_no_trace():
    backbone = with_head().train()
    state, random_state = copy.deepcopy(backbone.state_dict()), torch.get_rng_state()
    backbone.feature_shape(64)
    backbone.geometry("fc" if backbone.readout else "last")
    assert all(value.equal(state[key]) for key, value in backbone.state_dict().items())
    assert torch.equal(torch.get_rng_state(), random_state)
    assert not any(module._forward_hooks for module in backbone.modules())
    assert all(module.training for module in backbone.modules())


def test_the_hash_follows_the_prefix_only():
    backbone = with_head(freeze="pool")
    before = backbone.weights_hash()
    assert copy.deepcopy(backbone).weights_hash() == before
    backbone.head.linear.weight.data.add_(1)
    assert backbone.weights_hash() == before
    backbone.norm.running_mean.add_(1)
    assert backbone.weights_hash() != before
    assert copy.deepcopy(backbone).to(torch.bfloat16).weights_hash() != backbone.weights_hash()


def test_rates_reach_the_groups_through_aliases():
    backbone = tiny_backbone(learning_rates={"top": 0.5, "blocks": 0.1, "conv": 0})
    backbone.attach_head(ConvolutionalHead(6, 1, in_size=(8, 8)))
    backbone.learning_rates["head"] = 10.0
    del backbone.learning_rates["top"]  # a ReLU: it has no parameters
    groups = {group["name"]: group for group in backbone.parameter_groups(0.2)}
    assert {name: group["lr"] for name, group in groups.items()} == pytest.approx(
        {"conv": 0.0, "rest": 0.2, "blocks": 0.02, "head": 2.0}
    )


def test_a_classifier_is_made_where_a_cut_removed_it():
    backbone = tiny_backbone(cut="blocks.0")
    assert backbone.readout == ()
    backbone.resize_classifier(7)
    assert backbone(IMAGES).shape == (2, 7)
    assert backbone.classifier.in_features == 4


ERRORS = [
    (lambda: tiny_backbone().resolve("topp"), r"`layer` must name an alias .*'topp'.*'top'"),
    (lambda: tiny_backbone(cut="feature.0"), r"`cut` must name a step of the chain.*'features.0'"),
    (lambda: tiny_backbone(freeze="blocks.0.conv1"), r"`freeze` must name a step of the chain"),
    (lambda: tiny_backbone(cut="conv", freeze="features.0"), r"`freeze` must name a step"),
    (lambda: tiny_backbone(taps={"x": "nowhere"}), r"`taps\['x'\]` must name a module"),
    (
        lambda: tiny_backbone(learning_rates={"conv": -1}),
        r"`learning_rates\['conv'\]` must be >= 0",
    ),
    (lambda: tiny_backbone().geometry("fc"), r"`layer` must put out a square map .* but 'fc'"),
    (lambda: tiny_backbone(classifier=None)(IMAGES), r"`network` must have a classifier or a head"),
    (lambda: with_head().resize_classifier(2), r"must be called on a network without a head"),
    (lambda: tiny_backbone().resize_classifier(0), r"`num_outputs` must be >= 1, but got 0"),
    (lambda: Backbone({"train": nn.Conv2d(3, 3, 1)}), r"`chain` must not use names .*'train'"),
    (
        lambda: Backbone({"conv": nn.Conv2d(3, 3, 64)}).feature_shape(32),
        r"`image_size` must be large enough for the network, but with 32",
    ),
    (
        lambda: Backbone({"head": nn.Conv2d(3, 3, 1)}).attach_head(nn.Flatten()),
        r"`head` must not replace a step of the chain",
    ),
    (
        lambda: Backbone({}, classifier=nn.Conv2d(3, 3, 1)).attach_head(nn.Flatten()),
        r"`head` must follow a chain of steps",
    ),
    (
        lambda: tiny_backbone(classifier=nn.AdaptiveAvgPool2d(1)).resize_classifier(2),
        r"`network` must end in a linear layer",
    ),
]


@pytest.mark.parametrize(("action", "message"), ERRORS)
def test_errors_name_argument_and_way_out(action, message):
    with pytest.raises(ValueError, match=message):
        action()


def test_units_behind_the_cells_are_not_taken_for_a_map():
    backbone = Backbone({"conv": nn.Conv2d(3, 4, 3), "last_axis": UnitsLast()}, image_size=16)
    with pytest.raises(ValueError, match=r"units first, but 'last_axis' puts out \(14, 14, 4\)"):
        backbone.geometry("last_axis")


class UnitsLast(nn.Module):
    def forward(self, maps):
        return maps.permute(0, 2, 3, 1)
