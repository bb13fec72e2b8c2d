"""Every filter objective keeps the contract `interp_train.protocols.FilterObjective`."""

import copy

import pytest
import torch
import torch.distributed

from interp_train.activations import ActivationTap
from interp_train.learning.classifier import logistic_losses
from interp_train.learning.objective_terms import SecondPath, objective_terms
from interp_train.protocols import FilterObjective
from interp_train.structures import ImageBatch, StepOutputs
from interp_train.testing import check_filter_objective
from tests.contracts.options import built, options, small_network

EPOCH = 5  # objectives may start late
METHODS = options("filter_objective")


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("num_categories", [1, 3])
def test_keeps_the_contract(name, num_categories):
    objective = built("filter_objective", name)
    assert isinstance(objective, FilterObjective)
    check_filter_objective(objective, small_network(num_categories), num_categories=num_categories)


def mean_gradients(objective, network, images, labels, weight=1.0):
    """Gradients at the weights in the third step, averaged over processes as DDP does."""
    world, rank = 1, 0
    if torch.distributed.is_initialized():
        world, rank = torch.distributed.get_world_size(), torch.distributed.get_rank()
    objective, network = copy.deepcopy((objective, network))
    objective.attach(network, 3)
    objective.train()
    layers = [network.resolve(tap) for tap in objective.taps]
    for step in range(3):
        with ActivationTap(network, layers) as tap:
            logits = network(images[step, rank::world])
        share, ids = labels[step, rank::world], torch.arange(len(labels[step]))[rank::world]
        empty = images.new_zeros(len(share), 0, 0, 0)
        batch = ImageBatch(empty, share, ids, images.new_zeros(len(share), 4), empty)
        path = SecondPath(network, share, logistic_losses)
        outputs = StepOutputs(logits, tap.take(), {})
        terms = objective_terms(objective, outputs, batch, path, EPOCH)
        # A task gradient too: an objective may measure itself against it.
        total = logits.square().mean() + weight * torch.stack(list(terms.values())).sum()
        gradients = torch.autograd.grad(total, list(network.parameters()))
    if world > 1:
        for gradient in gradients:
            torch.distributed.all_reduce(gradient)
    return [gradient / world for gradient in gradients]


@pytest.mark.parametrize("name", METHODS)
def test_gradients_are_equal_over_1_and_2_processes(name, two_processes):
    objective = built("filter_objective", name).double()
    network = small_network(batch_norm=False).double()
    images = torch.randn(3, 8, 3, 64, 64, dtype=torch.float64)
    labels = torch.tensor([[0, 1, 2, -1, 0, 0, 1, 2], [1, 2, 0, 0, -1, -1, 2, 1], [2] * 8])
    expected = mean_gradients(objective, network, images, labels)
    task_only = mean_gradients(objective, network, images, labels, weight=0.0)
    assert (expected[0] - task_only[0]).norm() > 1e-4 * expected[0].norm()  # it has a say
    for found in two_processes(mean_gradients, objective, network, images, labels):
        torch.testing.assert_close(found, expected, rtol=1e-8, atol=1e-12)
