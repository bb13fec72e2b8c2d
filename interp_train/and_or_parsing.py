"""Values of the nodes of an And-Or graph, from scores of its terminal nodes, and the best parse.

An And node is the mean of its parts, weighted by their areas. An Or node is a generalised mean of
its K choices, log(mean(exp(sharpness x))) / sharpness: their mean at sharpness 0 (folding, which
trains all choices alike), their maximum at infinity (unfolding, which selects), and a smooth path
between. After Wu et al., "Towards Interpretable R-CNN by Unfolding Latent Structures" (arXiv
1711.05226); the smooth path is ours.

Nodes come first in all tensors, so that gathering them copies whole rows. The pass back runs down
the graph once and keeps one value per Or node, not the copies that autograd would.
"""

import itertools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple, final

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from interp_train.activations import gradients_enabled
from interp_train.and_or_graph import AndOrGraph, Rectangle
from interp_train.checks import check_range
from interp_train.precision import at_least_float32


class _Group(NamedTuple):
    """Or nodes of one level with the same number of And nodes, all or none of them terminal.

    They lie side by side in all tensors, so that they are read and written as one view.

    Attributes:
        rows: of the Or nodes among all.
        terminals: of their terminal scores; None without.
        parts: rows of the parts of their And nodes, ``(P, O * A)``.
        shares: weights of the parts, 0 where there is none, ``(P, O * A, 1)``.
    """

    rows: slice
    terminals: slice | None
    parts: Tensor
    shares: Tensor

    @property
    def size(self) -> tuple[int, int, int]:
        """Number of Or nodes, of terminal nodes and of And nodes for each of them."""
        number = self.rows.stop - self.rows.start
        return number, int(self.terminals is not None), self.parts.shape[1] // number


