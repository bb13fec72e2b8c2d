"""Sampled filter classes: filters in clusters, one per category, drawn at random while learning.

W. Guo, J. Yang, H. Yin, Q. Chen, W. Ye, "PICNN: A Pathway towards Interpretable Convolutional
Neural Networks", AAAI 2024 (arXiv 2312.12068).
"""

from collections.abc import Callable, Mapping, Sequence
from typing import final

import torch
from torch import Tensor, nn

from interp_train.backbones.attachment import checked_backbone
from interp_train.backbones.layers_behind import steps_behind
from interp_train.checks import check_range
from interp_train.collectives import num_processes, sum_over_processes
from interp_train.counter_random import uniform_numbers
from interp_train.learning.filter_objectives.sampled_filter_classes import functional
from interp_train.precision import at_least_float32
from interp_train.structures import BACKGROUND, Batch, StepOutputs

_STEP = 2**40  # between the keys of two steps; ids of samples are smaller


@final
class SampledFilterClasses(nn.Module):
    """Assigns the filters of layers to classes, by a second path through filters drawn at random.

    A matrix, softmaxed over classes, says how probably a class owns a filter. In each step every
    image draws a class from the network's own probabilities, and each filter with the probability
    that this class owns it. On the second path the other filters are silent; its classification
    loss, over images that drew their true class, trains network and matrix. Draws have the
    gradient of their expectation ("straight through"). The ordinary path is not changed: not in
    validation, and not where the network is used.

    The term, per layer: ``sampled``, `weight` times the mean of that loss.

    With one category the background is a second class, and with several on request; else images
    of the background have no class to draw, and no part in the loss.

    Draws derive from `seed`, the number of the step and the id of the sample: they are the same
    over 1 and 2 processes and in a resumed run, and take nothing from torch's random state. Views
    of one photo draw alike. In evaluation mode nothing is exchanged between processes, and the
    number of the step rests.

    Deviates from the released programme: a rate of its own for the matrix; dropout rests on the
    second path; draws as above.

    Args:
        taps: tap aliases or dotted names of the layers, after ReLU.
        weight: factor of the second path's loss (released: 2).
        rate_factor: learning rate of the matrix over that of the network (released: 1).
        background: whether images of no category are a class of their own; None means: only if
            there is one category.
        seed: of the draws and of the first matrix.

    Raises:
        ValueError: for a number out of its range.
    """

    step: Tensor

    def __init__(
        self,
        taps: Sequence[str] = ("last",),
        *,
        weight: float = 2.0,
        rate_factor: float = 20.0,
        background: bool | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.taps: Sequence[str] = tuple(taps)
        self.weight, self.rate_factor = weight, rate_factor
        self.background, self.seed = background, seed
        if not self.taps:
            raise ValueError("`taps` must name at least one layer, but got none.")
        for name in ("weight", "rate_factor"):
            check_range(name, getattr(self, name), 0.0)
        self.layers: list[str] = []
        self.num_categories = 0
        self.matrices = nn.ParameterList()
        self.register_buffer("step", torch.zeros((), dtype=torch.long))
        self._latest: dict[str, Tensor] = {}

    def attach(self, network: nn.Module, num_categories: int) -> None:
        """Make the matrix of each layer, nearly undecided."""
        network = checked_backbone(network, self.layers)
        self.layers = [network.resolve(tap) for tap in self.taps]
        self.num_categories = num_categories
        self.background = num_categories == 1 if self.background is None else self.background
        generator = torch.Generator().manual_seed(self.seed)
        for layer in self.layers:
            steps_behind(network, layer)  # fails where no second path can begin
            size = (network.num_channels(layer), num_categories + self.background)
            # As released: numbers that are softmaxed here, and once more whenever they are used.
            self.matrices.append(nn.Parameter(torch.rand(size, generator=generator).softmax(1)))

    def loss_terms(
        self, activations: Mapping[str, Tensor], labels: Tensor, logits: Tensor, epoch: int
    ) -> dict[str, Tensor]:
        """None: all is in `path_terms`."""
        return {}

    def path_terms(
        self,
        outputs: StepOutputs,
        batch: Batch,
        second_path: Callable[[str, Tensor], Tensor],
        epoch: int,
    ) -> dict[str, Tensor]:
        """``<layer>/sampled``; see `PathObjective`."""
        self._latest.clear()
        keys = batch.sample_ids + self.step * _STEP
        terms = {}
        for number, (layer, matrix) in enumerate(self._named_matrices()):
            maps = outputs.activations[layer]
            uniform = uniform_numbers(keys, 1 + len(matrix), self.seed, number)
            with torch.autocast(maps.device.type, enabled=False):
                right, kept = self._draw(matrix, outputs.logits, batch.labels, uniform)
            losses = second_path(layer, maps * kept.to(maps.dtype)[:, :, None, None])
            terms[f"{layer}/sampled"] = self.weight * self._mean(losses, right)
            self._latest[f"{layer}/right_classes"] = right.detach().mean()
            self._latest[f"{layer}/kept_filters"] = kept.detach().mean()
        if self.training:
            self.step += 1
        return terms

    def measurements(self) -> dict[str, Tensor]:
        """Per layer, of the latest step and this process's images.

        ``right_classes`` (share of images that drew their true class), ``kept_filters`` (share
        that was drawn), ``certainty`` (probability of a filter's likeliest class, mean).
        """
        if not self._latest:
            return {}
        found = {
            f"{layer}/certainty": self.assignment(layer).amax(1).mean() for layer in self.layers
        }
        return found | self._latest

    def assignment(self, layer: str) -> Tensor:
        """Probability of each class to own a filter of a layer (dotted name), detached.

        Returns:
            ``(K, C)``, or ``(K, C + 1)`` with the background as the last class; rows sum to 1.
        """
        return dict(self._named_matrices())[layer].detach().softmax(1)

    def filter_categories(self, layer: str) -> Tensor:
        """Likeliest category of each filter of a layer, or `BACKGROUND`, long ``(K,)``."""
        likeliest = self.assignment(layer).argmax(1)
        return torch.where(likeliest < self.num_categories, likeliest, BACKGROUND)

    def _named_matrices(self) -> list[tuple[str, nn.Parameter]]:
        return list(zip(self.layers, self.matrices, strict=True))

    def _draw(
        self, matrix: nn.Parameter, logits: Tensor, labels: Tensor, uniform: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Which images drew their true class ``(N,)``, and the filters they drew ``(N, K)``."""
        probabilities = functional.class_probabilities(
            at_least_float32(logits), bool(self.background)
        )
        classes = functional.drawn_classes(probabilities, uniform[:, 0])
        right = classes == functional.class_indices(labels, self.num_categories)
        assignment = matrix.to(probabilities.dtype).softmax(1)
        kept = functional.drawn_filters(assignment, probabilities, classes, uniform[:, 1:])
        return right.to(kept.dtype), kept

    def _mean(self, losses: Tensor, right: Tensor) -> Tensor:
        """Mean over the images, of all processes, that drew their class; 0 without any."""
        count, share = right.sum(), 1
        if self.training:
            count, share = sum_over_processes(count), num_processes()
        return (losses * right).sum() * share / count.clamp(min=1)
