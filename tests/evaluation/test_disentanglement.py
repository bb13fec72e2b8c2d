"""Codes whose scores are known: perfect, doubled, mixed, random; and slow versions."""

import collections
import functools
import itertools
import math

import pytest
import torch

from interp_train.evaluation.boosted_trees import boosted_trees, quantile_bins
from interp_train.evaluation.disentanglement import (
    Disentanglement,
    concentration,
    dci,
    dci_of_importances,
    disentanglement_scores,
    principal_codes,
    random_codes,
)
from interp_train.evaluation.factor_groups import FactorGroups, factor_vae_score
from interp_train.evaluation.factor_information import (
    binned,
    entropies,
    modularity,
    mutual_information,
    mutual_information_gap,
)
from interp_train.evaluation.linear_probes import (
    beta_vae_score,
    linear_accuracies,
    linear_classifiers,
    separated_predictability,
)
from interp_train.testing import check_metric_merges

SIZES = (3, 4, 2)


def all_combinations(times=20, sizes=SIZES):
    """Every combination of values equally often, ``(N, F)``."""
    return torch.tensor(list(itertools.product(*map(range, sizes)))).repeat(times, 1)


FACTORS = all_combinations()


def slow_information(first, second):
    """Sum over pairs of values of p log(p / (p1 p2))."""
    number = len(first)
    both = collections.Counter(zip(first, second, strict=True))
    one, other = collections.Counter(first), collections.Counter(second)
    return sum(
        count / number * math.log(count * number / (one[a] * other[b]))
        for (a, b), count in both.items()
    )


def test_information_against_a_slow_version():
    generator = torch.Generator().manual_seed(0)
    values = torch.randint(0, 5, (60, 3), generator=generator)
    factors = torch.randint(0, 3, (60, 2), generator=generator) + values[:, :2] // 3
    found = mutual_information(values, factors)
    for place, factor in itertools.product(range(3), range(2)):
        expected = slow_information(values[:, place].tolist(), factors[:, factor].tolist())
        assert found[place, factor].item() == pytest.approx(expected, abs=1e-12)
    expected = slow_information(factors[:, 0].tolist(), factors[:, 0].tolist())
    assert entropies(factors)[0].item() == pytest.approx(expected)


def test_bins_by_hand():
    codes = torch.tensor([[0.0, 5.0], [0.24, 5.0], [0.25, 5.0], [1.0, 5.0]])
    assert binned(codes, 4).tolist() == [[0, 0], [0, 0], [1, 0], [3, 0]]


def test_perfect_codes_reach_the_top():
    scores = disentanglement_scores(3.0 * FACTORS - 1, FACTORS)
    # The second best code knows nothing, so that it answers with one of the values.
    assert scores.pop("sap").item() == pytest.approx(1 - (1 / 3 + 1 / 4 + 1 / 2) / 3, abs=0.04)
    for name, score in scores.items():
        assert score.item() == pytest.approx(1, abs=0.01), name


def test_a_code_that_is_there_twice_takes_the_gap_away():
    """Factors 0 and 1 are told by two codes each, factor 2 by one: a third of the gap is left."""
    codes = FACTORS[:, [0, 0, 1, 1, 2]].float()
    information = mutual_information(binned(codes), FACTORS)
    assert mutual_information_gap(information, entropies(FACTORS)).item() == pytest.approx(1 / 3)
    assert modularity(information).item() == pytest.approx(1)
    assert separated_predictability(codes, FACTORS).item() == pytest.approx(0.5 / 3, abs=0.03)
    assert factor_vae_score(codes, FACTORS) == 1


def test_a_code_that_tells_two_factors_is_not_modular():
    """It knows ln 3 of both; the other codes know nothing and count 0."""
    factors = all_combinations(times=10, sizes=(3, 3))
    mixed = (3 * factors[:, 0] + factors[:, 1]).float()
    codes = torch.stack((mixed, torch.zeros(len(mixed))), 1)
    information = mutual_information(binned(codes), factors)
    torch.testing.assert_close(information[0], torch.full((2,), math.log(3)).double())
    assert modularity(information).item() == pytest.approx(0, abs=1e-9)
    assert mutual_information_gap(information, entropies(factors)).item() == pytest.approx(1)
    half = torch.stack((factors[:, 0].float(), torch.zeros(len(mixed))), 1)
    assert modularity(mutual_information(binned(half), factors)).item() == pytest.approx(0.5)
    # Knows of the second factor half of what it knows of the first: 1 - 0.25 / 1.
    assert modularity(torch.tensor([[2.0, 1.0]])).item() == pytest.approx(0.75)
    found = dci(codes, factors)
    assert found.disentanglement < 0.1
    assert found.completeness > 0.99
    assert found.informativeness > 0.95


