"""The contract checks pass what keeps the contract and name the rule that is broken."""

import functools
import random

import pytest
import torch
from torch import nn
from torchmetrics import Metric

from interp_train.structures import Target
from interp_train.testing import (
    ContractError,
    check_filter_objective,
    check_heatmap_method,
    check_metric_merges,
    check_unit_visualizer,
    leaves_no_trace,
    run_on_two_processes,
)
from tests.contracts.options import small_network


class Brightness:
    """Heatmap of an image: its mean over channels, seen through the network's logits."""

    def __call__(self, network, images, target):
        return images.detach().abs().mean(1, keepdim=True)


class Misbehaving(Brightness):
    """Keeps the contract but for one misdeed."""

    def __init__(self, misdeed):
        self.misdeed = misdeed

    def __call__(self, network, images, target):
        heatmaps = super().__call__(network, images, target)
        return getattr(self, self.misdeed)(network, images, heatmaps)

    def wrong_shape(self, network, images, heatmaps):
        return heatmaps[:, 0]

    def not_finite(self, network, images, heatmaps):
        return heatmaps / 0

    def negative(self, network, images, heatmaps):
        return heatmaps - 1

    def carries_a_graph(self, network, images, heatmaps):
        return heatmaps.requires_grad_()

    def leaves_a_hook(self, network, images, heatmaps):
        network.register_forward_hook(lambda *_: None)
        return heatmaps

    def adds_to_grad(self, network, images, heatmaps):
        next(network.parameters()).grad += 1
        return heatmaps

    def clears_grad(self, network, images, heatmaps):
        network.zero_grad()
        return heatmaps

    def changes_mode(self, network, images, heatmaps):
        network.eval()
        return heatmaps

    def changes_statistics(self, network, images, heatmaps):
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.add_(1)
        return heatmaps

    def changes_images(self, network, images, heatmaps):
        images.add_(1)
        return heatmaps

    def draws_torch(self, network, images, heatmaps):
        torch.rand(1)
        return heatmaps

    def draws_python(self, network, images, heatmaps):
        random.random()
        return heatmaps

    def freezes(self, network, images, heatmaps):
        network.requires_grad_(False)
        return heatmaps

    def is_random(self, network, images, heatmaps):
        return heatmaps + torch.rand(1, generator=self.generator)

    generator = torch.Generator().manual_seed(0)


def test_a_method_that_keeps_the_contract_passes():
    network = small_network()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    check_heatmap_method(Brightness(), network)
    check_heatmap_method(Brightness(), network, target=Target("top", torch.zeros(4).long()))
    for name, value in network.state_dict().items():
        assert torch.equal(value, before[name])
    assert network.training
    assert all(parameter.grad is None for parameter in network.parameters())


@pytest.mark.parametrize(
    ("misdeed", "rule"),
    [
        ("wrong_shape", r"must have shape \(4, 1, 64, 64\), but got \(4, 64, 64\)"),
        ("not_finite", "must be finite"),
        ("negative", "must be >= 0"),
        ("carries_a_graph", "must not carry a graph"),
        ("leaves_a_hook", "must leave hooks as it was"),
        ("adds_to_grad", "must leave the weights' .grad as it was"),
        ("clears_grad", "must leave the weights' .grad as it was"),
        ("changes_mode", "must leave train/eval mode as it was"),
        ("changes_statistics", "must leave weights and statistics as it was"),
        ("changes_images", "must leave its input as it was"),
        ("draws_torch", "must leave torch's random state as it was"),
        ("draws_python", "must leave Python's random state as it was"),
        ("freezes", "must leave requires_grad as it was"),
        ("is_random", "must be the same under one seed"),
    ],
)
def test_each_misdeed_of_a_heatmap_method_is_named(misdeed, rule):
    with pytest.raises(ContractError, match=rule):
        check_heatmap_method(Misbehaving(misdeed), small_network())


def needs_gradients(network, images, target):
    """Fails where gradients are off: in every validation."""
    pixels = images.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(network.eval()(pixels).sum(), pixels)
    network.train()
    return gradient.abs().sum(1, keepdim=True)


def test_a_method_that_needs_gradients_and_does_not_enable_them_fails():
    with pytest.raises((ContractError, RuntimeError)):
        check_heatmap_method(needs_gradients, small_network())


class MeanImage:
    """The mean image of the sample, for every unit; keeps the contract but for one misdeed."""

    def __init__(self, misdeed=None):
        self.misdeed = misdeed
        self.calls = 0

    def __call__(self, network, target, images):
        self.calls += 1
        pictures = (
            images.detach().mean(0, keepdim=True).sigmoid().repeat(len(target.units), 1, 1, 1)
        )
        pictures = pictures.clone()
        if self.misdeed == "one picture":
            return pictures[:1]
        if self.misdeed == "too bright":
            return pictures + 1
        if self.misdeed == "double":
            return pictures.double()
        if self.misdeed == "carries a graph":
            return pictures.requires_grad_()
        if self.misdeed == "changes":
            return pictures / self.calls
        if self.misdeed == "draws":
            torch.rand(1)
        if self.misdeed == "leaves a hook":
            network.register_forward_hook(lambda *_: None)
        return pictures


