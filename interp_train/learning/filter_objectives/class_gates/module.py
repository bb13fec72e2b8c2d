"""Class gates: each filter learns for one category, or a few, through gates that are learned too.

H. Liang, Z. Ouyang, Y. Zeng, H. Su, Z. He, S.-T. Xia, J. Zhu, B. Zhang, "Training Interpretable
Convolutional Neural Networks by Differentiating Class-Specific Filters", ECCV 2020 (arXiv
2007.08194).
"""

from collections.abc import Callable, Mapping, Sequence
from typing import final

import torch
from torch import Tensor, nn

from interp_train.backbones.attachment import checked_backbone
from interp_train.backbones.layers_behind import steps_behind
from interp_train.checks import check_range
from interp_train.learning.filter_objectives.class_gates import functional
from interp_train.structures import BACKGROUND, Batch, StepOutputs


@final
class ClassGates(nn.Module):
    """Makes the filters of layers class-specific, by a second path through gates.

    A matrix says how much of each filter an image of each category may use. On the second path
    the maps are multiplied with the gates of the image's category, and classified by the rest of
    the network; that loss trains network and gates. A penalty keeps the matrix sparse, so a
    filter that serves a category must be left to it by the others. Nothing is gated on the
    ordinary path: not in validation, and not where the network is used.

    The terms, per layer: ``density``, ``density_weight * relu(|G|_1 - density * entries)``, and
    ``gated``, ``weight`` times the mean classification loss of the gated path.

    With one category, its gates alone would all be 1; the background is then a second class with
    gates of its own. With several categories it is so on request, and else images of the
    background are not gated.

    Deviates from the released programme: the ordinary path learns in every epoch and the gated
    path joins it, instead of taking its place in some epochs, because the terms of objectives add
    to the task loss; `period` lets it join in every n-th epoch only. One optimiser serves both
    paths, with a rate of its own for the gates. Gates start at 1 (the programme: at 0.5, which is
    1 after the first step). A row of gates that falls below 0 keeps its largest
    (`functional.normalised_gates`). Dropout rests on the gated path.

    Masks that other objectives hang on the same layer do not apply on the gated path.

    Args:
        taps: tap aliases or dotted names of the layers, after ReLU.
        weight: factor of the classification loss of the gated path.
        density_weight: factor of the penalty (released: 1e-3).
        density: share of the matrix's entries that costs nothing (released: 0.2). As each filter
            keeps its widest gate, the density is at least 1 over the number of classes.
        rate_factor: learning rate of the gates over that of the network.
        start_epoch: first epoch (from 1) with a gated path.
        period: every `period`-th epoch has one (released: 3, from epoch 12 on).
        background: whether images of no category are a class of their own; None means: only if
            there is one category.

    Raises:
        ValueError: for a number out of its range.
    """

    def __init__(
        self,
        taps: Sequence[str] = ("last",),
        *,
        weight: float = 1.0,
        density_weight: float = 1e-3,
        density: float = 0.2,
        rate_factor: float = 20.0,
        start_epoch: int = 1,
        period: int = 1,
        background: bool | None = None,
    ) -> None:
        super().__init__()
        self.taps: Sequence[str] = tuple(taps)
        self.weight, self.density_weight, self.density = weight, density_weight, density
        self.rate_factor = rate_factor
        self.start_epoch, self.period = start_epoch, period
        self.background = background
        self._check_options()
        self.layers: list[str] = []
        self.num_categories = 0
        self.matrices = nn.ParameterList()

    def _check_options(self) -> None:
        if not self.taps:
            raise ValueError("`taps` must name at least one layer, but got none.")
        for name in ("weight", "density_weight", "rate_factor"):
            check_range(name, getattr(self, name), 0.0)
        check_range("density", self.density, 0.0, 1.0)
        for name in ("start_epoch", "period"):
            check_range(name, getattr(self, name), 1)

    def attach(self, network: nn.Module, num_categories: int) -> None:
        """Make the matrix of each layer, all gates open."""
        network = checked_backbone(network, self.layers)
        self.layers = [network.resolve(tap) for tap in self.taps]
        self.num_categories = num_categories
        self.background = num_categories == 1 if self.background is None else self.background
        columns = num_categories + self.background
        for layer in self.layers:
            steps_behind(network, layer)  # fails where no second path can begin
            gates = torch.ones(network.num_channels(layer), columns)
            self.matrices.append(nn.Parameter(gates))

    def loss_terms(
        self, activations: Mapping[str, Tensor], labels: Tensor, logits: Tensor, epoch: int
    ) -> dict[str, Tensor]:
        """``<layer>/density``; see `FilterObjective`. In training it first projects the gates."""
        share = self.density_weight * self._is_gated(epoch)
        terms = {}
        for layer, matrix in self._named_matrices():
            if self.training:
                _project(matrix)
            excess = functional.density_excess(self._gates(matrix), self.density)
            terms[f"{layer}/density"] = share * excess
        return terms

    def path_terms(
        self,
        outputs: StepOutputs,
        batch: Batch,
        second_path: Callable[[str, Tensor], Tensor],
        epoch: int,
    ) -> dict[str, Tensor]:
        """``<layer>/gated``; see `PathObjective`. None in epochs without a gated path."""
        if not self._is_gated(epoch):
            return {}
        terms = {}
        for layer, matrix in self._named_matrices():
            gates = functional.gates_of_images(
                self._gates(matrix), batch.labels, bool(self.background)
            )
            losses = second_path(layer, functional.gated(outputs.activations[layer], gates))
            terms[f"{layer}/gated"] = self.weight * losses.mean()
        return terms

    def measurements(self) -> dict[str, Tensor]:
        """Of the matrix of each layer.

        ``density`` (the L1-density of the paper), ``single_class_filters`` (share of filters
        with one gate above a half).
        """
        found: dict[str, Tensor] = {}
        for layer in self.layers:
            gates = self.gates(layer)
            found[f"{layer}/density"] = functional.density(gates)
            single = (gates > 0.5).sum(1) == 1
            found[f"{layer}/single_class_filters"] = single.to(gates.dtype).mean()
        return found

    def gates(self, layer: str) -> Tensor:
        """The matrix of a layer (dotted name), in [0, 1], detached.

        Returns:
            ``(K, C)``, or ``(K, C + 1)`` with the background as the last class.
        """
        return functional.normalised_gates(dict(self._named_matrices())[layer].detach())

    def filter_categories(self, layer: str) -> Tensor:
        """Category with the widest gate of each filter of a layer, or `BACKGROUND`, ``(K,)``."""
        widest = self.gates(layer).argmax(1)
        return torch.where(widest < self.num_categories, widest, BACKGROUND)

    def _is_gated(self, epoch: int) -> bool:
        return epoch >= self.start_epoch and epoch % self.period == 0

    def _named_matrices(self) -> list[tuple[str, nn.Parameter]]:
        return list(zip(self.layers, self.matrices, strict=True))

    def _gates(self, matrix: nn.Parameter) -> Tensor:
        """With gradient in training, where the matrix has been projected in place."""
        return matrix if self.training else functional.normalised_gates(matrix)


@torch.no_grad()
def _project(matrix: nn.Parameter) -> None:
    """Project in place, once per step and before the matrix is read.

    Whatever reads it at another time projects too, so this is as good as after each step.
    """
    matrix.copy_(functional.normalised_gates(matrix))
