"""Every heatmap method keeps the contract `interp_train.protocols.HeatmapMethod`."""

import pytest
import torch

from interp_train.protocols import HeatmapMethod
from interp_train.structures import Target
from interp_train.testing import check_heatmap_method
from tests.contracts.options import built, options, small_network

METHODS = options("heatmap")


@pytest.mark.parametrize("name", METHODS)
def test_keeps_the_contract(name):
    method = built("heatmap", name)
    assert isinstance(method, HeatmapMethod)
    check_heatmap_method(method, small_network())


@pytest.mark.parametrize("name", METHODS)
def test_explains_units_of_an_inner_layer(name):
    network = small_network()
    target = Target(network.resolve("top"), torch.tensor([0, 1, 2, 0]))
    check_heatmap_method(built("heatmap", name), network, target=target)
