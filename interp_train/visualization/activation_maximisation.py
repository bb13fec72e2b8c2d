"""Activation maximisation: the picture that a unit answers to most, found by gradient ascent.

The picture is a sum of waves in the colours of the data, seen from changing views, so that it shows
what the unit looks for rather than noise that excites it. Several pictures of a unit can be pushed
apart, to show the different things that it answers to.

Reference: C. Olah, A. Mordvintsev, L. Schubert, "Feature Visualization", Distill 2017; the idea is
of D. Erhan, Y. Bengio, A. Courville, P. Vincent, "Visualizing Higher-Layer Features of a Deep
Network", 2009.

Deviates from the article as `fourier_pictures` and `random_views` beside this file do, and in the
diversity, which is measured in shares of the response, so that one weight fits all layers.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple, final

import torch
from torch import Tensor, nn

from interp_train.checks import check_choice, check_range
from interp_train.data.photo_data import IMAGENET_MEAN, IMAGENET_STD
from interp_train.layer_responses import LayerResponses, responses_of_layer
from interp_train.redirected_relus import RedirectedRelus
from interp_train.structures import Target
from interp_train.visualization.fourier_pictures import (
    Colours,
    colour_covariance,
    colours_of,
    frequency_scale,
    initial_coefficients,
    pictures_of,
)
from interp_train.visualization.random_views import random_view, seen
from interp_train.visualization.unit_peaks import grids

OBJECTIVES = ("mean", "peak", "centre")


def objective_value(maps: Tensor, objective: str) -> Tensor:
    """What is maximised of each map.

    Args:
        maps: of one unit per picture, ``(n, h, w)``.
        objective: ``"mean"`` over the cells, their ``"peak"``, or the cell in the ``"centre"``.

    Returns:
        ``(n,)``.
    """
    if objective == "mean":
        return maps.mean((-2, -1))
    if objective == "peak":
        return maps.amax((-2, -1))
    return maps[:, maps.shape[1] // 2, maps.shape[2] // 2]


def style_similarity(maps: Tensor) -> Tensor:
    """Mean cosine between the Gram matrices of different pictures, 0 for a single one.

    Args:
        maps: of all units of a layer, ``(g, P, K, h, w)``: g groups of P pictures.

    Returns:
        ``(g,)``.
    """
    groups, number = maps.shape[:2]
    flat = maps.flatten(3)
    grams = nn.functional.normalize((flat @ flat.transpose(-2, -1)).flatten(2), dim=-1)
    cosines = grams @ grams.transpose(-2, -1)
    others = ~torch.eye(number, dtype=torch.bool, device=maps.device)
    return cosines[:, others].view(groups, -1).sum(1) / max(1, number * (number - 1))


class _Canvas(NamedTuple):
    """What turns coefficients into pictures and network input."""

    scale: Tensor
    colours: Colours
    mean: Tensor
    std: Tensor
    width: int

    def pictures(self, coefficients: Tensor) -> Tensor:
        return pictures_of(coefficients, self.scale, self.colours, self.width)

    def as_input(self, pictures: Tensor) -> Tensor:
        return (pictures - self.mean) / self.std


@final
@dataclass(frozen=True)
class ActivationMaximisation:
    """Activation maximisation as a unit visualizer.

    Attributes:
        num_pictures: P, of each unit.
        steps: of Adam.
        learning_rate: of Adam, in units of the coefficients.
        objective: what is maximised of the unit's map: its ``"mean"``, its ``"peak"``, or the
            cell in its ``"centre"``.
        diversity: weight of the pictures' similarity, in shares of the response.
        decay: of the frequencies, see `frequency_scale`.
        jitter: largest random shift, in shares of the sides.
        zoom: largest random change of the size.
        degrees: largest random turn.
        redirected_steps: first steps, in which closed ReLUs let gradients through.
        colour_covariance: of pixels in [0, 1] around `mean`, one row per channel; None measures
            the colours of the sample.
        batch_size: pictures in one forward pass, at most (but all of a unit).
        seed: of starts and views.
        mean: per channel, that normalisation subtracts.
        std: per channel, that normalisation divides by.
    """

    num_pictures: int = 1
    steps: int = 256
    learning_rate: float = 0.05
    objective: str = "mean"
    diversity: float = 0.5
    decay: float = 1.0
    jitter: float = 0.05
    zoom: float = 0.1
    degrees: float = 10.0
    redirected_steps: int = 16
    colour_covariance: Sequence[Sequence[float]] | None = None
    batch_size: int = 16
    seed: int = 0
    mean: Sequence[float] = IMAGENET_MEAN
    std: Sequence[float] = IMAGENET_STD

    def __post_init__(self) -> None:
        """Check the ranges."""
        check_choice("objective", self.objective, OBJECTIVES)
        for name in ("num_pictures", "batch_size"):
            check_range(name, getattr(self, name), 1)
        for name in ("steps", "learning_rate", "diversity", "decay", "jitter", "degrees"):
            check_range(name, getattr(self, name), 0)
        check_range("zoom", self.zoom, 0, 0.9)
        check_range("redirected_steps", self.redirected_steps, 0)
        check_range("seed", self.seed, 0)

    def __call__(self, network: nn.Module, target: Target, images: Tensor) -> Tensor:
        """One grid of pictures per unit, in [0, 1], ``(U, 3, height, width)``.

        Args:
            network: puts out logits ``(N, C)``.
            target: the layer and its units, ``(U,)``.
            images: the sample that gives size and colours, network input,
                ``(N, channels, H, W)``.

        Raises:
            ValueError: if the layer or a unit does not exist, or there are no images.
        """
        found = self.pictures(network, target, images).float()
        return grids(found.expand(-1, -1, 3, -1, -1))

    def pictures(self, network: nn.Module, target: Target, images: Tensor) -> Tensor:
        """The pictures in [0, 1], ``(U, P, channels, H, W)``.

        Args:
            network: see `__call__`.
            target: see `__call__`.
            images: see `__call__`.

        Raises:
            ValueError: as `__call__`.
        """
        with responses_of_layer(network, target, images) as responses:
            canvas = self._canvas(responses.images)
            found = [
                self._climb(responses, canvas, units) for units in self._chunks(responses.units)
            ]
            return torch.cat(found)

    def _chunks(self, units: Tensor) -> Iterator[Tensor]:
        yield from torch.split(units, max(1, self.batch_size // self.num_pictures))

    def _canvas(self, images: Tensor) -> _Canvas:
        height, width = images.shape[-2:]
        mean, std = (
            torch.as_tensor(values).to(images).view(-1, 1, 1) for values in (self.mean, self.std)
        )
        if self.colour_covariance is None:
            colours = colours_of(*colour_covariance((images * std + mean).clamp(0, 1)))
        else:
            covariance = torch.tensor(self.colour_covariance).to(images)
            colours = colours_of(mean.flatten(), covariance)
        scale = frequency_scale(height, width, self.decay).to(images)
        return _Canvas(scale, colours, mean, std, width)

    def _climb(self, responses: LayerResponses, canvas: _Canvas, units: Tensor) -> Tensor:
        """Pictures of some units, ``(u, P, channels, H, W)``."""
        coefficients = self._start(responses.images, units).requires_grad_()
        optimizer = torch.optim.Adam([coefficients], lr=self.learning_rate)
        generator = torch.Generator().manual_seed(self.seed)
        outside = canvas.colours.mean.sigmoid()
        for step in range(self.steps):
            view = random_view(generator, jitter=self.jitter, zoom=self.zoom, degrees=self.degrees)
            viewed = canvas.as_input(seen(canvas.pictures(coefficients), view, outside))
            loss = self._loss(responses, viewed, units, step)
            # autograd.grad: `backward` would add to the gradients of the weights.
            (coefficients.grad,) = torch.autograd.grad(loss, coefficients)
            optimizer.step()
        found = canvas.pictures(coefficients.detach())
        return found.view(len(units), self.num_pictures, *found.shape[1:])

    def _start(self, images: Tensor, units: Tensor) -> Tensor:
        """Each picture has its own start, whatever other units are asked for."""
        height, width = images.shape[-2:]
        starts = [
            initial_coefficients(images.shape[1], (height, width), self.seed * 7919 + number)
            for number in range(self.num_pictures)
        ]
        return torch.stack(starts).to(images).repeat(len(units), 1, 1, 1, 1)

    def _loss(self, responses: LayerResponses, viewed: Tensor, units: Tensor, step: int) -> Tensor:
        if step < self.redirected_steps:
            with RedirectedRelus():
                return self._objective(responses, viewed, units)
        return self._objective(responses, viewed, units)

    def _objective(self, responses: LayerResponses, viewed: Tensor, units: Tensor) -> Tensor:
        maps = responses(viewed).to(viewed.dtype)
        chosen = units.repeat_interleave(self.num_pictures)
        rows = torch.arange(len(chosen), device=maps.device)
        values = objective_value(maps[rows, chosen], self.objective)
        if self.num_pictures == 1 or self.diversity == 0:
            return -values.sum()
        groups = maps.view(len(units), self.num_pictures, *maps.shape[1:])
        response = values.detach().view(len(units), -1).mean(1).abs()
        alike = style_similarity(groups) * response * self.num_pictures
        return self.diversity * alike.sum() - values.sum()
