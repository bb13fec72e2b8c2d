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
from interp_train.checks import check_range
from interp_train.label_counts import membership_of
from interp_train.learning.filter_objectives.equivariant_parts import functional
from interp_train.learning.filter_objectives.equivariant_parts.boxes import (
    box_presence,
    distances_from_boxes,
)
from interp_train.learning.filter_objectives.equivariant_parts.contrast import (
    around,
    at_cells,
    distinct_cells,
    local_contrast,
)
from interp_train.learning.filter_objectives.equivariant_parts.layers import ObjectAttention
from interp_train.learning.filter_objectives.equivariant_parts.pairs import Pairs, pairs_of
from interp_train.learning.filter_objectives.equivariant_parts.read_layers import (
    before_relu,
    read_by,
)
from interp_train.structures import BACKGROUND, LayerGeometry, ViewBatch

_NEED_OBJECT = ("object", "territory", "coverage")  # terms that ask where the object is
_CLAIM_SHARPNESS = 10.0  # of claims on cells, in units of a filter's range


class _Places(NamedTuple):
    """Where the filters of a layer respond, and which images count for them."""

    member: Tensor  # (N, K)
    positions: Tensor  # (N, K, 2)
    spreads: Tensor  # (N, K)
    weights: Tensor  # (N, K, h * w)
    cells: Tensor  # (h * w, 2)
    maps: Tensor  # (N, K, h, w)
    ranges: Tensor  # (K,)
    assignment: Tensor  # which filter is in which group, 0 or 1, (K, G)
    groups: Tensor  # their positions, (N, G, 2)


class _Seen(NamedTuple):
    """What the terms of views take over from the others of the same step."""

    activations: Tensor  # of the layer, which tell the step that this belongs to
    places: _Places
    logits: Tensor | None  # of the attention, (N, C, h * w)


