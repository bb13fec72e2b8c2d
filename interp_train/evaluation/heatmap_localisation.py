"""Localisation of heatmaps: do they point at the object or part that they should explain?

Pointing game: the highest pixel lies within a tolerance of the mask. Localisation mass: share of
the heatmap's sum inside the mask. Relevance rank: share of the highest pixels, as many as the mask
has, inside the mask. All in [0, 1], high is good.

References: J. Zhang, Z. Lin, J. Brandt, X. Shen, S. Sclaroff, "Top-down Neural Attention by
Excitation Backprop", ECCV 2016 (pointing game); M. Kohlbrenner, A. Bauer, S. Nakajima, A. Binder,
W. Samek, S. Lapuschkin, "Towards Best Practice in Explaining Neural Network Decisions with LRP",
IJCNN 2020 (mass); L. Arras, A. Osman, W. Samek, "CLEVR-XAI", Information Fusion 81, 2022 (rank).

Deviations: pixels of equal value share their place, so that a constant heatmap gets the random
baseline; a heatmap that is zero everywhere scores 0 and is counted in ``zero_heatmaps``.

Baselines: ``random``, the expectation for random heatmaps; ``centre``, a heatmap that falls with
the distance from the image's centre; ``oracle``, the mask itself. What they cannot show: that the
network uses what the heatmap points at; that is faithfulness.
"""

import torch
from torch import Tensor
from torch.nn import functional

from interp_train.checks import check_range, check_shape
from interp_train.evaluation.heatmap_means import HeatmapMeans

_SCORES = ("pointing_game", "localisation_mass", "relevance_rank")
_BASELINES = ("random", "centre", "oracle")


def grown(masks: Tensor, radius: int) -> Tensor:
    """Masks, bool ``(N, 1, H, W)``, with all pixels up to `radius` away from them."""
    offset = torch.arange(-radius, radius + 1, device=masks.device)
    disk = (offset[:, None] ** 2 + offset**2 <= radius**2).float()[None, None]
    return functional.conv2d(masks.float(), disk, padding=radius) > 0.5


def pointing_game(heatmaps: Tensor, near: Tensor) -> Tensor:
    """Share of each heatmap's highest pixels that hit.

    Args:
        heatmaps: ``(N, 1, H, W)`` >= 0.
        near: the mask and what lies within the tolerance, bool, same shape.

    Returns:
        ``(N,)``; 0 for a heatmap that is zero.
    """
    peaks = (heatmaps == heatmaps.amax((-2, -1), keepdim=True)) & (heatmaps > 0)
    return _ratio(_count(peaks & near), _count(peaks))


def localisation_mass(heatmaps: Tensor, masks: Tensor) -> Tensor:
    """Share of each heatmap's sum inside its mask.

    Args:
        heatmaps: ``(N, 1, H, W)`` >= 0.
        masks: bool, same shape.

    Returns:
        ``(N,)``; 0 for a heatmap that is zero.
    """
    inside = torch.where(masks, heatmaps, 0).double().sum((1, 2, 3))
    return _ratio(inside, heatmaps.double().sum((1, 2, 3)))


def relevance_rank(heatmaps: Tensor, masks: Tensor) -> Tensor:
    """Share of the highest pixels, as many as the mask has, that lie inside it.

    Args:
        heatmaps: ``(N, 1, H, W)`` >= 0.
        masks: bool, same shape.

    Returns:
        ``(N,)``; 0 for a heatmap that is zero or an empty mask.
    """
    values, inside = heatmaps.flatten(1), masks.flatten(1)
    size = inside.sum(1, keepdim=True)
    lowest = values.sort(1, descending=True).values.gather(1, (size - 1).clamp(min=0))
    above, level = values > lowest, values == lowest
    open_places = size[:, 0] - above.sum(1)
    hits = (above & inside).sum(1) + open_places * _ratio((level & inside).sum(1), level.sum(1))
    return torch.where(values.amax(1) > 0, _ratio(hits, size[:, 0]), 0)


def centre_heatmap(height: int, width: int) -> Tensor:
    """A heatmap that falls with the distance from the image's centre, ``(1, 1, H, W)`` > 0."""
    y = torch.linspace(-1, 1, height)[:, None]
    x = torch.linspace(-1, 1, width)
    return (2 - (y**2 + x**2).sqrt())[None, None]


def _count(masks: Tensor) -> Tensor:
    return masks.sum((1, 2, 3))


def _ratio(part: Tensor, whole: Tensor) -> Tensor:
    return torch.where(whole > 0, part.double() / whole.double().clamp(min=1e-300), 0)


class HeatmapLocalisationMetric(HeatmapMeans):
    """Pointing game, localisation mass and relevance rank, beside their baselines.

    Images whose mask is empty do not count.

    Args:
        tolerance: of the pointing game, in pixels; the paper takes 15.
    """

    def __init__(self, tolerance: int = 15) -> None:
        check_range("tolerance", tolerance, 0)
        baselines = [f"{score}_{baseline}" for score in _SCORES for baseline in _BASELINES]
        super().__init__([*_SCORES, *baselines, "zero_heatmaps"])
        self.tolerance = tolerance

    def update(self, heatmaps: Tensor, masks: Tensor) -> None:
        """Add a batch.

        Args:
            heatmaps: ``(N, 1, H, W)`` >= 0.
            masks: where the evidence should lie, bool ``(N, 1, H, W)``.

        Raises:
            ValueError: if the two differ in shape.
        """
        check_shape("heatmaps", heatmaps, ("N", 1, "H", "W"))
        check_shape("masks", masks, tuple(heatmaps.shape))
        near = grown(masks, self.tolerance)
        centre = centre_heatmap(*masks.shape[-2:]).to(masks.device).expand(masks.shape)
        scores = self._scores("", heatmaps, masks, near)
        scores |= self._scores("_centre", centre, masks, near)
        scores |= self._scores("_oracle", masks.float(), masks, near)
        for name in _SCORES:
            area = near if name == "pointing_game" else masks
            scores[f"{name}_random"] = area.double().mean((1, 2, 3))
        annotated = masks.flatten(1).any(1)
        self.add(
            {name: torch.where(annotated, values, torch.nan) for name, values in scores.items()}
        )
        self.add({"zero_heatmaps": (heatmaps.flatten(1).amax(1) <= 0).double()})

    def _scores(
        self, suffix: str, heatmaps: Tensor, masks: Tensor, near: Tensor
    ) -> dict[str, Tensor]:
        values = (
            pointing_game(heatmaps, near),
            localisation_mass(heatmaps, masks),
            relevance_rank(heatmaps, masks),
        )
        return {f"{name}{suffix}": value for name, value in zip(_SCORES, values, strict=True)}
