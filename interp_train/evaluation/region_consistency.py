"""Region consistency: whether filters respond in the same region in all images, and differ.

W. Shen et al.: "Interpretable Compositional Convolutional Neural Networks", IJCAI 2021
(arXiv 2107.04474), judge filters by the inconsistency of their visual patterns (an entropy of the
parts and regions that a filter responds to) and by the diversity of the patterns. Their formulas
could not be read; what follows is ours, for data with landmarks.

An image is divided into one region per part, the cells whose nearest visible landmark is that
part's, and the region outside the object's box. A filter's share of a region is the part of its
activation (negative values as 0) that lies there, as a mean over the images of the filter's
category; a map of zeros counts as spread evenly over all regions. Then, each divided by the
logarithm of the number of regions,

* ``region_inconsistency`` is the entropy of a filter's shares, as a mean over filters: 0 = always
  in one region, 1 = in all regions alike, which is also what a dead filter gets;
* ``region_diversity`` is the entropy of the mean of the filters' shares: 1 = filters together
  respond in all regions alike, as vague filters do too;
* ``region_information`` is the difference: what a filter's number tells of its region. 0 = all
  filters alike; 1 = one region per filter, and all regions in use.

Regions differ in size, so read the numbers beside those of random and constant positions. The
oracle has an inconsistency too: where a part is not visible, it responds in the region of another.
Where an image has no box, no cell is outside.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from interp_train.evaluation.part_scheme import (
    as_one_category,
    largest_mean_peak,
    num_categories,
    part_measures_missing,
    visible_parts,
)
from interp_train.evaluation.peak_table import (
    PeakMetric,
    PeakTable,
    joined,
    part_locations_of,
)
from interp_train.evaluation.position_baselines import measured_followers, position_baselines
from interp_train.structures import Batch, DataInfo, LayerGeometry


class RegionConsistencyResult(NamedTuple):
    """Where each filter responds.

    Attributes:
        shares: of the regions, parts first, the outside of the box last, ``(K, P + 1)``.
        inconsistency: of each filter, in [0, 1], ``(K,)``.
        categories: category of each filter, long ``(K,)``.
    """

    shares: Tensor
    inconsistency: Tensor
    categories: Tensor


def regions_at(points: Tensor, part_locations: Tensor, boxes: Tensor) -> Tensor:
    """Region of each point: the part whose landmark is nearest, or P for outside the box.

    Args:
        points: ``(N, M, 2)``.
        part_locations: NaN where not visible, ``(N, P, 2)``.
        boxes: of the objects; NaN where unknown, ``(N, 4)``.

    Returns:
        Long ``(N, M)``; the first of equally near parts, P in an image without visible parts.
    """
    num_parts = part_locations.shape[1]
    apart = (points[:, :, None] - part_locations[:, None]).square().sum(-1)
    apart = apart.nan_to_num(torch.inf, torch.inf)
    # One more column, so that there is a minimum where there are no parts at all.
    squares, nearest = torch.nn.functional.pad(apart, (0, 1), value=torch.inf).min(-1)
    low, high = boxes[:, None, :2], boxes[:, None, 2:]
    outside = ((points < low) | (points > high)).any(-1)  # never, compared with NaN
    return torch.where(outside | squares.isinf(), num_parts, nearest)


def region_shares(activations: Tensor, regions: Tensor, num_regions: int) -> Tensor:
    """Share of each map's activation that lies in each region.

    Args:
        activations: ``(N, K, h, w)``; negative values count as 0.
        regions: of the cells, long ``(N, h * w)``.
        num_regions: R.

    Returns:
        Float32 ``(N, K, R)``, of sum 1; 1 / R each for a map of zeros.
    """
    mass = activations.detach().float().clamp(min=0).flatten(2)
    # Scaled first: sums of tiny or of huge activations would leave the range of the numbers.
    largest = mass.amax(2, keepdim=True)
    mass = mass / torch.where(largest > 0, largest, 1.0)
    placed = torch.nn.functional.one_hot(regions, num_regions).to(mass.dtype)
    sums = mass @ placed
    totals = sums.sum(2, keepdim=True)
    return torch.where(totals > 0, sums / totals.clamp(min=0.5), 1 / num_regions)


def mean_shares(shares: Tensor, labels: Tensor, categories: Tensor) -> Tensor:
    """Mean of each filter's shares over the images of its category.

    Args:
        shares: ``(N, K, R)``.
        labels: category of each image that counts, long ``(N,)``.
        categories: of the filters, each with an image at least, long ``(K,)``.

    Returns:
        Float64 ``(K, R)``.
    """
    member = (labels[:, None] == categories).double()
    totals = torch.einsum("nkr,nk->kr", shares.double(), member)
    return totals / member.sum(0)[:, None]


def relative_entropy(shares: Tensor) -> Tensor:
    """Entropy of shares ``(..., R)`` over that of equal shares, in [0, 1], ``(...)``."""
    entropy: Tensor = -torch.special.xlogy(shares, shares).sum(-1)
    return entropy.clamp(min=0) / math.log(shares.shape[-1])  # below by rounding only


def region_scores(shares: Tensor, categories: Tensor) -> dict[str, Tensor]:
    """Inconsistency, diversity and information of filters.

    Diversity is found per category, and averaged with the number of filters as weight.

    Args:
        shares: of each filter, ``(K, R)``.
        categories: of the filters, long ``(K,)``.
    """
    inconsistency = relative_entropy(shares).mean()
    diversity = torch.zeros_like(inconsistency)
    for category in torch.unique(categories):
        own = shares[categories == category]
        diversity += relative_entropy(own.mean(0)) * len(own) / len(shares)
    return {
        "region_inconsistency": inconsistency,
        "region_diversity": diversity,
        "region_information": (diversity - inconsistency).clamp(min=0),  # below by rounding only
    }


def baseline_scores(name: str, baseline: PeakTable, counted: Tensor) -> dict[str, Tensor]:
    """The scores of the pseudo-filters of a position baseline, in all categories.

    Args:
        name: of the baseline.
        baseline: its positions, and the annotations.
        counted: images that count, bool ``(N,)``.
    """
    number = int(baseline.labels.max()) + 1
    kept = measured_followers(name, baseline, number)
    baseline = PeakTable(*(field[counted] for field in baseline))
    num_regions = baseline.part_locations.shape[1] + 1
    regions = regions_at(baseline.positions, baseline.part_locations, baseline.boxes)
    shares = torch.nn.functional.one_hot(regions, num_regions)
    found, categories = [], []
    for category in torch.unique(baseline.labels).tolist():
        own = shares[baseline.labels == category][:, kept[category]]
        found.append(own.double().mean(0))
        categories.append(torch.full((own.shape[1],), category))
    return region_scores(torch.cat(found), torch.cat(categories))


class RegionConsistencyMetric(PeakMetric):
    """Region consistency of a layer's filters, beside that of positions that know nothing.

    Keeps the shares of each image in half precision.

    Args:
        geometry: receptive fields of the layer; None lets the cells tile the image evenly.
        info: names of the parts and categories.
        by_category: False treats all categories as one.
        seed: of the random baseline.
    """

    shares: list[Tensor]

    def __init__(
        self,
        geometry: LayerGeometry | None = None,
        info: DataInfo | None = None,
        *,
        by_category: bool = True,
        seed: int = 0,
    ) -> None:
        super().__init__(geometry)
        self.add_state("shares", [], "cat")
        self.info, self.by_category, self.seed = info, by_category, seed
        self.result: RegionConsistencyResult | None = None
        self.latest: PeakTable | None = None

    def update(self, activations: Tensor, batch: Batch) -> None:
        """Add where the maps of one batch respond."""
        super().update(activations, batch)
        assert self._local_frame is not None  # the peaks came first
        cells = torch.arange(activations.shape[2] * activations.shape[3])
        centres = self._local_frame.positions_of(cells).to(activations.device)
        locations = part_locations_of(batch).float()
        points = centres.expand(len(activations), -1, -1)
        regions = regions_at(points, locations, batch.boxes.float())
        found = region_shares(activations, regions, locations.shape[1] + 1)
        self.shares.append(found.half())

    def compute(self) -> dict[str, Tensor]:
        """``region_inconsistency``, ``region_diversity``, ``region_information`` and baselines.

        Empty (see `missing`) without landmarks.
        """
        self.latest = table = self.table()
        rows = self.kept_rows(joined(self.sample_ids))
        shares = joined(self.shares)[rows]
        self.result, self.missing = None, part_measures_missing(table, boxes=False)
        if self.missing:
            return {}
        count = num_categories(table.labels, self.info) if self.by_category else 1
        table = table if count > 1 else as_one_category(table)
        counted = visible_parts(table).any(1) & (table.labels >= 0)
        present = torch.zeros(count, dtype=torch.bool)
        present[table.labels[counted]] = True
        categories = largest_mean_peak(table, present)
        found = mean_shares(shares[counted], table.labels[counted], categories)
        self.result = RegionConsistencyResult(found, relative_entropy(found), categories)
        scores = region_scores(found, categories)
        for name, baseline in position_baselines(table, self.frame(), self.seed).items():
            for quantity, value in baseline_scores(name, baseline, counted).items():
                scores[f"{quantity}_{name}"] = value
        return scores
