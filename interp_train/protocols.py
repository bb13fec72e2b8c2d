"""The contracts of the shelves: what a method must look like to be plugged in by configuration.

`LearnedSystem` is the one contract that is a base class, in `interp_train.systems`; metrics are
`torchmetrics.Metric` classes.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

from torch import Tensor, nn

from interp_train.structures import Batch, StepOutputs, Target, ViewBatch


@runtime_checkable
class FilterObjective(Protocol):
    """An `nn.Module` that makes the filters of named layers interpretable while they learn.

    Several objectives combine in one classifier. An objective may keep buffers and parameters;
    batch statistics must be equal over 1 and 2 processes.

    Attributes:
        taps: tap aliases or dotted names of the layers it reads, resolved by `attach`.
    """

    taps: Sequence[str]

    def attach(self, network: nn.Module, num_categories: int) -> None:
        """Resolve `taps`, create state, and optionally insert layers into `network`.

        Called once, before the optimiser is made and before weights are loaded.
        """

    def loss_terms(
        self, activations: Mapping[str, Tensor], labels: Tensor, logits: Tensor, epoch: int
    ) -> dict[str, Tensor]:
        """Named terms to add to the task loss, each a scalar that carries its weight.

        Args:
            activations: dotted name -> activations after ReLU, before a mask, ``(N, K, h, w)``.
            labels: category index or `BACKGROUND`, ``(N,)``.
            logits: ``(N, C)``.
            epoch: 1 in the first epoch.
        """

    def measurements(self) -> dict[str, Tensor]:
        """Scalars to watch (not to minimise) of the latest step, detached."""


@runtime_checkable
class ViewObjective(FilterObjective, Protocol):
    """A filter objective that also compares views of the same photo, where a batch has them."""

    def view_terms(
        self, activations: Mapping[str, Tensor], batch: ViewBatch, epoch: int
    ) -> dict[str, Tensor]:
        """More terms like those of `loss_terms`, which is called first, in the same step.

        One of the same name takes the place of that of `loss_terms`.

        Args:
            activations: see `loss_terms`.
            batch: labels, boxes, and which images are views of which photo, under which transforms.
            epoch: 1 in the first epoch.
        """


@runtime_checkable
class PathObjective(FilterObjective, Protocol):
    """A filter objective that also classifies by changed activations, on a second path."""

    def path_terms(
        self,
        outputs: StepOutputs,
        batch: Batch,
        second_path: Callable[[str, Tensor], Tensor],
        epoch: int,
    ) -> dict[str, Tensor]:
        """More terms like those of `loss_terms`, which is called first, in the same step.

        Args:
            outputs: logits and activations of the ordinary path; see `loss_terms`.
            batch: labels, and ids that randomness may derive from.
            second_path: dotted name of a layer and activations in the place of its own,
                ``(N, K, h, w)`` -> classification loss of each image, ``(N,)``, of the kind that
                trains the ordinary path. Leaves no trace on the network or the random state.
            epoch: 1 in the first epoch.
        """


@runtime_checkable
class HeatmapMethod(Protocol):
    """Network, images and a target -> where in the image the evidence lies.

    A method may say in an attribute ``shows`` what its values are, with their unit, for the
    colour bars of pictures.
    """

    def __call__(self, network: nn.Module, images: Tensor, target: Target) -> Tensor:
        """Heatmap ``(N, 1, H, W)`` >= 0 at image resolution, not rescaled per image.

        Leaves no trace on the network: hooks, gradients, mode, statistics, random state.
        """


@runtime_checkable
class UnitVisualizer(Protocol):
    """Network, units and a sample of images -> a picture of what each unit encodes.

    A method that pictures a whole layer, once per image, says so with an attribute ``of_images``
    that is true.
    """

    def __call__(self, network: nn.Module, target: Target, images: Tensor) -> Tensor:
        """One picture per unit, float32 in [0, 1], ``(U, 3, height, width)``.

        Leaves no trace on the network: hooks, gradients, mode, statistics, random state.

        Args:
            network: puts out logits ``(N, C)``.
            target: the layer and its units, ``(U,)``. A method that pictures a whole layer
                (inversion) gives one picture per image instead and reads the layer alone.
            images: a sample of the data, network input, ``(N, channels, H, W)``. A method
                that makes its pictures from nothing takes their size and colours at most.
        """


@runtime_checkable
class Explainer(Protocol):
    """Activations over a data set -> a graph or tree that explains the network."""

    def fit(self, activations: Any) -> "Explainer":
        """Learn the explanation."""

    def summary(self) -> Mapping[str, float]:
        """Numbers that describe it."""

    def figure(self) -> Any:
        """A picture of it."""