@final
class AndOrParsing(nn.Module):
    """Values and best parses of an And-Or graph; it has no parameters.

    Args:
        graph: its structure.

    Attributes:
        graph: see above.
        terminal_rectangles: rectangle of each terminal node, in the order of their scores.
    """

    def __init__(self, graph: AndOrGraph) -> None:
        super().__init__()
        self.graph = graph
        self._slices: list[tuple[slice, slice | None]] = []
        self.terminal_rectangles: list[Rectangle] = []
        order: list[int] = []
        for level in graph.levels:
            for _, members in itertools.groupby(sorted(level, key=self._kind), key=self._kind):
                order += self._add_group(list(members), order)
        self.register_buffer("_rows", torch.tensor(order).argsort(), persistent=False)
        shares = _cell_shares(self.terminal_rectangles, (graph.height, graph.width))
        self.register_buffer("_cell_shares", shares, persistent=False)
        weights = _folding_weights(self)
        self.register_buffer("_folding_weights", weights, persistent=False)

    def terminal_means(self, maps: Tensor) -> Tensor:
        """Mean of maps over the rectangle of each terminal node.

        Args:
            maps: ``(N, C, height, width)``.

        Returns:
            ``(T, N, C)``.

        Raises:
            ValueError: if the maps do not have the size of the grid.
        """
        size = (self.graph.height, self.graph.width)
        if maps.dim() != 4 or tuple(maps.shape[2:]) != size:
            raise ValueError(
                f"`maps` must be (N, C, {size[0]}, {size[1]}), the grid of the graph, but got "
                f"{tuple(maps.shape)}. Pool the boxes to that size."
            )
        # Cells first; a 7x7 grid is small enough for one product with the parts' cells.
        cells = maps.permute(2, 3, 0, 1).flatten(0, 1)
        means = self.cell_shares().to(cells.dtype) @ cells.flatten(1)
        return means.view(len(means), *cells.shape[1:])

    def cell_shares(self) -> Tensor:
        """Share of each cell in the mean of each terminal node, ``(T, height * width)``."""
        shares: Tensor = self._cell_shares  # type: ignore[assignment]
        return shares

    def forward(self, terminal_scores: Tensor, sharpness: float = math.inf) -> Tensor:
        """Value of the root.

        Args:
            terminal_scores: score of each terminal node, ``(T, ...)``.
            sharpness: of the Or nodes: 0 = mean (folding), infinity = maximum (unfolding).

        Returns:
            ``(...)``, in at least single precision.

        Raises:
            ValueError: if an argument is out of range.
        """
        check_range("sharpness", sharpness, 0)
        scores = self._as_matrix(terminal_scores)
        if sharpness == 0:
            weights: Tensor = self._folding_weights  # type: ignore[assignment]
            with torch.autocast(scores.device.type, enabled=False):
                root = weights.to(scores.dtype) @ scores
        else:
            root = _Parse.apply(scores, self, float(sharpness))
        return root.view(terminal_scores.shape[1:])

    def leaf_weights(self, terminal_scores: Tensor, sharpness: float = math.inf) -> Tensor:
        """Share of each terminal node in the root: the root's derivative with respect to it.

        Unfolded, the leaves of the best parse share the root by their areas, and all others have
        none.

        Args:
            terminal_scores: ``(T, ...)``.
            sharpness: see `forward`.

        Returns:
            ``(T, ...)``, without gradient; sums to 1 over the terminal nodes.
        """
        with gradients_enabled():
            # A tensor made in inference mode cannot be saved for a gradient, its copy can.
            scores = self._as_matrix(terminal_scores.detach().clone()).requires_grad_()
            (weights,) = torch.autograd.grad(self(scores, sharpness).sum(), scores)
        return weights.view(terminal_scores.shape)

    @torch.no_grad()
    def choices(self, terminal_scores: Tensor) -> Tensor:
        """What each Or node chooses when unfolded.

        Args:
            terminal_scores: ``(T, ...)``.

        Returns:
            Per Or node, in the order of `graph.rectangles`: -1 for its terminal node, or an index
            into its And nodes, int64 ``(O, ...)``; the first of equal choices. For one parse,
            ``graph.parse_tree(choices[:, i].tolist())``.

        Raises:
            ValueError: if there is not one score per terminal node.
        """
        scores = self._as_matrix(terminal_scores)
        values = scores.new_empty(len(self.graph), scores.shape[1])
        chosen = torch.empty_like(values, dtype=torch.int64)
        for group in self.groups():
            torch.max(
                _options(group, scores, values), 1, out=(values[group.rows], chosen[group.rows])
            )
            chosen[group.rows] -= group.size[1]
        rows: Tensor = self._rows  # type: ignore[assignment]
        return chosen.index_select(0, rows).view(len(self.graph), *terminal_scores.shape[1:])

    def groups(self) -> list[_Group]:
        """Tables of the Or nodes, those of lower levels first."""
        return [
            _Group(*slices, getattr(self, f"_parts_{index}"), getattr(self, f"_shares_{index}"))
            for index, slices in enumerate(self._slices)
        ]

    def _kind(self, index: int) -> tuple[int, bool]:
        return len(self.graph.and_nodes[index]), self.graph.terminal[index]

    def _add_group(self, members: list[int], before: list[int]) -> list[int]:
        """Tables of one group; `before` are the Or nodes of earlier groups."""
        nodes = [node for index in members for node in self.graph.and_nodes[index]]
        most = max((len(node.parts) for node in nodes), default=0)
        parts = torch.zeros(most, len(nodes), dtype=torch.int64)
        shares = torch.zeros(most, len(nodes), 1, dtype=torch.float64)
        row_of = {index: row for row, index in enumerate(before)}
        for column, node in enumerate(nodes):
            area = sum(part.area for part in node.parts)
            for row, part in enumerate(node.parts):
                parts[row, column] = row_of[self.graph.index(part)]
                shares[row, column] = part.area / area
        self.register_buffer(f"_parts_{len(self._slices)}", parts, persistent=False)
        self.register_buffer(f"_shares_{len(self._slices)}", shares, persistent=False)
        terminals = None
        if self.graph.terminal[members[0]]:
            first = len(self.terminal_rectangles)
            terminals = slice(first, first + len(members))
            self.terminal_rectangles += [self.graph.rectangles[index] for index in members]
        self._slices.append((slice(len(before), len(before) + len(members)), terminals))
        return members

    def _as_matrix(self, terminal_scores: Tensor) -> Tensor:
        """Checked scores ``(T, M)``, in at least single precision."""
        number = len(self.terminal_rectangles)
        if terminal_scores.dim() < 1 or len(terminal_scores) != number:
            raise ValueError(
                f"`terminal_scores` must have one row per terminal node ({number}), but got "
                f"{tuple(terminal_scores.shape)}. See `terminal_rectangles` for their order."
            )
        size = math.prod(terminal_scores.shape[1:])
        return at_least_float32(terminal_scores).reshape(number, size)


