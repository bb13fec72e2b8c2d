import itertools
from fractions import Fraction

import pytest
import torch

from interp_train.evaluation.concept_formulas import (
    OPERATORS,
    Formula,
    FoundFormula,
    best_formulas,
)


def all_formulas(num_concepts, max_length):
    for length in range(1, max_length + 1):
        for concepts in itertools.product(range(num_concepts), repeat=length):
            for operators in itertools.product(OPERATORS, repeat=length - 1):
                yield Formula(concepts, operators)


def slow_mask(formula, masks):
    """Pixel by pixel, bool ``(pixels,)`` as a list."""
    found = []
    for pixel in range(masks.shape[1]):
        true = bool(masks[formula.concepts[0], pixel])
        for operator, concept in zip(formula.operators, formula.concepts[1:], strict=True):
            shown = bool(masks[concept, pixel])
            if operator == "OR":
                true = true or shown
            elif operator == "AND":
                true = true and shown
            else:
                true = true and not shown
        found.append(true)
    return found


def slow_iou(formula, unit, masks):
    mask = slow_mask(formula, masks)
    both = sum(a and b for a, b in zip(mask, unit, strict=True))
    return Fraction(both, max(1, sum(a or b for a, b in zip(mask, unit, strict=True))))


def counted(unit, masks):
    """Pixels counted per set of concepts, one set after the other."""
    sets = sorted({tuple(column) for column in masks.T.tolist()})
    place = [sets.index(tuple(column)) for column in masks.T.tolist()]
    pixels, active = torch.zeros(2, len(sets), dtype=torch.long)
    for index, on in zip(place, unit, strict=True):
        pixels[index] += 1
        active[index] += on
    return active, pixels, torch.tensor(sets)


def random_case(seed, concepts=4, pixels=25):
    generator = torch.Generator().manual_seed(seed)
    masks = torch.rand(concepts, pixels, generator=generator) < 0.35
    noise = torch.rand(pixels, generator=generator) < 0.15
    unit = ((masks[0] | masks[1]) & ~masks[2]) ^ noise
    return unit.tolist(), masks


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("max_length", [1, 2, 3])
def test_a_wide_beam_is_brute_force(seed, max_length):
    unit, masks = random_case(seed)
    expected = max(slow_iou(f, unit, masks) for f in all_formulas(4, max_length))
    found = best_formulas(*counted(unit, masks), max_length=max_length, beam_size=500)
    best = found[0]
    assert Fraction(best.intersection, best.union) == expected
    for some in found[:60]:
        assert Fraction(some.intersection, max(1, some.union)) == slow_iou(
            some.formula, unit, masks
        )
    assert [f.iou for f in found] == sorted((f.iou for f in found), reverse=True)


def test_a_planted_formula_is_found():
    _, masks = random_case(0, pixels=200)
    unit = (masks[0] | masks[1]) & ~masks[2]
    (best, *_) = best_formulas(*counted(unit.tolist(), masks), beam_size=3)
    assert best.iou == 1
    assert torch.equal(best.formula.holds(masks.T), unit)
    assert sorted(best.formula.concepts) == [0, 1, 2]


def test_longer_formulas_never_fit_worse_and_the_shorter_of_equals_wins():
    unit, masks = random_case(1)
    ious = [
        best_formulas(*counted(unit, masks), max_length=length, beam_size=5)[0].iou
        for length in (1, 2, 3, 4)
    ]
    assert ious == sorted(ious)
    (best, *_) = best_formulas(*counted(masks[3].tolist(), masks), max_length=3)
    assert best.formula == Formula((3,))


def test_formulas_of_a_beam_differ():
    unit, masks = random_case(2)
    found = best_formulas(*counted(unit, masks), beam_size=40)
    means = {tuple(slow_mask(f.formula, masks)) for f in found}
    assert len(means) == len(found) > 10


def test_numbers_by_hand():
    """8 pixels: a in 0-3, b in 4-5; active in 0-4: a OR b meets 5 of 6."""
    masks = torch.tensor([[1, 1, 1, 1, 0, 0, 0, 0], [0, 0, 0, 0, 1, 1, 0, 0]]).bool()
    unit = [True] * 5 + [False] * 3
    found = best_formulas(*counted(unit, masks), max_length=2)
    assert found[0] == FoundFormula(Formula((0, 1), ("OR",)), 5, 6)
    assert found[1] == FoundFormula(Formula((0,)), 4, 5)
    assert best_formulas(*counted(unit, masks), max_length=2, concepts=[1])[0].union == 6
    assert best_formulas(*counted([False] * 8, masks)) == []


def test_counts_above_single_precision_are_exact():
    large = 2**40 + 1
    active, pixels = torch.tensor([3, large, 0]), torch.tensor([large, large + 2, 7])
    shows = torch.tensor([[True, False], [True, True], [False, True]])
    found = best_formulas(active, pixels, shows, max_length=2)
    by_formula = {" ".join(sorted(f.formula.text("ab").split())): f for f in found}
    assert by_formula["a"].intersection == large + 3
    assert by_formula["a"].union == 2 * large + 2
    assert by_formula["AND a b"].union == large + 2 + 3


def test_words():
    names = ("water", "river", "blue")
    formula = Formula((0, 1, 2), ("OR", "AND NOT"))
    assert formula.text(names) == "(water OR river) AND NOT blue"
    assert Formula((2,)).text(names) == "blue"
    shown = torch.tensor([[True, False, False], [False, True, True], [False, False, False]])
    assert formula.holds(shown).tolist() == [True, False, False]


def test_errors():
    active = torch.ones(3, dtype=torch.long)
    with pytest.raises(ValueError, match=r"`pixels` must have shape \(3\), but got \(2,\)"):
        best_formulas(active, active[:2], torch.ones(3, 2) > 0)
    with pytest.raises(ValueError, match="`beam_size` must be >= 1, but got 0"):
        best_formulas(active, active, torch.ones(3, 2) > 0, beam_size=0)
