"""What equivariant parts learn beside the network: where objects are, and what groups look like."""

from typing import final

import torch
from torch import Tensor, nn

from interp_train.collectives import sum_over_processes

_EPS = 1e-5


@final
class ObjectAttention(nn.Module):
    """A logistic regression per category on each cell of a map, learned beside the network.

    Nothing flows back into the map. Units are standardised by running statistics.

    Args:
        num_units: of the map.
        num_categories: C.
        momentum: of the running statistics.
    """

    mean: Tensor
    square: Tensor
    started: Tensor

    def __init__(self, num_units: int, num_categories: int, momentum: float = 0.9) -> None:
        super().__init__()
        self.momentum = momentum
        self.score = nn.Conv2d(num_units, num_categories, 1)
        nn.init.zeros_(self.score.weight)
        nn.init.zeros_(self.score.bias)  # type: ignore[arg-type]
        self.register_buffer("mean", torch.zeros(num_units))
        self.register_buffer("square", torch.ones(num_units))
        self.register_buffer("started", torch.zeros((), dtype=torch.bool))

    def forward(self, maps: Tensor, size: tuple[int, int]) -> Tensor:
        """Logits of each cell ``(N, C, h * w)`` of maps ``(N, units, ., .)``.

        Args:
            maps: what tells the object.
            size: ``(h, w)`` of the cells; maps of another size are interpolated.
        """
        maps = maps.detach().to(self.mean.dtype)
        if self.training:
            self._follow(maps)
        deviation = (self.square - self.mean.square()).clamp(min=0) + _EPS
        standard = (maps - self.mean[:, None, None]) * deviation.rsqrt()[:, None, None]
        logits: Tensor = self.score(standard)
        if logits.shape[2:] != size:
            logits = nn.functional.interpolate(logits, size, mode="bilinear")
        return logits.flatten(2)

    @torch.no_grad()
    def _follow(self, maps: Tensor) -> None:
        """Running mean and mean square of each unit, over all processes."""
        count = maps.new_full((maps.shape[1],), maps.numel() / maps.shape[1])
        sums = torch.stack([maps.sum((0, 2, 3)), maps.square().sum((0, 2, 3)), count])
        sums = sum_over_processes(sums)
        for running, value in ((self.mean, sums[0]), (self.square, sums[1])):
            latest = value / sums[2]
            mixed = running.lerp(latest, 1 - self.momentum)
            running.copy_(torch.where(self.started, mixed, latest))
        self.started.fill_(True)


@final
class GroupAppearance(nn.Module):
    """Tells the groups of filters of a category by what lies where they respond.

    A prototype per group; the score of a group is the cosine with its prototype, over the
    temperature. The map is held constant, so that groups can only be told apart by moving to
    places that look different, and alike in all images.

    Args:
        num_units: of the map.
        num_groups: G.
        num_categories: C; group g belongs to category g mod C.
        temperature: of the cosines.
    """

    rivals: Tensor

    def __init__(
        self, num_units: int, num_groups: int, num_categories: int, temperature: float = 0.1
    ) -> None:
        super().__init__()
        self.temperature = temperature
        generator = torch.Generator().manual_seed(0)  # the global random state is not read
        self.prototypes = nn.Parameter(torch.randn(num_groups, num_units, generator=generator))
        category = torch.arange(num_groups) % num_categories
        self.register_buffer("rivals", category[:, None] == category, persistent=False)

    def forward(self, maps: Tensor, weights: Tensor, size: tuple[int, int]) -> Tensor:
        """Scores of the groups of its category for each group, -inf for others, ``(N, G, G)``.

        Args:
            maps: what groups are told by, ``(N, units, ., .)``.
            weights: where each group responds, ``(N, G, h * w)``, sums are 1.
            size: ``(h, w)`` of the weights; maps of another size are interpolated.
        """
        maps = maps.detach().to(weights.dtype)
        if maps.shape[2:] != size:
            maps = nn.functional.interpolate(maps, size, mode="bilinear")
        seen = nn.functional.normalize(weights @ maps.flatten(2).mT, dim=2)
        prototypes = nn.functional.normalize(self.prototypes.to(weights.dtype), dim=1)
        scores = seen @ prototypes.T / self.temperature
        return scores.masked_fill(~self.rivals, -torch.inf)