def test_a_unit_visualizer_that_keeps_the_contract_passes():
    check_unit_visualizer(MeanImage(), small_network())
    check_unit_visualizer(MeanImage(), small_network(), target=Target("top", torch.zeros(4).long()))


@pytest.mark.parametrize(
    ("misdeed", "rule"),
    [
        ("one picture", r"must have shape \(4, 3, height, width\), but got \(1, 3, 64, 64\)"),
        ("too bright", r"must lie in \[0, 1\]"),
        ("double", "must be float32, not torch.float64"),
        ("carries a graph", "must not carry a graph"),
        ("changes", "must be the same in every call, but they differ"),
        ("draws", "must leave torch's random state as it was"),
        ("leaves a hook", "must leave hooks as it was"),
    ],
)
def test_each_misdeed_of_a_unit_visualizer_is_named(misdeed, rule):
    with pytest.raises(ContractError, match=rule):
        check_unit_visualizer(MeanImage(misdeed), small_network())


class Sparsity(nn.Module):
    """L1 norm of the activations; keeps the contract."""

    def __init__(self, misdeed=None):
        super().__init__()
        self.taps = ("top",)
        self.misdeed = misdeed
        self.register_buffer("steps", torch.zeros(()))

    def attach(self, network, num_categories):
        self.taps = tuple(network.resolve(tap) for tap in self.taps)

    def loss_terms(self, activations, labels, logits, epoch):
        (maps,) = activations.values()
        if self.training or self.misdeed == "learns in evaluation":
            self.steps += 1
        value = maps.float().abs().mean()
        if self.misdeed == "not a scalar":
            value = value[None]
        if self.misdeed == "divides by the positives":
            value = value / (labels >= 0).sum()
        if self.misdeed == "draws":
            value = value * torch.rand(())
        if self.misdeed == "backward":
            value.backward(retain_graph=True)
        return {"sparsity": value}

    def measurements(self):
        return {"steps": self.steps}


def test_an_objective_that_keeps_the_contract_passes():
    objective, network = Sparsity(), small_network()
    check_filter_objective(objective, network)
    assert objective.taps == ("top",)
    assert objective.steps == 0


@pytest.mark.parametrize(
    ("misdeed", "rule"),
    [
        ("not a scalar", "must be scalar tensors, but 'sparsity'"),
        ("divides by the positives", "must be finite, but 'sparsity' is inf"),
        ("draws", "must leave torch's random state as it was"),
        ("backward", "must leave the weights' .grad as it was"),
        ("learns in evaluation", "must leave weights and statistics as it was"),
    ],
)
def test_each_misdeed_of_an_objective_is_named(misdeed, rule):
    with pytest.raises(ContractError, match=rule):
        check_filter_objective(Sparsity(misdeed), small_network())


class Mean(Metric):
    full_state_update = False

    def __init__(self, sums=True, forgets=True):
        super().__init__()
        self.add_state("total", torch.zeros(()), "sum" if sums else "mean")
        self.add_state("count", torch.zeros((), dtype=torch.long), "sum")
        self.kept = 0.0
        self.forgets = forgets

    def update(self, values):
        self.total += values.sum() + self.kept
        self.count += values.numel()
        self.kept += 0.0 if self.forgets else 1.0

    def compute(self):
        return {"mean": self.total / self.count, "count": self.count.clone()}


UPDATES = [(torch.arange(float(length)),) for length in (1, 2, 4)]


def test_a_metric_that_merges_passes(two_processes):
    check_metric_merges(Mean, UPDATES, run_on_two=two_processes)


def test_a_metric_that_does_not_merge_is_found(two_processes):
    with pytest.raises(ContractError, match="equal over 1 and 2 processes, but 'mean'"):
        check_metric_merges(functools.partial(Mean, sums=False), UPDATES, run_on_two=two_processes)


def test_a_metric_that_does_not_forget_is_found():
    with pytest.raises(ContractError, match="as new after `reset`, but 'mean'"):
        check_metric_merges(functools.partial(Mean, forgets=False), UPDATES)
    with pytest.raises(ValueError, match="`updates` must hold at least 3 entries, but got 2"):
        check_metric_merges(Mean, UPDATES[:2])


@pytest.mark.slow
def test_two_processes_are_started_where_there_is_no_pool():
    assert run_on_two_processes(torch.distributed.get_rank) == [0, 1]
    check_metric_merges(Mean, UPDATES)


def test_leaves_no_trace_passes_what_only_looks():
    network = nn.Linear(2, 2)
    with leaves_no_trace(network):
        network(torch.ones(1, 2))
