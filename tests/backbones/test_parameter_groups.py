import pytest
from torch import nn

from interp_train.backbones.parameter_groups import parameter_groups
from tests.backbones.networks import tiny_backbone


def named(network, groups):
    names = {id(parameter): name for name, parameter in network.named_parameters()}
    return {group["name"]: [names[id(p)] for p in group["params"]] for group in groups}


@pytest.mark.parametrize("decay_all", [True, False])
@pytest.mark.parametrize("multipliers", [{}, {"blocks": 0.1, "blocks.1": 0.5, "fc": 10}])
def test_every_trainable_parameter_is_in_exactly_one_group(multipliers, decay_all):
    network = tiny_backbone(freeze="pool")
    groups = parameter_groups(network, 1.0, multipliers, decay_biases_and_norms=decay_all)
    found = [name for names in named(network, groups).values() for name in names]
    expected = [name for name, p in network.named_parameters() if p.requires_grad]
    assert sorted(found) == sorted(expected)
    assert not any(name.startswith(("conv.", "norm.")) for name in found)


def test_the_longest_prefix_counts_and_prefixes_end_at_dots():
    network = nn.ModuleDict({"a": nn.Linear(1, 1), "ab": nn.Linear(1, 1), "c": nn.Linear(1, 1)})
    groups = parameter_groups(network, 2.0, {"a": 0.5, "c": 3.0, "c.bias": 0.0})
    rates = {
        name: group["lr"]
        for group, names in zip(groups, named(network, groups).values(), strict=True)
        for name in names
    }
    assert rates == {
        "a.weight": 1.0,
        "a.bias": 1.0,
        "ab.weight": 2.0,
        "ab.bias": 2.0,
        "c.weight": 6.0,
        "c.bias": 0.0,
    }


def test_biases_and_norms_may_go_without_decay():
    network = tiny_backbone()
    groups = parameter_groups(network, 1.0, {}, weight_decay=0.1, decay_biases_and_norms=False)
    decays = {group["name"]: group["weight_decay"] for group in groups}
    assert decays == {"rest": 0.1, "rest_without_decay": 0.0}
    exempt = named(network, groups)["rest_without_decay"]
    assert "norm.weight" in exempt
    assert "conv.bias" in exempt
    assert "conv.weight" not in exempt
    assert "weight_decay" not in parameter_groups(network, 1.0, {})[0]


def test_a_prefix_that_fits_nothing_is_an_error():
    with pytest.raises(ValueError, match=r"`learning_rates` .*'block' fits none.*'blocks'"):
        parameter_groups(tiny_backbone(), 1.0, {"block": 0.1})
