"""Image-resolution receptive field: which pixels of its top images a unit fires for.

By computation, a unit's map is laid over the image, each value at the centre of the cell's
receptive field, and cut at a threshold that a share of all responses exceeds. By occlusion, the
field is measured: a small patch of noise slides over the images that excite the unit most, and the
changes of the response at its peak, centred on the peak and averaged, show what part of the
theoretical field matters. The measured field is then laid around each cell above the threshold.

Reference: B. Zhou, A. Khosla, A. Lapedriza, A. Oliva, A. Torralba, "Object Detectors Emerge in Deep
Scene CNNs", ICLR 2015; D. Bau, B. Zhou, A. Khosla, A. Oliva, A. Torralba, "Network
Dissection", CVPR 2017.

Deviates from Zhou et al. in leaving out patches that do not touch the theoretical receptive field
of the peak, whose change is 0, and in the average near the edges of the image, which is over the
images that have a pixel there.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor, nn
from torch.nn import functional

from interp_train.checks import check_choice, check_range, check_shape
from interp_train.data.photo_data import IMAGENET_MEAN, IMAGENET_STD
from interp_train.figures import outlined, unnormalised
from interp_train.layer_responses import LayerResponses, responses_of_layer
from interp_train.receptive_field import cells_to_pixels, upsampled
from interp_train.streaming import tail_size
from interp_train.structures import LayerGeometry, Target
from interp_train.visualization.unit_peaks import UnitPeaks, grids, resized, strongest_peaks

METHODS = ("computation", "occlusion")


def tail_thresholds(maps: Tensor, share: float) -> Tensor:
    """Level of each unit that at most `share` of its responses exceed, ``(N, U, h, w) -> (U,)``."""
    values = maps.transpose(0, 1).flatten(1)
    rank = min(tail_size(share, values.shape[1]), values.shape[1] - 1)
    return values.topk(rank + 1).values[:, -1]


def occluder_starts(centre: float, reach: float, patch: int, stride: int, pixels: int) -> Tensor:
    """First pixels, along one axis, of the patches that touch a receptive field.

    They lie on one raster, -patch + 1, -patch + 1 + stride, ...; patches may stick out.

    Args:
        centre: of the field, in pixels.
        reach: from the centre to its first and last pixel.
        patch: side, in pixels.
        stride: of the raster, in pixels.
        pixels: of the image.
    """
    starts = torch.arange(1 - patch, pixels, stride)
    return starts[(starts + patch - 1 >= centre - reach) & (starts <= centre + reach)]


def discrepancy(
    changes: Tensor, rows: Tensor, columns: Tensor, patch: int, size: Sequence[int]
) -> Tensor:
    """Mean change of the response over the patches that cover a pixel; 0 where none does.

    Args:
        changes: ``(len(rows), len(columns))``.
        rows: first row of each patch, long.
        columns: first column, long.
        patch: side, in pixels.
        size: height and width of the image.

    Returns:
        ``(H, W)``.
    """
    check_shape("changes", changes, (len(rows), len(columns)))
    high, wide = (
        ((along >= starts[:, None]) & (along < starts[:, None] + patch)).to(changes)
        for starts, along in zip((rows, columns), map(torch.arange, size), strict=True)
    )
    counts = high.sum(0)[:, None] * wide.sum(0)
    return high.T @ changes @ wide / counts.clamp(min=1)


def centred_mean(maps: Tensor, centres: Tensor) -> Tensor:
    """Maps moved so that their centres meet, and averaged where they have pixels.

    Args:
        maps: ``(k, H, W)``.
        centres: (x, y) in pixels, rounded to whole ones, ``(k, 2)``.

    Returns:
        ``(2 H - 1, 2 W - 1)``, the centre in the middle; 0 where no map reaches.
    """
    height, width = maps.shape[-2:]
    total = maps.new_zeros(2 * height - 1, 2 * width - 1)
    count = torch.zeros_like(total)
    for values, (x, y) in zip(maps, centres.round().long().tolist(), strict=True):
        top = height - 1 - min(max(y, 0), height - 1)
        left = width - 1 - min(max(x, 0), width - 1)
        total[top : top + height, left : left + width] += values
        count[top : top + height, left : left + width] += 1
    return total / count.clamp(min=1)


def laid_around(
    active: Tensor, field: Tensor, geometry: LayerGeometry, size: tuple[int, int]
) -> Tensor:
    """Largest value of a centred field, over the active cells that it is laid around.

    Args:
        active: cells, bool ``(k, h, w)``.
        field: ``(2 H - 1, 2 W - 1)``, see `centred_mean`.
        geometry: where the cells lie.
        size: H and W.

    Returns:
        ``(k, H, W)``; 0 where no field reaches.
    """
    height, width = size
    found = field.new_zeros(len(active), height, width)
    for row, y, x in active.nonzero().tolist():
        place = cells_to_pixels(torch.tensor([x, y]), geometry).round().long()
        column, line = int(place[0].clamp(0, width - 1)), int(place[1].clamp(0, height - 1))
        top, left = height - 1 - line, width - 1 - column
        around = field[top : top + height, left : left + width]
        found[row] = torch.maximum(found[row], around)
    return found


@final
@dataclass(frozen=True)
class ImageResolutionReceptiveField:
    """Image-resolution receptive fields as a unit visualizer.

    Attributes:
        method: ``"computation"`` (Bau et al.) or ``"occlusion"`` (Zhou et al.).
        num_images: top images drawn per unit.
        share: of all responses of a unit that exceed its threshold.
        num_occluded: top images whose discrepancy maps are averaged.
        patch_size: side of the occluder, in pixels.
        stride: between its places, in pixels.
        cut: share of the measured field's highest value above which a pixel belongs to it.
        darkness: share of the light taken away outside the field.
        picture_size: side of a drawn image, in pixels.
        batch_size: images in one forward pass, at most.
        seed: of the occluder's pixels.
        mean: per channel, that normalisation subtracts.
        std: per channel, that normalisation divides by.
    """

    method: str = "computation"
    num_images: int = 9
    share: float = 0.005
    num_occluded: int = 25
    patch_size: int = 11
    stride: int = 3
    cut: float = 0.5
    darkness: float = 0.7
    picture_size: int = 112
    batch_size: int = 32
    seed: int = 0
    mean: Sequence[float] = IMAGENET_MEAN
    std: Sequence[float] = IMAGENET_STD

    def __post_init__(self) -> None:
        """Check the ranges."""
        check_choice("method", self.method, METHODS)
        for name in ("num_images", "num_occluded", "patch_size", "picture_size", "batch_size"):
            check_range(name, getattr(self, name), 1)
        for name in ("share", "cut", "darkness"):
            check_range(name, getattr(self, name), 0, 1)
        check_range("stride", self.stride, 1, self.patch_size)
        check_range("seed", self.seed, 0)

    def __call__(self, network: nn.Module, target: Target, images: Tensor) -> Tensor:
        """One grid per unit of its top images, dark outside the field, ``(U, 3, height, width)``.

        White stands where a unit does not answer (a response of exactly 0).

        Args:
            network: puts out logits ``(N, C)``.
            target: the layer and its units, ``(U,)``.
            images: the sample, network input, ``(N, channels, H, W)``; the threshold is over
                all of them.

        Raises:
            ValueError: if the layer or a unit does not exist, or there are no images.
        """
        masks, peaks = self.masks(network, target, images)
        pixels = unnormalised(images.detach(), self.mean, self.std)[peaks.rows].flatten(0, 1)
        flat = masks.flatten(0, 1)[:, None]
        light = torch.where(flat, 1.0, 1 - self.darkness)
        drawn = resized(pixels * light, self.picture_size)
        # Small masks are enlarged pixel by pixel, so that the line stays sharp.
        edges = functional.interpolate(flat.float(), (self.picture_size,) * 2) > 0.5
        drawn = outlined(drawn, edges)
        drawn = torch.where(peaks.active.reshape(-1, 1, 1, 1), drawn, torch.nan)
        return grids(drawn.view(*peaks.rows.shape, *drawn.shape[1:]))

    def masks(self, network: nn.Module, target: Target, images: Tensor) -> tuple[Tensor, UnitPeaks]:
        """Where the units fire in their top images, bool ``(U, k, H, W)``, and their peaks.

        Args:
            network: see `__call__`.
            target: see `__call__`.
            images: see `__call__`.

        Raises:
            ValueError: as `__call__`.
        """
        with responses_of_layer(network, target, images) as responses, torch.no_grad():
            maps = responses.of_units(self.batch_size)
            geometry = responses.geometry(maps)
            peaks = strongest_peaks(maps, self.num_images, geometry)
            levels = tail_thresholds(maps, self.share)[:, None, None, None]
            height, width = images.shape[-2:]
            units = torch.arange(len(levels), device=maps.device)[:, None]
            top = maps[peaks.rows, units]
            if self.method == "computation":
                return upsampled(top, (height, width), geometry) > levels, peaks
            fields = self._fields(responses, maps, geometry)
            found = [
                laid_around(cells > level, field, geometry, (height, width)) > self.cut * high
                for cells, level, field, high in zip(
                    top, levels[:, 0], fields, fields.flatten(1).amax(1), strict=True
                )
            ]
            return torch.stack(found), peaks

    def fields(self, network: nn.Module, target: Target, images: Tensor) -> Tensor:
        """Measured fields: mean discrepancy around the peak, ``(U, 2 H - 1, 2 W - 1)``.

        Args:
            network: see `__call__`.
            target: see `__call__`.
            images: see `__call__`.

        Raises:
            ValueError: as `__call__`.
        """
        with responses_of_layer(network, target, images) as responses, torch.no_grad():
            maps = responses.of_units(self.batch_size)
            return self._fields(responses, maps, responses.geometry(maps))

    def _fields(self, responses: LayerResponses, maps: Tensor, geometry: LayerGeometry) -> Tensor:
        peaks = strongest_peaks(maps, self.num_occluded, geometry)
        found = []
        for unit in range(len(peaks.rows)):
            chosen = peaks.active[unit].nonzero().flatten().tolist()
            changes = [self._discrepancy(responses, peaks, unit, k, geometry) for k in chosen]
            empty = responses.images.new_zeros(0, *responses.images.shape[-2:])
            stacked = torch.stack(changes) if changes else empty
            found.append(centred_mean(stacked, peaks.positions[unit, chosen]))
        return torch.stack(found)

    def _discrepancy(
        self,
        responses: LayerResponses,
        peaks: UnitPeaks,
        unit: int,
        place: int,
        geometry: LayerGeometry,
    ) -> Tensor:
        """Change of one peak per pixel that is covered, ``(H, W)``."""
        image = responses.images[peaks.rows[unit, place]]
        size = image.shape[-2:]
        x, y = peaks.positions[unit, place].tolist()
        reach, patch = (geometry.size - 1) / 2, self.patch_size
        rows, columns = (
            occluder_starts(centre, reach, patch, self.stride, pixels)
            for centre, pixels in zip((y, x), size, strict=True)
        )
        starts = torch.cartesian_prod(rows, columns)
        column, line = peaks.cells[unit, place].tolist()
        values = []
        for chunk in torch.split(starts, self.batch_size):
            answers = responses(self._occluded(image, chunk))
            values.append(answers[:, responses.units[unit], line, column])
        changes = (torch.cat(values) - peaks.values[unit, place]).abs()
        shaped = changes.view(len(rows), len(columns)).to(image)
        return discrepancy(shaped.cpu(), rows, columns, patch, size).to(image)

    def _occluded(self, image: Tensor, starts: Tensor) -> Tensor:
        """Copies of an image, each with the noise at another place, ``(n, channels, H, W)``."""
        height, width = image.shape[-2:]
        patch = self.patch_size
        generator = torch.Generator().manual_seed(self.seed)
        noise = torch.rand(len(image), patch, patch, generator=generator)
        mean, std = (torch.tensor(list(v)).view(-1, 1, 1) for v in (self.mean, self.std))
        noise = ((noise - mean) / std).to(image)
        copies = image.repeat(len(starts), 1, 1, 1)
        for copy, (top, left) in zip(copies, starts.tolist(), strict=True):
            first, last = max(top, 0), min(top + patch, height)
            start, stop = max(left, 0), min(left + patch, width)
            inside = noise[:, first - top : last - top, start - left : stop - left]
            copy[:, first:last, start:stop] = inside
        return copies
