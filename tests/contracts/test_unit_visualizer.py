"""Every unit visualizer keeps the contract `interp_train.protocols.UnitVisualizer`."""

import pytest
import torch

from interp_train.protocols import UnitVisualizer
from interp_train.structures import Target
from interp_train.testing import check_unit_visualizer
from tests.contracts.options import built, options, small_network

METHODS = options("unit_visualizer")

# What takes minutes with its defaults is checked with less of the same.
QUICK = {
    "activation_maximisation": {"steps": 3},
    "feature_inversion": {"steps": 3},
    "measured_receptive_field": {"num_occluded": 1, "patch_size": 16, "stride": 16},
}


def quick(name):
    return built("unit_visualizer", name, **QUICK.get(name, {}))


@pytest.mark.parametrize("name", METHODS)
def test_keeps_the_contract(name):
    method = quick(name)
    assert isinstance(method, UnitVisualizer)
    check_unit_visualizer(method, small_network())


@pytest.mark.parametrize("name", METHODS)
def test_pictures_units_of_an_inner_layer(name):
    network = small_network()
    target = Target(network.resolve("top"), torch.tensor([0, 1, 2, 0]))
    check_unit_visualizer(quick(name), network, target=target)
