import pytest
import torch
from torch import nn

from interp_train.activations import ActivationTap
from interp_train.backbones.backbone import Backbone
from interp_train.backbones.heads import ConvolutionalHead
from interp_train.backbones.layers_behind import logits_behind, steps_behind
from interp_train.backbones.small_cnn import small_cnn
from interp_train.contract_state import leaves_no_trace

SIDE = 8


class Branches(nn.Module):
    """A residual block: its modules are no plain sequence."""

    def __init__(self):
        super().__init__()
        self.convolution = nn.Conv2d(4, 4, 3, padding=1)
        self.relu = nn.ReLU()

    def forward(self, activations):
        return self.relu(activations + self.convolution(activations))


def network_with_head(dropout=0.0, freeze=None):
    steps = {
        "stem.convolution": nn.Conv2d(3, 4, 3, padding=1),
        "stem.relu": nn.ReLU(),
        "block": Branches(),
        "pair": nn.Sequential(nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4)),
    }
    network = Backbone(steps, image_size=SIDE, freeze=freeze)
    head = ConvolutionalHead(4, 3, in_size=(SIDE, SIDE), dropout=dropout, input_norm=True)
    network.attach_head(head)
    return network


def recorded(network, layer, images):
    with ActivationTap(network, [layer]) as tap:
        logits = network(images)
    return tap.take()[layer], logits


@pytest.mark.parametrize(
    ("layer", "expected"),
    [
        ("stem.relu", ("block", "pair", "head")),
        ("block", ("pair", "head")),
        ("pair.0", ("pair.1", "head")),
        ("pair", ("head",)),
        ("last", ("head.pool", "head.flatten", "head.dropout", "head.linear")),
        ("head.linear", ()),
    ],
)
def test_steps_by_hand(layer, expected):
    assert steps_behind(network_with_head(), layer) == expected


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("layer", ["stem.relu", "block", "pair.0", "last"])
def test_its_own_activations_give_its_own_logits(layer, training):
    network = network_with_head().train(training)
    with torch.no_grad():
        for _ in range(3):  # statistics that differ from those of the batch
            network(torch.randn(4, 3, SIDE, SIDE) * 3)
        activations, logits = recorded(network, network.resolve(layer), torch.randn(5, 3, 8, 8))
        torch.testing.assert_close(logits_behind(network, layer, activations), logits)


def test_a_readout_is_followed_too():
    network = small_cnn(widths=(4, 4, 6), image_size=32)
    network.resize_classifier(2)
    activations, logits = recorded(network, network.resolve("mid"), torch.randn(3, 3, 32, 32))
    torch.testing.assert_close(logits_behind(network, "mid", activations), logits)


def test_the_head_alone_by_hand():
    network = network_with_head().eval()
    maps = torch.rand(2, 4, SIDE, SIDE)
    pooled = nn.functional.max_pool2d(maps, 2).flatten(1)
    expected = pooled @ network.head.linear.weight.T + network.head.linear.bias
    torch.testing.assert_close(logits_behind(network, "last", maps), expected)


def test_training_leaves_no_trace_and_draws_nothing():
    network = network_with_head(dropout=0.5, freeze="stem.relu").train()
    maps = torch.rand(4, 4, SIDE, SIDE)
    with leaves_no_trace(network, maps):
        first = logits_behind(network, "block", maps)
    assert torch.equal(first, logits_behind(network, "block", maps))
    assert network.pair[1].track_running_stats
    assert network.head.dropout.training
    network.pair[1].eval()
    assert not torch.allclose(first, logits_behind(network, "block", maps * 2))  # fixed statistics


def test_gradients_reach_the_activations_and_the_weights_behind():
    network = network_with_head().double()
    maps = torch.rand(2, 4, SIDE, SIDE, dtype=torch.double, requires_grad=True)
    logits_behind(network, "last", maps).square().sum().backward()
    assert maps.grad.abs().sum() > 0
    assert network.head.linear.weight.grad is not None
    assert network.pair[0].weight.grad is None
    assert torch.autograd.gradcheck(
        lambda weight: logits_behind(network, "last", maps.detach() * weight),
        torch.rand(4, 1, 1, dtype=torch.double, requires_grad=True),
    )


def test_what_it_refuses():
    with pytest.raises(ValueError, match=r"'block.relu' is inside 'block' \(Branches\). Choose"):
        steps_behind(network_with_head(), "block.relu")
    with pytest.raises(ValueError, match="`layer` must name an alias or a module"):
        steps_behind(network_with_head(), "blocks")
    without = Backbone({"convolution": nn.Conv2d(3, 4, 3), "relu": nn.ReLU()}, image_size=SIDE)
    with pytest.raises(ValueError, match="`network` must have a classifier or a head"):
        steps_behind(without, "relu")
    without.attach_head(ConvolutionalHead(4, 1, in_size=(6, 6)))
    without.beside = nn.ReLU()
    with pytest.raises(ValueError, match="on the way to the logits, but 'beside' is not"):
        steps_behind(without, "beside")
