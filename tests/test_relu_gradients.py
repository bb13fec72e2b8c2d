import pytest
import torch
from torch import nn
from torch.nn import functional

from interp_train.relu_gradients import relu_rule
from interp_train.testing import leaves_no_trace

VALUES = torch.tensor([[1.0, 1.0, -1.0, -1.0]])
GRADIENT = torch.tensor([[2.0, -3.0, 5.0, -7.0]])
EXPECTED = {"guided": [[2.0, 0.0, 0.0, 0.0]], "deconvnet": [[2.0, 0.0, 5.0, 0.0]]}


@pytest.mark.parametrize("rule", EXPECTED)
@pytest.mark.parametrize("relu", [nn.ReLU(), nn.ReLU(inplace=True), nn.ReLU6()])
def test_each_rule_by_hand(rule, relu):
    network, leaf = nn.Sequential(relu), VALUES.clone().requires_grad_()
    with leaves_no_trace(network), relu_rule(network, rule) as found:
        output = network(leaf.clone())
    assert output.tolist() == [[1.0, 1.0, 0.0, 0.0]]
    (gradient,) = torch.autograd.grad(output, leaf, GRADIENT)
    assert gradient.tolist() == EXPECTED[rule]
    assert (found.available, found.modules, found.functions) == (1, 1, 0)


def test_outside_the_block_the_gradient_is_the_derivative():
    network, leaf = nn.Sequential(nn.ReLU(inplace=True)), VALUES.clone().requires_grad_()
    with relu_rule(network, "deconvnet"):
        pass
    (gradient,) = torch.autograd.grad(network(leaf.clone()), leaf, GRADIENT)
    assert gradient.tolist() == [[2.0, -3.0, 0.0, 0.0]]


def test_check_counts_functions_and_modules():
    network = nn.Sequential(nn.ReLU())
    with relu_rule(network, "guided") as rule:
        functional.relu(VALUES)
    with pytest.raises(ValueError, match="for a method, but 1 are function calls and 0 are"):
        rule.check("a method")
    with pytest.raises(ValueError, match="1 are function calls"):
        rule.check("a method", part=True)
    with relu_rule(network, "guided") as rule:
        pass
    rule.check("a method", part=True)
    with pytest.raises(ValueError, match="0 are function calls and 0 are modules"):
        rule.check("a method")
    with relu_rule(nn.Identity(), "guided") as rule:
        pass
    with pytest.raises(ValueError, match="0 are function calls and 0 are modules"):
        rule.check("a method", part=True)


def test_an_unknown_rule_is_refused():
    with pytest.raises(ValueError, match="`rule` must be one of 'guided', 'deconvnet'"):
        relu_rule(nn.ReLU(), "plain").__enter__()