class _Parse(torch.autograd.Function):
    """Root of the graph, with one pass down it for the gradient."""

    @staticmethod
    def forward(ctx: Any, scores: Tensor, parsing: AndOrParsing, sharpness: float) -> Tensor:
        """Fill in the Or nodes level by level, and keep them."""
        values = scores.new_empty(len(parsing.graph), scores.shape[1])
        for group in parsing.groups():
            values[group.rows] = _generalised_mean(_options(group, scores, values), sharpness)
        ctx.save_for_backward(scores, values)
        ctx.parsing, ctx.sharpness = parsing, sharpness
        return values[-1].clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        """Hand the root's gradient down to the choices, in proportion to their weights."""
        scores, values = ctx.saved_tensors
        of_scores, of_values = torch.zeros_like(scores), torch.zeros_like(values)
        of_values[-1] = gradient
        for group in reversed(ctx.parsing.groups()):
            options = _options(group, scores, values)
            shares = _weights(options, values[group.rows], ctx.sharpness)
            shares *= of_values[group.rows][:, None]
            _hand_down(group, shares, of_scores, of_values)
        return of_scores, None, None


def _options(group: _Group, scores: Tensor, values: Tensor) -> Tensor:
    """Values of what each Or node of a group may choose, its terminal node first, ``(O, K, M)``."""
    number, num_terminals, num_ands = group.size
    options = scores.new_empty(number, num_terminals + num_ands, scores.shape[1])
    if group.terminals is not None:
        options[:, 0] = scores[group.terminals]
    if num_ands:
        weights = group.shares.to(scores.dtype)
        ands = values.index_select(0, group.parts[0]).mul_(weights[0])
        for parts, share in zip(group.parts[1:], weights[1:], strict=True):
            ands.addcmul_(values.index_select(0, parts), share)
        options[:, num_terminals:] = ands.view(number, num_ands, scores.shape[1])
    return options


def _hand_down(group: _Group, shares: Tensor, of_scores: Tensor, of_values: Tensor) -> None:
    """Add the gradients ``(O, K, M)`` of a group's choices to those of the nodes they are of."""
    num_terminals = group.size[1]
    if group.terminals is not None:
        of_scores[group.terminals] = shares[:, 0]
    of_ands = shares[:, num_terminals:].flatten(0, 1)
    for parts, weights in zip(group.parts, group.shares.to(shares.dtype), strict=True):
        of_values.index_add_(0, parts, of_ands * weights)


def _generalised_mean(options: Tensor, sharpness: float) -> Tensor:
    if math.isinf(sharpness):
        return options.amax(dim=1)
    number = options.shape[1]
    return ((options * sharpness).logsumexp(dim=1) - math.log(number)) / sharpness


def _weights(options: Tensor, values: Tensor, sharpness: float) -> Tensor:
    """Derivative of the generalised mean `values`; equal maxima share it, as in torch's amax."""
    if math.isinf(sharpness):
        best = (options == values[:, None]).to(options.dtype)
        return best.div_(best.sum(dim=1, keepdim=True))
    return (options * sharpness).softmax(dim=1)


def _cell_shares(rectangles: Sequence[Rectangle], size: tuple[int, int]) -> Tensor:
    shares = torch.zeros(len(rectangles), *size, dtype=torch.float64)
    for share, (left, top, width, height) in zip(shares, rectangles, strict=True):
        share[top : top + height, left : left + width] = 1 / (width * height)
    return shares.flatten(1)


def _folding_weights(parsing: AndOrParsing) -> Tensor:
    """Share of each terminal node in the folded root, ``(T,)``: folding is linear."""
    scores = torch.zeros(len(parsing.terminal_rectangles), 1, dtype=torch.float64)
    of_values = torch.zeros(len(parsing.graph), 1, dtype=torch.float64)
    of_values[-1] = 1
    for group in reversed(parsing.groups()):
        choices = sum(group.size[1:])
        shares = (of_values[group.rows] / choices)[:, None].repeat(1, choices, 1)
        _hand_down(group, shares, scores, of_values)
    return scores[:, 0]
