import functools

import pytest
import torch
from torch import nn

from interp_train.diagnosis.heatmaps.saliency import Saliency
from interp_train.evaluation.weight_randomisation import (
    WeightRandomisationMetric,
    average_ranks,
    cascade,
    rank_correlation,
    shuffle_weights,
)
from interp_train.structures import Target
from interp_train.testing import check_metric_merges, leaves_no_trace

TARGET = Target(None, torch.tensor([0, 1, 2]))


def network():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(),
        nn.Conv2d(4, 5, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(5 * 36, 3),
    )  # fmt: skip


def images(seed=1):
    return torch.randn(3, 3, 6, 6, generator=torch.Generator().manual_seed(seed))


class Edges:
    """Looks at the image only."""

    def __call__(self, network, images, target):
        return images.abs().sum(1, keepdim=True)


class Nothing:
    def __call__(self, network, images, target):
        return torch.zeros_like(images[:, :1])


def slow_ranks(values):
    """Mean number of smaller and of smaller or equal others."""
    ranks = []
    for value in values.tolist():
        smaller = sum(other < value for other in values.tolist())
        equal = sum(other == value for other in values.tolist())
        ranks.append(smaller + (equal - 1) / 2)
    return ranks


def test_ranks_agree_with_counting():
    values = (torch.rand(3, 30) * 8).floor()
    for row, found in zip(values, average_ranks(values), strict=True):
        assert found.tolist() == slow_ranks(row)


def test_rank_correlation_by_hand():
    first = torch.tensor([1.0, 2.0, 3.0, 4.0]).view(1, 1, 2, 2)
    assert rank_correlation(first, first.exp()).item() == pytest.approx(1.0)
    assert rank_correlation(first, -first).item() == pytest.approx(-1.0)
    # 1 - 6 * sum d^2 / (n (n^2 - 1)) with d = (1, -1, 0, 0) is 1 - 12 / 60.
    second = torch.tensor([2.0, 1.0, 3.0, 4.0]).view(1, 1, 2, 2)
    assert rank_correlation(first, second).item() == pytest.approx(0.8)
    assert rank_correlation(first, torch.zeros(1, 1, 2, 2)).item() == 0


def test_entries_change_places_and_those_of_a_normalisation_move_together():
    module = nn.BatchNorm2d(50)
    for number, tensor in enumerate((*module.parameters(), *module.buffers())):
        if tensor.dim():
            tensor.data.copy_(torch.arange(50.0) + 100 * number)
    shuffle_weights(module, torch.Generator().manual_seed(0))
    order = module.weight.data.long()
    assert order.tolist() != list(range(50))
    assert sorted(order.tolist()) == list(range(50))
    assert torch.equal(module.bias.data, order + 100.0)
    assert torch.equal(module.running_mean, order + 200.0)
    assert torch.equal(module.running_var, order + 300.0)


def test_the_cascade_goes_down_from_the_output():
    original = network()
    kept = {name: value.clone() for name, value in original.state_dict().items()}
    changed = []
    for copied in cascade(original, 4, seed=0):
        state = copied.state_dict()
        changed.append(
            {name.split(".")[0] for name in kept if not torch.equal(state[name], kept[name])}
        )
    # The normalisation still holds constants, so its third stage shows nothing.
    assert changed == [{"6"}, {"6", "3"}, {"6", "3"}, {"6", "3", "0"}]
    for name, value in original.state_dict().items():
        assert torch.equal(value, kept[name])


def test_a_method_that_ignores_the_network_keeps_its_heatmaps():
    metric = WeightRandomisationMetric(3)
    metric.update(Edges(), network(), images(), TARGET)
    found = metric.compute()
    name = "randomisation_similarity"
    for suffix in ("", "_all", "_insensitive", "_stage_1", "_stage_3"):
        assert found[f"{name}{suffix}"].item() == pytest.approx(1.0)
    assert abs(found[f"{name}_random"]) < 0.3


def test_a_method_that_depends_on_the_network_loses_them():
    metric = WeightRandomisationMetric(3)
    for seed in range(4):
        metric.update(Saliency(), network(), images(seed), TARGET)
    found = metric.compute()
    assert found["randomisation_similarity_all"] < 0.4
    assert found["randomisation_similarity_insensitive"].item() == pytest.approx(1.0)
    stages = [found[f"randomisation_similarity_stage_{stage}"] for stage in (1, 2, 3)]
    torch.testing.assert_close(found["randomisation_similarity"], torch.stack(stages).mean())
    assert stages[-1] == found["randomisation_similarity_all"]


def test_zero_heatmaps_are_similar_to_nothing():
    metric = WeightRandomisationMetric(1)
    metric.update(Nothing(), network(), images(), TARGET)
    found = metric.compute()
    assert found["randomisation_similarity"] == 0
    assert found["zero_heatmaps"] == 1


class SilentOnceChanged:
    """Zero for the second image as soon as the network is another one."""

    def __init__(self, known):
        self.known = known

    def __call__(self, network, images, target):
        heatmaps = images.abs().sum(1, keepdim=True)
        if network is not self.known:
            heatmaps[1] = 0
        return heatmaps


def test_a_stage_without_an_answer_does_not_count():
    known = network()
    metric = WeightRandomisationMetric(2)
    metric.update(SilentOnceChanged(known), known, images(), TARGET)
    found = metric.compute()
    assert found["silent_stages"] == pytest.approx(1 / 3)
    for name in ("", "_all", "_stage_1", "_stage_2"):
        assert found[f"randomisation_similarity{name}"] == pytest.approx(1)


@pytest.mark.parametrize("mode", [torch.enable_grad, torch.no_grad, torch.inference_mode])
def test_leaves_no_trace_in_any_mode(mode):
    net, pixels = network(), images()
    metric = WeightRandomisationMetric(2)
    with mode(), leaves_no_trace(net, pixels):
        metric.update(Saliency(), net, pixels.clone(), TARGET)
    assert metric.compute()["randomisation_similarity"].isfinite()


def test_equal_over_processes(two_processes):
    updates = [(Saliency(), network(), images(seed), TARGET) for seed in range(3)]
    make = functools.partial(WeightRandomisationMetric, 2)
    check_metric_merges(make, updates, run_on_two=two_processes)


def test_constructor_checks():
    with pytest.raises(ValueError, match="`num_stages` must be >= 1, but got 0"):
        WeightRandomisationMetric(0)
