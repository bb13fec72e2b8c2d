import pytest
import torch
from torch import nn

from interp_train.activations import ActivationTap, gradients_enabled, unwrapped


@pytest.fixture
def network():
    return nn.Sequential(nn.Conv2d(1, 2, 1), nn.ReLU(), nn.Conv2d(2, 3, 1))


def test_records_what_the_layer_puts_out(network):
    images = torch.randn(2, 1, 4, 4)
    with ActivationTap(network, ["1", "2"]) as tap:
        logits = network(images)
    torch.testing.assert_close(tap.activations["1"], network[0](images).relu(), rtol=0, atol=0)
    assert tap.activations["2"] is logits


def test_hooks_are_gone_after_the_block_even_after_an_error(network):
    with pytest.raises(RuntimeError, match="stop"), ActivationTap(network, ["1"]):
        raise RuntimeError("stop")
    assert not any(module._forward_hooks for module in network.modules())


def test_opening_twice_hangs_one_hook(network):
    tap = ActivationTap(network, ["1"]).open().open()
    assert len(network[1]._forward_hooks) == 1
    tap.close()
    assert not network[1]._forward_hooks


def test_take_forgets(network):
    tap = ActivationTap(network, ["1"]).open()
    network(torch.ones(1, 1, 2, 2))
    assert set(tap.take()) == {"1"}
    assert tap.activations == {}
    tap.close()


def test_reads_before_a_mask_that_was_hung_on_the_layer_first(network):
    network[1].register_forward_hook(lambda module, inputs, output: output * 0)
    with ActivationTap(network, ["1"]) as tap:
        network(torch.ones(1, 1, 2, 2))
    torch.testing.assert_close(tap.activations["1"], network[0](torch.ones(1, 1, 2, 2)).relu())


def test_gradients_flow_through_recorded_activations(network):
    with ActivationTap(network, ["1"]) as tap:
        logits = network(torch.ones(1, 1, 2, 2))
    (gradient,) = torch.autograd.grad(logits.sum(), tap.activations["1"])
    # The last layer is linear: each of its input channels gets the sum of its weights.
    expected = network[2].weight.sum(0).expand(2, 2, 2)
    torch.testing.assert_close(gradient[0], expected)


def test_unknown_layers_are_named_with_the_closest_ones(network):
    with pytest.raises(ValueError, match=r"`layer` must name a module of the network.*'7'"):
        ActivationTap(network, ["7"])


class Compiled(nn.Module):
    """Looks like the module that torch.compile returns."""

    def __init__(self, inner):
        super().__init__()
        self._orig_mod = inner


def test_wrappers_are_taken_off(network):
    wrapped = Compiled(network)
    assert unwrapped(wrapped) is network
    with ActivationTap(wrapped, ["1"]) as tap:
        network(torch.ones(1, 1, 2, 2))
    assert "1" in tap.activations


def wrap_in_parallel():
    inner = nn.Linear(2, 2)
    return unwrapped(nn.parallel.DistributedDataParallel(inner)) is inner


def test_distributed_wrappers_are_taken_off(two_processes):
    assert two_processes(wrap_in_parallel) == [True, True]


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_gradients_are_possible_inside_validation(mode):
    weight = nn.Parameter(torch.tensor(3.0))
    with mode():
        image = torch.tensor(2.0)
        with gradients_enabled():
            image = image.clone().requires_grad_()
            (gradient,) = torch.autograd.grad(weight * image, image)
        assert not torch.is_grad_enabled()
    assert gradient.item() == 3.0
    assert weight.grad is None
