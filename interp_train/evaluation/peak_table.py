"""Where each filter has its peak in each image: the table that the part measures read.

A filter's position in an image is the receptive-field centre of the cell with the highest
activation (the first such cell, row by row, if several are equal; an all-zero map therefore has
its position at the first cell).
"""

import math
from abc import ABC
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torchmetrics import Metric

from interp_train.evaluation.row_gathering import gather_rows
from interp_train.structures import Batch, LayerGeometry, PartBatch


class PeakTable(NamedTuple):
    """Peaks of K filters in N images, with the annotations of the images.

    Attributes:
        sample_ids: identity of each image, ascending, each once, long ``(N,)``.
        labels: category index or `BACKGROUND`, long ``(N,)``.
        boxes: object box, float ``(N, 4)``; NaN where the image has none.
        part_locations: landmarks, float ``(N, P, 2)``; NaN where not visible.
        positions: position of each filter in input pixels, float ``(N, K, 2)``.
        values: what the filter put out (its peak, or the mean of its map), float ``(N, K)``.
    """

    sample_ids: Tensor
    labels: Tensor
    boxes: Tensor
    part_locations: Tensor
    positions: Tensor
    values: Tensor


class MapFrame(NamedTuple):
    """The grid of a layer's maps and how it lies in the image.

    Attributes:
        height: cells per column.
        width: cells per row.
        image_height: pixels.
        image_width: pixels.
        geometry: centre of the receptive field of each cell.
    """

    height: int
    width: int
    image_height: int
    image_width: int
    geometry: LayerGeometry

    def as_numbers(self) -> Tensor:
        """The frame as a metric state, float32 ``(7,)``."""
        return torch.tensor([*self[:4], *self.geometry], dtype=torch.float32)

    @classmethod
    def from_numbers(cls, numbers: Tensor) -> "MapFrame":
        """The inverse of `as_numbers`."""
        height, width, image_height, image_width = map(int, numbers[:4].tolist())
        geometry = LayerGeometry(*numbers[4:].tolist())
        return cls(height, width, image_height, image_width, geometry)

    def diagonal(self) -> float:
        """Diagonal of the network's input, in pixels."""
        return math.hypot(self.image_width, self.image_height)

    def positions_of(self, cells: Tensor) -> Tensor:
        """Receptive-field centres ``(..., 2)`` of flat cell indices (row by row)."""
        columns, rows = cells % self.width, torch.div(cells, self.width, rounding_mode="floor")
        return self.geometry.offset + self.geometry.stride * torch.stack((columns, rows), -1)

    def cells_of(self, points: Tensor) -> Tensor:
        """Flat index of the cell with the nearest centre, for points ``(..., 2)``.

        Points beyond the grid go to its border; halves go to the even cell.
        """
        indices = ((points - self.geometry.offset) / self.geometry.stride).round().long()
        columns = indices[..., 0].clamp(0, self.width - 1)
        rows = indices[..., 1].clamp(0, self.height - 1)
        return rows * self.width + columns

    def snapped(self, points: Tensor) -> Tensor:
        """`points` moved to the nearest receptive-field centre."""
        return self.positions_of(self.cells_of(points)).to(points.dtype)


def map_frame(activations: Tensor, images: Tensor, geometry: LayerGeometry | None) -> MapFrame:
    """The frame of `activations` ``(N, K, h, w)`` of `images` ``(N, channels, H, W)``.

    Args:
        activations: maps of one layer.
        images: the network's input.
        geometry: None lets the cells tile the image evenly, which is right for padded
            convolutions up to a fraction of a cell.

    Raises:
        ValueError: if either is not four-dimensional, or cells that tile the image would
            not be square.
    """
    if activations.dim() != 4:
        raise ValueError(
            f"`activations` must have shape (N, K, h, w), but got {tuple(activations.shape)}. "
            f"Name a layer that puts out maps."
        )
    height, width = activations.shape[-2:]
    image_height, image_width = images.shape[-2:]
    if geometry is None:
        stride = image_width / width
        if abs(image_height / height - stride) > 1e-6 * stride:
            raise ValueError(
                f"`geometry` must be given where cells are not square, but maps of {height} x "
                f"{width} cells on images of {image_height} x {image_width} pixels came without."
            )
        geometry = LayerGeometry(stride, (stride - 1) / 2, stride)
    return MapFrame(height, width, image_height, image_width, geometry)


def peaks_of(activations: Tensor) -> tuple[Tensor, Tensor]:
    """Highest activation of each map and its flat cell index (the first of equals).

    Args:
        activations: ``(N, K, h, w)``.

    Returns:
        Peaks float32 ``(N, K)``, cells int32 ``(N, K)``; computed where the activations are,
        without waiting for the device.
    """
    peaks, cells = activations.detach().flatten(2).max(-1)
    return peaks.float(), cells.int()


