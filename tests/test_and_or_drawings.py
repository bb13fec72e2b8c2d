"""The picture of an And-Or graph shows all choices, and one path."""

import torch
from matplotlib.patches import Rectangle as Patch

from interp_train.and_or_drawings import graph_figure
from interp_train.and_or_graph import AndOrGraph
from interp_train.figures import OKABE_ITO, as_pixels
from interp_train.parse_drawings import productions


def framed(axes, colour):
    """Patches whose edge has a colour."""
    rgba = torch.tensor([int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)])
    return [
        patch
        for patch in axes.patches
        if isinstance(patch, Patch)
        and torch.allclose(torch.tensor(patch.get_edgecolor()[:3]).float(), rgba, atol=1e-3)
    ]


def test_the_graph_shows_all_choices_and_one_path():
    graph = AndOrGraph(3, 3)
    tree = next(tree for tree in graph.parse_trees() if tree.depth() == 2)
    figure = graph_figure(graph, tree, OKABE_ITO[1])
    (axes,) = figure.axes
    assert len(axes.patches) == 2 * len(graph)
    frames = framed(axes, OKABE_ITO[1])
    assert len(frames) == len({rectangle for rectangle, _ in productions(tree)})
    faint, strong = axes.collections[:2]
    edges = sum(1 + len(node.parts) for nodes in graph.and_nodes for node in nodes)
    assert len(faint.get_segments()) + len(strong.get_segments()) == edges
    cuts = [parts for _, parts in productions(tree) if parts]
    assert len(strong.get_segments()) == sum(1 + len(parts) for parts in cuts)
    assert as_pixels(figure).shape[0] == 3
