"""Network dissection: how many units of a layer detect a human-understandable concept.

D. Bau, B. Zhou, A. Khosla, A. Oliva, A. Torralba, "Network Dissection: Quantifying Interpretability
of Deep Visual Representations", CVPR 2017. For unit u, T_u is the level that 0.5 % of its
activations exceed, over all positions and images. Its maps are upsampled to the label maps,
anchored at the centres of the receptive fields, and thresholded at T_u; the unit is labelled with
the concept with which the resulting masks have the largest IoU over the data set.

T_u is taken of the maps' own values (``threshold_on="feature"``, the paper) or of the upsampled
pixels (``"upsampled"``, as D. Bau et al., "Understanding the role of individual units in a deep
neural network", PNAS 2020). The rule matters: a bump shrinks when it is interpolated, so with the
first the active area is well below 0.5 % (`active_area`), and fewer units pass any fixed IoU.

Each count stands beside baselines by the same rule: the network with random weights (where the
callback measures one), the same activations in a randomly rotated basis, and masks exchanged
between images.

Deviation: maps are rounded to half precision first, so that thresholds, cached maps and maps that
are computed twice agree to the bit.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple, final

import torch
from torch import Tensor
from torchmetrics import Metric

from interp_train.checks import check_choice, check_range
from interp_train.evaluation.active_pixels import pixel_grid
from interp_train.evaluation.concept_labels import ConceptScheme, concept_scheme
from interp_train.evaluation.concept_overlap import UNIONS, OverlapCounts, dataset_iou
from interp_train.evaluation.detectors import (
    UnitLabels,
    detector_numbers,
    headline_numbers,
    null_numbers,
    unit_labels,
)
from interp_train.evaluation.overlap_passes import OverlapPasses, OverlapTotals, Shown
from interp_train.evaluation.peak_table import MapFrame, map_frame
from interp_train.evaluation.unit_basis import Rules
from interp_train.structures import ConceptBatch, LayerGeometry

THRESHOLDS = ("feature", "upsampled")


class DissectionResult(NamedTuple):
    """What is known of each unit, on the CPU.

    Attributes:
        iou: of units, quantiles and concepts, float64 ``(K, Q, C)``; 0 for concepts that are too
            rare to be counted.
        thresholds: T_u, float32 ``(K, Q)``.
        area: share of all pixels in which a unit is active, float64 ``(K, Q)``.
        rotated_iou: of the rotated units, ``(K, Q, C)``, or ``(0, Q, C)``.
        shuffled_iou: with the masks of other images, ``(K, Q, C)``, or ``(0, Q, C)``.
        counted: which concepts are frequent enough, bool ``(C,)``.
    """

    iou: Tensor
    thresholds: Tensor
    area: Tensor
    rotated_iou: Tensor
    shuffled_iou: Tensor
    counted: Tensor

    def labels(self, quantile: int = 0) -> UnitLabels:
        """The best concept of each unit at one of the quantiles."""
        return unit_labels(self.iou[:, quantile])


@final
class DissectionMetric(Metric):
    """Network dissection of one layer, beside its baselines.

    One pass: maps and label maps are kept, and counted in `compute`. If they need more than
    `cache_bytes`, they are dropped, and a second pass is needed; memory is then constant:

        for maps, batch in images:
            metric.update(maps, batch)
        if metric.start_second_pass():
            for maps, batch in images:
                metric.update(maps, batch)
        numbers = metric.compute()

    `start_second_pass` and `compute` are collectives that merge counts over processes. Every image
    must be shown once, by one process (samplers that repeat images would count them twice).
    Counting waits for the device; `update` of a first pass does not.

    Args:
        geometry: receptive fields of the layer; None lets the cells tile the image evenly.
        concept_names: category -> names, in the order of the concept maps; label v > 0 stands for
            name v - 1. None measures nothing.
        quantiles: shares of the activations that exceed a threshold, ascending (paper: 0.005);
            quantities of all but the first end in ``_at_<quantile>``.
        threshold_on: ``"feature"`` or ``"upsampled"``, see the module.
        union: ``"paper"``, ``"all"`` or ``"lite"``, see `concept_overlap`.
        least_iou: above which a unit is a detector (paper: 0.04).
        least_images: concepts in fewer images are no labels.
        rotated_basis: whether the rotated basis is measured.
        shuffled_masks: whether exchanged masks are measured; needs the cache.
        half_precision: whether maps are rounded to half precision; False doubles the cache.
        cache_bytes: for maps and label maps, on the device of the maps and per process; while
            counting, the rotated maps need as much once more.
        num_images: at most so many are shown, over all processes; None: needs the cache.
        seed: of the rotation and the exchange.
        concept_layers: category -> number of its label maps, where it is not 1.

    Attributes:
        result: of the latest `compute`.
        missing: what the data lack, or "".

    Raises:
        ValueError: if an argument is out of its range.
    """

    full_state_update = False

    def __init__(
        self,
        geometry: LayerGeometry | None = None,
        concept_names: Mapping[str, Sequence[str]] | None = None,
        *,
        quantiles: Sequence[float] = (0.005,),
        threshold_on: str = "feature",
        union: str = "paper",
        least_iou: float = 0.04,
        least_images: int = 5,
        rotated_basis: bool = True,
        shuffled_masks: bool = True,
        half_precision: bool = True,
        cache_bytes: int = 1_073_741_824,
        num_images: int | None = None,
        seed: int = 0,
        concept_layers: Mapping[str, int] | None = None,
    ) -> None:
        super().__init__()
        _check_quantiles(quantiles)
        check_choice("threshold_on", threshold_on, THRESHOLDS)
        check_choice("union", union, UNIONS)
        check_range("least_iou", least_iou, 0.0, 1.0)
        check_range("cache_bytes", cache_bytes, 0)
        self.geometry = geometry
        self.scheme = None
        if concept_names is not None:
            self.scheme = concept_scheme(concept_names, concept_layers)
        self.rules = Rules(tuple(quantiles), threshold_on, union, half_precision)
        self.least_iou, self.least_images = least_iou, least_images
        self.rotated_basis, self.shuffled_masks = rotated_basis, shuffled_masks
        self.cache_bytes, self.num_images, self.seed = cache_bytes, num_images, seed
        self.missing = "" if self.scheme is not None else "concept maps with names"
        self.result: DissectionResult | None = None
        self._frame: tuple[MapFrame, int, tuple[int, ...]] | None = None
        self._passes: OverlapPasses | None = None

    def reset(self) -> None:
        """Forget all images."""
        super().reset()
        self._frame = self._passes = None

    @property
    def frame(self) -> MapFrame | None:
        """How the maps lie in the images; None before the first."""
        return self._frame[0] if self._frame is not None else None

    def update(self, activations: Tensor, batch: ConceptBatch) -> None:
        """Show one batch.

        Args:
            activations: maps of the layer, ``(N, K, h, w)``.
            batch: the images they belong to; its concept maps may have any resolution.

        Raises:
            ValueError: if shapes do not fit, or the data need a second pass and `num_images` is
                not known.
        """
        if self.scheme is None:
            return
        frame = self._checked_frame(activations, batch)
        if self._passes is None:
            self._passes = self._new_passes(self.scheme, activations.device)
        labels = batch.concept_maps.to(activations.device, self.scheme.label_type)
        shown = Shown(self.rules.rounded(activations), labels, batch.sample_ids)
        image_size = (frame.image_height, frame.image_width)
        cells, size = (frame.height, frame.width), (labels.shape[2], labels.shape[3])
        grid = pixel_grid(cells, size, image_size, frame.geometry, activations.device)
        self._passes.show(shown, grid)

    def _checked_frame(self, activations: Tensor, batch: ConceptBatch) -> MapFrame:
        frame = map_frame(activations, batch.images, self.geometry)
        if not len(activations) == len(batch.sample_ids) == len(batch.concept_maps):
            raise ValueError(
                f"`activations` must have one map per image of the batch, but got "
                f"{len(activations)} for {len(batch.sample_ids)} images with "
                f"{len(batch.concept_maps)} concept maps."
            )
        found = frame, activations.shape[1], tuple(batch.concept_maps.shape[1:])
        self._frame = self._frame or found
        if found != self._frame:
            known, units, maps = self._frame
            raise ValueError(
                f"`activations` and concept maps must keep their size, but got "
                f"{tuple(activations.shape[1:])} and {found[2]} after "
                f"{(units, known.height, known.width)} and {maps}, or images of another size. "
                f"Give all images one size."
            )
        return frame

    def _new_passes(self, scheme: ConceptScheme, device: torch.device) -> OverlapPasses:
        return OverlapPasses(
            self.rules,
            scheme,
            device,
            rotation=self.rotated_basis,
            exchange=self.shuffled_masks,
            cache_bytes=self.cache_bytes,
            num_images=self.num_images,
            seed=self.seed,
        )

    def leave_out_baselines(self) -> None:
        """Count neither the rotated basis nor exchanged masks, if the first pass is not ended.

        Every process must do so, or none.
        """
        self.rotated_basis = self.shuffled_masks = False
        if self._passes is not None and not self._passes.settled:
            self._passes.leave_out_baselines()

    def start_second_pass(self) -> bool:
        """End the first pass; a collective.

        Returns:
            Whether this process must show its images again before `compute`.

        Raises:
            ValueError: if no process has seen an image, an activation is not finite, or there were
                more than `num_images`.
        """
        if self.scheme is None:
            return False
        if self._passes is None:  # this process had no image; the merge needs it all the same
            self._passes = self._new_passes(self.scheme, self.device)
        return not self._passes.settled and self._passes.settle()

    def compute(self) -> dict[str, Tensor]:
        """The numbers of `detectors`, of the baselines, and ``active_area`` and ``dead_share``.

        Empty (see `missing`) without concepts.

        Raises:
            ValueError: if a second pass is missing; see also `start_second_pass`.
        """
        self.start_second_pass()
        if self.scheme is None or self._passes is None:
            return {}
        self.result = result = self._result(self._passes.totals())
        numbers = {}
        for index, quantile in enumerate(self.rules.quantiles):
            ending = f"_at_{quantile:g}" if index else ""
            for name, number in self._numbers(result, index).items():
                numbers[name + ending] = number
        if len(self.rules.quantiles) > 1:
            best = headline_numbers(result.iou.amax(1), self.scheme, self.least_iou)
            numbers |= {f"{name}_best_quantile": number for name, number in best.items()}
        return numbers

    def _result(self, totals: OverlapTotals) -> DissectionResult:
        assert self.scheme is not None
        scheme, labels = self.scheme, totals.labels
        counted = labels.images >= self.least_images
        none = torch.zeros(0, len(self.rules.quantiles), len(scheme.names), dtype=torch.float64)

        def iou_of(counts: OverlapCounts | None) -> Tensor:
            if counts is None:
                return none
            return (dataset_iou(counts, labels, scheme) * counted).cpu()

        return DissectionResult(
            iou=iou_of(totals.own),
            thresholds=totals.thresholds.cpu(),
            area=(totals.own.area.double() / labels.seen).cpu(),
            rotated_iou=iou_of(totals.rotated),
            shuffled_iou=iou_of(totals.shuffled),
            counted=counted.cpu(),
        )

    def _numbers(self, result: DissectionResult, quantile: int) -> dict[str, Tensor]:
        """All quantities at one quantile."""
        assert self.scheme is not None
        scheme, least = self.scheme, self.least_iou
        iou, area = result.iou[:, quantile], result.area[:, quantile]
        numbers = detector_numbers(iou, scheme, least)
        numbers |= {"active_area": area.mean(), "dead_share": (area == 0).double().mean()}
        baselines = {"rotated_basis": result.rotated_iou, "shuffled_masks": result.shuffled_iou}
        for baseline, found in baselines.items():
            if len(found):
                headlines = headline_numbers(found[:, quantile], scheme, least)
                numbers |= {f"{name}_{baseline}": value for name, value in headlines.items()}
        if len(result.shuffled_iou):
            numbers |= null_numbers(iou, result.shuffled_iou[:, quantile], least)
        return numbers


def _check_quantiles(quantiles: Sequence[float]) -> None:
    ascending = sorted(set(quantiles)) == list(quantiles)
    if not quantiles or not ascending or not 0 < quantiles[0] <= quantiles[-1] < 1:
        raise ValueError(
            f"`quantiles` must be shares in (0, 1), ascending, but got {list(quantiles)}."
        )
