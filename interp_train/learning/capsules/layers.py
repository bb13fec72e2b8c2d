"""Capsule layers: a head for any backbone, and the decoder that draws what a capsule holds.

Sabour, Frosst & Hinton, "Dynamic Routing Between Capsules", NIPS 2017; Hahn, Pyeon & Kim 2019
(self), Tsai et al. 2020 (inverted), Mazzia et al. 2021 (attention) and Hinton et al. 2018 (em, and
the addition of coordinates) for the other routings.
"""

import functools
import operator
from collections.abc import Callable
from typing import Any, final

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from interp_train.batch_normalisation import WholeBatchNorm
from interp_train.checks import check_choice, check_range
from interp_train.learning.capsules import functional
from interp_train.learning.capsules.memory import check_predictions, check_weights
from interp_train.precision import at_least_float32

ROUTINGS = ("dynamic", "self", "inverted", "attention", "em")
SQUASHES = ("quadratic", "exponential", "none")


@final
class PrimaryCapsules(nn.Module):
    """A convolution whose units are the atoms of capsules.

    Args:
        in_channels: of the map.
        num_types: capsules at each position.
        atoms: units of each.
        kernel_size: of the convolution; 1 for maps of a deep backbone.
        stride: of the convolution.
        depthwise: each unit reads one channel of the map only.
        pool_size: side of the map that is pooled to, by means, before; None does not pool.
        input_norm: normalise the map by its batch before; for maps of a deep backbone.
        squash: ``"quadratic"`` (Sabour et al.), ``"exponential"`` (Mazzia et al.) or ``"none"``,
            for routings that take capsules as they are.
        initial_std: of the weights; None is torch's rule.

    Attributes:
        lengths: layer that puts out the length of each capsule, ``(N, num_types, h, w)``.

    Raises:
        ValueError: if an argument is out of range, or the units cannot share out the channels.
    """

    def __init__(
        self,
        in_channels: int,
        num_types: int = 32,
        atoms: int = 8,
        *,
        kernel_size: int = 9,
        stride: int = 2,
        depthwise: bool = False,
        pool_size: int | None = None,
        input_norm: bool = False,
        squash: str = "quadratic",
        initial_std: float | None = None,
    ) -> None:
        super().__init__()
        check_range("num_types", num_types, 1)
        check_range("atoms", atoms, 1)
        check_choice("squash", squash, SQUASHES)
        units = num_types * atoms
        if depthwise and units % in_channels:
            raise ValueError(
                f"`num_types` times `atoms` must be a multiple of the map's channels if each unit "
                f"reads one of them, but {num_types} x {atoms} is none of {in_channels}."
            )
        self.num_types, self.atoms, self.squashed = num_types, atoms, squash != "none"
        self.norm = WholeBatchNorm(in_channels) if input_norm else nn.Identity()
        self.pool = nn.AdaptiveAvgPool2d(pool_size) if pool_size else nn.Identity()
        groups = in_channels if depthwise else 1
        self.convolution = nn.Conv2d(in_channels, units, kernel_size, stride, groups=groups)
        self.lengths = CapsuleLengths(squash)
        if initial_std is not None:
            truncated_normal(self.convolution.weight, initial_std)

    def forward(self, maps: Tensor) -> Tensor:
        """Capsules ``(N, types * h * w, atoms)``, type by type, of a map ``(N, C, H, W)``."""
        units = at_least_float32(self.convolution(self.pool(self.norm(maps))))
        # Atoms are channels of one position, not neighbouring positions of one channel.
        number, _, height, width = units.shape
        capsules = units.view(number, self.num_types, self.atoms, height, width)
        squares = capsules.square()
        # Slice by slice, so that receptive fields can be followed through it.
        squared = functools.reduce(operator.add, (squares[:, :, i] for i in range(self.atoms)))
        lengths = self.lengths(squared)
        if self.squashed:
            factors = lengths * (squared + functional.EPSILON).rsqrt()
            capsules = capsules * factors[:, :, None]
        return capsules.permute(0, 1, 3, 4, 2).flatten(1, 3)

    def map_size(self, in_size: tuple[int, int]) -> tuple[int, int]:
        """Height and width of the map of capsules, for a map of height and width `in_size`.

        Raises:
            ValueError: if the convolution does not fit.
        """
        pooled = isinstance(self.pool, nn.AdaptiveAvgPool2d)
        side = self.pool.output_size if pooled else None
        kernel, stride = self.convolution.kernel_size[0], self.convolution.stride[0]
        sizes = [int(side) if isinstance(side, int) else size for size in in_size]
        if min(sizes) < kernel:
            raise ValueError(
                f"`kernel_size` of the primary capsules must be at most the side of their map, "
                f"but got {kernel} for {sizes[0]} x {sizes[1]} cells. Use larger images "
                f"(data.image_size), or a smaller kernel (learning.head.primary.kernel_size)."
            )
        return (sizes[0] - kernel) // stride + 1, (sizes[1] - kernel) // stride + 1


