import math

import pytest
import torch
import torch.distributed

from interp_train.evaluation.label_free_matching import (
    LabelFreeMatching,
    rank_reorder,
    soft_wpmi,
)


def slow_soft_wpmi(activations, values, temperature=10.0, count=100, first=0.998, last=0.97):
    """Unit by unit, image by image; ties by the order of the images."""
    images, units = len(activations), len(activations[0])
    count = min(count, images)
    evidence = []
    for unit in range(units):
        order = sorted(range(images), key=lambda n: (-activations[n][unit], n))[:count]
        row = []
        for concept in range(len(values[0])):
            total = 0.0
            for rank, image in enumerate(order):
                parts = [math.exp(temperature * value) for value in values[image]]
                probability = parts[concept] / sum(parts)
                share = first + (last - first) * (rank / (count - 1) if count > 1 else 0)
                total += math.log(1 + share * (probability - 1))
            row.append(total)
        evidence.append(row)
    scores = []
    for row in evidence:
        in_common = [
            math.log(sum(math.exp(other[c]) for other in evidence) / units) for c in range(len(row))
        ]
        scores.append([own - common for own, common in zip(row, in_common, strict=True)])
    return torch.tensor(scores, dtype=torch.float64)


def slow_rank_reorder(activations, values, power, count, mean_power):
    """Unit by unit and concept by concept; equal values share the mean of their places."""
    scores = []
    for unit in range(len(activations[0])):
        chosen = sorted(range(len(activations)), key=lambda n: (-activations[n][unit], n))[:count]
        own = [activations[n][unit] for n in chosen]
        chance = sum(abs(a - b) ** power for a in own for b in own) / count**2
        row = []
        for concept in range(len(values[0])):
            shown = [values[n][concept] for n in chosen]
            error = 0.0
            for place in range(count):
                places = [sum(v > shown[place] for v in shown) + k
                          for k in range(shown.count(shown[place]))]  # fmt: skip
                error += abs(own[place] - sum(own[p] for p in places) / len(places)) ** power
            row.append(-error / count / chance / (sum(shown) / count) ** mean_power)
        scores.append(row)
    return torch.tensor(scores, dtype=torch.float64)


@pytest.mark.parametrize("count", [1, 5, 100])
def test_soft_wpmi_agrees_with_loops(count):
    activations, values = torch.rand(12, 4).double().round(decimals=1), torch.rand(12, 3).double()
    found = soft_wpmi(activations, values, num_images=count)
    expected = slow_soft_wpmi(activations.tolist(), values.tolist(), count=count)
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("attributes", [False, True])
@pytest.mark.parametrize(("power", "mean_power"), [(3.0, 0.5), (1.0, 0.0), (2.0, 1.0)])
def test_rank_reorder_agrees_with_loops(attributes, power, mean_power):
    activations, values = torch.rand(20, 4).double(), torch.rand(20, 3).double()
    values = (values > 0.6).double() + 0.1 if attributes else values
    found = rank_reorder(activations, values, power=power, share=0.5, mean_power=mean_power)
    expected = slow_rank_reorder(activations.tolist(), values.tolist(), power, 10, mean_power)
    torch.testing.assert_close(found, expected)


def test_numbers_by_hand():
    """Softmax of (log 3, 0) is 3/4 and 1/4; one image, p = 1: log p(B | c) = log S."""
    activations = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    values = torch.tensor([[math.log(3), 0.0], [0.0, math.log(3)]])
    found = soft_wpmi(activations, values, temperature=1, num_images=1, first=1, last=1)
    expected = torch.tensor([[1.5, 0.5], [0.5, 1.5]]).double().log()  # 3/4 of a mean of 1/2
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)
    # Levels 2, 1, 0 reversed are wrong by 2, 0, 2; chance is (4 * 1 + 2 * 2) / 9.
    scores = rank_reorder(torch.tensor([[2.0], [1.0], [0.0]]),
                          torch.tensor([[9.0, 1.0], [8.0, 2.0], [7.0, 3.0]]),
                          power=1, share=1.0, mean_power=0)  # fmt: skip
    assert scores.tolist() == [[0.0, pytest.approx(-(4 / 3) / (8 / 9))]]


