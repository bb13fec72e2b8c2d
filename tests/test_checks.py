import math

import pytest
import torch

from interp_train.checks import check_choice, check_name, check_range, check_shape, closest


def test_closest_prefers_similar_names_then_names_that_contain_it():
    names = ["features.0", "features.12", "classifier", "layer4"]
    assert closest("feature.12", names).startswith("'features.12'")
    assert closest("4", names) == "'layer4'"


def test_closest_falls_back_to_valid_names():
    assert closest("zzz", ["conv1", "conv2", "conv3", "conv4"]) == "'conv1', 'conv2', 'conv3'"
    assert closest("zzz", []) == "(none)"


def test_check_name_accepts_what_is_there():
    check_name("layer", "conv1", iter(["conv1", "conv2"]), "a module of the network")


def test_check_name_says_argument_rule_value_and_way_out():
    with pytest.raises(
        ValueError,
        match=r"`layer` must name a module of the network, but got 'conv9'\. Closest names: 'conv",
    ):
        check_name("layer", "conv9", ["conv1", "relu"], "a module of the network")


def test_check_choice():
    check_choice("pooling", "max", ("max", "average"))
    with pytest.raises(
        ValueError, match=r"`pooling` must be one of 'max', 'average', but got 'min'"
    ):
        check_choice("pooling", "min", ("max", "average"))


@pytest.mark.parametrize(
    ("value", "low", "high"), [(0, 0, 1), (1, 0, 1), (5, 0, None), (-5, None, 0), (3, None, None)]
)
def test_check_range_includes_its_bounds(value, low, high):
    check_range("dropout", value, low, high)


@pytest.mark.parametrize(
    ("value", "low", "high", "rule"),
    [
        (-0.1, 0, 1, ">= 0 and <= 1"),
        (1.1, 0, 1, ">= 0 and <= 1"),
        (-1, 0, None, ">= 0,"),
        (1, None, 0, "must be <= 0,"),
        (math.nan, 0, 1, "but got nan"),
        (math.nan, None, 1, "but got nan"),
    ],
)
def test_check_range_rejects(value, low, high, rule):
    with pytest.raises(ValueError, match=rule):
        check_range("dropout", value, low, high)


@pytest.mark.parametrize(
    ("shape", "rule"),
    [((2, 5), ("N", 5)), ((2, 5), ("N", "K")), ((3, 3), ("H", "H")), ((), ())],
)
def test_check_shape_accepts(shape, rule):
    check_shape("masks", torch.zeros(shape), rule)


@pytest.mark.parametrize(
    ("shape", "rule"),
    [((2, 5), ("N", 4)), ((2, 5), ("N",)), ((2, 5), ("H", "H")), ((2,), ("N", "K"))],
)
def test_check_shape_rejects(shape, rule):
    with pytest.raises(ValueError, match=r"`masks` must have shape \(.*\), but got \("):
        check_shape("masks", torch.zeros(shape), rule)
