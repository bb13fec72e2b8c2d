"""Which concept a unit stands for, told from a value per image and concept instead of masks.

T. Oikarinen, T.-W. Weng: CLIP-Dissect: Automatic Description of Neuron Representations in Deep
Vision Networks, ICLR 2023. There the values are similarities of images and words; any matrix will
do: attributes, labels, what a second network says. With S the softmax of an image's values over the
concepts and B the images in which unit u is most active, weighted by p from first to last,

    log p(B | c) = sum over B of log(1 + p (S(image, c) - 1)),
    soft-WPMI(u, c) = log p(B | c) - weight * log(mean over units of p(B | c)).

Rank reorder compares the activations of a unit with the same activations put into the order in
which a concept has the images.

Deviations from the released program (as far as it is known here): the error of chance is the exact
mean over all orders, not one of five random ones; images of equal values share the mean of their
places, so that attributes of few values do not depend on the order of the images. A unit whose
output never changes matches nothing.
"""

from typing import NamedTuple, final

import torch
from torch import Tensor
from torchmetrics import Metric

from interp_train.checks import check_choice, check_range, check_shape
from interp_train.evaluation.peak_table import first_rows, joined
from interp_train.evaluation.position_baselines import scrambled
from interp_train.evaluation.row_gathering import gather_rows

SCORES = ("soft_wpmi", "rank_reorder")
POOLINGS = ("mean", "peak")
_AT_ONCE = 2**21  # values at a time, 16 MB


class UnitMatches(NamedTuple):
    """The best concept of each unit.

    Attributes:
        scores: of units and concepts, float64 ``(K, C)``; -inf where nothing can match.
        concepts: best concept of each unit, the first of equals, long ``(K,)``; -1 for none.
        matched: whether its score exceeds what 95 % of the units reach by chance, bool ``(K,)``.
    """

    scores: Tensor
    concepts: Tensor
    matched: Tensor


def soft_wpmi(
    activations: Tensor,
    values: Tensor,
    *,
    temperature: float = 10.0,
    num_images: int = 100,
    first: float = 0.998,
    last: float = 0.97,
    weight: float = 1.0,
) -> Tensor:
    """Soft weighted pointwise mutual information of units and concepts.

    Args:
        activations: one number per image and unit, ``(N, K)``; of images in which a unit is equally
            active the first counts as the more active.
        values: of each image for each concept, ``(N, C)``.
        temperature: factor of the values before the softmax over the concepts.
        num_images: size of B, at most N.
        first: p of the image in which a unit is most active.
        last: p of the last image of B.
        weight: of what all units have in common.

    Returns:
        Float64 ``(K, C)``; -inf for units that never change.

    Raises:
        ValueError: if shapes do not fit, or an argument is out of its range.
    """
    _check(activations, values)
    check_range("num_images", num_images, 1)
    check_range("first", first, 0.0, 1.0)
    check_range("last", last, 0.0, 1.0)
    probabilities = (temperature * values.double()).softmax(1)
    images = activations.argsort(dim=0, descending=True, stable=True)[:num_images]
    shares = torch.linspace(first, last, len(images), dtype=torch.float64, device=values.device)
    evidence = [
        (shares[:, None, None] * (probabilities[some] - 1)).log1p().sum(0)
        for some in torch.split(images, _units_at_once(len(images), values), 1)
    ]
    of_unit = torch.cat(evidence)
    live = _live(activations)
    in_common = of_unit[live].logsumexp(0) - torch.log(live.sum().double())
    return (of_unit - weight * in_common).masked_fill(~live[:, None], -torch.inf)


def rank_reorder(
    activations: Tensor,
    values: Tensor,
    *,
    power: float = 3.0,
    share: float = 0.05,
    mean_power: float = 0.5,
) -> Tensor:
    """Minus the error of a unit's activations in the order of a concept, as a share of chance.

    Args:
        activations: one number per image and unit, ``(N, K)``.
        values: of each image for each concept, ``(N, C)``.
        power: of the differences of activations.
        share: of the images, those in which a unit is most active, that are compared; at least 2.
        mean_power: the error is divided by the mean value of the concept in these images to this
            power, where it is positive; 0 leaves it out.

    Returns:
        Float64 ``(K, C)``, at most 0; with ``mean_power=0`` chance is -1. -inf for units that do
        not change in these images, and for concepts whose mean is not positive there.

    Raises:
        ValueError: if shapes do not fit, or an argument is out of its range.
    """
    _check(activations, values)
    check_range("share", share, 0.0, 1.0)
    check_range("power", power, 0.0)
    check_range("mean_power", mean_power, 0.0)
    count = min(len(values), max(2, int(share * len(values))))
    levels, images = activations.double().sort(dim=0, descending=True, stable=True)
    scores = []
    for unit in range(activations.shape[1]):
        own = levels[:count, unit]
        shown = values[images[:count, unit]].double()
        chance = (own[:, None] - own).abs().pow(power).mean()
        errors = (own[:, None] - _in_order_of(shown, own)).abs().pow(power).mean(0) / chance
        means = shown.mean(0)
        scaled = errors / means.clamp(min=0) ** mean_power if mean_power else errors
        possible = (chance > 0) & ((means > 0) | (mean_power == 0))
        scores.append((-scaled).masked_fill(~possible, -torch.inf))
    return torch.stack(scores)


