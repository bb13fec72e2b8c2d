"""What equivariant parts learn beside the network: where objects are."""

from typing import final

import torch
from torch import Tensor, nn

from interp_train.collectives import sum_over_processes

_EPS = 1e-5


@final
class ObjectAttention(nn.Module):
    """A logistic regression per category on each cell of a map, learned beside the network.

    It sees the mean of the 3x3 cells around: parts that stick out are told by what they belong to.
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

        In training mode the running statistics move.

        Args:
            maps: what tells the object, each cell the mean of those around it
                (`contrast.around`).
            size: ``(h, w)`` of the cells; maps of another size are interpolated.
        """
        maps = maps.detach().to(self.mean.dtype)
        if self.training:
            self._follow(maps)
        variance = (self.square - self.mean.square()).clamp(min=0)
        # Standardisation and scores in one product: a convolution with few outputs is slow.
        weight = self.score.weight.flatten(1) * (variance + _EPS).rsqrt()
        assert self.score.bias is not None
        offset = self.score.bias - weight @ self.mean
        logits: Tensor = weight @ maps.flatten(2) + offset[:, None]
        logits = logits.view(len(maps), -1, *maps.shape[2:])
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
