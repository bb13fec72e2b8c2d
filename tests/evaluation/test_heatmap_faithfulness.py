import functools
import itertools
import math

import pytest
import torch
from torch import nn

from interp_train.evaluation.heatmap_faithfulness import (
    HeatmapFaithfulnessMetric,
    exchange_auc,
    pixel_ranks,
    random_blocks,
)
from interp_train.evaluation.heatmap_means import correlation
from interp_train.structures import Target
from interp_train.target_scores import scores_of_target
from interp_train.testing import check_metric_merges, leaves_no_trace

NO_MASKS = torch.zeros(3, 0, 0, 0, dtype=torch.bool)


def linear_network(side=6):
    """Logits that weight the pixels of a one-channel image."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(side**2, 3))


def images(number=3, side=6):
    return torch.rand(number, 1, side, side, generator=torch.Generator().manual_seed(1)) + 0.5


TARGET = Target(None, torch.tensor([2, 0, 1]))


def slow_auc(network, before, after, ranks, unit, num_steps):
    """Pixel by pixel, step by step; the trapezoidal rule written out."""
    curve = []
    pixels = ranks.numel()
    for step in range(num_steps + 1):
        image = before.clone()
        for pixel in range(pixels):
            if ranks.flatten()[pixel] < round(step * pixels / num_steps):
                image.flatten(1)[:, pixel] = after.flatten(1)[:, pixel]
        with torch.no_grad():
            curve.append(network(image[None])[0, unit].item())
    return sum((a + b) / 2 for a, b in itertools.pairwise(curve)) / num_steps


def test_areas_agree_with_a_loop_over_pixels():
    network, before, after = linear_network(), images(), torch.zeros(3, 1, 6, 6)
    ranks = pixel_ranks(torch.rand(3, 1, 6, 6), seed=0)
    with scores_of_target(network, before, TARGET) as scores:
        found = exchange_auc(scores, ranks, after, 5, batch_size=4)
    for row, unit in enumerate(TARGET.units.tolist()):
        expected = slow_auc(network, before[row], after[row], ranks[row], unit, 5)
        assert found[row].item() == pytest.approx(expected, abs=1e-5)


def test_hand_number():
    # Two pixels of weight 3 and 1: scores 4, 1, 0 (the area is 1.5) in the order of their weight.
    network = nn.Sequential(nn.Flatten(), nn.Linear(2, 1, bias=False))
    network[1].weight.data.copy_(torch.tensor([[3.0, 1.0]]))
    target = Target(None, torch.tensor([0]))
    with scores_of_target(network, torch.ones(1, 1, 1, 2), target) as scores:
        ranks = pixel_ranks(torch.tensor([[[[0.9, 0.1]]]]), seed=0)
        assert ranks.tolist() == [[[[0, 1]]]]
        found = exchange_auc(scores, ranks, torch.zeros(1, 1, 1, 2), 2, batch_size=8)
    assert found.item() == pytest.approx(1.5)


def test_ranks_follow_the_values_and_ties_are_random():
    values = torch.tensor([0.0, 5.0, 0.0, 7.0] + [0.0] * 60).view(1, 1, 8, 8)
    ranks = pixel_ranks(values, seed=0).flatten()
    assert ranks[3] == 0
    assert ranks[1] == 1
    assert sorted(ranks.tolist()) == list(range(64))
    ties = ranks[4:]
    assert not torch.equal(ties.sort().values, ties)
    assert torch.equal(pixel_ranks(values, seed=0).flatten(), ranks)
    assert not torch.equal(pixel_ranks(values, seed=1).flatten(), ranks)


def test_a_linear_network_s_own_attribution_beats_chance_and_its_opposite_loses():
    network, pixels = linear_network(), images()
    weight = network[1].weight[TARGET.units].detach().view(3, 1, 6, 6)
    evidence = weight * pixels
    faithful, opposite = evidence - evidence.min(), evidence.max() - evidence
    found = {}
    for name, heatmaps in (("faithful", faithful), ("opposite", opposite)):
        metric = HeatmapFaithfulnessMetric(12, scale="logit", num_sets=64, block_size=1)
        metric.update(network, pixels, TARGET, heatmaps, NO_MASKS)
        found[name] = metric.compute()
    good, bad = found["faithful"], found["opposite"]
    assert good["deletion_auc"] < good["deletion_auc_random"] < bad["deletion_auc"]
    assert good["insertion_auc"] > good["insertion_auc_random"] > bad["insertion_auc"]
    # Sensitivity-n of the exact attribution of a linear network is 1 (Ancona et al., prop. 4).
    assert good["sensitivity"].item() == pytest.approx(1.0, abs=1e-5)
    assert bad["sensitivity"].item() == pytest.approx(-1.0, abs=1e-5)
    assert abs(good["sensitivity_random"]) < 0.3
    assert "sensitivity_oracle" not in good


def test_with_a_mask_the_oracle_stands_beside():
    class Inside(nn.Module):
        """Looks at the upper left quarter only."""

        def forward(self, pixels):
            return pixels[:, :, :8, :8].mean((1, 2, 3))[:, None] * torch.tensor([[4.0, 0.0]])

    pixels = torch.ones(2, 1, 16, 16)
    pixels[:, :, ::2] = 0.9
    masks = torch.zeros(2, 1, 16, 16, dtype=torch.bool)
    masks[:, :, :8, :8] = True
    metric = HeatmapFaithfulnessMetric(8, block_size=4)
    target = Target(None, torch.zeros(2, dtype=torch.long))
    metric.update(Inside(), pixels, target, masks.float(), masks)
    found = metric.compute()
    for name in ("deletion_auc", "insertion_auc", "sensitivity"):
        torch.testing.assert_close(found[name], found[f"{name}_oracle"])
    assert found["deletion_auc"] < found["deletion_auc_random"] - 0.1
    assert found["sensitivity"] > 0.95


def test_zero_heatmaps_get_no_better_than_chance():
    network, pixels = linear_network(), images()
    metric = HeatmapFaithfulnessMetric(12, scale="logit", block_size=1)
    metric.update(network, pixels, TARGET, torch.zeros(3, 1, 6, 6), NO_MASKS)
    found = metric.compute()
    assert found["sensitivity"] == 0
    assert found["zero_heatmaps"] == 1
    weight = network[1].weight[TARGET.units].detach().view(3, 1, 6, 6)
    evidence = weight * pixels
    metric.reset()
    metric.update(network, pixels, TARGET, evidence - evidence.min(), NO_MASKS)
    assert found["deletion_auc"] > metric.compute()["deletion_auc"]


def test_correlation_agrees_with_torch_and_constants_count_as_zero():
    first, second = torch.randn(2, 3, 20)
    found = correlation(first, second)
    for row in range(3):
        expected = torch.corrcoef(torch.stack([first[row], second[row]]))[0, 1]
        assert found[row].item() == pytest.approx(expected.item(), abs=1e-6)
    assert correlation(torch.full((1, 20), 0.1), second[:1]).item() == 0


def test_sets_of_blocks_have_one_size():
    generator = torch.Generator().manual_seed(0)
    sets = random_blocks((7, 10), 3, 0.5, num_sets=5, generator=generator)
    assert sets.shape == (5, 1, 7, 10)
    for chosen in sets[:, 0]:
        corners = chosen[::3, ::3]
        assert corners.sum() == round(0.5 * 12)
        for y in range(7):
            for x in range(10):
                assert chosen[y, x] == corners[y // 3, x // 3]


def test_the_scale_is_the_unit_s_share():
    metric = HeatmapFaithfulnessMetric(1, scale="sigmoid")
    network, pixels = linear_network(), images()
    metric.update(network, pixels, TARGET, torch.rand(3, 1, 6, 6), NO_MASKS)
    with torch.no_grad():
        whole, blank = network(pixels), network(torch.zeros(3, 1, 6, 6))
    expected = 0.0
    for row, unit in enumerate(TARGET.units.tolist()):
        ends = (whole[row, unit].item(), blank[row, unit].item())
        expected += sum(1 / (1 + math.exp(-value)) for value in ends) / 6
    assert metric.compute()["deletion_auc"].item() == pytest.approx(expected, abs=1e-5)


def test_leaves_no_trace():
    network = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(32, 3))
    metric = HeatmapFaithfulnessMetric(4, block_size=2)
    pixels, heatmaps = images(), torch.rand(3, 1, 6, 6)
    with torch.inference_mode(), leaves_no_trace(network, pixels, heatmaps):
        metric.update(network, pixels, TARGET, heatmaps, NO_MASKS)
    assert metric.compute()["deletion_auc"].isfinite()


def test_equal_over_processes(two_processes):
    network, pixels = linear_network(), images()
    updates = [
        (network, pixels, TARGET, torch.rand(3, 1, 6, 6), torch.rand(3, 1, 6, 6) > 0.5)
        for _ in range(3)
    ]
    make = functools.partial(HeatmapFaithfulnessMetric, 3, block_size=2, num_sets=4)
    check_metric_merges(make, updates, run_on_two=two_processes)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_steps": 0}, "`num_steps` must be >= 1"),
        ({"scale": "odds"}, "`scale` must be one of 'softmax', 'sigmoid', 'logit', but got 'odds'"),
        ({"block_share": 1.5}, "`block_share` must be >= 0 and <= 1"),
        ({"num_sets": 1}, "`num_sets` must be >= 2"),
        ({"batch_size": 0}, "`batch_size` must be >= 1"),
    ],
)
def test_constructor_checks(options, message):
    with pytest.raises(ValueError, match=message):
        HeatmapFaithfulnessMetric(**options)


def test_shapes_are_checked():
    metric = HeatmapFaithfulnessMetric()
    with pytest.raises(ValueError, match=r"`heatmaps` must have shape \(3, 1, 6, 6\)"):
        metric.update(linear_network(), images(), TARGET, torch.zeros(3, 1, 5, 5), NO_MASKS)
    masks = torch.ones(3, 1, 5, 5, dtype=torch.bool)
    with pytest.raises(ValueError, match=r"`masks` must have shape \(3, 1, 6, 6\)"):
        metric.update(linear_network(), images(), TARGET, torch.zeros(3, 1, 6, 6), masks)


def test_chosen_scores_without_baselines_are_the_same_numbers():
    network, before = linear_network(), images()
    heatmaps = torch.rand(3, 1, 6, 6)
    whole, chosen = (
        HeatmapFaithfulnessMetric(4, scale="logit", num_sets=5, block_size=2, **options)
        for options in ({}, {"scores": ["deletion_auc", "sensitivity"], "baselines": False})
    )
    for metric in (whole, chosen):
        metric.update(network, before, TARGET, heatmaps, NO_MASKS)
    found, expected = chosen.compute(), whole.compute()
    assert set(found) == {"deletion_auc", "sensitivity", "zero_heatmaps"}
    assert all(found[name] == expected[name] for name in found)
    with pytest.raises(ValueError, match="`scores` must be one of 'deletion_auc'"):
        HeatmapFaithfulnessMetric(scores=["deletion"])
