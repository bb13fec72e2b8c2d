"""An objective that starts in a later epoch: an ordinary network until then."""

import copy

import torch
from torch import nn

from interp_train.learning.filter_objectives.interpretable_filter.module import InterpretableFilter
from tests.learning.filter_objectives.interpretable_filter.test_module import (
    attached,
    gradients,
    images_and_labels,
    small_network,
    step,
)


def test_before_its_first_epoch_the_network_is_the_ordinary_one():
    network = small_network()
    ordinary = copy.deepcopy(network)
    network, objective = attached(network, start_epoch=3, weight=5.0)
    images, labels = images_and_labels()
    terms = step(network, objective, images, labels, epoch=2)
    assert all(term.item() == 0.0 for term in terms.values())
    nn.functional.cross_entropy(ordinary.train()(images), labels).backward()
    for name, parameter in ordinary.named_parameters():
        torch.testing.assert_close(network.get_parameter(name).grad, parameter.grad)
    # From the first step of its epoch on there is a loss, and a mask in the next forward pass.
    step(network, objective, images, labels, epoch=3)
    at_once, _ = attached(copy.deepcopy(ordinary), start_epoch=1)
    torch.testing.assert_close(network(images), at_once(images))
    assert not torch.allclose(network(images), ordinary(images))
    found = objective.measurements()
    assert float(found["head.relu_2/gradient_ratio"]) > 0


def test_epochs_of_the_schedule_count_from_the_first_one_with_a_loss():
    images, labels = images_and_labels()
    found = {}
    for start, epoch in ((1, 2), (4, 5)):
        torch.manual_seed(0)
        network, objective = attached(start_epoch=start, schedule="inverse_epoch", mask=False)
        step(network, objective, images, labels, epoch=start)
        network.zero_grad()
        step(network, objective, images, labels, epoch=epoch)
        found[start] = gradients(network)["head.convolution_1.weight"]
    torch.testing.assert_close(found[1], found[4])


def test_a_checkpoint_remembers_whether_the_mask_has_started():
    images, labels = images_and_labels()
    network, objective = attached(start_epoch=2)
    step(network, objective, images, labels, epoch=2)
    other, restored = attached(copy.deepcopy(small_network()), start_epoch=2)
    assert not restored.filter_layers[0].masking
    restored.load_state_dict(objective.state_dict())
    other.load_state_dict(network.state_dict())
    torch.testing.assert_close(other.eval()(images), network.eval()(images))
    assert "filter_layers.0.masking" not in InterpretableFilter().state_dict()
    _, old = attached()
    assert "filter_layers.0.masking" not in old.state_dict()  # loads checkpoints of before
