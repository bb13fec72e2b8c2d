"""Parsing of And-Or graphs against a recursive oracle, its limits, and its best trees."""

import itertools
import math

import pytest
import torch

from interp_train.and_or_graph import AndOrGraph
from interp_train.and_or_parsing import AndOrParsing

GRAPHS = {
    "plain": (3, 4, {}),
    "least side": (7, 7, {"min_side": 2}),
    "three parts": (3, 3, {"max_parts": 3}),
    "pruned": (4, 3, {"pruning": "first"}),
    "overlap": (3, 5, {"overlap": 0.5}),
    "no root": (3, 3, {"root_terminal": False}),
    "one cell": (1, 1, {}),
}
SHARPNESS = [0.0, 0.3, 4.0, math.inf]


def recursive(graph, parsing, scores, sharpness):
    """Value of the root, rectangle by rectangle."""
    row = {rectangle: row for row, rectangle in enumerate(parsing.terminal_rectangles)}

    def value_of(rectangle):
        index = graph.index(rectangle)
        choices = [scores[row[rectangle]]] if graph.terminal[index] else []
        for node in graph.and_nodes[index]:
            area = sum(part.area for part in node.parts)
            choices.append(sum(part.area / area * known(part) for part in node.parts))
        choices = torch.stack(choices)
        if sharpness == 0:
            return choices.mean(0)
        if math.isinf(sharpness):
            return choices.max(0).values
        return (choices * sharpness).exp().mean(0).log() / sharpness

    cache = {}

    def known(rectangle):
        if rectangle not in cache:
            cache[rectangle] = value_of(rectangle)
        return cache[rectangle]

    return known(graph.root)


def parsing_of(name):
    height, width, options = GRAPHS[name]
    return AndOrParsing(AndOrGraph(height, width, **options))


@pytest.mark.parametrize("name", GRAPHS)
@pytest.mark.parametrize("sharpness", SHARPNESS)
def test_values_and_gradients_equal_a_recursion(name, sharpness):
    parsing = parsing_of(name)
    torch.manual_seed(0)
    scores = torch.randn(parsing.graph.num_terminal, 2, 3, dtype=torch.float64, requires_grad=True)
    found = parsing(scores, sharpness)
    expected = recursive(parsing.graph, parsing, scores, sharpness)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)
    weights = torch.randn_like(found)
    gradients = [
        torch.autograd.grad((value * weights).sum(), scores)[0] for value in (found, expected)
    ]
    torch.testing.assert_close(*gradients, rtol=0, atol=1e-12)


@pytest.mark.parametrize("sharpness", [0.0, 2.0])
def test_numerical_gradients(sharpness):
    parsing = parsing_of("no root")
    torch.manual_seed(1)
    scores = torch.randn(parsing.graph.num_terminal, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda values: parsing(values, sharpness), scores)


def test_the_smooth_path_runs_from_the_mean_to_the_maximum():
    parsing = parsing_of("least side")
    torch.manual_seed(2)
    scores = torch.randn(144, 5, dtype=torch.float64)
    values = [parsing(scores, sharpness) for sharpness in (0.0, 1e-6, 1.0, 10.0, 1e7, math.inf)]
    torch.testing.assert_close(values[0], values[1], rtol=0, atol=1e-4)
    torch.testing.assert_close(values[4], values[5], rtol=0, atol=1e-4)
    for lower, higher in itertools.pairwise(values):
        assert (higher >= lower - 1e-9).all()


@pytest.mark.parametrize("name", ["plain", "three parts", "no root"])
def test_the_best_tree_is_the_best_of_all(name):
    height, width, options = GRAPHS[name]
    graph = AndOrGraph(min(height, 3), min(width, 3), **options)
    parsing = AndOrParsing(graph)
    torch.manual_seed(3)
    scores = torch.randn(graph.num_terminal, 4, dtype=torch.float64)
    row = {rectangle: row for row, rectangle in enumerate(parsing.terminal_rectangles)}

    def score(tree, column):
        return sum(leaf.area * scores[row[leaf], column].item() for leaf in tree.leaves()) / 9

    choices = parsing.choices(scores)
    for column in range(4):
        best = max(score(tree, column) for tree in graph.parse_trees())
        tree = graph.parse_tree(choices[:, column].tolist())
        assert score(tree, column) == pytest.approx(best, abs=1e-12)
        assert parsing(scores)[column].item() == pytest.approx(best, abs=1e-12)


def test_equal_choices_keep_the_whole():
    parsing = parsing_of("least side")
    tree = parsing.graph.parse_tree(parsing.choices(torch.ones(144)).tolist())
    assert tree.leaves() == [parsing.graph.root]


def test_means_over_rectangles():
    parsing = parsing_of("overlap")
    torch.manual_seed(4)
    maps = torch.randn(2, 3, 3, 5, dtype=torch.float64)
    means = parsing.terminal_means(maps)
    for mean, (left, top, width, height) in zip(means, parsing.terminal_rectangles, strict=True):
        part = maps[:, :, top : top + height, left : left + width]
        torch.testing.assert_close(mean, part.mean(dim=(2, 3)))


@pytest.mark.parametrize("sharpness", SHARPNESS)
def test_no_boxes(sharpness):
    parsing = parsing_of("least side")
    maps = torch.zeros(0, 21, 7, 7, requires_grad=True)
    scores = parsing.terminal_means(maps)
    root = parsing(scores, sharpness)
    assert root.shape == (0, 21)
    assert parsing.choices(scores).shape == (144, 0, 21)
    root.sum().backward()
    assert maps.grad.shape == maps.shape


@pytest.mark.parametrize("sharpness", SHARPNESS)
def test_half_precision_is_parsed_in_single_precision(sharpness):
    parsing = parsing_of("plain")
    scores = torch.randn(parsing.graph.num_terminal, 3).bfloat16().requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        root = parsing(scores, sharpness)
    assert root.dtype == torch.float32
    torch.testing.assert_close(root, parsing(scores.detach().float(), sharpness))
    root.sum().backward()
    assert scores.grad.dtype == torch.bfloat16


def test_it_has_no_state_and_needs_the_right_shapes():
    parsing = parsing_of("plain")
    assert not parsing.state_dict()
    assert not list(parsing.parameters())
    with pytest.raises(ValueError, match=r"`maps` must be \(N, C, 3, 4\)"):
        parsing.terminal_means(torch.zeros(1, 2, 4, 3))
    with pytest.raises(ValueError, match=r"one row per terminal node \(60\), but got \(3, 2\)"):
        parsing(torch.zeros(3, 2))
    with pytest.raises(ValueError, match="`sharpness` must be >= 0"):
        parsing(torch.zeros(60), -1.0)


def test_leaf_weights_exist_in_inference_mode():
    parsing = AndOrParsing(AndOrGraph(3, 3))
    scores = torch.randn(36, 2)
    expected = parsing.leaf_weights(scores)
    with torch.inference_mode():
        torch.testing.assert_close(parsing.leaf_weights(scores * 1), expected)