@final
class CapsuleLengths(nn.Module):
    """Squashed lengths, a map of its own so that it can be recorded, dissected and drawn.

    Args:
        squash: see `PrimaryCapsules`; with ``"none"`` capsules are not made that long.
    """

    def __init__(self, squash: str) -> None:
        super().__init__()
        self.exponential = squash == "exponential"

    def forward(self, squared: Tensor) -> Tensor:
        """Lengths in [0, 1) of squared lengths, of any shape."""
        if self.exponential:
            return -torch.expm1(-(squared + functional.EPSILON).sqrt())
        return squared / (1 + squared)


@final
class CategoryCapsules(nn.Module):
    """One capsule per category, fed by routing.

    Args:
        num_inputs: input capsules.
        in_atoms: of each.
        num_outputs: categories.
        out_atoms: of their capsules.
        routing: ``"dynamic"``, ``"self"``, ``"inverted"``, ``"attention"`` or ``"em"``; for self,
            inverted and em, primary capsules should not be squashed.
        iterations: of dynamic, inverted and em routing.
        detach: see `functional.dynamic_routing`.
        leaky: see `functional.dynamic_routing`.
        bias: of dynamic routing's sums, as in the authors' programme.
        num_types: types of input capsules whose positions share weights; None: none do.
        coordinates: height and width of the map of input capsules, to add each one's place to two
            atoms of what it predicts; None adds nothing.
        initial_std: of the weights.
        chunk_size: images that are routed at once; what is left of the others is made again in the
            backward pass, against too little memory for many categories. None routes all.

    Attributes:
        coupling: layer that puts out the coefficients ``(N, I, J)``, without gradient.

    Raises:
        ValueError: if an argument is out of range, or the weights would not fit into memory.
    """

    def __init__(
        self,
        num_inputs: int,
        in_atoms: int,
        num_outputs: int,
        out_atoms: int = 16,
        *,
        routing: str = "dynamic",
        iterations: int = 3,
        detach: bool = False,
        leaky: bool = False,
        bias: bool = False,
        num_types: int | None = None,
        coordinates: tuple[int, int] | None = None,
        initial_std: float = 0.1,
        chunk_size: int | None = None,
    ) -> None:
        super().__init__()
        check_choice("routing", routing, ROUTINGS)
        check_range("iterations", iterations, 1)
        check_range("num_outputs", num_outputs, 1)
        check_range("chunk_size", chunk_size or 1, 1)
        check_range("out_atoms", out_atoms, 2 if coordinates else 1)
        types = num_types or num_inputs
        if num_inputs % types:
            raise ValueError(
                f"`num_types` must divide the number of input capsules, but {num_inputs} is no "
                f"multiple of {types}."
            )
        check_weights(types, in_atoms, num_outputs, out_atoms)
        self.routing, self.iterations = routing, iterations
        self.detach, self.leaky, self.chunk_size = detach, leaky, chunk_size
        self.weights = nn.Parameter(torch.empty(types, in_atoms, num_outputs, out_atoms))
        truncated_normal(self.weights, initial_std)
        self.bias = nn.Parameter(torch.full((num_outputs, out_atoms), 0.1)) if bias else None
        places = None if coordinates is None else scaled_places(coordinates, num_inputs)
        self.register_buffer("places", places, persistent=False)
        self._add_routing(num_inputs, in_atoms + (0 if coordinates is None else 2))
        self.coupling = nn.Identity()

    places: Tensor | None

    def forward(self, inputs: Tensor) -> Tensor:
        """Category capsules ``(N, J, O)`` of input capsules ``(N, I, D)``.

        Raises:
            ValueError: if the predictions would not fit into memory.
        """
        inputs, weights = self._placed(inputs)
        pieces = torch.split(inputs, self.chunk_size or len(inputs))
        whole = self.routing != "dynamic" or len(weights) != inputs.shape[1]
        check_predictions(pieces[0], weights, whole=whole)
        route = getattr(self, f"_{self.routing}")
        if len(pieces) == 1:
            outputs, coupling = route(inputs, weights)
        else:
            found = [in_piece(route, piece, weights) for piece in pieces]
            outputs, coupling = (torch.cat(parts) for parts in zip(*found, strict=True))
        self.coupling(coupling.detach())
        capsules: Tensor = outputs
        return capsules

    def _add_routing(self, num_inputs: int, in_atoms: int) -> None:
        num_outputs, out_atoms = self.weights.shape[2:]
        if self.routing == "attention":
            self.routing_bias = nn.Parameter(torch.zeros(num_inputs, num_outputs))
        elif self.routing == "inverted":
            self.norm = nn.LayerNorm(out_atoms)
            self.presence = nn.Linear(out_atoms, 1)
        elif self.routing == "self":
            self.routing_weights = nn.Parameter(torch.zeros(num_inputs, in_atoms, num_outputs))
            self.routing_bias = nn.Parameter(torch.zeros(num_inputs, num_outputs))
        elif self.routing == "em":
            self.use_cost = nn.Parameter(torch.zeros(num_outputs))
            self.use_gain = nn.Parameter(torch.zeros(num_outputs))

    def _placed(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        """Places as two more atoms of the inputs, whose weights are fixed: 1 for one atom each."""
        if self.places is None:
            return inputs, self.weights
        fixed = self.weights.new_zeros(len(self.weights), 2, *self.weights.shape[2:])
        fixed[:, 0, :, 0] = 1
        fixed[:, 1, :, 1] = 1
        places = self.places.to(inputs.dtype).expand(len(inputs), -1, -1)
        return torch.cat([inputs, places], 2), torch.cat([self.weights, fixed], 1)

    def _dynamic(self, inputs: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
        return functional.dynamic_routing(
            inputs,
            weights,
            self.iterations,
            bias=self.bias,
            detach=self.detach,
            leaky=self.leaky,
        )

    def _attention(self, inputs: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
        return functional.attention_routing(inputs, weights, self.routing_bias)

    def _inverted(self, inputs: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
        """After a layer normalisation all are equally long; a linear layer says how present."""
        poses, coupling = functional.inverted_routing(inputs, weights, self.norm, self.iterations)
        presence = at_least_float32(self.presence(poses)).sigmoid()
        return functional.directions(poses) * presence, coupling

    def _self(self, inputs: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
        """Poses as long as their activations; those of the inputs are their lengths."""
        poses, found, coupling = functional.self_routing(
            inputs,
            self._activations(inputs),
            weights,
            (self.routing_weights, self.routing_bias),
        )
        return functional.directions(poses) * found[..., None], coupling

    def _em(self, inputs: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
        poses, found, coupling = functional.em_routing(
            inputs,
            self._activations(inputs),
            weights,
            (self.use_cost, self.use_gain),
            iterations=self.iterations,
        )
        return functional.directions(poses) * found[..., None], coupling

    def _activations(self, inputs: Tensor) -> Tensor:
        """Squashed lengths without the two atoms that are places, ``(N, I)``."""
        return functional.lengths(functional.squash(inputs[..., : self.weights.shape[1]]))


def truncated_normal(weights: Tensor, std: float) -> None:
    """Fill with normal numbers of which none lies beyond two deviations."""
    nn.init.trunc_normal_(weights, std=std, a=-2 * std, b=2 * std)


def scaled_places(grid: tuple[int, int], number: int) -> Tensor:
    """Where input capsules lie, x and y in (0, 1), ``(number, 2)``; type by type, row by row.

    Raises:
        ValueError: if `number` is no multiple of the cells of `grid`.
    """
    height, width = grid
    if number % (height * width):
        raise ValueError(
            f"`coordinates` must be the map of the {number} input capsules, but {height} x {width} "
            f"cells do not divide their number."
        )
    rows = (torch.arange(height) + 0.5) / height
    columns = (torch.arange(width) + 0.5) / width
    y, x = torch.meshgrid(rows, columns, indexing="ij")
    return torch.stack([x.flatten(), y.flatten()], 1).repeat(number // (height * width), 1)


def in_piece(route: Callable[..., Any], piece: Tensor, weights: Tensor) -> Any:
    """What `route` returns; with gradients, what it needs for them is not kept but made again."""
    if torch.is_grad_enabled():
        return checkpoint(route, piece, weights, use_reentrant=False)
    return route(piece, weights)
