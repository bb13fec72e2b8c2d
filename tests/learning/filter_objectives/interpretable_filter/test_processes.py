"""Two processes with half of the batch each learn what one process learns with all of it."""

import pytest
import torch
from torch import nn

from interp_train.activations import ActivationTap
from tests.learning.filter_objectives.interpretable_filter.test_module import (
    TAPS,
    attached,
    gradients,
    images_and_labels,
)


def step_of_share(options, number, steps):
    """Gradients after some float64 steps on this process's images; the whole batch for one."""
    torch.manual_seed(6)
    network, objective = attached(taps=TAPS, **options)
    network.double(), objective.double()
    images, labels = images_and_labels(number)
    images = images.double()
    ranked = torch.distributed.is_initialized()
    share = slice(torch.distributed.get_rank(), None, 2) if ranked else slice(None)
    trained = nn.parallel.DistributedDataParallel(network) if ranked else network
    for epoch in range(1, steps + 1):
        network.zero_grad()
        with ActivationTap(network, objective.layers) as tap:
            logits = trained(images[share])
            terms = objective.loss_terms(tap.take(), labels[share], logits, epoch)
        task = nn.functional.cross_entropy(logits, labels[share])
        (task + sum(terms.values())).backward()
    return gradients(network), objective.state_dict()


@pytest.mark.parametrize(
    "options",
    [
        {"loss": "exact_mutual_information", "kappa": 20.0, "weight": 1.0},
        {"loss": "paper_approximation", "kappa": 20.0, "weight": 1.0, "center": "argmax"},
        {"loss": "released_gradient", "slope": "learned", "balance": True, "weight": 1.0},
        {"loss": "released_gradient", "relative_to_task": True, "weight": 1.0},
    ],
    ids=lambda options: "-".join(map(str, options.values())),
)
def test_two_processes_learn_what_one_learns(two_processes, options):
    expected, state = step_of_share(options, 8, 3)
    for found, found_state in two_processes(step_of_share, options, 8, 3):
        for name, gradient in expected.items():
            torch.testing.assert_close(found[name], gradient, rtol=0, atol=1e-8)
        for name, value in state.items():
            if options.get("relative_to_task") or not name.endswith("task_gradient"):
                torch.testing.assert_close(found_state[name], value, rtol=0, atol=1e-8)