def first_rows(sample_ids: Tensor) -> Tensor:
    """Indices that sort `sample_ids` ``(N,)`` and keep the first of equal ids."""
    ordered, order = torch.sort(sample_ids, stable=True)
    fresh = torch.ones_like(ordered, dtype=torch.bool)
    fresh[1:] = ordered[1:] != ordered[:-1]
    return order[fresh]


def part_locations_of(batch: Batch) -> Tensor:
    """Landmarks of a batch, ``(N, P, 2)``; P = 0 without part annotations."""
    if isinstance(batch, PartBatch):
        return batch.part_locations
    return batch.boxes.new_empty((len(batch.labels), 0, 2))


class PeakMetric(Metric, ABC):
    """Collects a `PeakTable` over batches and processes; subclasses compute numbers from it.

    Merged rows are sorted by `sample_id` and images that came twice (samplers that pad) are
    counted once, so the numbers do not depend on the number of processes.

    Args:
        geometry: receptive fields of the layer; None lets the cells tile the image evenly.
    """

    full_state_update = False
    sample_ids: list[Tensor]
    labels: list[Tensor]
    boxes: list[Tensor]
    part_locations: list[Tensor]
    cells: list[Tensor]
    values: list[Tensor]
    frame_numbers: Tensor

    def __init__(self, geometry: LayerGeometry | None = None) -> None:
        super().__init__(dist_sync_fn=gather_rows)
        self.geometry = geometry
        for name in ("sample_ids", "labels", "boxes", "part_locations", "cells", "values"):
            self.add_state(name, [], "cat")
        # A process without images keeps -inf and takes the frame of the others.
        self.add_state("frame_numbers", torch.full((7,), -math.inf), "max")
        self._local_frame: MapFrame | None = None
        self.missing = ""

    def update(self, activations: Tensor, batch: Batch) -> None:
        """Add the peaks of one batch.

        Args:
            activations: maps of the layer, ``(N, K, h, w)``.
            batch: the images they belong to.

        Raises:
            ValueError: if the number of images differs, or maps change their size.
        """
        frame = map_frame(activations, batch.images, self.geometry)
        if len(activations) != len(batch.sample_ids):
            raise ValueError(
                f"`activations` must have one map per image of the batch, but got "
                f"{len(activations)} for {len(batch.sample_ids)} images."
            )
        self._keep_frame(frame)
        peaks, cells = peaks_of(activations)
        self.sample_ids.append(batch.sample_ids)
        self.labels.append(batch.labels)
        self.boxes.append(batch.boxes.float())
        self.part_locations.append(part_locations_of(batch).float())
        self.cells.append(cells)
        self.values.append(self.values_of(activations, peaks))

    def values_of(self, activations: Tensor, peaks: Tensor) -> Tensor:
        """What the table keeps as the output of a filter, ``(N, K)``."""
        return peaks

    def kept_rows(self, sample_ids: Tensor) -> Tensor:
        """Indices of the rows that count, in ascending order of `sample_ids`."""
        return first_rows(sample_ids)

    def _keep_frame(self, frame: MapFrame) -> None:
        if self._local_frame is None:
            self._local_frame = frame
            self.frame_numbers = frame.as_numbers().to(self.frame_numbers.device)
        elif frame != self._local_frame:
            raise ValueError(
                f"`activations` must have maps of one size, but got {frame[:2]} cells on "
                f"{frame[2:4]} pixels after {self._local_frame[:2]} on {self._local_frame[2:4]}."
            )

    def reset(self) -> None:
        """Forget all images."""
        super().reset()
        self._local_frame = None

    def frame(self) -> MapFrame:
        """The merged frame; call from `compute`."""
        return MapFrame.from_numbers(self.frame_numbers)

    def table(self) -> PeakTable:
        """The merged table on the CPU; inside `compute` over all processes, else of this one.

        Raises:
            ValueError: before the first image, or if a peak is not finite.
        """
        if self.frame_numbers[0] < 0:
            raise ValueError(
                "`update` must be called with at least one image before `compute`, but no process "
                "has seen an image."
            )
        ids, labels, boxes, locations, cells, values = (
            joined(getattr(self, name))
            for name in ("sample_ids", "labels", "boxes", "part_locations", "cells", "values")
        )
        rows = self.kept_rows(ids)
        values = values[rows]
        if not values.isfinite().all():
            raise ValueError(
                f"`activations` must be finite, but the maps of "
                f"{int((~values.isfinite()).any(1).sum())} of {len(values)} images are not. "
                f"The network has diverged."
            )
        positions = self.frame().positions_of(cells[rows]).float()
        return PeakTable(ids[rows], labels[rows], boxes[rows], locations[rows], positions, values)


def joined(state: Any) -> Tensor:
    """A "cat" state as one tensor on the CPU: a list before the merge, a tensor after it."""
    rows = torch.cat(list(state)) if isinstance(state, list) else state
    return rows.detach().cpu()
