"""Deletion of a filter's region: does the network need what the filter responds to?

The pixels of an image are blanked in the order of the filter's map, from the highest value down, as
V. Petsiuk, A. Das, K. Saenko ("RISE: Randomized Input Sampling for Explanation of Black-box
Models", BMVC 2018) blank them in the order of a heatmap; the area under the score of the image's
own category is small where the network needs them. A measure of this package: they ask about a
heatmap, this about each filter.

Deviations: only a share of the pixels goes, since the network's answer to what is left of an image
says nothing about a region; pixels of equal value go from the peak outwards, since a map after a
ReLU is 0 in most places, and pixels that are blanked here and there disturb a network more than any
region does. A filter that is silent in an image blanks nothing.

Baselines: ``shuffled_images``, each filter's map of another image, which is what a filter with a
fixed position gets; ``object_centre``, disks around the centre of the object's box; ``untouched``,
the score of the whole image, which nothing can exceed by much.

What it cannot show: that the filter itself is what carries the evidence.
"""

import torch
from torch import Tensor, nn
from torchmetrics import Metric

from interp_train.checks import check_range, check_shape
from interp_train.evaluation.heatmap_faithfulness import Scale, exchange_auc, link_of, ranks_of
from interp_train.evaluation.peak_table import first_rows, joined, map_frame
from interp_train.evaluation.position_baselines import scrambled
from interp_train.evaluation.row_gathering import gather_rows
from interp_train.receptive_field import upsampled
from interp_train.structures import Batch, LayerGeometry, Target
from interp_train.target_scores import TargetScores, scores_of_target


def region_ranks(values: Tensor, centres: Tensor) -> Tensor:
    """Place of each pixel in the order from the highest value down, equal ones from a centre.

    Args:
        values: ``(N, H, W)``.
        centres: ``(x, y)`` in pixels, ``(N, 2)``.

    Returns:
        Long, 0 for the highest, ``(N, 1, H, W)``.
    """
    height, width = values.shape[-2:]
    rows = torch.arange(height, device=values.device)[:, None]
    columns = torch.arange(width, device=values.device)
    apart = (columns - centres[:, 0, None, None]) ** 2 + (rows - centres[:, 1, None, None]) ** 2
    nearest_first = apart.flatten(1).argsort(dim=1, stable=True)
    return ranks_of(values.flatten(1), nearest_first).view(-1, 1, height, width)


