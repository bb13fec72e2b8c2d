"""Filters that know nothing, or everything: the baselines beside every position measure.

Each baseline is a set of pseudo-filters in a `PeakTable`, scored by the code that scores filters:

* ``constant``: always the cell nearest the centre of the image;
* ``random``: a random cell, drawn from the seed and the image's `sample_id`;
* ``object_centre``: the cell nearest the centre of the object's box;
* ``mean_landmark``: one per part, the cell nearest the part's mean place in the box frame, put
  into the box of the image;
* ``oracle``: one per part, the cell nearest its landmark (its mean place where it is not visible).

Every pseudo-filter has the value 1 in every image.
"""

import torch
from torch import Tensor

from interp_train.evaluation.part_scheme import boxed, visible_parts
from interp_train.evaluation.peak_table import MapFrame, PeakTable

# The last 63 bits of the multipliers of splitmix64 (Steele et al. 2014), as signed numbers.
_GOLDEN = 0x1E3779B97F4A7C15
_FIRST, _SECOND = 0x3F58476D1CE4E5B9, 0x14D049BB133111EB


def position_baselines(
    table: PeakTable, frame: MapFrame, seed: int = 0, num_random: int = 16
) -> dict[str, PeakTable]:
    """The baselines that the annotations of `table` allow, by name.

    Args:
        table: annotations; its filters are not read.
        frame: grid of the layer.
        seed: of the random baseline.
        num_random: pseudo-filters of the random baseline, over which scores are averaged.
    """
    objects = boxed(table)
    positions = {
        "constant": constant_positions(table, frame),
        "random": random_positions(table.sample_ids, frame, seed, num_random),
    }
    mean = mean_landmarks(table)
    if objects.any():
        positions["object_centre"] = object_centres(table, frame)
    if visible_parts(table)[objects].any():
        positions["mean_landmark"] = frame.snapped(_or_centre(mean, frame))
    if visible_parts(table).any():
        located = torch.where(visible_parts(table)[..., None], table.part_locations, mean)
        positions["oracle"] = frame.snapped(_or_centre(located, frame))
    return {
        name: table._replace(positions=place, values=torch.ones(place.shape[:2]))
        for name, place in positions.items()
    }


def measured_followers(name: str, baseline: PeakTable, num_categories: int) -> Tensor:
    """Which pseudo-filters of a baseline can be scored in which category, bool ``(C, K)``.

    A follower of a part has nothing to follow where the part is never annotated; every other
    pseudo-filter can be scored in every category.
    """
    if name not in ("mean_landmark", "oracle"):
        return torch.ones(num_categories, baseline.values.shape[1], dtype=torch.bool)
    seen = visible_parts(baseline)
    counts = [seen[baseline.labels == category].sum(0) for category in range(num_categories)]
    return torch.stack(counts) >= 2


def constant_positions(table: PeakTable, frame: MapFrame) -> Tensor:
    """The cell nearest the centre of the image, ``(N, 1, 2)``."""
    centre = torch.tensor([(frame.image_width - 1) / 2, (frame.image_height - 1) / 2])
    return frame.snapped(centre).expand(len(table.labels), 1, 2)


def random_positions(sample_ids: Tensor, frame: MapFrame, seed: int, count: int) -> Tensor:
    """Uniformly random cells, ``(N, count, 2)``; the same for an image in every run."""
    draws = scrambled(sample_ids[:, None] * count + torch.arange(count), seed)
    return frame.positions_of(draws % (frame.height * frame.width)).float()


def object_centres(table: PeakTable, frame: MapFrame) -> Tensor:
    """The cell nearest the centre of the object's box, ``(N, 1, 2)``."""
    centres = (table.boxes[:, None, :2] + table.boxes[:, None, 2:]) / 2
    return frame.snapped(_or_centre(centres, frame))


def mean_landmarks(table: PeakTable) -> Tensor:
    """Mean place of each part in the box frame of its category, in each image's pixels.

    Returns:
        ``(N, P, 2)``; NaN where the image has no box, or no image of its category shows the
        part.
    """
    corners, sides = table.boxes[:, None, :2], table.boxes[:, None, 2:] - table.boxes[:, None, :2]
    inside = ((table.part_locations - corners) / sides).double()
    seen = visible_parts(table) & boxed(table)[:, None]
    means = torch.full_like(inside, torch.nan)
    for label in torch.unique(table.labels[boxed(table)]):
        rows = table.labels == label
        shown = seen[rows][..., None]
        total = torch.where(shown, inside[rows], 0).sum(0)
        means[rows] = total / shown.sum(0)
    return (corners + means * sides).float()


def scrambled(numbers: Tensor, seed: int) -> Tensor:
    """A random-looking number >= 0 for each of `numbers`, by the rounds of splitmix64.

    Depends on the number and the seed only, so that it is equal in every process.
    """
    mixed = numbers.long() * _GOLDEN + (seed + 1) * _FIRST % 2**62
    for multiplier, shift in ((_FIRST, 30), (_SECOND, 27), (1, 31)):
        # The shift of a signed number copies its sign; the mask takes those bits away.
        mixed = (mixed ^ ((mixed >> shift) & (2 ** (64 - shift) - 1))) * multiplier
    return mixed & (2**62 - 1)


def _or_centre(points: Tensor, frame: MapFrame) -> Tensor:
    centre = torch.tensor([(frame.image_width - 1) / 2, (frame.image_height - 1) / 2])
    return torch.where(points.isfinite(), points, centre)