def _in_order_of(values: Tensor, levels: Tensor) -> Tensor:
    """Levels ``(n,)``, descending, in the order of each column of `values` ``(n, C)``.

    Where a column has equal values, its rows share the mean of their levels.
    """
    ordered, order = values.sort(dim=0, descending=True, stable=True)
    fresh = torch.ones_like(order)
    fresh[1:] = (ordered[1:] != ordered[:-1]).long()
    group = fresh.cumsum(0) - 1
    sums = torch.zeros_like(values).scatter_add(0, group, levels[:, None].expand_as(values))
    sizes = torch.zeros_like(values).scatter_add(0, group, torch.ones_like(values))
    shared = (sums / sizes.clamp(min=1)).gather(0, group)
    return torch.empty_like(values).scatter(0, order, shared)


def _check(activations: Tensor, values: Tensor) -> None:
    check_shape("activations", activations, ("N", "K"))
    check_shape("values", values, (len(activations), "C"))
    check_range("number of images", len(values), 2)


def _live(activations: Tensor) -> Tensor:
    return activations.amax(0) > activations.amin(0)


def _units_at_once(num_images: int, values: Tensor) -> int:
    return max(1, _AT_ONCE // (num_images * values.shape[1]))


@final
class LabelFreeMatching(Metric):
    """Matches the units of a layer with concepts of which only values per image are known.

    Keeps one number per image and unit and the values, 4 (K + C) bytes per image on the device of
    the maps; processes are merged in `compute`. Rows are sorted by `sample_id`, and images that
    came twice count once, so that the numbers do not depend on the number of processes.

    Args:
        score: ``"soft_wpmi"`` or ``"rank_reorder"``, with their defaults.
        pooling: ``"mean"`` or ``"peak"`` of each map.
        seed: of the exchange of values between images.

    Attributes:
        result: of the latest `compute`.

    Raises:
        ValueError: for an unknown choice.
    """

    full_state_update = False
    sample_ids: list[Tensor]
    outputs: list[Tensor]
    values: list[Tensor]

    def __init__(self, *, score: str = "soft_wpmi", pooling: str = "mean", seed: int = 0) -> None:
        super().__init__(dist_sync_fn=gather_rows)
        check_choice("score", score, SCORES)
        check_choice("pooling", pooling, POOLINGS)
        self.score, self.pooling, self.seed = score, pooling, seed
        for name in ("sample_ids", "outputs", "values"):
            self.add_state(name, [], "cat")
        self.result: UnitMatches | None = None

    def update(self, activations: Tensor, values: Tensor, sample_ids: Tensor) -> None:
        """Add one batch.

        Args:
            activations: maps of the layer, ``(N, K, h, w)``, or outputs, ``(N, K)``.
            values: of each image for each concept, ``(N, C)``.
            sample_ids: identity of each image, long ``(N,)``.

        Raises:
            ValueError: if shapes do not fit.
        """
        check_shape("sample_ids", sample_ids, ("N",))
        check_shape("values", values, (len(sample_ids), "C"))
        maps = activations.detach().float()
        if maps.dim() == 4:
            maps = maps.mean((2, 3)) if self.pooling == "mean" else maps.amax((2, 3))
        check_shape("activations", maps, (len(sample_ids), "K"))
        self.outputs.append(maps)
        self.values.append(values.detach().to(maps.device, torch.float32))
        self.sample_ids.append(sample_ids.to(maps.device))

    def compute(self) -> dict[str, Tensor]:
        """Numbers of the layer, beside the same with values exchanged between images.

        Returns:
            ``matched_share`` (of all units, see `UnitMatches`), ``unique_matched`` (different
            concepts of those), ``mean_best_score`` and ``mean_best_score_shuffled`` of the units
            that change, and ``dead_share`` of those that do not.

        Raises:
            ValueError: if fewer than two images were shown, or a number is not finite.
        """
        ids, outputs, values = (
            joined(getattr(self, name)) if len(getattr(self, name)) else torch.zeros(0, 0)
            for name in ("sample_ids", "outputs", "values")
        )
        rows = first_rows(ids.flatten())
        ids, outputs, values = ids.flatten()[rows], outputs[rows], values[rows]
        if not (outputs.isfinite().all() and values.isfinite().all()):
            raise ValueError(
                "`activations` and `values` must be finite, but some are not. The network has "
                "diverged, or the matrix has gaps."
            )
        scores = self._scores(outputs, values)
        others = values[scrambled(ids, self.seed).argsort(stable=True)]
        best, chance = scores.amax(1), self._scores(outputs, others).amax(1)
        live = best.isfinite()
        bound = chance[live].quantile(0.95) if live.any() else torch.tensor(0.0)
        matched = live & (best > bound)
        concepts = torch.where(live, scores.argmax(1), -1)
        self.result = UnitMatches(scores, concepts, matched)
        return {
            "matched_share": matched.double().mean(),
            "unique_matched": torch.tensor(float(len(torch.unique(concepts[matched])))),
            "mean_best_score": _mean(best[live]),
            "mean_best_score_shuffled": _mean(chance[live & chance.isfinite()]),
            "dead_share": 1 - live.double().mean(),
        }

    def _scores(self, outputs: Tensor, values: Tensor) -> Tensor:
        measure = soft_wpmi if self.score == "soft_wpmi" else rank_reorder
        return measure(outputs, values)


def _mean(numbers: Tensor) -> Tensor:
    """The mean; 0 of nothing."""
    return numbers.sum() / max(1, len(numbers))
