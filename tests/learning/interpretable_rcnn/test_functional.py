"""Schedule, pooling by leaves and leaf boxes, each against a slow or exact answer."""

import math

import pytest
import torch

from interp_train.and_or_graph import AndOrGraph
from interp_train.and_or_parsing import AndOrParsing
from interp_train.learning.interpretable_rcnn.functional import (
    leaf_boxes,
    leaf_pooling,
    sharpness_at,
)


def test_the_schedule_folds_then_sharpens_then_unfolds():
    stages = [sharpness_at(progress, 0.5, 0.2) for progress in (0.0, 0.49, 0.5, 0.6, 0.7, 1.0)]
    assert stages[:2] == [0.0, 0.0]
    assert stages[2] == pytest.approx(0.1)
    assert stages[3] == pytest.approx(0.1 * 1000**0.5)
    assert stages[4:] == [math.inf, math.inf]
    assert sharpness_at(0.0, 0.0, 0.0) == math.inf
    assert sharpness_at(0.99, 1.0, 0.0) == 0.0
    with pytest.raises(ValueError, match="`smooth` must be >= 0 and <= 0.5"):
        sharpness_at(0.0, 0.5, 0.6)
    with pytest.raises(ValueError, match="`progress`"):
        sharpness_at(1.1, 0.5, 0.0)


def average_over_all_trees(graph, cells):
    """Folded pooling by its meaning: a mean over choices, rectangle by rectangle."""

    def pooled(rectangle):
        index = graph.index(rectangle)
        x, y, width, height = rectangle
        choices = []
        if graph.terminal[index]:
            filled = torch.zeros_like(cells)
            part = cells[:, :, y : y + height, x : x + width]
            filled[:, :, y : y + height, x : x + width] = part.mean(dim=(2, 3), keepdim=True)
            choices.append(filled)
        choices += [sum(map(pooled, node.parts)) for node in graph.and_nodes[index]]
        return torch.stack(choices).mean(0)

    return pooled(graph.root)


@pytest.mark.parametrize("options", [{}, {"min_side": 2}, {"max_parts": 3}])
def test_folded_pooling_is_the_mean_over_choices(options):
    graph = AndOrGraph(4, 3 if not options.get("min_side") else 4, **options)
    parsing = AndOrParsing(graph)
    torch.manual_seed(0)
    cells = torch.randn(2, 3, graph.height, graph.width, dtype=torch.float64)
    weights = parsing.leaf_weights(torch.zeros(graph.num_terminal, 2, dtype=torch.float64), 0.0)
    pooled = leaf_pooling(cells.flatten(2), weights, parsing.cell_shares())
    torch.testing.assert_close(pooled.view_as(cells), average_over_all_trees(graph, cells))


def test_unfolded_pooling_is_the_mean_over_each_leaf():
    graph = AndOrGraph(4, 5)
    parsing = AndOrParsing(graph)
    torch.manual_seed(1)
    scores = torch.randn(graph.num_terminal, 6, dtype=torch.float64)
    cells = torch.randn(6, 2, 4, 5, dtype=torch.float64)
    weights = parsing.leaf_weights(scores)
    torch.testing.assert_close(weights.sum(0), torch.ones(6, dtype=torch.float64))
    pooled = leaf_pooling(cells.flatten(2), weights, parsing.cell_shares()).view_as(cells)
    choices = parsing.choices(scores)
    for box in range(6):
        expected = torch.empty_like(cells[box])
        for x, y, width, height in graph.parse_tree(choices[:, box].tolist()).leaves():
            part = cells[box, :, y : y + height, x : x + width]
            expected[:, y : y + height, x : x + width] = part.mean(dim=(1, 2), keepdim=True)
        torch.testing.assert_close(pooled[box], expected)


def test_overlapping_parts_keep_a_constant():
    graph = AndOrGraph(3, 5, overlap=0.6)
    parsing = AndOrParsing(graph)
    torch.manual_seed(2)
    weights = parsing.leaf_weights(torch.randn(graph.num_terminal, 4))
    pooled = leaf_pooling(torch.full((4, 2, 15), 3.0), weights, parsing.cell_shares())
    torch.testing.assert_close(pooled, torch.full((4, 2, 15), 3.0))


def test_leaves_as_boxes():
    graph = AndOrGraph(2, 4)
    choices = [-1] * len(graph)
    choices[-1] = 2  # behind two columns
    tree = graph.parse_tree(choices)
    assert [leaf.width for leaf in tree.leaves()] == [2, 2]
    boxes = leaf_boxes(tree, torch.tensor([10.0, 20.0, 50.0, 30.0]), (2, 4))
    assert boxes.tolist() == [[10.0, 20.0, 30.0, 30.0], [30.0, 20.0, 50.0, 30.0]]