def test_random_codes_know_nothing():
    ids = torch.arange(len(FACTORS))
    scores = disentanglement_scores(random_codes(ids, 4), FACTORS)
    assert scores["mig"] < 0.06
    assert scores["sap"] < 0.06
    chance = (1 / 3 + 1 / 4 + 1 / 2) / 3
    assert scores["dci_informativeness"].item() == pytest.approx(chance, abs=0.08)
    assert scores["dci_disentanglement"] < 0.2
    assert scores["factor_vae"].item() == pytest.approx(1 / 3, abs=0.12)


def test_rotated_codes_lie_between():
    # By 45 degrees, and longer by the root of 2: sums and differences are exact on every machine,
    # where rounded ones fall on either side of a bin's edge.
    turn = torch.eye(3)
    turn[:2, :2] = torch.tensor([[1.0, -1.0], [1.0, 1.0]])
    rotated = disentanglement_scores(FACTORS.float() @ turn, FACTORS)
    for name in ("mig", "modularity", "factor_vae", "dci_disentanglement", "dci_completeness"):
        assert rotated[name] < 0.95, name
    assert rotated["dci_informativeness"] > 0.9


def test_samples_of_a_group_share_the_value():
    groups, generator = FactorGroups(FACTORS), torch.Generator().manual_seed(0)
    samples = torch.randint(len(FACTORS), (4000,), generator=generator)
    factor = torch.randint(3, (4000,), generator=generator)
    found = groups.with_same(factor, samples, generator)
    assert torch.equal(FACTORS[found, factor], FACTORS[samples, factor])
    others = FACTORS[found[factor == 0]]
    assert (others[:, 1].bincount() / len(others) - 0.25).abs().max() < 0.05


def test_no_active_code_scores_nothing():
    assert factor_vae_score(torch.ones(len(FACTORS), 2), FACTORS) == 0
    constant = torch.cat([FACTORS.float(), torch.ones(len(FACTORS), 1)], 1)
    assert factor_vae_score(constant, FACTORS) == 1


def test_linear_classifiers_reach_the_optimum():
    """At the optimum the mean gradient is that of the ridge; checked by differences."""
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(2, 40, 3, generator=generator).double()
    labels = torch.randint(0, 3, (40,), generator=generator)
    weights = linear_classifiers(inputs, labels, 3)
    given = torch.nn.functional.pad(inputs, (0, 1), value=1.0)

    def loss(candidate, group):
        entropy = torch.nn.functional.cross_entropy(given[group] @ candidate, labels)
        return entropy + 1e-4 * candidate[:-1].square().sum()

    for group in range(2):
        best = loss(weights[group], group)
        for _ in range(20):
            step = 1e-2 * torch.randn(4, 3, generator=generator).double()
            assert loss(weights[group] + step, group) > best - 1e-9
    separable = torch.tensor([[-2.0], [-1.0], [1.0], [2.0]]).double()[None]
    answers = torch.tensor([0, 0, 1, 1])
    found = linear_classifiers(separable, answers, 2)
    assert linear_accuracies(found, separable, answers).tolist() == [1.0]


def test_the_beta_vae_score_tells_shared_factors():
    assert beta_vae_score(FACTORS.float(), FACTORS, batches=300) > 0.99
    noise = random_codes(torch.arange(len(FACTORS)), 3)
    assert beta_vae_score(noise, FACTORS, batches=300) < 0.5


def slow_best_gain(bins, labels):
    """Largest gain of one question on two classes at scores of 0, by trying all."""
    slopes = [0.5 - label for label in labels]

    def worth(rows):
        return sum(slopes[r] for r in rows) ** 2 / (0.25 * len(rows) + 1)

    rows, best = range(len(labels)), (0.0, None)
    for column in range(bins.shape[1]):
        for threshold in range(int(bins.max()) + 1):
            left = [row for row in rows if bins[row, column] <= threshold]
            right = [row for row in rows if bins[row, column] > threshold]
            gain = worth(left) + worth(right) - worth(list(rows))
            best = max(best, (gain, column), key=lambda entry: entry[0])
    return best


