"""Labels of units that are formulas of concepts: "(water OR river) AND NOT blue".

J. Mu, J. Andreas: Compositional Explanations of Neurons, NeurIPS 2020. Units are thresholded as in
network dissection, and labelled with the formula of the largest IoU over all images; see
`concept_formulas` for the search. Longer formulas fit better by chance, too: read `mean_best_iou`
beside the same number of a random network, or of maps shown with the labels of other images.

Memory: neither masks nor maps are kept, but counts for each combination of labels that occurs at
some pixel: 8 (K + 1) bytes and 4 bytes per label map. 11 classes of objects have at most 12
combinations. The bits of all masks would take H W C / 8 bytes per image: 16 MB for 1,000 images of
112 x 112 labels and 10 concepts, whatever the number of units.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, final

import torch
from torch import Tensor
from torchmetrics import Metric

from interp_train.checks import check_range, check_shape
from interp_train.evaluation.active_pixels import active_pixels, pixel_grid
from interp_train.evaluation.concept_formulas import FoundFormula, best_formulas
from interp_train.evaluation.concept_labels import ConceptScheme, concept_scheme, labelled_batch
from interp_train.evaluation.peak_table import map_frame
from interp_train.evaluation.row_gathering import gather_rows
from interp_train.evaluation.unit_basis import Rules
from interp_train.structures import ConceptBatch, LayerGeometry

_PENDING = 4096  # combinations until equal ones are united


class Combinations(NamedTuple):
    """Counts for combinations of labels.

    Attributes:
        labels: one label of each map, int32 ``(S, maps)``.
        pixels: that show the combination, int64 ``(S,)``.
        active: those in which each unit is active, int64 ``(S, K)``.
    """

    labels: Tensor
    pixels: Tensor
    active: Tensor

    def united(self) -> "Combinations":
        """Each combination once, in ascending order."""
        labels, place = torch.unique(self.labels, dim=0, return_inverse=True)
        pixels = self.pixels.new_zeros(len(labels)).index_add(0, place, self.pixels)
        shape = (len(labels), self.active.shape[1])
        active = self.active.new_zeros(shape).index_add(0, place, self.active)
        return Combinations(labels, pixels, active)

    def shows(self, scheme: ConceptScheme) -> Tensor:
        """Which concepts each combination shows, bool ``(S, C)``."""
        found = []
        for category, maps in enumerate(scheme.per_category(self.labels)):
            names = torch.arange(1, scheme.sizes[category] + 1, device=maps.device)
            found.append((maps[:, :, None] == names).any(1))
        return torch.cat(found, 1)


class UnitFormulas(NamedTuple):
    """What the units of a layer are labelled with.

    Attributes:
        formulas: the best of each unit, or None where no concept overlaps.
        concepts: the best single concept of each unit, or None.
        names: of the concepts.
    """

    formulas: tuple[FoundFormula | None, ...]
    concepts: tuple[FoundFormula | None, ...]
    names: tuple[str, ...]

    def texts(self) -> list[str]:
        """The formula of each unit in words, or ""."""
        return [found.formula.text(self.names) if found else "" for found in self.formulas]


@final
class CompositionalLabels(Metric):
    """Labels the units of one layer with formulas; needs the thresholds of a dissection.

    Example:
        dissection.compute()
        metric = CompositionalLabels(dissection.result.thresholds[:, 0], geometry, concept_names)
        for maps, batch in images:
            metric.update(maps, batch)
        metric.compute(), metric.result.texts()

    Every image must be shown once, by one process. Counting waits for the device.

    Args:
        thresholds: of the units, ``(K,)``.
        geometry: receptive fields of the layer; None lets the cells tile the image evenly.
        concept_names: category -> names, see `DissectionMetric`.
        concept_layers: see there.
        max_length: of a formula, in concepts (paper: 3 and more).
        beam_size: see `best_formulas` (paper: 10).
        least_iou: above which a unit counts as explained.
        least_images: concepts in fewer images are in no formula.
        half_precision: see `DissectionMetric`; must be as there.

    Attributes:
        result: of the latest `compute`.

    Raises:
        ValueError: if an argument is out of its range.
    """

    full_state_update = False
    labels: list[Tensor]
    pixels: list[Tensor]
    active: list[Tensor]
    images: Tensor

    def __init__(
        self,
        thresholds: Tensor,
        geometry: LayerGeometry | None,
        concept_names: Mapping[str, Sequence[str]],
        *,
        concept_layers: Mapping[str, int] | None = None,
        max_length: int = 3,
        beam_size: int = 10,
        least_iou: float = 0.04,
        least_images: int = 5,
        half_precision: bool = True,
    ) -> None:
        super().__init__(dist_sync_fn=gather_rows)
        check_shape("thresholds", thresholds, ("K",))
        check_range("max_length", max_length, 1)
        check_range("beam_size", beam_size, 1)
        check_range("least_iou", least_iou, 0.0, 1.0)
        self.thresholds, self.geometry = thresholds.detach().float(), geometry
        self.scheme = concept_scheme(concept_names, concept_layers)
        self.max_length, self.beam_size = max_length, beam_size
        self.least_iou, self.least_images = least_iou, least_images
        self.rules = Rules((0.5,), "feature", "all", half_precision)
        for name in Combinations._fields:
            self.add_state(name, [], "cat")
        zeros = torch.zeros(1, len(self.scheme.names), dtype=torch.long)
        self.add_state("images", zeros, "sum")
        self.result: UnitFormulas | None = None

    def update(self, activations: Tensor, batch: ConceptBatch) -> None:
        """Count one batch.

        Args:
            activations: maps of the layer, ``(N, K, h, w)``.
            batch: the images they belong to; its concept maps may have any resolution.

        Raises:
            ValueError: if shapes do not fit.
        """
        check_shape("activations", activations, (len(batch.images), len(self.thresholds), "h", "w"))
        labels = batch.concept_maps.to(activations.device, self.scheme.label_type)
        labelled = labelled_batch(labels, self.scheme, most=None)
        self.images = self.images + labelled.counts.images
        frame = map_frame(activations, batch.images, self.geometry)
        grid = pixel_grid(
            (frame.height, frame.width),
            (labels.shape[2], labels.shape[3]),
            (frame.image_height, frame.image_width),
            frame.geometry,
            activations.device,
        )
        joint = labelled.joint[0]
        kinds, index = joint.labels.int(), joint.combination.view(len(labels), labelled.size)
        units = len(self.thresholds)
        active = torch.zeros(len(kinds) * units, dtype=torch.long, device=labels.device)
        levels = self.thresholds.to(labels.device)
        for piece in active_pixels(self.rules.rounded(activations), levels, grid):
            places = index[piece.images, piece.pixels] * units + piece.units
            active += torch.bincount(places, minlength=len(active))
        pixels = torch.bincount(index.flatten(), minlength=len(kinds))
        self._keep(Combinations(kinds, pixels, active.view(-1, units)))

    def compute(self) -> dict[str, Tensor]:
        """Numbers of the layer; `result` has the formulas.

        Returns:
            ``mean_best_iou`` of formulas and ``mean_best_iou_single`` of single concepts, 0 for
            units without any; ``explained`` and ``explained_single``, units above `least_iou`;
            ``unique_formulas`` of the former; ``mean_length`` of the formulas.

        Raises:
            ValueError: if no image was shown.
        """
        counts = self._combinations()
        concepts = (self.images.sum(0) >= self.least_images).nonzero().flatten().tolist()
        search: dict[str, Any] = {"concepts": concepts, "beam_size": self.beam_size}
        search["pixels"], search["shows"] = counts.pixels, counts.shows(self.scheme)
        formulas, single = (
            tuple(_best(active, length, search) for active in counts.active.T)
            for length in (self.max_length, 1)
        )
        self.result = UnitFormulas(formulas, single, self.scheme.names)
        return self._numbers(self.result)

    def _numbers(self, result: UnitFormulas) -> dict[str, Tensor]:
        iou, alone = (
            torch.tensor([found.iou if found else 0.0 for found in column], dtype=torch.float64)
            for column in (result.formulas, result.concepts)
        )
        explained = iou > self.least_iou
        lengths = [len(found.formula.concepts) for found in result.formulas if found]
        texts = {text for text, good in zip(result.texts(), explained, strict=True) if good}
        return {
            "mean_best_iou": iou.mean(),
            "mean_best_iou_single": alone.mean(),
            "explained": explained.sum().double(),
            "explained_single": (alone > self.least_iou).sum().double(),
            "unique_formulas": torch.tensor(float(len(texts))),
            "mean_length": torch.tensor(sum(lengths) / max(1, len(lengths))),
        }

    def _keep(self, fresh: Combinations) -> None:
        for name, rows in fresh._asdict().items():
            getattr(self, name).append(rows)
        # At most twice as many rows as different combinations, or a few.
        pending = sum(map(len, self.labels[1:]))
        if pending > max(_PENDING, len(self.labels[0])):
            for name, rows in self._combinations()._asdict().items():
                setattr(self, name, [rows])

    def _combinations(self) -> Combinations:
        """What was counted, of all processes inside `compute`."""
        states = [getattr(self, name) for name in Combinations._fields]
        if not len(states[0]):
            raise ValueError(
                "`update` must be called with at least one image before `compute`, but no process "
                "has seen an image."
            )
        columns = [torch.cat(list(s)) if isinstance(s, list) else s for s in states]
        return Combinations(*columns).united()


def _best(active: Tensor, max_length: int, search: Mapping[str, Any]) -> FoundFormula | None:
    found = best_formulas(active, max_length=max_length, **search)
    return found[0] if found else None
