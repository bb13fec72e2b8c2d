"""Capsule layers: a head for any backbone, and the decoder that draws what a capsule holds.

Sabour, Frosst & Hinton, "Dynamic Routing Between Capsules", NIPS 2017; Hahn, Pyeon & Kim 2019
(self), Tsai et al. 2020 (inverted) and Mazzia et al. 2021 (attention) for the other routings.
"""

from collections.abc import Sequence
from typing import final

import torch
from torch import Tensor, nn

from interp_train.checks import check_choice, check_range
from interp_train.learning.capsules import functional

ROUTINGS = ("dynamic", "self", "inverted", "attention")


@final
class PrimaryCapsules(nn.Module):
    """A convolution whose units are the atoms of capsules.

    Args:
        in_channels: of the map.
        num_types: capsules at each position.
        atoms: units of each.
        kernel_size: of the convolution; 1 for maps of a deep backbone.
        stride: of the convolution.
        pool_size: side of the map that is pooled to, by means, before; None does not pool.
        squashed: squash each capsule; other routings take them as they are.
        initial_std: of the weights; None is torch's rule.
    """

    def __init__(
        self,
        in_channels: int,
        num_types: int = 32,
        atoms: int = 8,
        *,
        kernel_size: int = 9,
        stride: int = 2,
        pool_size: int | None = None,
        squashed: bool = True,
        initial_std: float | None = None,
    ) -> None:
        super().__init__()
        self.num_types, self.atoms, self.squashed = num_types, atoms, squashed
        self.pool = nn.AdaptiveAvgPool2d(pool_size) if pool_size else nn.Identity()
        self.convolution = nn.Conv2d(in_channels, num_types * atoms, kernel_size, stride)
        if initial_std is not None:
            nn.init.trunc_normal_(
                self.convolution.weight, std=initial_std, a=-2 * initial_std, b=2 * initial_std
            )

    def forward(self, maps: Tensor) -> Tensor:
        """Capsules ``(N, types * h * w, atoms)``, type by type, of a map ``(N, C, H, W)``."""
        units = self.convolution(self.pool(maps))
        # Atoms are channels of one position, not neighbouring positions of one channel.
        capsules = units.unflatten(1, (self.num_types, self.atoms)).permute(0, 1, 3, 4, 2)
        capsules = capsules.flatten(1, 3)
        return functional.squash(capsules) if self.squashed else capsules


