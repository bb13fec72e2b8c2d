"""Where filters fire in the same few images, drawn over the landmarks of the parts they follow."""

from collections.abc import Sequence
from typing import final

import torch
from lightning.pytorch import LightningModule, Trainer
from matplotlib.figure import Figure
from torch import Tensor

from interp_train.callbacks.peak_panels import LayerPeaks, PeakPanels, best_of_category
from interp_train.callbacks.pinned_images import (
    ToBatch,
    as_bytes,
    pinned_images,
    pixels_of,
    save_record,
)
from interp_train.checks import check_range
from interp_train.evaluation.part_tracking import PartTrackingResult
from interp_train.evaluation.peak_table import part_locations_of
from interp_train.figures import position_figure
from interp_train.structures import Batch


@final
class PositionPanels(PeakPanels):
    """Draws the best filter of each part over pinned validation images, after each validation.

    Filled marks are peaks, rings the landmarks of the part that the filter follows; a filter is
    drawn in images of its category, where its R2 with the part exceeds `least_r2`. Pictures go to
    ``parts/<layer>/positions``; the pinned images to ``measures/panels/pinned.npz``. Without
    landmarks there is nothing to draw over, and only the images are recorded.

    Args:
        layers: dotted names or tap aliases.
        num_images: how many images.
        indices: their places in the validation set; None spreads them evenly.
        least_r2: of the filters that are drawn.
        every_n_epochs: draws in every n-th epoch of a fit, in its last, and in every `validate`.
        by_category: False treats all categories as one when parts are assigned to filters.
        to_batch: turns a foreign batch into an `ImageBatch` or `PartBatch`.
    """

    def __init__(
        self,
        layers: Sequence[str] = ("last",),
        *,
        num_images: int = 8,
        indices: Sequence[int] | None = None,
        least_r2: float = 0.25,
        every_n_epochs: int = 1,
        by_category: bool = True,
        to_batch: ToBatch | None = None,
    ) -> None:
        super().__init__(
            layers, every_n_epochs=every_n_epochs, by_category=by_category, to_batch=to_batch
        )
        check_range("num_images", num_images, 1)
        check_range("least_r2", least_r2, None, 1)
        self.num_images = num_images
        self.indices = indices
        self.least_r2 = least_r2
        self._pinned: Batch | None = None

    def draw_panels(self, trainer: Trainer, module: LightningModule, peaks: LayerPeaks) -> None:
        """Record the pinned images; draw the filters over them."""
        if self._pinned is None:
            self._pinned = pinned_images(
                trainer, number=self.num_images, indices=self.indices, to_batch=self.to_batch
            )
        batch, pixels = self._pinned, pixels_of(module, self._pinned.images)
        save_record(
            trainer,
            "pinned",
            images=as_bytes(pixels),
            sample_ids=batch.sample_ids.numpy(),
            labels=batch.labels.numpy(),
            boxes=batch.boxes.numpy(),
            part_locations=part_locations_of(batch).numpy(),
        )
        if peaks.tracking is None:
            return
        count = peaks.scheme.num_categories
        labels = batch.labels if count > 1 else batch.labels.clamp(max=0)
        units = followed_units(peaks.tracking, labels, self.least_r2)
        parts = (units >= 0).any(0).nonzero()[:, 0].tolist()
        landmarks = part_locations_of(batch).float()
        landmarks = torch.where((units >= 0)[..., None], landmarks, torch.nan)
        positions = positions_in(peaks, batch.sample_ids, units)[:, parts]

        def draw() -> Figure:
            return position_figure(
                pixels,
                landmarks,
                positions,
                unit_parts=parts,
                part_names=[name.replace("_", " ") for name in peaks.scheme.part_names],
            )

        self.submit(trainer, f"parts/{peaks.layer}/positions", draw, vector=True)


def followed_units(tracking: PartTrackingResult, labels: Tensor, least_r2: float) -> Tensor:
    """For each image and part, the best unit of the image's category.

    Args:
        tracking: part and score of each unit.
        labels: category of each image, ``(N,)``.
        least_r2: of a unit that counts.

    Returns:
        Long ``(N, P)``; -1 where no unit follows the part.
    """
    rows = []
    for label in labels.tolist():
        units, scores = best_of_category(tracking, label)
        rows.append(torch.where(scores > least_r2, units, -1))
    return torch.stack(rows)


def positions_in(peaks: LayerPeaks, sample_ids: Tensor, units: Tensor) -> Tensor:
    """Peaks of `units` ``(N, U)`` in the given images, ``(N, U, 2)``.

    NaN where there is no unit (-1), the unit is silent, or the image was not measured.
    """
    found = torch.full((*units.shape, 2), torch.nan)
    for row, sample in enumerate(sample_ids):
        match = (peaks.table.sample_ids == sample).nonzero()[:, 0]
        if len(match):
            active = (peaks.table.values[match[0], units[row]] > 0) & (units[row] >= 0)
            positions = peaks.table.positions[match[0], units[row]]
            found[row] = torch.where(active[:, None], positions, torch.nan)
    return found