@final
class EquivariantParts(nn.Module):
    """Gives the filters of layers positions that follow parts of the object.

    The position of a filter is the mean of ``softmax(sharpness * z / s)`` over the cells, with z
    the responses before the ReLU and s the batch mean of their range (a constant). Filter k is in
    group ``k mod G``. All filters follow parts of the objects of every category: a filter of one
    category alone has few images to learn from (docs/part-tracking.md). The terms, each with its
    weight:

    * ``equivariance``: positions in two views of a photo agree under the known transform of the
      views, in units of the variance of the position (`view_terms`);
    * ``concentration``: a response is small around its position;
    * ``object``: responses lie on the object, where something stands out of it;
    * ``agreement``: the filters of a group stay together;
    * ``territory``: the groups divide the object among themselves, equally, by their own responses
      (`functional.territories`), and a group responds in cells that belong to it;
    * ``coverage``: each cell of the object is near some group, as a code is in k-means, by how
      much it stands out, and sideways above all: one above the other groups stand anyway, one
      before the other only where the way is known that an object faces.

    Where the object is, is learned beside the network from the image labels (the term
    ``attention``), from the map that the head takes, which gets no gradient from it: cells of what
    is also seen in images without the category are beside the object, and so are, in views, cells
    some way outside its box where it is known. Without coverage all groups crowd where the object
    moves most, at a bird's head; groups that merely keep a distance are pushed to places that
    nothing can follow (docs/part-tracking.md has what was measured).

    Batches without views (`ViewBatch`) have no equivariance; alone, the other terms let filters
    keep to a constant place. In evaluation mode nothing is exchanged between processes.

    The terms act in every `every_n_steps`-th training step of an epoch, the first included, with as
    many times the gradient (lazy regularisation: Karras et al., CVPR 2020, arXiv 1912.04958, app.
    B); between these the latest values are repeated without a gradient.

    Args:
        taps: layers; of a ReLU the layer before it is read. A layer without a ReLU of its own
            (a residual block) is read as it is.
        equivariance_weight: factor of the term, like the next five.
        concentration_weight: see there.
        object_weight: see there.
        agreement_weight: see there.
        territory_weight: see there.
        coverage_weight: see there.
        sharpness: of the softmax.
        num_groups: G, at most one for each filter.
        box_share: that cells of views outside the object's box have in learning what is not the
            object, beside images without it; 0 does without boxes.
        box_margin: width of the seam around a box in which cells tell nothing, as a share of the
            image's side: what is at an object's outline is seen from both sides of it.
        sideways: factor of squared distances along x in the coverage.
        every_n_steps: training steps for one in which the terms act.

    Raises:
        ValueError: for a number out of its range.
    """

    def __init__(
        self,
        taps: Sequence[str] = ("last",),
        *,
        equivariance_weight: float = 5.0,
        concentration_weight: float = 10.0,
        object_weight: float = 4.0,
        agreement_weight: float = 2.5,
        territory_weight: float = 2.0,
        coverage_weight: float = 15.0,
        sharpness: float = 30.0,
        num_groups: int = 12,
        box_share: float = 0.5,
        box_margin: float = 0.1,
        sideways: float = 6.0,
        every_n_steps: int = 2,
    ) -> None:
        super().__init__()
        self.taps: Sequence[str] = tuple(taps)
        self.weights = {
            "equivariance": equivariance_weight,
            "concentration": concentration_weight,
            "object": object_weight,
            "agreement": agreement_weight,
            "territory": territory_weight,
            "coverage": coverage_weight,
        }
        self.sharpness, self.num_groups, self.every_n_steps = sharpness, num_groups, every_n_steps
        self.box_share, self.box_margin, self.sideways = box_share, box_margin, sideways
        self._check_options()
        self.layers: list[str] = []
        self.num_categories = self._image_size = 0
        self._grids: dict[str, LayerGeometry] = {}
        self.read_layers: list[str] = []
        self.attention = nn.ModuleList()
        self._latest: dict[str, tuple[Tensor, ...]] = {}  # what `measurements` measures
        self._seen: dict[str, _Seen] = {}  # from `loss_terms` to `view_terms` of the same step
        self._repeated: tuple[dict[str, Tensor], dict[str, Tensor]] = ({}, {})  # of both
        self._epoch, self._step = -1, 0

    def _check_options(self) -> None:
        if not self.taps:
            raise ValueError("`taps` must name at least one layer, but got none.")
        for name, weight in self.weights.items():
            check_range(f"{name}_weight", weight, 0.0)
        check_range("sharpness", self.sharpness, 0.1)
        check_range("num_groups", self.num_groups, 1)
        check_range("box_share", self.box_share, 0, 1)
        check_range("box_margin", self.box_margin, 0, 1)
        check_range("sideways", self.sideways, 0)
        check_range("every_n_steps", self.every_n_steps, 1)

    def attach(self, network: nn.Module, num_categories: int) -> None:
        """Find the layers before the ReLUs, and where their cells lie in the image."""
        network = checked_backbone(network, self.layers)
        self.layers = [before_relu(network, network.resolve(tap)) for tap in self.taps]
        self.num_categories, self._image_size = num_categories, network.image_size
        self._grids = {layer: network.geometry(layer) for layer in self.layers}
        if any(self.weights[name] for name in _NEED_OBJECT):
            self.read_layers = [read_by(network, layer) for layer in self.layers]
        for read in self.read_layers:
            units = network.num_channels(read)
            self.attention.append(ObjectAttention(units, num_categories))
        self.taps = tuple(dict.fromkeys([*self.layers, *self.read_layers]))

    def loss_terms(
        self, activations: Mapping[str, Tensor], labels: Tensor, logits: Tensor, epoch: int
    ) -> dict[str, Tensor]:
        """``<layer>/<term>`` for the terms that need no views; see `FilterObjective`."""
        self._count(epoch)
        if self._rests:
            return self._repeated[0] | self._untouched()
        self._latest.clear()
        self._seen.clear()
        terms: dict[str, Tensor] = {}
        for layer in self.layers:
            with torch.autocast(labels.device.type, enabled=False):
                places = self._places(layer, activations[layer], labels)
                found = self._terms(layer, places)
                self._seen[layer] = _Seen(activations[layer], places, None)
                if self.attention:
                    more, logits = self._object_terms(layer, activations, places, labels)
                    self._seen[layer] = self._seen[layer]._replace(logits=logits)
                    found |= more
            terms.update({f"{layer}/{name}": value for name, value in found.items()})
        return self._acting(terms, self._repeated[0])

    def view_terms(
        self, activations: Mapping[str, Tensor], batch: ViewBatch, epoch: int
    ) -> dict[str, Tensor]:
        """``<layer>/<term>`` for those that compare views; see `ViewObjective`."""
        if self._rests:
            return dict(self._repeated[1])
        terms: dict[str, Tensor] = {}
        learned: dict[str, Tensor] = {}
        pairs = pairs_of(batch, self._image_size)
        for layer in self.layers:
            with torch.autocast(batch.labels.device.type, enabled=False):
                seen = self._seen.pop(layer, None)
                if seen is None or seen.activations is not activations[layer]:
                    places, logits = self._places(layer, activations[layer], batch.labels), None
                else:
                    places, logits = seen.places, seen.logits
                if self.weights["equivariance"]:
                    error = self._equivariance(places, pairs)
                    terms[f"{layer}/equivariance"] = self.weights["equivariance"] * error
                if logits is not None and self.box_share:
                    learned[f"{layer}/attention"] = self._box_attention(logits, places, batch)
        if self.training:
            self._repeated[0].update({name: value.detach() for name, value in learned.items()})
        return self._acting(terms, self._repeated[1]) | self._acting(learned, {})

    @property
    def _rests(self) -> bool:
        return self.training and self._step % self.every_n_steps != 0

    def _count(self, epoch: int) -> None:
        """From each epoch's first step, so that a resumed run takes turns as the first did."""
        if self.training:
            self._step = self._step + 1 if epoch == self._epoch else 0
            self._epoch = epoch

    def _acting(self, terms: dict[str, Tensor], repeated: dict[str, Tensor]) -> dict[str, Tensor]:
        """Terms with the gradients of all the steps for which they act; their values are kept."""
        if self.training and self.every_n_steps > 1:
            repeated.clear()
            repeated.update({name: value.detach() for name, value in terms.items()})
            for value in terms.values():
                if value.requires_grad:
                    value.register_hook(self._gradient_of_all)  # type: ignore[no-untyped-call]
        return terms

    def _gradient_of_all(self, gradient: Tensor) -> Tensor:
        return self.every_n_steps * gradient

    def _untouched(self) -> dict[str, Tensor]:
        """``<layer>/attention`` with gradients of 0, since DDP waits for those of all weights."""
        weights = [weight.sum() for weight in self.attention.parameters()]
        if not weights:
            return {}
        name = f"{self.layers[0]}/attention"
        return {name: self._repeated[0][name] + 0 * torch.stack(weights).sum()}

    def measurements(self) -> dict[str, Tensor]:
        """Of the latest training step, per layer, of this process's images.

        ``spread`` (root mean square distance from the filter's position, as a share of the
        image's side), ``variance`` (of positions over the images of objects, both axes),
        ``detected`` (share of responses above 0 there).
        """
        return {
            f"{layer}/{name}": value
            for layer, seen in self._latest.items()
            for name, value in _watched(*seen).items()
        }

    def _groups_of_filters(self, like: Tensor) -> Tensor:
        """Group of each filter, long ``(K,)``, on the device of `like` ``(N, K, ...)``."""
        num_filters = like.shape[1]
        return torch.arange(num_filters, device=like.device) % self._number_of_groups(num_filters)

    def _assignment(self, like: Tensor) -> Tensor:
        """Which filter is in which group, 0 or 1, ``(K, G)``; nothing waits for the device."""
        number = torch.arange(self._number_of_groups(like.shape[1]), device=like.device)
        return (self._groups_of_filters(like)[:, None] == number).to(like.dtype)

    def _number_of_groups(self, num_filters: int) -> int:
        return min(self.num_groups, num_filters)

    def _places(self, layer: str, activations: Tensor, labels: Tensor) -> _Places:
        maps = activations if activations.dtype == torch.float64 else activations.float()
        member = (labels != BACKGROUND).to(maps.dtype)[:, None].expand(-1, maps.shape[1])
        size = (maps.shape[2], maps.shape[3])
        cells = functional.cell_positions(size, self._grids[layer], self._image_size, maps)
        ranges = functional.response_range(maps, member, self.training)
        weights = functional.cell_weights(maps, ranges, self.sharpness)
        positions, spreads = functional.soft_positions(weights, cells)
        assignment = self._assignment(member)
        groups = functional.group_means(positions, assignment)
        return _Places(member, positions, spreads, weights, cells, maps, ranges, assignment, groups)

    def _terms(self, layer: str, places: _Places) -> dict[str, Tensor]:
        """All terms but the equivariance, weighted; those of weight 0 are left out."""
        across, weights = self.training, self.weights
        member, positions = places.member, places.positions
        watched = (member, places.maps.amax((2, 3)), positions, places.spreads)
        self._latest[layer] = tuple(value.detach() for value in watched)
        terms: dict[str, Callable[[], Tensor]] = {
            "concentration": lambda: functional.concentration(places.spreads, member, across),
            "agreement": lambda: functional.agreement(
                positions, places.groups, places.assignment, member, across
            ),
        }
        return {name: weights[name] * term() for name, term in terms.items() if weights[name]}

    def _object_terms(
        self, layer: str, activations: Mapping[str, Tensor], places: _Places, labels: Tensor
    ) -> tuple[dict[str, Tensor], Tensor]:
        """Terms that ask where the object is, weighted, the one that learns it, and its logits."""
        across, number = self.training, self.layers.index(layer)
        read = activations[self.read_layers[number]].detach().to(places.maps.dtype)
        means = around(read)
        size = (places.maps.shape[2], places.maps.shape[3])
        logits = self.attention[number](means, size)
        everywhere = membership_of(labels, self.num_categories, logits)[..., None]
        everywhere = everywhere.expand_as(logits)
        attention = functional.object_attention(logits).to(places.maps.dtype)
        attention = _of_own_category(attention, labels)
        contrast = at_cells(local_contrast(read, means), size)
        distinct = distinct_cells(attention, contrast)
        terms: dict[str, Callable[[], Tensor]] = {
            "object": lambda: functional.off_object(
                places.weights, distinct, places.member, across
            ),
            "territory": lambda: self._territory(
                places, functional.cell_masses(attention, contrast)
            ),
            "coverage": lambda: self._coverage(places, attention * contrast),
        }
        found = {n: self.weights[n] * term() for n, term in terms.items() if self.weights[n]}
        learned = functional.presence(logits, everywhere, 1 - everywhere, across)
        return {"attention": learned, **found}, logits

    def _box_attention(self, logits: Tensor, places: _Places, batch: ViewBatch) -> Tensor:
        """`box_presence` of what learns where the object is, with the boxes of the views."""
        everywhere = membership_of(batch.labels, self.num_categories, logits)[..., None]
        cells = places.cells.to(logits.dtype)
        far = distances_from_boxes(cells, batch.boxes, self._image_size)
        zones = ((far == 0).to(logits.dtype), (far > self.box_margin).to(logits.dtype))
        return box_presence(logits, everywhere, zones, self.box_share, self.training)

    def _territory(self, places: _Places, masses: Tensor) -> Tensor:
        """`functional.outside_territory`, by how the groups claim the object."""
        assignment = places.assignment
        own = places.member[:, : assignment.shape[1]]  # filter g is in group g
        scores = functional.group_scores(
            places.maps.detach(), places.ranges, assignment, _CLAIM_SHARPNESS
        )
        shares = functional.territories(
            scores, functional.as_shares(masses, places.member[:, 0]), own
        )
        where = functional.group_means(places.weights, assignment)
        return functional.outside_territory(where, shares, own, self.training)

    def _coverage(self, places: _Places, masses: Tensor) -> Tensor:
        """`functional.coverage` of cells with masses, by the positions of the groups."""
        member = places.member[:, 0]
        masses = functional.as_shares(masses, member)
        return functional.coverage(
            places.groups, places.cells, masses, member, self.training, sideways=self.sideways
        )

    def _equivariance(self, places: _Places, pairs: Pairs) -> Tensor:
        """`functional.equivariance` from each view of a pair to the other."""
        positions, member = places.positions, places.member
        return functional.equivariance(
            functional.moved_positions(positions[pairs.sources], pairs.changes),
            positions[pairs.ends],
            functional.position_variance(positions, member, self.training),
            pairs.valid[:, None] * member[pairs.sources],
            self.training,
        )


def _of_own_category(attention: Tensor, labels: Tensor) -> Tensor:
    """Attention ``(N, C, h * w)`` to the category that each image shows, ``(N, h * w)``."""
    own = labels.clamp(min=0)[:, None, None].expand(-1, 1, attention.shape[2])
    return attention.gather(1, own)[:, 0]


def _watched(
    member: Tensor, peaks: Tensor, positions: Tensor, spreads: Tensor
) -> dict[str, Tensor]:
    """What `EquivariantParts.measurements` tells of a layer."""
    return {
        "spread": functional.weighted_mean(spreads, member).sqrt(),
        "variance": functional.position_variance(positions, member).mean(),
        "detected": functional.weighted_mean((peaks > 0).to(member.dtype), member),
    }
