"""The images that excite a filter most, with the part of each that it sees at its peak.

The receptive field of a peak in image resolution is drawn as a disk around the centre of the
peak's cell. Its diameter is a share of the theoretical receptive field: units respond to a much
smaller region than they could; Zhou et al. measured 72 of 195 pixels for the last pooling layer of
AlexNet.

Reference: B. Zhou, A. Khosla, A. Lapedriza, A. Oliva, A. Torralba, "Object Detectors Emerge in Deep
Scene CNNs", ICLR 2015, table 1.
"""

from collections.abc import Sequence
from typing import Any, final

import torch
from lightning.pytorch import LightningModule, Trainer
from matplotlib.figure import Figure
from torch import Tensor
from torch.nn import functional

from interp_train.activations import ActivationTap
from interp_train.callbacks.peak_panels import (
    LayerPeaks,
    PeakPanels,
    active_units,
    tracking_units,
    unit_caption,
)
from interp_train.callbacks.pinned_images import (
    ToBatch,
    as_bytes,
    loaded_images,
    pixels_of,
    save_record,
)
from interp_train.checks import check_choice, check_range
from interp_train.evaluation.peak_table import MapFrame
from interp_train.figures import UnitPictures, outlined, spotlight, unit_figure
from interp_train.receptive_field import upsampled
from interp_train.structures import Batch
from interp_train.systems import LearnedSystem

NOTE = "bright: field of the peak;  line: half of the peak activation"


@final
class UnitPanels(PeakPanels):
    """Draws the top validation images of chosen filters after each validation.

    Pictures go to ``parts/<layer>/units``; the latest to ``measures/panels/units_<layer>.npz``.
    The validation loader must not shuffle.

    Args:
        layers: dotted names or tap aliases.
        units: which filters: ``"tracking"`` (the best of each part, then the best of the rest;
            the most active where the data has no landmarks), ``"active"`` (highest mean peak),
            or their numbers.
        num_units: how many filters, unless they are listed.
        num_images: top images per filter.
        field_share: diameter of the drawn field over the theoretical one.
        picture_size: side of a drawn image, in pixels.
        every_n_epochs: draws in every n-th epoch of a fit, in its last, and in every `validate`.
        by_category: False treats all categories as one when parts are assigned to filters.
        to_batch: turns a foreign batch into an `ImageBatch` or `PartBatch`.
    """

    def __init__(
        self,
        layers: Sequence[str] = ("last",),
        *,
        units: str | Sequence[int] = "tracking",
        num_units: int = 6,
        num_images: int = 6,
        field_share: float = 0.37,
        picture_size: int = 112,
        every_n_epochs: int = 1,
        by_category: bool = True,
        to_batch: ToBatch | None = None,
    ) -> None:
        super().__init__(
            layers, every_n_epochs=every_n_epochs, by_category=by_category, to_batch=to_batch
        )
        if isinstance(units, str):
            check_choice("units", units, ("tracking", "active"))
        check_range("num_units", num_units, 1)
        check_range("num_images", num_images, 1)
        check_range("field_share", field_share, 0)
        check_range("picture_size", picture_size, 8)
        self.units = units
        self.num_units = num_units
        self.num_images = num_images
        self.field_share = field_share
        self.picture_size = picture_size

    def draw_panels(self, trainer: Trainer, module: LightningModule, peaks: LayerPeaks) -> None:
        """Choose units, load their top images, draw."""
        units = torch.tensor(self._chosen(peaks))
        values, rows = top_images(peaks.table.values[:, units], self.num_images)
        ids = peaks.table.sample_ids[rows].contiguous()
        batch = self._load(trainer, ids)
        maps = activations_of(module, peaks.layer, batch)
        found = torch.searchsorted(batch.sample_ids, ids)
        pictures = unit_pictures(
            pixels_of(module, batch.images)[found],
            maps[found, units[:, None]],
            peaks.frame,
            diameter=drawn_diameter(peaks.frame, self.field_share),
            size=self.picture_size,
        )
        pictures[values <= 0] = torch.nan  # a silent filter has no top image
        captions = [unit_caption(unit, peaks) for unit in units.tolist()]
        save_record(
            trainer,
            f"units_{peaks.layer}",
            pictures=as_bytes(pictures.nan_to_num(1.0)),
            values=torch.where(values > 0, values, torch.nan).numpy(),
            units=units.numpy(),
            captions=captions,
            sample_ids=ids.numpy(),
            epoch=trainer.current_epoch,
        )

        def draw() -> Figure:
            return unit_figure(UnitPictures(pictures, values, captions), note=NOTE)

        self.submit(trainer, f"parts/{peaks.layer}/units", draw)

    def _chosen(self, peaks: LayerPeaks) -> list[int]:
        if not isinstance(self.units, str):
            for unit in self.units:
                check_range("units", unit, 0, peaks.table.values.shape[1] - 1)
            return list(self.units)
        if self.units == "tracking" and peaks.tracking is not None:
            return tracking_units(peaks.tracking, self.num_units)
        return active_units(peaks.table.values, self.num_units)

    def _load(self, trainer: Trainer, sample_ids: Tensor) -> Batch:
        """The images of `sample_ids`, each once, in the order of their ids."""
        wanted = torch.unique(sample_ids)
        places = [self.places[int(sample)] for sample in wanted]
        batch = loaded_images(trainer, places, self.to_batch)
        if not torch.equal(batch.sample_ids, wanted):
            raise ValueError(
                "The validation loader must not shuffle, but its images came in another order "
                "than its sampler gives. Leave out UnitPanels or set shuffle=False."
            )
        return batch


