"""What equivariant parts keep from step to step: where objects are, and what groups are worth."""

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
class GroupReliability(nn.Module):
    """How well the position of each group of filters moves with the image, from 0 to 1.

    ``relu(1 - error / limit)``, a running mean over the steps that begins at 0.

    Args:
        num_groups: G.
        limit: error between views, over the variance of the position, that counts as 0.
        momentum: of the running mean.
    """

    values: Tensor

    def __init__(self, num_groups: int, limit: float, momentum: float = 0.95) -> None:
        super().__init__()
        self.limit, self.momentum = limit, momentum
        self.register_buffer("values", torch.zeros(num_groups))

    @torch.no_grad()
    def follow(self, errors: Tensor, assignment: Tensor) -> None:
        """Take in the errors of a step.

        Args:
            errors: of all processes, see `functional.view_errors`, ``(2, K)``.
            assignment: which filter is in which group, 0 or 1, ``(K, G)``; a group without
                targets keeps its value.
        """
        sums, counts = (errors @ assignment.to(errors.dtype)).to(self.values.dtype)
        latest = (1 - sums / counts.clamp(min=1) / self.limit).relu()
        mixed = self.values.lerp(latest, 1 - self.momentum)
        self.values.copy_(torch.where(counts > 0, mixed, self.values))
