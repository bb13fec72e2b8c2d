"""How categories are taken apart: sizes of leaves and production rules, by hand."""

import pytest

from interp_train.and_or_graph import AndOrGraph, ParseTree, Rectangle
from interp_train.parse_statistics import (
    Rule,
    frequent_rules,
    leaf_size_figure,
    leaf_size_shares,
    production_rules,
    rules_figure,
)

GRAPH = AndOrGraph(4, 4, min_side=2)
WHOLE = ParseTree(GRAPH.root)
HALVES = (ParseTree(Rectangle(0, 0, 2, 4)), ParseTree(Rectangle(2, 0, 2, 4)))
TWO = ParseTree(GRAPH.root, HALVES)
QUARTERS = (ParseTree(Rectangle(0, 0, 2, 2)), ParseTree(Rectangle(0, 2, 2, 2)))
THREE = ParseTree(GRAPH.root, (HALVES[0]._replace(parts=QUARTERS), HALVES[1]))


def test_sizes_of_leaves_by_hand():
    assert leaf_size_shares([WHOLE, TWO, THREE]) == pytest.approx(
        {4: 8 / 48, 8: (16 + 8) / 48, 16: 16 / 48}
    )
    figure = leaf_size_figure([[WHOLE, TWO], [], [THREE]], ["a", "b", "c"], 16)
    assert [axes.get_title(loc="left") for axes in figure.axes] == ["a, 2 boxes", "c, 1 box"]
    assert "whole box" in [text.get_text() for text in figure.axes[0].texts]
    assert not figure.axes[1].texts


def test_frequent_rules_by_hand():
    halves = (HALVES[0].rectangle, HALVES[1].rectangle)
    rules = frequent_rules([WHOLE, TWO, THREE], 3)
    assert rules == [
        Rule(GRAPH.root, halves, pytest.approx(2 / 3)),
        Rule(GRAPH.root, (), pytest.approx(1 / 3)),
        Rule(HALVES[1].rectangle, (), pytest.approx(2 / 3)),
    ]
    figure = rules_figure([[WHOLE, TWO, THREE], []], ["a", "b"], (4, 4), number=3)
    assert [text.get_text() for text in figure.axes[0].texts] == ["a", "67 %", "33 %", "67 %"]


def test_every_rule_is_counted_once_per_tree():
    rules = production_rules([WHOLE, TWO, THREE])
    assert sum(rule.share * 3 for rule in rules if rule.whole == GRAPH.root) == pytest.approx(3)
    assert [round(3 * rule.share) for rule in rules] == [2, 2, 1, 1, 1, 1, 1]
    assert production_rules([]) == []
