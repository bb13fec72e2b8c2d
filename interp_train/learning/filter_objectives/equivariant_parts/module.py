"""Equivariant parts: filters whose positions move with the object, and differ from one another.

A method of this package. A filter that always responds at the same place of the image, or of the
object, satisfies the losses of interpretable CNNs (Zhang, Wu & Zhu, CVPR 2018); it cannot satisfy
`functional.equivariance`, which compares two views of one photo under their known transform, as
unsupervised landmark learning does (Thewlis, Bilen & Vedaldi, "Unsupervised Learning of Object
Landmarks by Factorized Spatial Embeddings", ICCV 2017, arXiv 1705.02193).
"""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, final

import torch
from torch import Tensor, nn

from interp_train.backbones.attachment import checked_backbone
from interp_train.backbones.backbone import Backbone
from interp_train.backbones.heads import ConvolutionalHead
from interp_train.checks import check_range
from interp_train.label_counts import membership_of
from interp_train.learning.filter_objectives.equivariant_parts import functional
from interp_train.learning.filter_objectives.equivariant_parts.layers import (
    GroupReliability,
    ObjectAttention,
)
from interp_train.structures import LayerGeometry, ViewBatch


class _Places(NamedTuple):
    """Where the filters of a layer respond, and which images count for them."""

    member: Tensor  # (N, K)
    peaks: Tensor  # (N, K)
    positions: Tensor  # (N, K, 2)
    spreads: Tensor  # (N, K)
    weights: Tensor  # (N, K, h * w)
    cells: Tensor  # (h * w, 2)


