"""What dissected units see: their top images, with the pixels outlined in which they are active.

As the figures of D. Bau et al., "Network Dissection", CVPR 2017: the images with the highest
activation of a unit, grey where its upsampled map does not exceed the unit's threshold.
"""

import textwrap
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from interp_train.callbacks.pinned_images import as_bytes, images_at
from interp_train.evaluation.layer_dissection import LayerDissection, UnitRow
from interp_train.evaluation.peak_table import MapFrame
from interp_train.evaluation.top_images import TopImages
from interp_train.figures import outlined, rescaled, unnormalised
from interp_train.receptive_field import upsampled

_SHADE = 0.7  # light that is left outside of the mask
_LINE = "#f0e442"  # yellow of Okabe and Ito
_CAPTION_WIDTH = 24  # letters beside a row of pictures
_AT_ONCE = 32  # images


class ShownImages(NamedTuple):
    """Some images of a stream, on the CPU.

    Attributes:
        pixels: in [0, 1], ``(n, 3, H, W)``.
        sample_ids: of the images, long ``(n,)``.
    """

    pixels: Tensor
    sample_ids: Tensor


Show = Callable[[list[int]], ShownImages]  # from places in the stream


class UnitPanel(NamedTuple):
    """Pictures of a layer's units.

    Attributes:
        units: their indices.
        pictures: in [0, 1], ``(U, T, 3, S, S)``; all NaN where there is no image.
        values: peaks, ``(U, T)``; NaN where there is no image.
        captions: of the units.
    """

    units: list[int]
    pictures: Tensor
    values: Tensor
    captions: list[str]

    def as_arrays(self) -> dict[str, Any]:
        """The panel as arrays for a record."""
        return {
            "pictures": as_bytes(self.pictures.nan_to_num(1.0)),
            "values": self.values.numpy(),
            "units": torch.tensor(self.units, dtype=torch.long).numpy(),
            "captions": self.captions,
        }


def unit_panel(
    found: LayerDissection,
    top: TopImages,
    show: Show,
    frame: MapFrame,
    *,
    number: int,
    size: int,
) -> UnitPanel | None:
    """The units of `LayerDissection.chosen_units` with their top images.

    Args:
        found: what the units detect.
        top: their top images, with the maps as they are counted.
        show: gives images of the stream.
        frame: how the maps lie in the images.
        number: of units.
        size: side of a picture, in pixels.

    Returns:
        None if no unit overlaps with any concept.

    Raises:
        ValueError: if the stream shows other images than before.
    """
    units = found.chosen_units(number)
    if not units:
        return None
    values, wanted = top.values[units].cpu(), top.places[units].cpu()
    places, index = torch.unique(wanted, return_inverse=True)
    shown = show(places.tolist())
    if not torch.equal(shown.sample_ids[index], top.sample_ids[units].cpu()):
        raise ValueError(
            "The loader of the images must not shuffle, but they came in another order than its "
            "sampler gives. Set shuffle=False, or num_units=0 for no pictures."
        )
    picked = top.maps[units].float().cpu()
    thresholds = found.result.thresholds[units, 0]
    pictures = masked_pictures(shown.pixels[index], picked, thresholds, frame, size)
    silent = values <= 0
    pictures[silent] = torch.nan
    rows = found.unit_rows()
    captions = [unit_caption(rows[unit], found.least_iou) for unit in units]
    return UnitPanel(units, pictures, values.masked_fill(silent, torch.nan), captions)


def images_of_loader(loader: Any, read: Callable[[Any], ShownImages]) -> Show:
    """Shows images of a loader by their place in its stream.

    Args:
        loader: for which `has_places` holds; the global random state is left alone.
        read: turns a batch of the loader into what is shown.
    """

    def show(places: list[int]) -> ShownImages:
        with torch.random.fork_rng(devices=[]):
            order = [int(index) for batch in loader.batch_sampler for index in batch]
        parts = [
            read(images_at(loader, [order[place] for place in places[start : start + _AT_ONCE]]))
            for start in range(0, len(places), _AT_ONCE)
        ]
        return ShownImages(*(torch.cat(fields) for fields in zip(*parts, strict=True)))

    return show


