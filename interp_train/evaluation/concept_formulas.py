"""Formulas of concepts, and the one that overlaps most with a unit, by beam search.

J. Mu, J. Andreas: Compositional Explanations of Neurons, NeurIPS 2020. A formula is a
concept, or a formula joined with one more concept by OR, AND or AND NOT. The search keeps the
formulas of the largest IoU, and lengthens each of them by every concept in every way.

Counts are exact. A pixel matters only through the set of concepts that it shows, and a data set has
few different sets (as many as combinations of labels). So everything is counted per set: `pixels`
that show it, and `active` ones of a unit among them; a formula is true or false for a whole set.

Deviation: of formulas that are true for the same sets only the first is kept, so that the beam
holds different ones; of equal IoUs the shorter formula wins.
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from interp_train.checks import check_range, check_shape

OPERATORS = ("OR", "AND", "AND NOT")


class Formula(NamedTuple):
    """Concepts joined from left to right: ``((c0 op0 c1) op1 c2) ...``.

    Attributes:
        concepts: indices, as many as the formula is long.
        operators: one of `OPERATORS` between each two.
    """

    concepts: tuple[int, ...]
    operators: tuple[str, ...] = ()

    def text(self, names: Sequence[str]) -> str:
        """The formula in words, e.g. ``"(water OR river) AND NOT blue"``."""
        words = names[self.concepts[0]]
        for place, (operator, concept) in enumerate(
            zip(self.operators, self.concepts[1:], strict=True)
        ):
            left = f"({words})" if place else words
            words = f"{left} {operator} {names[concept]}"
        return words

    def holds(self, shows: Tensor) -> Tensor:
        """Where the formula is true, bool ``(...)``, of what is shown, bool ``(..., C)``."""
        found = shows[..., self.concepts[0]]
        for operator, concept in zip(self.operators, self.concepts[1:], strict=True):
            found = _joined(operator, found, shows[..., concept])
        return found


class FoundFormula(NamedTuple):
    """A formula and its overlap with a unit.

    Attributes:
        formula: the formula.
        intersection: number of the unit's active pixels where it is true.
        union: number of pixels where the unit is active or it is true.
    """

    formula: Formula
    intersection: int
    union: int

    @property
    def iou(self) -> float:
        """Intersection over union; 0 where both are empty."""
        return self.intersection / max(1, self.union)


class _Candidate(NamedTuple):
    """A formula of the beam; `holds` is 1 or 0 per set of concepts, float64 ``(S,)``."""

    found: FoundFormula
    holds: Tensor

    @property
    def rank(self) -> tuple[float, int]:
        return -self.found.iou, len(self.found.formula.concepts)


def best_formulas(
    active: Tensor,
    pixels: Tensor,
    shows: Tensor,
    *,
    max_length: int = 3,
    beam_size: int = 10,
    concepts: Sequence[int] | None = None,
) -> list[FoundFormula]:
    """The formulas that overlap most with one unit.

    Takes ``max_length * beam_size * S * C`` multiplications, and 8 S (C + 2 beam_size) bytes.

    Args:
        active: number of active pixels that show set s, int64 ``(S,)``; below 2**53 in all.
        pixels: number of all pixels that show it, int64 ``(S,)``; below 2**53 in all.
        shows: the sets, bool ``(S, C)``.
        max_length: of a formula, in concepts.
        beam_size: how many formulas are kept.
        concepts: those that a formula may have; None: all.

    Returns:
        At most `beam_size` formulas with an overlap, the best first; none for a unit that is never
        active where a concept is.

    Raises:
        ValueError: if shapes do not fit, or an argument is out of its range.
    """
    check_shape("shows", shows, ("S", "C"))
    check_shape("pixels", pixels, (len(shows),))
    check_shape("active", active, (len(shows),))
    check_range("max_length", max_length, 1)
    check_range("beam_size", beam_size, 1)
    allowed = list(range(shows.shape[1])) if concepts is None else list(concepts)
    search = _Search(active, pixels, shows, allowed)
    beam = search.kept(search.single_concepts(), beam_size)
    for _ in range(max_length - 1):
        longer = search.lengthened(beam, beam_size)
        beam = search.kept([*beam, *longer], beam_size)
    return [candidate.found for candidate in beam]


class _Search:
    """One unit; sums of whole numbers below 2**53 are exact in double precision."""

    def __init__(
        self, active: Tensor, pixels: Tensor, shows: Tensor, concepts: Sequence[int]
    ) -> None:
        self.counts = torch.stack([active, pixels]).double()
        self.area = int(active.sum())
        self.concepts, self.shows = concepts, shows[:, list(concepts)].double()
        self.of_concepts = self.counts @ self.shows  # active pixels and size, (2, C)

    def single_concepts(self) -> list[_Candidate]:
        """Every concept with an overlap."""
        overlap = self.of_concepts.long().tolist()
        return [
            self._candidate(Formula((concept,)), self.shows[:, place], *numbers)
            for place, (concept, *numbers) in enumerate(zip(self.concepts, *overlap, strict=True))
            if numbers[0]
        ]

    def lengthened(self, beam: Sequence[_Candidate], count: int) -> list[_Candidate]:
        """The best formulas that are one concept longer than those of the beam."""
        if not beam:
            return []
        holds = torch.stack([candidate.holds for candidate in beam])
        own = (holds @ self.counts.T).T[:, :, None]  # (2, B, 1)
        both = (holds * self.counts[:, None]) @ self.shows  # (2, B, C)
        numbers = torch.stack([own + self.of_concepts[:, None] - both, both, own - both], 1)
        overlap, sizes = numbers.flatten(1)
        iou = overlap / (self.area + sizes - overlap).clamp(min=1)
        order = iou.argsort(descending=True, stable=True)
        places = (place for place in order.tolist() if overlap[place] > 0)
        made = (
            self._longer(beam, place, int(overlap[place]), int(sizes[place])) for place in places
        )
        return self.kept(made, count, among=beam)

    def kept(
        self,
        candidates: Iterable[_Candidate],
        count: int,
        among: Sequence[_Candidate] | None = None,
    ) -> list[_Candidate]:
        """The first `count` that differ from each other and from those `among`.

        Without `among` the best come first; with it, `candidates` must be in order.
        """
        ordered = candidates if among is not None else sorted(candidates, key=lambda c: c.rank)
        known = {_key(candidate) for candidate in among or ()}
        found: list[_Candidate] = []
        for candidate in ordered:
            key = _key(candidate)
            if key not in known:
                known.add(key)
                found.append(candidate)
            if len(found) == count:
                break
        return found

    def _longer(
        self, beam: Sequence[_Candidate], place: int, overlap: int, size: int
    ) -> _Candidate:
        operator, rest = divmod(place, len(beam) * len(self.concepts))
        row, column = divmod(rest, len(self.concepts))
        left, name = beam[row], OPERATORS[operator]
        concepts, operators = left.found.formula
        formula = Formula((*concepts, self.concepts[column]), (*operators, name))
        holds = _joined(name, left.holds > 0, self.shows[:, column] > 0).double()
        return self._candidate(formula, holds, overlap, size)

    def _candidate(self, formula: Formula, holds: Tensor, overlap: int, size: int) -> _Candidate:
        return _Candidate(FoundFormula(formula, overlap, self.area + size - overlap), holds)


def _joined(operator: str, left: Tensor, right: Tensor) -> Tensor:
    if operator == "OR":
        return left | right
    return left & right if operator == "AND" else left & ~right


def _key(candidate: _Candidate) -> bytes:
    return (candidate.holds > 0).cpu().numpy().tobytes()