@final
class EquivariantParts(nn.Module):
    """Gives the filters of layers positions that follow parts of the object.

    The position of a filter is the mean of ``softmax(sharpness * z / s)`` over the cells, with z
    the responses before the ReLU and s the batch mean of their range (a constant). Filter k is in
    group ``k mod G``, and group g belongs to category ``g mod C``. The terms, each with its weight:

    * ``presence``: the largest response detects the filter's category, and is low elsewhere;
    * ``equivariance``: positions in two views of a photo agree under the known transform of the
      views, in units of the variance of the position (`view_terms`);
    * ``concentration``: a response is small around its position;
    * ``coverage``: every cell of the object is near some group, so that groups divide it;
    * ``object``: responses lie on the object;
    * ``agreement``: the filters of a group stay together;
    * ``repulsion``: groups of a category keep apart, but for its first group, which is free;
    * ``tether``: but not farther from the first group than a radius.

    Where the object is, is learned beside the network from the image labels (the term
    ``attention``, whose gradient reaches nothing else): cells of what is also seen in images
    without the category are beside it. Repulsion spreads the groups; coverage may stand in its
    place, and the tether beside it, but both have the weight 0 (docs/part-tracking.md has what was
    measured).

    Batches without views (`ViewBatch`) have no term ``equivariance``; alone, the others let
    filters keep to a constant place. In evaluation mode nothing is exchanged between processes.

    Args:
        taps: layers; of a ReLU the layer before it is read. A layer without a ReLU of its own
            (a residual block) is read as it is.
        presence_weight: factor of the term, like the next seven.
        equivariance_weight: see there.
        concentration_weight: see there.
        coverage_weight: see there.
        object_weight: see there.
        agreement_weight: see there.
        repulsion_weight: see there.
        tether_weight: see there.
        sharpness: of the softmax.
        num_groups: G, at least one per category.
        repulsion_radius: from which distance groups ignore one another, as a share of the
            image's side.
        tether_radius: how far a group may be from the first one.
        error_limit: equivariance error (over the variance of positions) at which a group is
            released: repulsion acts on two groups by the product of ``relu(1 - error / limit)``,
            running means that begin at 0. None lets it act on all alike.

    Raises:
        ValueError: for a number out of its range.
    """

    def __init__(
        self,
        taps: Sequence[str] = ("last",),
        *,
        presence_weight: float = 0.5,
        equivariance_weight: float = 1.5,
        concentration_weight: float = 20.0,
        coverage_weight: float = 0.0,
        object_weight: float = 2.0,
        agreement_weight: float = 1.0,
        repulsion_weight: float = 1.0,
        tether_weight: float = 0.0,
        sharpness: float = 30.0,
        num_groups: int = 12,
        repulsion_radius: float = 0.15,
        tether_radius: float = 0.25,
        error_limit: float | None = 0.8,
    ) -> None:
        super().__init__()
        self.taps: Sequence[str] = tuple(taps)
        self.weights = {
            "presence": presence_weight,
            "equivariance": equivariance_weight,
            "concentration": concentration_weight,
            "coverage": coverage_weight,
            "object": object_weight,
            "agreement": agreement_weight,
            "repulsion": repulsion_weight,
            "tether": tether_weight,
        }
        self.sharpness, self.num_groups, self.error_limit = sharpness, num_groups, error_limit
        self.repulsion_radius, self.tether_radius = repulsion_radius, tether_radius
        self._check_options()
        self.layers: list[str] = []
        self.num_categories = self._image_size = 0
        self._grids: dict[str, tuple[LayerGeometry, int]] = {}  # and the number of filters
        self.attention_layers: list[str] = []
        self.attention = nn.ModuleList()
        self.reliability = nn.ModuleList()
        self._latest: dict[str, dict[str, Tensor]] = {}

    def _check_options(self) -> None:
        if not self.taps:
            raise ValueError("`taps` must name at least one layer, but got none.")
        for name, weight in self.weights.items():
            check_range(f"{name}_weight", weight, 0.0)
        check_range("sharpness", self.sharpness, 0.1)
        check_range("num_groups", self.num_groups, 1)
        check_range("repulsion_radius", self.repulsion_radius, 1e-3)
        check_range("tether_radius", self.tether_radius, 0.0)
        if self.error_limit is not None:
            check_range("error_limit", self.error_limit, 1e-3)

    def attach(self, network: nn.Module, num_categories: int) -> None:
        """Find the layers before the ReLUs, and where their cells lie in the image."""
        network = checked_backbone(network, self.layers)
        self.layers = [before_relu(network, network.resolve(tap)) for tap in self.taps]
        self.num_categories, self._image_size = num_categories, network.image_size
        self._grids = {
            layer: (network.geometry(layer), network.num_channels(layer)) for layer in self.layers
        }
        if (
            self.error_limit is not None
            and self.weights["repulsion"]
            and self.weights["equivariance"]
        ):
            self.reliability.extend(
                GroupReliability(self._number_of_groups(count), self.error_limit)
                for _, count in self._grids.values()
            )
        if self.weights["coverage"] or self.weights["object"]:
            self.attention_layers = [read_by(network, layer) for layer in self.layers]
            self.attention.extend(
                ObjectAttention(network.num_channels(layer), num_categories)
                for layer in self.attention_layers
            )
        self.taps = tuple(dict.fromkeys([*self.layers, *self.attention_layers]))

    def loss_terms(
        self, activations: Mapping[str, Tensor], labels: Tensor, logits: Tensor, epoch: int
    ) -> dict[str, Tensor]:
        """``<layer>/<term>`` for all terms but the equivariance; see `FilterObjective`."""
        self._latest.clear()
        terms = {}
        for number, layer in enumerate(self.layers):
            with torch.autocast(labels.device.type, enabled=False):
                places = self._places(layer, activations[layer], labels)
                found = self._terms(layer, places)
                if self.attention_layers:
                    maps = activations[self.attention_layers[number]]
                    attention = self.attention[number]
                    logits = attention(maps, activations[layer].shape[2:])
                    found |= self._object_terms(places, logits, labels)
            terms.update({f"{layer}/{name}": value for name, value in found.items()})
        return terms

    def view_terms(
        self, activations: Mapping[str, Tensor], batch: ViewBatch, epoch: int
    ) -> dict[str, Tensor]:
        """``<layer>/equivariance``; see `ViewObjective`."""
        if not self.weights["equivariance"]:
            return {}
        terms = {}
        rows, partners, pair = functional.view_pairs(batch.sample_ids)
        known = batch.view_transforms.isfinite().flatten(1).all(1)
        pair = pair & known[rows] & known[partners]
        transforms = torch.where(
            known[:, None, None], batch.view_transforms, _identity(batch.view_transforms)
        )
        for layer in self.layers:
            with torch.autocast(batch.labels.device.type, enabled=False):
                places = self._places(layer, activations[layer], batch.labels)
                errors = self._view_errors(places, transforms, (rows, partners, pair))
                error = functional.equivariance(errors)
            if self.training and self.reliability:
                self._reliability_of(layer).follow(errors, self._assignment(places.member))
            terms[f"{layer}/equivariance"] = self.weights["equivariance"] * error
        return terms

    def measurements(self) -> dict[str, Tensor]:
        """Of the latest training step, per layer, of this process's images.

        ``spread`` (root mean square distance from the filter's position, as a share of the
        image's side), ``variance`` (of positions over the images of the category, both axes),
        ``detected`` (share of responses above 0 there).
        """
        return {
            f"{layer}/{name}": value
            for layer, found in self._latest.items()
            for name, value in found.items()
        }

    def filter_categories(self, layer: str) -> Tensor:
        """Category that each filter of a layer is assigned to, long ``(K,)``."""
        like = torch.empty(0, self._grids[layer][1])
        return self._groups_of_filters(like) % self.num_categories

    def _groups_of_filters(self, like: Tensor) -> Tensor:
        """Group of each filter, long ``(K,)``, on the device of `like` ``(N, K, ...)``."""
        num_filters = like.shape[1]
        return torch.arange(num_filters, device=like.device) % self._number_of_groups(num_filters)

    def _assignment(self, like: Tensor) -> Tensor:
        """Which filter is in which group, 0 or 1, ``(K, G)``; nothing waits for the device."""
        number = torch.arange(self._number_of_groups(like.shape[1]), device=like.device)
        return (self._groups_of_filters(like)[:, None] == number).to(like.dtype)

    def _number_of_groups(self, num_filters: int) -> int:
        return min(max(self.num_groups, self.num_categories), num_filters)

    def _places(self, layer: str, activations: Tensor, labels: Tensor) -> _Places:
        maps = activations if activations.dtype == torch.float64 else activations.float()
        categories = self._groups_of_filters(maps) % self.num_categories
        member = (labels[:, None] == categories).to(maps.dtype)
        size = (maps.shape[2], maps.shape[3])
        cells = functional.cell_positions(size, self._grids[layer][0], self._image_size, maps)
        ranges = functional.response_range(maps, member, self.training)
        weights = functional.cell_weights(maps, ranges, self.sharpness)
        found = functional.soft_positions(weights, cells)
        return _Places(member, maps.amax((2, 3)), *found, weights, cells)

    def _terms(self, layer: str, places: _Places) -> dict[str, Tensor]:
        """All terms but the equivariance, weighted; those of weight 0 are left out."""
        across, weights = self.training, self.weights
        member, positions = places.member, places.positions
        self._latest[layer] = _watched(places)
        assignment = self._assignment(member)
        groups = functional.group_means(positions, assignment)
        num_groups, count = groups.shape[1], self.num_categories
        of_group = member[:, :num_groups]  # filter g is in group g
        free = torch.arange(num_groups, device=groups.device) < count
        bound = of_group * ~free
        anchors = groups[:, torch.arange(num_groups, device=groups.device) % count]
        terms: dict[str, Callable[[], Tensor]] = {
            "presence": lambda: functional.presence(places.peaks, member, 1 - member, across),
            "concentration": lambda: functional.concentration(places.spreads, member, across),
            "repulsion": lambda: functional.repulsion(
                groups, self.repulsion_radius, self._rivals(groups, layer), of_group, across
            ),
            "tether": lambda: functional.tether(groups, anchors, self.tether_radius, bound, across),
            "agreement": lambda: functional.agreement(
                positions, groups, assignment, member, across
            ),
        }
        return {name: weights[name] * term() for name, term in terms.items() if weights[name]}

    def _object_terms(self, places: _Places, logits: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Coverage and object, weighted, and the term that learns where the object is."""
        across, weights = self.training, self.weights
        present = membership_of(labels, self.num_categories, logits)
        attention = functional.object_attention(logits).to(places.weights.dtype)
        everywhere = present[..., None].expand_as(logits)
        terms = {"attention": functional.presence(logits, everywhere, 1 - everywhere, across)}
        groups = functional.group_means(places.positions, self._assignment(places.member))
        if weights["coverage"]:
            distance = functional.coverage(groups, places.cells, attention, present, across)
            terms["coverage"] = weights["coverage"] * distance
        if weights["object"]:
            categories = self._groups_of_filters(places.member) % self.num_categories
            beside = functional.off_object(
                places.weights, attention, categories, places.member, across
            )
            terms["object"] = weights["object"] * beside
        return terms

    def _rivals(self, groups: Tensor, layer: str) -> Tensor:
        """Which groups must keep apart, and how much, ``(G, G)``.

        Those of one category, without its first, as far as both can be relied on.
        """
        number = torch.arange(groups.shape[1], device=groups.device)
        bound = number >= self.num_categories
        category = number % self.num_categories
        rivals = (category[:, None] == category) & bound[:, None] & bound
        rivals = (rivals & (number[:, None] != number)).to(groups.dtype)
        if not self.reliability:
            return rivals
        values = self._reliability_of(layer).values.to(groups.dtype)
        return rivals * values[:, None] * values

    def _reliability_of(self, layer: str) -> GroupReliability:
        found = self.reliability[self.layers.index(layer)]
        assert isinstance(found, GroupReliability)
        return found

    def _view_errors(
        self, places: _Places, transforms: Tensor, pairs: tuple[Tensor, Tensor, Tensor]
    ) -> Tensor:
        """`functional.view_errors` from each view of a pair to the other."""
        rows, partners, pair = pairs
        sources, ends = torch.cat([rows, partners]), torch.cat([partners, rows])
        change = functional.relative_transforms(transforms, sources, ends, self._image_size)
        positions, member = places.positions, places.member
        variance = functional.position_variance(positions, member, self.training)
        return functional.view_errors(
            functional.moved_positions(positions[sources], change),
            positions[ends],
            variance,
            pair.repeat(2)[:, None] * member[sources],
            self.training,
        )


def before_relu(network: Backbone, layer: str) -> str:
    """The step whose output a ReLU takes, or `layer` itself where that cannot be told.

    Args:
        network: holds the layer.
        layer: dotted name.
    """
    name, _, own = layer.rpartition(".")
    holder = network.get_submodule(name)
    ordered = isinstance(holder, nn.Sequential | ConvolutionalHead)
    if not ordered or not isinstance(network.get_submodule(layer), nn.ReLU):
        return layer
    siblings = [key for key, _ in holder.named_children()]
    position = siblings.index(own)
    return f"{name}.{siblings[position - 1]}" if position else layer


def read_by(network: Backbone, layer: str) -> str:
    """The map that a layer computes its responses from, or `layer` where that cannot be told.

    Args:
        network: holds the layer.
        layer: dotted name of a convolution, or of a normalisation behind it.
    """
    name, _, own = layer.rpartition(".")
    holder = network.get_submodule(name)
    if not isinstance(holder, nn.Sequential | ConvolutionalHead):
        return layer
    siblings = dict(holder.named_children())
    before = list(siblings)[: list(siblings).index(own) + 1]
    while before and isinstance(siblings[before[-1]], nn.Conv2d | nn.BatchNorm2d):
        before.pop()
    if before:
        return f"{name}.{before[-1]}"
    # With cached activations, the last step of a frozen chain does not run.
    open_chain = name == "head" and network.chain[-1] != network.prefix
    return network.chain[-1] if open_chain else layer


@torch.no_grad()
def _watched(places: _Places) -> dict[str, Tensor]:
    """What `EquivariantParts.measurements` tells of a layer."""
    member, positions = places.member, places.positions
    return {
        "spread": functional.weighted_mean(places.spreads, member).sqrt(),
        "variance": functional.position_variance(positions, member).mean(),
        "detected": functional.weighted_mean((places.peaks > 0).to(member.dtype), member),
    }


def _identity(like: Tensor) -> Tensor:
    """The transform that leaves everything in its place, ``(2, 3)``."""
    return torch.eye(3, dtype=like.dtype, device=like.device)[:2]
