"""And-Or graphs: published counts, and every parse tree by brute force on small grids."""

import itertools
import random

import pytest

from interp_train.and_or_graph import AndOrGraph, ParseTree, Rectangle


@pytest.mark.parametrize(
    ("side", "min_side", "terminals", "ands", "trees"),
    [
        (3, 1, 36, 48, 1241),
        (4, 1, 100, 200, 2590351),
        (5, 1, 225, 600, 79005470861),
        (7, 1, 784, 3136, 297673204380311095417269),
        (5, 2, 25, 20, 37),
        (7, 2, 144, 240, 35333),
        (7, 3, 25, 20, 37),
    ],
)
def test_known_counts(side, min_side, terminals, ands, trees):
    graph = AndOrGraph(side, side, min_side=min_side)
    assert (graph.num_terminal, graph.num_and, len(graph)) == (terminals, ands, terminals)
    assert graph.count_parse_trees() == trees
    assert "7x7" in repr(AndOrGraph(7, 7, min_side=2))


@pytest.mark.parametrize("height", [1, 2, 3, 5])
@pytest.mark.parametrize("width", [1, 3, 4])
def test_closed_forms_with_parts_of_any_size(height, width):
    def intervals(length):
        return length * (length + 1) // 2

    def triples(length):
        return (length + 1) * length * (length - 1) // 6

    graph = AndOrGraph(height, width)
    assert len(graph) == intervals(height) * intervals(width)
    assert graph.num_and == intervals(height) * triples(width) + intervals(width) * triples(height)


@pytest.mark.parametrize(
    ("size", "counts"), [((3, 3), (25, 20, 25)), ((1, 4), (8, 5, 8)), ((3, 4), (40, 41, 40))]
)
@pytest.mark.parametrize("pruning", ["first", "last"])
def test_known_counts_without_mirror_images(size, counts, pruning):
    graph = AndOrGraph(*size, pruning=pruning)
    assert (graph.num_terminal, graph.num_and, len(graph)) == counts
    firsts = [node.parts[0] for node in graph.and_nodes[-1]]
    small = Rectangle(0, 0, 1, size[0])
    assert (small in firsts) == (pruning == "first")


def brute_force(rectangle, min_side, min_area, most=2):
    """Every parse tree, as nested sets of rectangles, by recursion without any sharing."""
    x, y, width, height = rectangle
    found = {(rectangle, frozenset())}
    pairs = [((x, y, k, height), (x + k, y, width - k, height)) for k in range(1, width)]
    pairs += [((x, y, width, k), (x, y + k, width, height - k)) for k in range(1, height)]
    for pair in pairs:
        if all(min(w, h) >= min_side and w * h >= min_area for _, _, w, h in pair):
            options = [brute_force(part, min_side, min_area, most) for part in pair]
            found |= {(rectangle, frozenset(trees)) for trees in itertools.product(*options)}
    return found


def as_sets(tree):
    return (tuple(tree.rectangle), frozenset(map(as_sets, tree.parts)))


@pytest.mark.parametrize("size", [(1, 1), (1, 5), (2, 3), (3, 3), (4, 3)])
@pytest.mark.parametrize(("min_side", "min_area"), [(1, 1), (1, 2), (1, 3)])
def test_all_parse_trees_of_small_grids(size, min_side, min_area):
    if size[0] * size[1] < min_area:
        with pytest.raises(ValueError, match="min_area"):
            AndOrGraph(*size, min_area=min_area)
        return
    graph = AndOrGraph(*size, min_side=min_side, min_area=min_area)
    trees = list(map(as_sets, graph.parse_trees()))
    expected = brute_force((0, 0, size[1], size[0]), min_side, min_area)
    assert set(trees) == expected
    assert len(trees) == len(expected) == graph.count_parse_trees()


def test_leaves_tile_the_grid():
    graph = AndOrGraph(3, 3, max_parts=3)
    for tree in graph.parse_trees():
        cells = [
            (x, y)
            for left, top, width, height in tree.leaves()
            for x in range(left, left + width)
            for y in range(top, top + height)
        ]
        assert sorted(cells) == sorted(itertools.product(range(3), range(3)))


def test_more_parts_are_cut_from_one_part_of_a_smaller_decomposition():
    graph = AndOrGraph(2, 2, max_parts=4)
    by_parts = {}
    for node in graph.and_nodes[-1]:
        by_parts.setdefault(len(node.parts), set()).add(frozenset(node.parts))
    assert {number: len(found) for number, found in by_parts.items()} == {2: 2, 3: 4, 4: 1}
    row = AndOrGraph(1, 4, max_parts=3)
    threes = [node for node in row.and_nodes[-1] if len(node.parts) == 3]
    assert [[part.width for part in node.parts] for node in threes] == [
        [1, 1, 2], [1, 2, 1], [2, 1, 1],
    ]  # fmt: skip