def has_places(loader: Any) -> bool:
    """Whether images of a loader can be read again by their place."""
    dataset = getattr(loader, "dataset", None)
    return getattr(loader, "batch_sampler", None) is not None and hasattr(dataset, "__getitem__")


def masked_pictures(
    pixels: Tensor, maps: Tensor, thresholds: Tensor, frame: MapFrame, size: int
) -> Tensor:
    """Patches around the peaks, grey where a unit is not active, with a line around where it is.

    A patch has half the side of the image and lies inside it.

    Args:
        pixels: in [0, 1], ``(U, T, 3, H, W)``.
        maps: the unit's map in each image, ``(U, T, h, w)``.
        thresholds: of the units, ``(U,)``.
        frame: how the maps lie in the images.
        size: side of the pictures, in pixels.

    Returns:
        ``(U, T, 3, size, size)`` in [0, 1].
    """
    flat, flat_maps = pixels.flatten(0, 1), maps.flatten(0, 1)
    fields = upsampled(flat_maps[:, None], (frame.image_height, frame.image_width), frame.geometry)
    levels = thresholds.repeat_interleave(pixels.shape[1])[:, None, None, None]
    centres = frame.positions_of(flat_maps.flatten(1).argmax(1))
    patches = patches_around(torch.cat([flat, (fields > levels).float()], 1), centres)
    masks = functional.interpolate(patches[:, 3:], (size, size)) > 0.5
    colour = functional.interpolate(patches[:, :3], (size, size), mode="bilinear", antialias=True)
    drawn = torch.where(masks, colour, _SHADE * colour.mean(1, keepdim=True)).clamp(0, 1)
    # Yellow inside black: seen on any ground.
    around = functional.max_pool2d(masks.float(), 3, stride=1, padding=1) > 0
    drawn = outlined(outlined(drawn, around, "#000000"), masks, _LINE)
    return drawn.view(*pixels.shape[:2], 3, size, size)


def patches_around(images: Tensor, centres: Tensor) -> Tensor:
    """Patches of half the height and width around a pixel, moved into the image at its border.

    Args:
        images: ``(N, channels, H, W)``.
        centres: (x, y) in pixels, ``(N, 2)``.

    Returns:
        ``(N, channels, H // 2, W // 2)``.
    """
    height, width = images.shape[2] // 2, images.shape[3] // 2
    limits = torch.tensor([images.shape[3] - width, images.shape[2] - height])
    corners = (centres - torch.tensor([width, height]) / 2).round().long()
    corners = torch.minimum(corners.clamp(min=0), limits)
    return torch.stack([
        image[:, y : y + height, x : x + width]
        for image, (x, y) in zip(images, corners.tolist(), strict=True)
    ])  # fmt: skip


def unit_caption(row: UnitRow, least_iou: float) -> str:
    """Number, concept, category and IoU of a unit, in lines."""
    iou = f"{row.iou:.2f}".removeprefix("0")
    bound = "" if row.detector else f" < {least_iou:g}"
    lines = (f"unit {row.unit}: {row.label.replace('_', ' ')}", f"{row.category}, IoU {iou}{bound}")
    return "\n".join(textwrap.fill(line, _CAPTION_WIDTH) for line in lines)


def pixels_of_images(source: Any, images: Tensor) -> Tensor:
    """Images in [0, 1], float32 ``(N, 3, H, W)`` on the CPU.

    Args:
        source: whose `mean` and `std` (or those of its `info`) were used; without them the range
            of the batch is stretched.
        images: as the network sees them.
    """
    stated = getattr(source, "info", source)
    images = images.detach().cpu()
    if hasattr(stated, "mean") and hasattr(stated, "std"):
        return unnormalised(images, stated.mean, stated.std)
    return rescaled(images)