def test_chance_is_the_mean_over_all_orders():
    own = torch.rand(300, 1)
    values = torch.stack([torch.randperm(300) for _ in range(200)], 1).float()
    scores = rank_reorder(own, values, share=1.0, mean_power=0)
    assert float(scores.mean()) == pytest.approx(-1, abs=0.02)


def planted(count=300, dead=True):
    """Units 0 .. 3 follow the concepts 2, 0, 1, 3 in the mean of their maps; 4 is dead."""
    generator = torch.Generator().manual_seed(3)
    values = (torch.rand(count, 6, generator=generator) < 0.2).float()
    maps = torch.rand(count, 5, 3, 3, generator=generator) * 0.2
    maps[:, :4] += values[:, [2, 0, 1, 3], None, None] * torch.rand(count, 4, 3, 3)
    if dead:
        maps[:, 4] = 0
    return maps, values, torch.arange(count) * 7 + 1


@pytest.mark.parametrize("score", ["soft_wpmi", "rank_reorder"])
@pytest.mark.parametrize("pooling", ["mean", "peak"])
def test_planted_units_are_matched(score, pooling):
    metric = LabelFreeMatching(score=score, pooling=pooling)
    maps, values, ids = planted()
    for some in torch.arange(300).split(64):
        metric.update(maps[some], values[some], ids[some])
    numbers = metric.compute()
    assert metric.result.concepts.tolist() == [2, 0, 1, 3, -1]
    assert numbers["dead_share"] == pytest.approx(0.2)
    assert numbers["mean_best_score"] > numbers["mean_best_score_shuffled"]
    if score == "soft_wpmi":
        assert metric.result.matched.tolist() == [True] * 4 + [False]
        assert numbers["matched_share"] == pytest.approx(0.8)
        assert numbers["unique_matched"] == 4


def test_order_repeats_and_precision_do_not_matter():
    maps, values, ids = planted(dead=False)
    found = []
    for order in (torch.arange(300), torch.randperm(300), torch.arange(302) % 300):
        metric = LabelFreeMatching()
        metric.update(maps[order].bfloat16(), values[order].bool(), ids[order])
        found.append(metric.compute())
    assert found[0] == found[1] == found[2]


def measured(maps, values, ids):
    """As many images as there are processes are shared; the last process may have none."""
    metric = LabelFreeMatching()
    several = torch.distributed.is_initialized()
    rank, world = (torch.distributed.get_rank(), 2) if several else (0, 1)
    if len(maps) > 200 or rank == 0:
        step = world if len(maps) > 200 else 1
        own = slice(rank if step == 2 else 0, None, step)
        metric.update(maps[own], values[own], ids[own])
    return metric.compute(), metric.result.scores


@pytest.mark.parametrize("count", [301, 100])
def test_two_processes_agree_with_one(two_processes, count):
    maps, values, ids = planted(count)
    expected = measured(maps, values, ids)
    for numbers, scores in two_processes(measured, maps, values, ids):
        assert numbers == expected[0]
        assert torch.equal(scores, expected[1])


def test_errors():
    with pytest.raises(ValueError, match="`score` must be one of 'soft_wpmi', 'rank_reorder'"):
        LabelFreeMatching(score="cosine")
    with pytest.raises(ValueError, match=r"`values` must have shape \(4, C\), but got \(3, 2\)"):
        soft_wpmi(torch.rand(4, 2), torch.rand(3, 2))
    with pytest.raises(ValueError, match="`share` must be"):
        rank_reorder(torch.rand(4, 2), torch.rand(4, 2), share=2)
    metric = LabelFreeMatching()
    with pytest.raises(ValueError, match="`values` must have shape"):
        metric.update(torch.rand(4, 2, 3, 3), torch.rand(3, 2), torch.arange(4))
    metric.update(torch.full((2, 2), math.nan), torch.rand(2, 2), torch.arange(2))
    with pytest.raises(ValueError, match="`activations` and `values` must be finite"):
        metric.compute()