@final
class CategoryCapsules(nn.Module):
    """One capsule per category, fed by routing.

    Args:
        num_inputs: input capsules.
        in_atoms: of each.
        num_outputs: categories.
        out_atoms: of their capsules.
        routing: ``"dynamic"``, ``"self"``, ``"inverted"`` or ``"attention"``.
        iterations: of dynamic and inverted routing.
        detach: see `functional.dynamic_routing`.
        leaky: see `functional.dynamic_routing`.
        bias: of dynamic routing's sums, as in the authors' programme.
        num_types: types of input capsules whose positions share weights; None: none do.
        initial_std: of the weights.

    Attributes:
        coupling: coefficients ``(N, I, J)`` of the latest forward pass, without gradient.

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
        initial_std: float = 0.1,
    ) -> None:
        super().__init__()
        check_choice("routing", routing, ROUTINGS)
        check_range("iterations", iterations, 1)
        check_range("num_outputs", num_outputs, 1)
        types = num_types or num_inputs
        if num_inputs % types:
            raise ValueError(
                f"`num_types` must divide the number of input capsules, but {num_inputs} is no "
                f"multiple of {types}."
            )
        check_bytes(types, in_atoms, num_outputs, out_atoms)
        self.routing, self.iterations = routing, iterations
        self.detach, self.leaky = detach, leaky
        self.weights = nn.Parameter(torch.empty(types, in_atoms, num_outputs, out_atoms))
        nn.init.trunc_normal_(self.weights, std=initial_std, a=-2 * initial_std, b=2 * initial_std)
        self.bias = nn.Parameter(torch.full((num_outputs, out_atoms), 0.1)) if bias else None
        self._add_routing(num_inputs, in_atoms)
        self.coupling: Tensor | None = None

    def forward(self, inputs: Tensor) -> Tensor:
        """Category capsules ``(N, J, O)`` of input capsules ``(N, I, D)``."""
        if self.routing == "dynamic":
            outputs, coupling = functional.dynamic_routing(
                inputs,
                self.weights,
                self.iterations,
                bias=self.bias,
                detach=self.detach,
                leaky=self.leaky,
            )
        elif self.routing == "attention":
            outputs, coupling = functional.attention_routing(
                inputs, self.weights, self.routing_bias
            )
        elif self.routing == "inverted":
            outputs, coupling = functional.inverted_routing(
                inputs, self.weights, self.norm, self.iterations
            )
            outputs = functional.squash(outputs)
        else:
            outputs, coupling = self._self_routed(inputs)
        self.coupling = coupling.detach()
        return outputs

    def _add_routing(self, num_inputs: int, in_atoms: int) -> None:
        num_outputs, out_atoms = self.weights.shape[2:]
        if self.routing == "attention":
            self.routing_bias = nn.Parameter(torch.zeros(num_inputs, num_outputs))
        elif self.routing == "inverted":
            self.norm = nn.LayerNorm(out_atoms)
        elif self.routing == "self":
            self.routing_weights = nn.Parameter(torch.zeros(num_inputs, in_atoms, num_outputs))
            self.routing_bias = nn.Parameter(torch.zeros(num_inputs, num_outputs))

    def _self_routed(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        """Poses as long as their activations, which are the lengths of the inputs."""
        poses, activations, coupling = functional.self_routing(
            inputs,
            functional.squash(inputs).norm(dim=2),
            self.weights,
            (self.routing_weights, self.routing_bias),
        )
        directions = poses / functional.lengths(poses)[..., None]
        return directions * activations[..., None], coupling


@final
class CapsuleDecoder(nn.Module):
    """Draws the image from the capsule of one category; all others are set to zero.

    Args:
        num_categories: capsules.
        atoms: of each.
        image_shape: channels, height, width.
        hidden: units of the hidden layers.
    """

    def __init__(
        self,
        num_categories: int,
        atoms: int,
        image_shape: tuple[int, int, int],
        hidden: Sequence[int] = (512, 1024),
    ) -> None:
        super().__init__()
        self.image_shape = image_shape
        layers: list[nn.Module] = []
        units = num_categories * atoms
        for size in hidden:
            layers += [nn.Linear(units, size), nn.ReLU()]
            units = size
        channels, height, width = image_shape
        layers += [nn.Linear(units, channels * height * width), nn.Sigmoid()]
        self.layers = nn.Sequential(*layers)

    def forward(self, capsules: Tensor, categories: Tensor) -> Tensor:
        """Images in [0, 1], ``(N, channels, height, width)``.

        Args:
            capsules: ``(N, J, O)``.
            categories: which capsule of each image is kept, ``(N,)``.
        """
        kept = torch.zeros_like(capsules[..., :1]).scatter_(1, categories.view(-1, 1, 1), 1)
        images: Tensor = self.layers((capsules * kept).flatten(1))
        return images.view(-1, *self.image_shape)


def check_bytes(types: int, in_atoms: int, num_outputs: int, out_atoms: int) -> None:
    """Raise ValueError if weights of single precision, with their gradient, cannot be held.

    The limit is 16 GiB: weights, gradient, and two moments of the optimiser.
    """
    needed = types * in_atoms * num_outputs * out_atoms * 4 * 4
    if needed > 16 * 2**30:
        raise ValueError(
            f"Routing {types} input capsules of {in_atoms} atoms to {num_outputs} categories of "
            f"{out_atoms} needs {needed / 2**30:.1f} GiB for weights and optimiser. Let positions "
            "share weights (`num_types`), or pool the map first (`pool_size`)."
        )