def test_overlapping_cuts_start_the_second_part_earlier():
    graph = AndOrGraph(1, 5, overlap=0.5)
    spans = [[(part.left, part.width) for part in node.parts] for node in graph.and_nodes[-1]]
    assert spans == [
        [(0, 1), (1, 4)], [(0, 2), (2, 3)], [(0, 2), (1, 4)], [(0, 3), (3, 2)], [(0, 3), (2, 3)],
        [(0, 4), (4, 1)], [(0, 4), (3, 2)], [(0, 4), (2, 3)],
    ]  # fmt: skip
    assert all(len(node.parts) == 2 for nodes in graph.and_nodes for node in nodes)


def test_a_limit_of_cuts_keeps_evenly_spaced_ones():
    graph = AndOrGraph(1, 9, max_cuts=2)
    assert [node.parts[0].width for node in graph.and_nodes[-1]] == [3, 7]
    assert all(len(nodes) <= 2 for nodes in graph.and_nodes)


def test_without_its_own_terminal_node_the_root_is_taken_apart():
    graph = AndOrGraph(3, 3, root_terminal=False)
    assert graph.num_terminal == 35
    assert graph.count_parse_trees() == 1240
    assert all(tree.parts for tree in graph.parse_trees())


@pytest.mark.parametrize("options", [{}, {"max_parts": 3, "overlap": 0.4}])
def test_levels_depend_on_earlier_levels_alone(options):
    graph = AndOrGraph(4, 3, **options)
    assert sorted(itertools.chain(*graph.levels)) == list(range(len(graph)))
    ready = set()
    for level in graph.levels:
        for index in level:
            parts = (part for node in graph.and_nodes[index] for part in node.parts)
            assert all(graph.index(part) in ready for part in parts)
        ready.update(level)
    assert graph.rectangles[-1] == graph.root == (0, 0, 3, 4)


def test_random_parse_trees_are_equally_likely():
    graph = AndOrGraph(2, 2)
    rng = random.Random(0)
    drawn = [graph.random_parse_tree(rng) for _ in range(4000)]
    trees = list(graph.parse_trees())
    counts = [drawn.count(tree) for tree in trees]
    assert sum(counts) == 4000
    # 9 trees: 444 expected, standard deviation 20.
    assert len(trees) == 9
    assert all(abs(count - 4000 / 9) < 100 for count in counts)


def test_choices_unfold_into_a_parse_tree():
    graph = AndOrGraph(2, 2)
    choices = [-1] * len(graph)
    assert graph.parse_tree(choices) == ParseTree(graph.root)
    choices[-1] = 0
    tree = graph.parse_tree(choices)
    assert tree.leaves() == [(0, 0, 2, 1), (0, 1, 2, 1)]
    assert tree.depth() == 1
    choices[graph.index(Rectangle(0, 1, 2, 1))] = 0
    assert graph.parse_tree(choices).depth() == 2
    with pytest.raises(ValueError, match=r"one entry per Or node \(9\), but got 2"):
        graph.parse_tree([0, 0])
    choices[-1] = 2
    with pytest.raises(ValueError, match=r"`choices\[8\]` must be >= -1 and <= 1"):
        graph.parse_tree(choices)


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        ((0, 3), {}, "`height` must be >= 1"),
        ((3, 0), {}, "`width` must be >= 1"),
        ((3, 3), {"min_side": 4}, "`min_side` must be >= 1 and <= 3"),
        ((3, 3), {"min_area": 10}, "`min_area` must be >= 1 and <= 9"),
        ((3, 3), {"max_parts": 1}, "`max_parts` must be >= 2"),
        ((3, 3), {"overlap": 1.0}, "`overlap` must be below 1"),
        ((3, 3), {"pruning": "both"}, "`pruning` must be one of"),
        ((3, 3), {"max_cuts": 0}, "`max_cuts` must be >= 1"),
        ((3, 3), {"min_side": 2, "root_terminal": False}, "`root_terminal` must be true where"),
    ],
)
def test_bad_arguments(arguments, options, message):
    with pytest.raises(ValueError, match=message):
        AndOrGraph(*arguments, **options)


def test_too_large_a_graph(monkeypatch):
    monkeypatch.setattr("interp_train.and_or_graph.MAX_AND_NODES", 1000)
    assert AndOrGraph(5, 5).num_and == 600
    with pytest.raises(ValueError, match="more than 1000 And nodes"):
        AndOrGraph(7, 7)
    with pytest.raises(ValueError, match="fewer `max_parts`"):
        AndOrGraph(7, 7, min_side=2, max_parts=7)