def top_images(values: Tensor, number: int) -> tuple[Tensor, Tensor]:
    """Highest peaks of each unit and their rows.

    Args:
        values: ``(N, U)``.
        number: T; images per unit, fewer if N is less.

    Returns:
        Values and rows, ``(U, T)`` each, descending.
    """
    ordered, rows = values.sort(stable=True, dim=0, descending=True)
    return ordered[:number].T, rows[:number].T


def drawn_diameter(frame: MapFrame, share: float) -> float:
    """Diameter of the drawn field in pixels: a share of the receptive field, >= two cells."""
    side = min(frame.image_height, frame.image_width)
    return max(min(share * frame.geometry.size, side / 2), 2 * frame.geometry.stride)


def unit_pictures(
    pixels: Tensor, maps: Tensor, frame: MapFrame, *, diameter: float, size: int
) -> Tensor:
    """Images with the field of the peak lit and the half-maximum region outlined.

    Args:
        pixels: in [0, 1], ``(U, T, 3, H, W)``.
        maps: the unit's map in each image, ``(U, T, h, w)``.
        frame: how the maps lie in the image.
        diameter: of the lit field, in pixels.
        size: side of the pictures, in pixels.

    Returns:
        ``(U, T, 3, size, size)`` in [0, 1].
    """
    units, tops = pixels.shape[:2]
    flat, flat_maps = pixels.flatten(0, 1), maps.flatten(0, 1).float()
    centres = frame.positions_of(flat_maps.flatten(1).argmax(1)).float()
    shape = (frame.image_height, frame.image_width)
    fields = upsampled(flat_maps[:, None], shape, frame.geometry)
    masks = fields > flat_maps.amax((-2, -1))[:, None, None, None] / 2
    lit = functional.interpolate(
        spotlight(flat, centres, diameter), (size, size), mode="bilinear", antialias=True
    )
    masks = functional.interpolate(masks.float(), (size, size)) > 0.5
    drawn = outlined(lit.clamp(0, 1), masks)
    return drawn.view(units, tops, 3, size, size)


def activations_of(module: LightningModule, layer: str, batch: Batch) -> Tensor:
    """Activations of a layer for a batch on the CPU, ``(N, K, h, w)``, without gradients."""
    with torch.no_grad():
        if isinstance(module, LearnedSystem):
            fields: Any = [field.to(module.device) for field in batch]
            return module.run(type(batch)(*fields)).activations[layer].float().cpu()
        with ActivationTap(module, [layer]) as tap:
            module(batch.images.to(module.device))
        return tap.activations[layer].float().cpu()
