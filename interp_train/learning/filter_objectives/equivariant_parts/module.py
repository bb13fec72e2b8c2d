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
    GroupAppearance,
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
    * ``object``: responses lie on the object;
    * ``agreement``: the filters of a group stay together;
    * ``appearance``: the groups of a category can be told apart by what lies where they respond,
      and the same group looks alike in all images.

    Two things are learned beside the network, from the map that the layer reads, which gets no
    gradient from them. Where the object is (the term ``attention``), from the image labels: cells
    of what is also seen in images without the category are beside it. What each group looks like
    (`GroupAppearance`); only where its filters respond changes with it. So groups spread over
    places that can be recognised; groups that merely keep a distance are pushed to places that
    nothing can follow (docs/part-tracking.md has what was measured).

    Batches without views (`ViewBatch`) have no term ``equivariance``; alone, the others let
    filters keep to a constant place. In evaluation mode nothing is exchanged between processes.

    Args:
        taps: layers; of a ReLU the layer before it is read. A layer without a ReLU of its own
            (a residual block) is read as it is.
        presence_weight: factor of the term, like the next five.
        equivariance_weight: see there.
        concentration_weight: see there.
        object_weight: see there.
        agreement_weight: see there.
        appearance_weight: see there.
        sharpness: of the softmax.
        num_groups: G, at least one per category.

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
        object_weight: float = 2.0,
        agreement_weight: float = 1.0,
        appearance_weight: float = 0.5,
        sharpness: float = 30.0,
        num_groups: int = 12,
    ) -> None:
        super().__init__()
        self.taps: Sequence[str] = tuple(taps)
        self.weights = {
            "presence": presence_weight,
            "equivariance": equivariance_weight,
            "concentration": concentration_weight,
            "object": object_weight,
            "agreement": agreement_weight,
            "appearance": appearance_weight,
        }
        self.sharpness, self.num_groups = sharpness, num_groups
        self._check_options()
        self.layers: list[str] = []
        self.num_categories = self._image_size = 0
        self._grids: dict[str, tuple[LayerGeometry, int]] = {}  # and the number of filters
        self.read_layers: list[str] = []
        self.attention, self.appearance = nn.ModuleList(), nn.ModuleList()
        self._latest: dict[str, dict[str, Tensor]] = {}

    def _check_options(self) -> None:
        if not self.taps:
            raise ValueError("`taps` must name at least one layer, but got none.")
        for name, weight in self.weights.items():
            check_range(f"{name}_weight", weight, 0.0)
        check_range("sharpness", self.sharpness, 0.1)
        check_range("num_groups", self.num_groups, 1)

    def attach(self, network: nn.Module, num_categories: int) -> None:
        """Find the layers before the ReLUs, and where their cells lie in the image."""
        network = checked_backbone(network, self.layers)
        self.layers = [before_relu(network, network.resolve(tap)) for tap in self.taps]
        self.num_categories, self._image_size = num_categories, network.image_size
        self._grids = {
            layer: (network.geometry(layer), network.num_channels(layer)) for layer in self.layers
        }
        if self.weights["object"] or self.weights["appearance"]:
            self.read_layers = [read_by(network, layer) for layer in self.layers]
        for layer, read in zip(self.layers, self.read_layers, strict=False):
            units = network.num_channels(read)
            if self.weights["object"]:
                self.attention.append(ObjectAttention(units, num_categories))
            if self.weights["appearance"]:
                num_groups = self._number_of_groups(network.num_channels(layer))
                self.appearance.append(GroupAppearance(units, num_groups, num_categories))
        self.taps = tuple(dict.fromkeys([*self.layers, *self.read_layers]))

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
                size = activations[layer].shape[2:]
                read = activations[self.read_layers[number]] if self.read_layers else None
                if self.attention:
                    logits = self.attention[number](read, size)
                    found |= self._object_terms(places, logits, labels)
                if self.appearance:
                    assignment = self._assignment(places.member)
                    where = functional.group_means(places.weights, assignment)
                    scores = self.appearance[number](read, where, size)
                    found["appearance"] = self._appearance_term(places, scores)
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
                error = self._equivariance(places, transforms, (rows, partners, pair))
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
        terms: dict[str, Callable[[], Tensor]] = {
            "presence": lambda: functional.presence(places.peaks, member, 1 - member, across),
            "concentration": lambda: functional.concentration(places.spreads, member, across),
            "agreement": lambda: functional.agreement(
                positions, groups, assignment, member, across
            ),
        }
        return {name: weights[name] * term() for name, term in terms.items() if weights[name]}

    def _object_terms(self, places: _Places, logits: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """The term ``object``, weighted, and the one that learns where the object is."""
        present = membership_of(labels, self.num_categories, logits)
        attention = functional.object_attention(logits).to(places.weights.dtype)
        everywhere = present[..., None].expand_as(logits)
        categories = self._groups_of_filters(places.member) % self.num_categories
        beside = functional.off_object(
            places.weights, attention, categories, places.member, self.training
        )
        return {
            "attention": functional.presence(logits, everywhere, 1 - everywhere, self.training),
            "object": self.weights["object"] * beside,
        }

    def _appearance_term(self, places: _Places, scores: Tensor) -> Tensor:
        of_group = places.member[:, : scores.shape[1]]  # filter g is in group g
        return self.weights["appearance"] * functional.appearance(scores, of_group, self.training)

    def _equivariance(
        self, places: _Places, transforms: Tensor, pairs: tuple[Tensor, Tensor, Tensor]
    ) -> Tensor:
        """`functional.equivariance` from each view of a pair to the other."""
        rows, partners, pair = pairs
        sources, ends = torch.cat([rows, partners]), torch.cat([partners, rows])
        change = functional.relative_transforms(transforms, sources, ends, self._image_size)
        positions, member = places.positions, places.member
        variance = functional.position_variance(positions, member, self.training)
        return functional.equivariance(
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
