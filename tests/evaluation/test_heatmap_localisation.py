import functools
import math

import pytest
import torch

from interp_train.evaluation.heatmap_localisation import (
    HeatmapLocalisationMetric,
    centre_heatmap,
    grown,
    localisation_mass,
    pointing_game,
    relevance_rank,
)
from interp_train.testing import check_metric_merges


def random_pairs(number=6, side=9, seed=0):
    """Heatmaps with ties and zeros, and masks with at least one pixel."""
    generator = torch.Generator().manual_seed(seed)
    heatmaps = (torch.rand(number, 1, side, side, generator=generator) * 6 - 2).floor().clamp(min=0)
    masks = torch.rand(number, 1, side, side, generator=generator) > 0.8
    masks[:, :, 4, 4] = True
    return heatmaps, masks


def slow_pointing(heatmap, mask, tolerance):
    highest = heatmap.max()
    peaks = (heatmap == highest).nonzero().tolist() if highest > 0 else []
    inside = mask.nonzero().tolist()
    hits = [any(math.dist(peak, pixel) <= tolerance for pixel in inside) for peak in peaks]
    return sum(hits) / len(hits) if hits else 0.0


def slow_rank(heatmap, mask, draws=4000):
    """Mean over random orders of equal pixels."""
    if heatmap.max() == 0:
        return 0.0
    size, total = int(mask.sum()), 0
    for _ in range(draws):
        shuffle = torch.randperm(heatmap.numel())
        order = shuffle[heatmap.flatten()[shuffle].argsort(descending=True, stable=True)]
        total += mask.flatten()[order[:size]].sum().item() / size
    return total / draws


@pytest.mark.parametrize("tolerance", [0, 1, 2])
def test_pointing_game_agrees_with_a_loop(tolerance):
    heatmaps, masks = random_pairs()
    found = pointing_game(heatmaps, grown(masks, tolerance))
    for value, heatmap, mask in zip(found, heatmaps[:, 0], masks[:, 0], strict=True):
        assert value.item() == pytest.approx(slow_pointing(heatmap, mask, tolerance))


def test_mass_and_rank_agree_with_loops():
    heatmaps, masks = random_pairs()
    mass, rank = localisation_mass(heatmaps, masks), relevance_rank(heatmaps, masks)
    for index, (heatmap, mask) in enumerate(zip(heatmaps[:, 0], masks[:, 0], strict=True)):
        assert mass[index].item() == pytest.approx((heatmap[mask].sum() / heatmap.sum()).item())
        assert rank[index].item() == pytest.approx(slow_rank(heatmap, mask), abs=0.01)


def test_hand_numbers():
    heatmap = torch.tensor([[[[4.0, 3.0], [2.0, 1.0]]]])
    mask = torch.tensor([[[[True, False], [True, False]]]])
    assert pointing_game(heatmap, mask).tolist() == [1.0]
    assert localisation_mass(heatmap, mask).tolist() == [0.6]
    assert relevance_rank(heatmap, mask).tolist() == [0.5]


def test_a_constant_heatmap_gets_the_random_baseline_and_zero_gets_none():
    _, masks = random_pairs()
    metric = HeatmapLocalisationMetric(tolerance=1)
    metric.update(torch.full(masks.shape, 0.3), masks)
    found = metric.compute()
    for name in ("pointing_game", "localisation_mass", "relevance_rank"):
        torch.testing.assert_close(found[name], found[f"{name}_random"])
        assert found[f"{name}_oracle"] == 1
    assert found["zero_heatmaps"] == 0
    metric = HeatmapLocalisationMetric(tolerance=1)
    metric.update(torch.zeros(masks.shape), masks)
    found = metric.compute()
    assert found["pointing_game"] == found["localisation_mass"] == found["relevance_rank"] == 0
    assert found["zero_heatmaps"] == 1


def test_random_heatmaps_reach_the_random_baseline():
    masks = random_pairs(1)[1].expand(3000, 1, 9, 9)
    metric = HeatmapLocalisationMetric(tolerance=1)
    metric.update(torch.rand(masks.shape), masks)
    found = metric.compute()
    for name in ("pointing_game", "localisation_mass", "relevance_rank"):
        assert abs(found[name] - found[f"{name}_random"]) < 0.03


def test_the_centre_wins_on_centred_objects_only():
    masks = torch.zeros(2, 1, 9, 9, dtype=torch.bool)
    masks[0, 0, 3:6, 3:6] = True
    masks[1, 0, :2, :2] = True
    for row, expected in ((0, 1.0), (1, 0.0)):
        metric = HeatmapLocalisationMetric(tolerance=0)
        metric.update(masks[:1].float(), masks[row : row + 1])
        assert metric.compute()["pointing_game_centre"] == expected
        assert metric.compute()["relevance_rank_centre"] == expected
    assert centre_heatmap(9, 9).argmax() == 40


def test_images_without_mask_do_not_count():
    heatmaps, masks = random_pairs()
    expected = HeatmapLocalisationMetric()
    expected.update(heatmaps, masks)
    metric = HeatmapLocalisationMetric()
    metric.update(heatmaps, masks)
    metric.update(heatmaps, torch.zeros_like(masks))
    found = metric.compute()
    for name, value in expected.compute().items():
        torch.testing.assert_close(found[name], value)
    empty = HeatmapLocalisationMetric()
    empty.update(heatmaps, torch.zeros_like(masks))
    assert set(empty.compute()) == {"zero_heatmaps"}


def test_equal_over_processes(two_processes):
    updates = [random_pairs(2, seed=seed) for seed in range(5)]
    make = functools.partial(HeatmapLocalisationMetric, 1)
    check_metric_merges(make, updates, run_on_two=two_processes)


def test_errors():
    with pytest.raises(ValueError, match="`tolerance` must be >= 0, but got -1"):
        HeatmapLocalisationMetric(-1)
    with pytest.raises(ValueError, match=r"`masks` must have shape \(2, 1, 4, 4\)"):
        HeatmapLocalisationMetric().update(torch.zeros(2, 1, 4, 4), torch.zeros(2, 1, 3, 4) > 0)
