"""Peak consistency: does a filter's peak move as the image is moved?

A measure of this package that needs no annotations. An image is shifted, mirrored or scaled by a
known transform A; a filter that stands for something in the image has its peak at A p after it had
it at p. A trial is one filter on one image under one transform. It counts if A p lies within the
image, and it is consistent if the new peak lies within one cell of A p along both axes. An image in
which the filter does not fire (peak <= 0, before or after) counts as inconsistent, so a dead filter
scores 0.

Baselines: ``random``, the share of cells that lie within one cell of A p; ``shuffled_images``, the
same trials against the peaks of other images, which is what a filter with a fixed position gets.

What it cannot show: that the filter stands for the same part in different images.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812
from torchmetrics import Metric

from interp_train.checks import check_range
from interp_train.evaluation.peak_table import MapFrame, first_rows, joined, map_frame, peaks_of
from interp_train.evaluation.row_gathering import gather_rows
from interp_train.structures import Batch, LayerGeometry

KINDS = ("shift", "flip", "scale")


class ImageMotion(NamedTuple):
    """An affine motion of the image's content that keeps axes parallel.

    Content at ``(x, y)``, relative to the centre of the image, goes to
    ``(x * scale_x + shift_x, y * scale_y + shift_y)``.

    Attributes:
        kind: one of `KINDS`.
        scale_x: factor; -1 mirrors.
        scale_y: factor.
        shift_x: in image widths.
        shift_y: in image heights.
    """

    kind: str
    scale_x: float = 1.0
    scale_y: float = 1.0
    shift_x: float = 0.0
    shift_y: float = 0.0


def standard_motions(shift: float = 0.15, scale: float = 1.25) -> tuple[ImageMotion, ...]:
    """Two diagonal shifts, the mirror image, and two scales.

    Args:
        shift: in image sides.
        scale: factor; its inverse is the second scale.

    Raises:
        ValueError: if a motion would leave nothing in the image, or move nothing.
    """
    check_range("shift", shift, 0.01, 0.9)
    check_range("scale", scale, 1.01, 4.0)
    return (
        ImageMotion("shift", shift_x=shift, shift_y=shift),
        ImageMotion("shift", shift_x=-shift, shift_y=shift),
        ImageMotion("flip", scale_x=-1.0),
        ImageMotion("scale", scale_x=scale, scale_y=scale),
        ImageMotion("scale", scale_x=1 / scale, scale_y=1 / scale),
    )


def moved_points(points: Tensor, motion: ImageMotion, height: int, width: int) -> Tensor:
    """Where content at `points` ``(..., 2)``, in pixels, goes in an image of that size."""
    size = torch.tensor([width, height], dtype=points.dtype, device=points.device)
    factor, shift = points.new_tensor(motion[1:3]), points.new_tensor(motion[3:5])
    centre = (size - 1) / 2
    return (points - centre) * factor + centre + shift * size


def moved_images(images: Tensor, motion: ImageMotion) -> Tensor:
    """`images` ``(N, channels, H, W)`` with their content moved; the border is continued."""
    scale, shift = images.new_tensor(motion[1:3]), images.new_tensor(motion[3:5])
    # In normalised coordinates an image side is 2 long; the grid names where to read.
    matrix = torch.cat((torch.diag(1 / scale), (-2 * shift / scale)[:, None]), 1)
    grid = F.affine_grid(matrix.expand(len(images), 2, 3), list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, padding_mode="border", align_corners=False)


def expected_peaks(before: Tensor, motion: ImageMotion, frame: MapFrame) -> tuple[Tensor, Tensor]:
    """Where peaks should go, and whether that lies in the image.

    Args:
        before: peak cells in the images, ``(N, K)``.
        motion: of the images.
        frame: grid of the layer.

    Returns:
        Pixels float64 ``(N, K, 2)``, bool ``(N, K)``.
    """
    places = frame.positions_of(before).double()
    expected = moved_points(places, motion, frame.image_height, frame.image_width)
    limit = expected.new_tensor([frame.image_width, frame.image_height]) - 0.5
    return expected, ((expected >= -0.5) & (expected <= limit)).all(-1)


def within_one_cell(expected: Tensor, cells: Tensor, frame: MapFrame) -> Tensor:
    """Whether peak `cells` ``(N, K)`` lie within one cell of `expected` ``(N, K, 2)``."""
    apart = (frame.positions_of(cells) - expected).abs().amax(-1)
    # A hair of tolerance: expected positions are sums of rounded numbers.
    return apart <= frame.geometry.stride * (1 + 1e-6)


def chance_of(expected: Tensor, frame: MapFrame) -> Tensor:
    """Share of all cells that lie within one cell of `expected` ``(N, K, 2)``, ``(N, K)``."""
    near = []
    for axis, count in enumerate((frame.width, frame.height)):
        centres = frame.geometry.offset + frame.geometry.stride * torch.arange(count)
        apart = (centres - expected[..., axis, None]).abs()
        near.append((apart <= frame.geometry.stride * (1 + 1e-6)).double().mean(-1))
    return near[0] * near[1]


class PeakConsistencyMetric(Metric):
    """Share of consistent trials of a layer's filters, beside chance.

    Args:
        geometry: receptive fields of the layer; None lets the cells tile the image evenly.
        motions: of the images; None = `standard_motions`.
    """

    full_state_update = False
    sample_ids: list[Tensor]
    motion_ids: list[Tensor]
    before: list[Tensor]
    after: list[Tensor]
    fires: list[Tensor]
    frame_numbers: Tensor

    def __init__(
        self,
        geometry: LayerGeometry | None = None,
        motions: Sequence[ImageMotion] | None = None,
    ) -> None:
        super().__init__(dist_sync_fn=gather_rows)
        self.geometry = geometry
        self.motions = tuple(motions or standard_motions())
        for name in ("sample_ids", "motion_ids", "before", "after", "fires"):
            self.add_state(name, [], "cat")
        self.add_state("frame_numbers", torch.full((7,), -math.inf), "max")
        self.result: Tensor | None = None
        self.missing = ""

    def update(
        self, activations: Tensor, moved_activations: Tensor, batch: Batch, motion: int
    ) -> None:
        """Add the trials of one batch under one motion.

        Args:
            activations: maps of the images, ``(N, K, h, w)``.
            moved_activations: maps of the moved images, ``(N, K, h, w)``.
            batch: the images.
            motion: index into `motions`.

        Raises:
            ValueError: if the two differ in shape.
        """
        if activations.shape != moved_activations.shape:
            raise ValueError(
                f"`moved_activations` must have the shape of `activations`, "
                f"{tuple(activations.shape)}, but got {tuple(moved_activations.shape)}."
            )
        frame = map_frame(activations, batch.images, self.geometry)
        self.frame_numbers = frame.as_numbers().to(self.frame_numbers.device)
        peaks, before = peaks_of(activations)
        moved_peaks, after = peaks_of(moved_activations)
        self.sample_ids.append(batch.sample_ids)
        self.motion_ids.append(torch.full_like(batch.sample_ids, motion))
        self.before.append(before)
        self.after.append(after)
        self.fires.append(((peaks > 0) & (moved_peaks > 0)).to(torch.uint8))

    def compute(self) -> dict[str, Tensor]:
        """``peak_consistency``, ``peak_consistency_<kind>`` and baselines, means over filters.

        Empty (see `missing`) without images.
        """
        self.result, self.missing = None, ""
        if self.frame_numbers[0] < 0:
            self.missing = "images"
            return {}
        frame = MapFrame.from_numbers(self.frame_numbers)
        scores = {kind: self._of_kind(kind, frame) for kind in self._kinds()}
        self.result = torch.stack([score[0] for score in scores.values()]).mean(0)
        means = {f"peak_consistency_{kind}": score[0].mean() for kind, score in scores.items()}
        for index, name in enumerate(("random", "shuffled_images"), start=1):
            values = torch.stack([score[index].nanmean() for score in scores.values()])
            if values.isfinite().all():
                means[f"peak_consistency_{name}"] = values.mean()
        return {"peak_consistency": self.result.mean(), **means}

    def _kinds(self) -> list[str]:
        used = torch.unique(joined(self.motion_ids)).tolist()
        return list(dict.fromkeys(self.motions[index].kind for index in used))

    def _of_kind(self, kind: str, frame: MapFrame) -> tuple[Tensor, Tensor, Tensor]:
        """Consistency, random chance and consistency with other images, ``(K,)`` each."""
        sums: list[Tensor] = []
        for index, motion in enumerate(self.motions):
            rows = (joined(self.motion_ids) == index).nonzero()[:, 0]
            if motion.kind == kind and len(rows):
                rows = rows[first_rows(joined(self.sample_ids)[rows])]
                sums.append(self._trials(rows, motion, frame))
        trials, hits, chance, other = torch.stack(sums).sum(0)
        if len(torch.unique(joined(self.sample_ids))) < 2:
            other = torch.full_like(other, torch.nan)
        # A filter without trials is consistent in none; for chance it tells nothing.
        counted = torch.where(trials > 0, trials, torch.nan)
        return hits / trials.clamp(min=1), chance / counted, other / counted

    def _trials(self, rows: Tensor, motion: ImageMotion, frame: MapFrame) -> Tensor:
        """Sums over images of trials, hits, chance and hits with another image, ``(4, K)``."""
        before, after = joined(self.before)[rows], joined(self.after)[rows]
        fires = joined(self.fires)[rows] > 0
        expected, counted = expected_peaks(before, motion, frame)
        near = within_one_cell(expected, after, frame) & counted & fires
        other = within_one_cell(expected, after.roll(1, 0), frame) & counted & fires
        chance = chance_of(expected, frame) * counted
        return torch.stack(
            [counted.double().sum(0), near.double().sum(0), chance.sum(0), other.double().sum(0)]
        )
