import functools
import sys

import pytest
import torch
from torch import nn

from interp_train import targets
from interp_train.targets import build, build_entries, build_nested, locate, trust, trusted_packages

LINEAR = {"_target_": "torch.nn.Linear", "in_features": 3, "out_features": 2}


@pytest.fixture
def own_package(tmp_path, monkeypatch):
    """A user's package that no configuration may name yet."""
    (tmp_path / "my_package.py").write_text("def double(x=1, **rest):\n    return 2 * x\n")
    (tmp_path / "broken_package.py").write_text("import a_package_that_is_not_there\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(targets, "_TRUSTED", list(targets._TRUSTED))
    yield
    sys.modules.pop("my_package", None)


def test_builds_a_constructor_with_its_arguments():
    layer = build(LINEAR)
    assert isinstance(layer, nn.Linear)
    assert (layer.in_features, layer.out_features) == (3, 2)


def test_injected_objects_are_passed_as_they_are_and_replace_keys():
    layer = nn.Linear(1, 1)
    node = {"_target_": "torch.nn.ModuleList", "modules": "replaced"}
    assert build(node, modules=[layer])[0] is layer


def test_nested_nodes_are_built_first():
    parameters = [nn.Parameter(torch.zeros(1))]
    node = {
        "_target_": "torch.optim.lr_scheduler.StepLR",
        "step_size": 2,
        "optimizer": {"_target_": "torch.optim.SGD", "params": parameters, "lr": 0.5},
    }
    assert build(node).optimizer.param_groups[0]["lr"] == 0.5
    assert isinstance(build_nested([{"a": LINEAR}], "x")[0]["a"], nn.Linear)
    assert build_nested({"a": 1, "b": "text"}, "x") == {"a": 1, "b": "text"}


def test_partial_waits_for_the_missing_arguments():
    made = build({"_target_": "torch.optim.SGD", "_partial_": True, "lr": 0.25})
    assert isinstance(made, functools.partial)
    assert made([nn.Parameter(torch.zeros(1))]).param_groups[0]["lr"] == 0.25


def test_entries_set_to_null_are_left_out():
    assert list(build_entries({"one": LINEAR, "two": None}, "callbacks")) == ["one"]
    assert build_entries(None, "callbacks") == {}


@pytest.mark.parametrize("node", [{"in_features": 3}, {"_target_": 5}, "torch.nn.Linear", None])
def test_a_node_without_target_is_an_error_not_silence(node):
    with pytest.raises(ValueError, match=r"`callbacks\.bar` must be a mapping with a `_target_`"):
        build(node, "callbacks.bar")


@pytest.mark.parametrize("path", ["os.system", "torch.load", "torch.nnx.Linear", "builtins.eval"])
def test_untrusted_targets_are_refused(path):
    with pytest.raises(ValueError, match=r"must lie in a trusted package .*Add `--trust "):
        locate(path)


def test_trust_extends_the_allow_list(own_package):
    with pytest.raises(ValueError, match="--trust my_package"):
        locate("my_package.double")
    trust("my_package")
    trust("my_package")
    assert trusted_packages().count("my_package") == 1
    assert build({"_target_": "my_package.double", "x": 4}) == 8
    assert build({"_target_": "my_package.double", "anything": 4}) == 2  # it takes **rest


def test_a_missing_dependency_of_a_target_is_not_reported_as_a_wrong_path(own_package):
    trust("broken_package")
    with pytest.raises(ModuleNotFoundError, match="a_package_that_is_not_there"):
        locate("broken_package.anything")


def test_wrong_names_lead_to_the_right_ones():
    with pytest.raises(ValueError, match=r"has no 'Lineer'\. Closest names: 'Linear'"):
        locate("torch.nn.Lineer")
    with pytest.raises(ValueError, match=r"`learning\.widht` must be a parameter of Linear"):
        build({**LINEAR, "widht": 3}, "learning")
    with pytest.raises(ValueError, match="must name an importable object, but got 'torchmetrics'"):
        locate("torchmetrics")