class FilterDeletionMetric(Metric):
    """Mean score while the regions of a layer's filters are blanked, beside its baselines.

    Args:
        geometry: receptive fields of the layer; None lets the cells tile the image evenly.
        share: of the pixels that are blanked in the end.
        num_steps: of equal numbers of pixels.
        num_filters: measured, at most; of more, so many by chance, the same in each run.
        fill: value of blanked pixels, in units of the network's input.
        scale: of the score, see `HeatmapFaithfulnessMetric`.
        batch_size: images in one forward pass, at most.

    Raises:
        ValueError: if an argument is out of range.
    """

    full_state_update = False
    sample_ids: list[Tensor]
    areas: list[Tensor]
    shuffled: list[Tensor]
    whole: list[Tensor]

    def __init__(
        self,
        geometry: LayerGeometry | None = None,
        *,
        share: float = 0.2,
        num_steps: int = 5,
        num_filters: int = 12,
        fill: float = 0.0,
        scale: Scale = "softmax",
        batch_size: int = 64,
    ) -> None:
        super().__init__(dist_sync_fn=gather_rows)
        check_range("share", share, 0.001, 1)
        check_range("num_steps", num_steps, 1)
        check_range("num_filters", num_filters, 1)
        check_range("batch_size", batch_size, 1)
        self.geometry, self.share, self.num_steps = geometry, share, num_steps
        self.num_filters, self.fill, self.batch_size = num_filters, fill, batch_size
        self.scale, self._link = scale, link_of(scale)
        for name in ("sample_ids", "areas", "shuffled", "whole"):
            self.add_state(name, [], "cat")
        self.result: Tensor | None = None
        self.missing = ""

    def update(self, network: nn.Module, activations: Tensor, batch: Batch, others: Tensor) -> None:
        """Add images; those without a category are left out.

        Args:
            network: puts out logits ``(N, C)``; left as it is.
            activations: maps of the images, ``(N, K, h, w)``.
            batch: the images.
            others: maps of other images, ``(N, K, h, w)``.

        Raises:
            ValueError: if shapes do not fit.
        """
        check_shape("others", others, tuple(activations.shape))
        rows = batch.labels >= 0
        if not rows.any():
            return
        images, labels = batch.images[rows], batch.labels[rows]
        frame = map_frame(activations, images, self.geometry)
        chosen = self.filters(activations.shape[1]).to(activations.device)
        centres = _centres(batch.boxes[rows], images.shape[-2:])
        with scores_of_target(network, images, Target(None, labels), self._link) as scores:
            untouched = scores().detach()
            found = [
                torch.stack(
                    [
                        self._area(scores, maps[:, number], frame.geometry, untouched)
                        for number in chosen
                    ],
                    1,
                )
                for maps in (activations[rows], others[rows])
            ]
            nothing = torch.zeros_like(images[:, 0])
            centre = self._exchanged(scores, region_ranks(nothing, centres))
            whole = torch.stack([untouched, centre], 1)
        self.sample_ids.append(batch.sample_ids[rows])
        for state, value in zip((self.areas, self.shuffled), found, strict=True):
            state.append(value.detach())
        self.whole.append(whole.detach())

    def compute(self) -> dict[str, Tensor]:
        """``filter_deletion_auc`` and, with a suffix, its baselines, means over filters and images.

        Empty (see `missing`) without images of a category.
        """
        self.result, self.missing = None, ""
        ids = joined(self.sample_ids) if len(self.sample_ids) else torch.empty(0)
        if not len(ids):
            self.missing = "images of a category"
            return {}
        rows = first_rows(ids)
        areas, shuffled, whole = (
            joined(state)[rows].double() for state in (self.areas, self.shuffled, self.whole)
        )
        self.result = areas.mean(0)
        name = "filter_deletion_auc"
        return {
            name: self.result.mean(),
            f"{name}_shuffled_images": shuffled.mean(),
            f"{name}_object_centre": whole[:, 1].mean(),
            f"{name}_untouched": whole[:, 0].mean(),
        }

    def filters(self, num_filters: int) -> Tensor:
        """Which of `num_filters` filters are measured, long, at most `num_filters`."""
        keys = scrambled(torch.arange(num_filters), 0)
        return keys.argsort()[: self.num_filters].sort().values

    def _area(
        self, scores: TargetScores, maps: Tensor, geometry: LayerGeometry, untouched: Tensor
    ) -> Tensor:
        """Mean score while the region of one filter is blanked, ``(N,)``; maps ``(N, h, w)``."""
        maps = maps.detach().float()
        peaks, cells = maps.flatten(1).max(1)
        places = torch.stack([cells % maps.shape[2], cells // maps.shape[2]], 1)
        height, width = scores.images.shape[-2:]
        values = upsampled(maps[:, None], (height, width), geometry)[:, 0]
        ranks = region_ranks(values, geometry.offset + geometry.stride * places)
        area = self._exchanged(scores, ranks)
        return torch.where(peaks > 0, area, untouched)

    def _exchanged(self, scores: TargetScores, ranks: Tensor) -> Tensor:
        blank = torch.full_like(scores.images, self.fill)
        return exchange_auc(scores, ranks, blank, self.num_steps, self.batch_size, share=self.share)


def _centres(boxes: Tensor, size: torch.Size) -> Tensor:
    """Centres ``(x, y)`` of boxes ``(N, 4)``, of the image where there is none, ``(N, 2)``."""
    image = boxes.new_tensor([(size[1] - 1) / 2, (size[0] - 1) / 2])
    middle = (boxes[:, :2] + boxes[:, 2:]) / 2
    return torch.where(middle.isfinite(), middle, image)
