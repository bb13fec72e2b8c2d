import copy

import pytest
import torch
from torch import nn
from torch.nn import functional

from interp_train.backbones.chains import SpatialMean, chain_of, opened, split_readout
from tests.backbones.networks import Functional, Residual, TwoPaths, sequential


class Calls(nn.Module):
    """Calls one function after the other."""

    def __init__(self, *functions):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.functions = functions

    def forward(self, images):
        maps = self.conv(images)
        for function in self.functions:
            maps = function(maps)
        return maps


class Shared(nn.Module):
    """One convolution twice: not a chain of different steps."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3)

    def forward(self, images):
        return self.conv(self.conv(images))


def run(chain, images):
    for module in chain.values():
        images = module(images)
    return images


FUNCTIONS = [
    (functional.relu,),
    (torch.relu,),
    (lambda maps: maps.relu(),),
    (functional.relu6,),
    (lambda maps: functional.relu(maps, inplace=True),),
    (lambda maps: functional.max_pool2d(maps, 2),),
    (lambda maps: functional.max_pool2d(maps, 3, stride=2, padding=1, ceil_mode=True),),
    (lambda maps: functional.avg_pool2d(maps, kernel_size=3, stride=2),),
    (lambda maps: functional.adaptive_avg_pool2d(maps, (2, 3)),),
    (lambda maps: functional.dropout(maps, 0.5, training=False),),
    (lambda maps: maps.mean([2, 3]),),
    (functional.relu, lambda maps: torch.flatten(maps, 1)),
    (functional.relu, lambda maps: maps.view(maps.size(0), -1)),
    (functional.relu, lambda maps: maps.reshape(maps.shape[0], -1)),
]


@pytest.mark.parametrize("functions", FUNCTIONS)
def test_functions_become_modules_that_do_the_same(functions):
    network = Calls(*functions).eval()
    chain = chain_of(network)
    assert len(chain) == 1 + len(functions)
    images = torch.randn(2, 3, 9, 9)
    for module in chain.values():
        module.eval()
    torch.testing.assert_close(run(chain, images), network(images), rtol=0, atol=0)


@pytest.mark.parametrize(
    "functions",
    [
        (torch.sin,),
        (lambda maps: maps + maps,),
        (lambda maps: maps.view(2, -1, 2),),
        (lambda maps: maps.mean([2, 3], keepdim=True),),
        (lambda maps: torch.flatten(maps, 2),),
        (lambda maps: maps if maps.sum() > 0 else -maps,),
    ],
)
def test_what_is_not_understood_is_not_a_chain(functions):
    assert chain_of(Calls(*functions)) is None


@pytest.mark.parametrize("make", [TwoPaths, Shared])
def test_branches_and_shared_weights_are_not_a_chain(make):
    assert chain_of(make()) is None


def test_the_usual_network_of_functions():
    network = Functional().eval()
    chain = chain_of(network)
    assert list(chain) == ["conv1", "relu", "pool", "conv2", "relu_1", "pool_1", "view", "fc"]
    images = torch.randn(2, 3, 16, 16)
    torch.testing.assert_close(run(chain, images), network(images), rtol=0, atol=0)


def test_tracing_keeps_the_mode():
    network = Functional().train()
    chain_of(network)
    assert network.training
    assert network.conv1.training


def test_readout_begins_where_the_cells_end():
    spatial, readout = split_readout(chain_of(sequential()))
    assert list(spatial) == ["0", "1"]
    assert list(readout) == ["2", "3"]
    mean = {"conv": nn.Conv2d(3, 3, 1), "mean": SpatialMean(), "fc": nn.Linear(3, 2)}
    assert list(split_readout(mean)[1]) == ["mean", "fc"]


def test_containers_open_only_as_far_as_needed():
    inner = nn.Sequential(Residual(3), Residual(3))
    chain = {"a": nn.Sequential(inner, nn.ReLU()), "b": nn.Sequential(nn.ReLU())}
    assert list(opened(copy.deepcopy(chain), "a.0.1")) == ["a.0.0", "a.0.1", "a.1", "b"]
    assert list(opened(chain, "a.0")) == ["a.0", "a.1", "b"]
    assert list(opened(chain, "a.0.0.conv1")) == ["a.0.0", "a.0.1", "a.1", "b"]
    assert list(opened(chain, "")) == ["a", "b"]
