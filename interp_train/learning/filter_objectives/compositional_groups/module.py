"""Compositional groups: filters in groups, each group with a region of activation of its own.

Shen, Wei, Huang, Zhang, Fan, Zhao & Zhang, "Interpretable Compositional Convolutional Neural
Networks", IJCAI 2021 (arXiv 2107.04474).
"""

from collections.abc import Mapping, Sequence
from typing import final

import torch
from torch import Tensor, nn

from interp_train.backbones.attachment import checked_backbone
from interp_train.checks import check_range
from interp_train.label_counts import membership_of
from interp_train.learning.filter_objectives.compositional_groups import functional
from interp_train.learning.filter_objectives.compositional_groups.layers import FilterGroups
from interp_train.structures import BACKGROUND

_GROUPS_OF_ONE, _GROUPS_OF_SEVERAL = 5, 16  # the released programme


@final
class CompositionalGroups(nn.Module):
    """Makes the filters of a group respond in the same places, and unlike those of other groups.

    The similarity of two filters is the correlation of their maps over positions plus 1, per image
    and averaged over the images of any category (background images do not count). Filters are put
    into groups by spectral clustering of the similarity, averaged over the images since the last
    grouping. The terms are

    * ``grouping``: minus the similarity within a group over that with all filters, added up over
      groups;
    * ``discrimination``, with several categories: minus the cosine of the groups' activations
      between images of a category over that with all images, added up over categories.

    A region may be of any shape, also one of the background; nothing says that it is a part.

    Before `start_epoch` similarities are only collected. Grouping happens in the first step of an
    epoch, from sums over all processes, and is the only time that the step waits for the device.
    Statistics, sums and groups are buffers, so that a resumed run goes on as it would have.

    Deviates from the released programme: the similarities that groups follow from are collected
    while the network learns, where the programme spends every other of its first 200 epochs on
    grouping alone; they are those of the loss, a mean over images of correlations, where it divides
    a mean covariance by mean variances, over background images too; the padding of the backbone's
    convolutions stays as it is, where the programme repeats the border.

    In evaluation mode statistics rest, nothing is exchanged between processes, and the terms are
    those of the local batch.

    Args:
        taps: tap aliases or dotted names of the layers, after ReLU.
        weight: of the term ``grouping`` (lambda).
        discrimination_weight: of the term ``discrimination``, which one category does not have.
        num_groups: G; None is 5 for one category, 16 for several. A layer with fewer filters has
            one group per filter.
        start_epoch: first epoch (from 1) with groups and losses; 1 groups by the first batch.
        regroup_every: epochs from one grouping to the next.
        freeze_epoch: last epoch in which filters are grouped again.
        momentum: of the running mean of the maps, which correlations leave out.
        seed: of the clustering.

    Raises:
        ValueError: for a number out of its range.
    """

    def __init__(
        self,
        taps: Sequence[str] = ("last",),
        *,
        weight: float = 0.1,
        discrimination_weight: float = 0.1,
        num_groups: int | None = None,
        start_epoch: int = 2,
        regroup_every: int = 1,
        freeze_epoch: int = 100,
        momentum: float = 0.95,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.taps: Sequence[str] = tuple(taps)
        self.weight, self.discrimination_weight = weight, discrimination_weight
        self.num_groups, self.start_epoch = num_groups, start_epoch
        self.regroup_every, self.freeze_epoch = regroup_every, freeze_epoch
        self.momentum, self.seed = momentum, seed
        self._check_options()
        self.layers: list[str] = []
        self.filter_groups = nn.ModuleList()
        self.num_categories = 0
        self._latest: dict[str, tuple[Tensor, Tensor]] = {}

    def _check_options(self) -> None:
        if not self.taps:
            raise ValueError("`taps` must name at least one layer, but got none.")
        for name in ("weight", "discrimination_weight", "freeze_epoch", "seed"):
            check_range(name, getattr(self, name), 0)
        for name in ("start_epoch", "regroup_every"):
            check_range(name, getattr(self, name), 1)
        if self.num_groups is not None:
            check_range("num_groups", self.num_groups, 1)
        check_range("momentum", self.momentum, 0.0, 1.0)

    def attach(self, network: nn.Module, num_categories: int) -> None:
        """Create the state of each layer; the network stays as it is."""
        network = checked_backbone(network, self.layers)
        self.layers = [network.resolve(tap) for tap in self.taps]
        self.num_categories = num_categories
        usual = _GROUPS_OF_ONE if num_categories == 1 else _GROUPS_OF_SEVERAL
        wanted = usual if self.num_groups is None else self.num_groups
        for layer in self.layers:
            filters = network.num_channels(layer)
            self.filter_groups.append(
                FilterGroups(filters, min(wanted, filters), momentum=self.momentum, seed=self.seed)
            )

    def loss_terms(
        self, activations: Mapping[str, Tensor], labels: Tensor, logits: Tensor, epoch: int
    ) -> dict[str, Tensor]:
        """``<layer>/grouping`` and ``<layer>/discrimination``; see `FilterObjective`."""
        self._latest.clear()
        terms = {}
        with torch.autocast(labels.device.type, enabled=False):
            for layer, state in self._states():
                found = self._terms(layer, state, activations[layer], labels, epoch=epoch)
                terms.update({f"{layer}/{name}": value for name, value in found.items()})
        return terms

    def measurements(self) -> dict[str, Tensor]:
        """Of the latest training step, per layer; nothing before there are groups.

        ``similarity_within`` and ``similarity_between`` (mean over pairs of different filters of
        one group, and of two groups), ``largest_group`` (share of the filters).
        """
        found: dict[str, Tensor] = {}
        for layer, (similarity, assignment) in self._latest.items():
            within, between = functional.mean_within_and_between(similarity, assignment)
            found[f"{layer}/similarity_within"] = within
            found[f"{layer}/similarity_between"] = between
            found[f"{layer}/largest_group"] = assignment.mean(0).amax()
        return found

    def filter_group_numbers(self, layer: str) -> Tensor:
        """Group of each filter of a layer (dotted name), long ``(K,)``; -1 before there are any."""
        return dict(self._states())[layer].groups

    def _states(self) -> list[tuple[str, FilterGroups]]:
        pairs = zip(self.layers, self.filter_groups, strict=True)
        return [(name, state) for name, state in pairs if isinstance(state, FilterGroups)]

    def _terms(
        self, layer: str, state: FilterGroups, activations: Tensor, labels: Tensor, *, epoch: int
    ) -> dict[str, Tensor]:
        maps = activations if activations.dtype == torch.float64 else activations.float()
        state.check_maps(layer, maps)
        if self.training:
            state.follow(maps)
        counts = (labels != BACKGROUND).to(maps.dtype)
        cosines, number = functional.summed_cosines(
            maps, state.mean_for(maps), counts, self.training
        )
        if self.training:
            self._update(state, cosines, number, epoch)
        similarity = functional.mean_similarity(cosines, number)
        assignment = state.assignment(maps)
        if self.training and state.latest_grouping():
            self._latest[layer] = (similarity.detach(), assignment)
        terms = {"grouping": -self.weight * functional.compactness(similarity, assignment)}
        if self.num_categories > 1 and self.discrimination_weight:
            vectors = functional.group_activations(maps, assignment)
            member = membership_of(labels, self.num_categories, maps)
            apart = functional.discrimination(vectors, member, self.training)
            terms["discrimination"] = -self.discrimination_weight * apart
        return terms

    def _update(self, state: FilterGroups, cosines: Tensor, number: Tensor, epoch: int) -> None:
        latest = state.latest_grouping()
        if latest and epoch > self.freeze_epoch:
            return
        state.collect(cosines, number)
        if epoch >= (latest + self.regroup_every if latest else self.start_epoch):
            state.regroup(epoch)