def test_one_question_is_the_best_of_all():
    generator = torch.Generator().manual_seed(1)
    bins = torch.randint(0, 6, (50, 4), generator=generator)
    labels = ((bins[:, 2] > 2).long() + (torch.rand(50, generator=generator) < 0.2).long()) % 2
    gain, column = slow_best_gain(bins, labels.tolist())
    found = boosted_trees(bins, labels, bins[:3], classes=2, rounds=1, depth=1)
    assert found.importances.argmax() == column
    assert found.importances.sum() == pytest.approx(1)
    assert gain > 0
    left = bins[:, column] <= 2
    slopes = 0.5 - labels.double()
    answer = -0.3 * slopes[left].sum() / (0.25 * left.sum() + 1)
    expected = torch.stack([-answer, answer])  # class 1 has the opposite slopes of class 0
    row = int((bins[:3, column] <= 2).nonzero()[0, 0])
    torch.testing.assert_close(found.logits[row], expected)


def test_trees_learn_what_no_line_can_and_leave_noise_alone():
    generator = torch.Generator().manual_seed(0)
    inputs = torch.rand(600, 3, generator=generator)
    labels = ((inputs[:, 0] - 0.5).abs() > 0.25).long()
    train, test = quantile_bins(inputs[:300], inputs[300:])
    found = boosted_trees(train, labels[:300], test, classes=2)
    assert (found.logits.argmax(1) == labels[300:]).float().mean() > 0.95
    assert found.importances[0] > 0.9
    counts = train[:, 0].bincount()
    assert len(counts) == 32
    assert counts.max() <= 2 * counts.min() + 2


def test_concentration_and_dci_by_hand():
    rows = torch.tensor([[1.0, 1, 0, 0], [5, 0, 0, 0], [1, 1, 1, 1], [0, 0, 0, 0]]).double()
    assert concentration(rows).tolist() == pytest.approx([0.5, 1, 0, 0])
    disentanglement, completeness = dci_of_importances(torch.eye(3).double())
    assert (disentanglement.item(), completeness.item()) == pytest.approx((1, 1))
    # Code 0 matters for both factors alike (weight 2/3), code 1 for the second alone (1/3).
    disentanglement, completeness = dci_of_importances(torch.tensor([[1.0, 1.0], [0.0, 1.0]]))
    assert disentanglement.item() == pytest.approx(1 / 3)
    assert completeness.item() == pytest.approx(1 / 3 * 1 + 2 / 3 * 0, abs=1e-6)


def test_principal_codes_are_the_directions_of_largest_variance():
    torch.manual_seed(0)
    hidden = torch.randn(200, 2) * torch.tensor([5.0, 1.0])
    images = hidden @ torch.linalg.qr(torch.randn(12, 2))[0].T
    found = principal_codes(images.view(200, 3, 2, 2), 2)
    variances = found.var(0)
    torch.testing.assert_close(variances.sum(), images.double().var(0).sum(), rtol=1e-5, atol=0)
    assert abs(torch.corrcoef(torch.stack((found[:, 0], hidden[:, 0].double())))[0, 1]) > 0.99
    assert abs(torch.corrcoef(found.T)[0, 1]) < 1e-8


def shuffled_updates():
    factors = all_combinations(times=3, sizes=(3, 3))
    order = torch.randperm(len(factors), generator=torch.Generator().manual_seed(0))
    codes = factors.float() + random_codes(torch.arange(len(factors)), 2) / 3
    return [(codes[part], factors[part], part) for part in order.chunk(3)]


def test_scores_are_equal_over_processes(two_processes):
    make = functools.partial(Disentanglement, 1)
    check_metric_merges(make, shuffled_updates(), tolerance=0.0, run_on_two=two_processes)


def test_what_cannot_be_measured_is_refused():
    with pytest.raises(ValueError, match="`factors` must vary"):
        mutual_information_gap(torch.zeros(2, 1), torch.zeros(1))
    with pytest.raises(ValueError, match="`number of factors` must be >= 2"):
        modularity(torch.zeros(2, 1))
    with pytest.raises(ValueError, match="`factors` must have shape"):
        separated_predictability(torch.zeros(3, 2), torch.zeros(2, 2))
