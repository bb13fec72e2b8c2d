"""What one layer of grouped filters remembers: its mean maps, similarities and groups."""

from typing import Any, final

import torch
from torch import Tensor, nn

from interp_train.collectives import process_index, sum_over_processes
from interp_train.learning.filter_objectives.compositional_groups.functional import (
    mean_maps,
    mean_similarity,
)
from interp_train.spectral_clustering import spectral_groups


@final
class FilterGroups(nn.Module):
    """Groups of the K filters of one layer, and the running statistics that they follow from.

    The size of the maps is that of the first ones seen, in training or in a checkpoint.

    Args:
        num_filters: K.
        num_groups: G, at most K.
        momentum: of the running mean of the maps.
        seed: of the clustering.
    """

    mean: Tensor
    started: Tensor
    cosines: Tensor
    number: Tensor
    groups: Tensor
    grouped_in: Tensor

    def __init__(self, num_filters: int, num_groups: int, *, momentum: float, seed: int) -> None:
        super().__init__()
        self.num_groups, self.momentum, self.seed = num_groups, momentum, seed
        self.register_buffer("mean", torch.zeros(num_filters, 0, 0))
        self.register_buffer("started", torch.zeros((), dtype=torch.bool))
        # Correlations since the latest grouping, and of how many images.
        self.register_buffer("cosines", torch.zeros(num_filters, num_filters))
        self.register_buffer("number", torch.zeros(()))
        self.register_buffer("groups", torch.full((num_filters,), -1))
        self.register_buffer("grouped_in", torch.zeros((), dtype=torch.long))  # epoch; 0 = never
        self._grouped_in: int | None = 0  # the same without asking the device; None: ask once

    @torch.no_grad()
    def follow(self, maps: Tensor) -> None:
        """Follow the mean of the maps ``(N, K, h, w)``, over all processes."""
        latest = mean_maps(maps, across=True).to(self.mean.dtype)
        if not self.mean.numel():
            self.mean = torch.zeros_like(latest)
        mixed = self.mean.lerp(latest, 1 - self.momentum)
        self.mean.copy_(torch.where(self.started, mixed, latest))
        self.started.fill_(True)

    def mean_for(self, maps: Tensor) -> Tensor:
        """The mean, in the dtype of `maps`; 0 before the first step, ``(K, h, w)``."""
        return self.mean.to(maps.dtype) if self.mean.numel() else torch.zeros_like(maps[0])

    def check_maps(self, layer: str, maps: Tensor) -> None:
        """Raise ValueError unless maps are like those that the mean was learned from.

        Args:
            layer: whose maps they are, for the message.
            maps: ``(N, K, h, w)``.
        """
        if maps.dim() != 4:
            raise ValueError(
                f"`taps` must name layers that put out maps (N, K, h, w), but {layer!r} puts out "
                f"{tuple(maps.shape)}. Name a convolution, or what follows it."
            )
        if self.mean.numel() and maps.shape[1:] != self.mean.shape:
            raise ValueError(
                f"`activations[{layer!r}]` must have maps of one size, (N, K, h, w) with "
                f"{tuple(self.mean.shape)} at the end, but got {tuple(maps.shape)}. Give images of "
                f"one size."
            )

    @torch.no_grad()
    def collect(self, cosines: Tensor, number: Tensor) -> None:
        """Add correlations ``(K, K)`` of a number of images; equal on all processes."""
        self.cosines += cosines.detach().to(self.cosines.dtype)
        self.number += number.to(self.number.dtype)

    def latest_grouping(self) -> int:
        """Epoch in which filters were grouped last, 0 for never; asks the device once at most."""
        if self._grouped_in is None:
            self._grouped_in = int(self.grouped_in)
        return self._grouped_in

    @torch.no_grad()
    def regroup(self, epoch: int) -> None:
        """Group the filters by what was collected, and start to collect afresh.

        Waits for the device. All processes hold the same sums; the groups are those of process 0,
        in case their processors round differently.

        Raises:
            ValueError: if the network has diverged.
        """
        similarity = mean_similarity(self.cosines, self.number).clamp(min=0)
        groups = spectral_groups(similarity, self.num_groups, self.seed)
        decides = process_index() == 0
        self.groups.copy_(sum_over_processes(groups if decides else torch.zeros_like(groups)))
        self.cosines.zero_()
        self.number.zero_()
        self.grouped_in.fill_(epoch)
        self._grouped_in = epoch

    def assignment(self, like: Tensor) -> Tensor:
        """Which filter is in which group, ``(K, G)`` of 0 and 1; all 0 before the first grouping.

        Args:
            like: gives the dtype.
        """
        numbers = torch.arange(self.num_groups, device=self.groups.device)
        return (self.groups[:, None] == numbers).to(like.dtype)

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *arguments: Any) -> None:
        self._grouped_in = None
        saved = state_dict.get(f"{prefix}mean")
        if saved is not None and saved.dim() == 3:
            self.mean = self.mean.new_zeros(saved.shape)
        super()._load_from_state_dict(state_dict, prefix, *arguments)
