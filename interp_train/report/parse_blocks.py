"""How detectors take their boxes apart, in the report: pictures, statistics, production rules."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from markupsafe import Markup
from matplotlib.figure import Figure

from interp_train.and_or_drawings import graph_figure
from interp_train.and_or_graph import AndOrGraph, ParseTree, Rectangle
from interp_train.figures import category_style
from interp_train.parse_drawings import DrawnBox
from interp_train.parse_records import ParseRecord, from_arrays, record_figures
from interp_train.parse_statistics import (
    Rule,
    leaf_size_figure,
    production_rules,
    rules_figure,
)
from interp_train.report.blocks import Block, Writer
from interp_train.report.embedding import save_picture
from interp_train.report.records import RunData
from interp_train.report.table_formats import Table
from interp_train.report.tables import shown

Save = Callable[[Figure, str, str], Markup]  # figure, name of its file, what it shows
_LEAST_SHARE = 0.05  # of the production rules that the page lists; the csv has all


class PartSummary(NamedTuple):
    """The parse trees of many boxes together.

    Attributes:
        class_names: of the categories.
        trees: one list per category.
        graph: that the trees are of.
        example: a box whose path through the graph is drawn; None for none.
    """

    class_names: Sequence[str]
    trees: Sequence[Sequence[ParseTree]]
    graph: AndOrGraph
    example: DrawnBox | None


def summary_parts(summary: PartSummary, save: Save) -> list[tuple[str, str, Markup]]:
    """Heading, explanation and picture of what holds for all boxes; nothing without trees.

    Args:
        summary: see `PartSummary`.
        save: writes a figure and gives its element.
    """
    graph, names, trees = summary.graph, summary.class_names, summary.trees
    if not any(trees):
        return []
    cells = graph.height * graph.width
    sizes = leaf_size_figure(trees, names, cells)
    rules = rules_figure(trees, names, (graph.height, graph.width))
    found = [
        (
            "Sizes of the leaves",
            f"Share of the boxes' area that is covered by leaves of a size. At {cells} cells the "
            f"box stays whole: a detector with all its area there explains nothing.",
            save(sizes, "leaf_sizes", "share of the area over the size of leaves"),
        ),
        (
            "Production rules",
            "The choices that most parse trees of a category make: a rectangle and the parts it "
            "is taken apart into, or, in one full colour, a rectangle that stays whole; the "
            "largest rectangle first. Below: share of the category's boxes.",
            save(rules, "production_rules", "most frequent choices of each category"),
        ),
    ]
    return found + _example_part(summary, save)


def _example_part(summary: PartSummary, save: Save) -> list[tuple[str, str, Markup]]:
    graph, example = summary.graph, summary.example
    if example is None or example.tree is None:
        return []
    figure = graph_figure(graph, example.tree, category_style(example.label)[0])
    title = f"{summary.class_names[example.label].replace('_', ' ')} {example.caption}"
    text = (
        f"All {graph.num_terminal} parts, {graph.num_and} cuts and {graph.count_parse_trees():,} "
        f"parse trees that the head chooses from, in rows of equal area; in colour the choice of a "
        f"sure box that unfolds, {title}. A square is the grid with one rectangle in it; filled in "
        f"colour: a leaf."
    )
    picture = save(figure, "and_or_graph", "the And-Or graph with one parse tree")
    return [("The And-Or graph and one path through it", text, picture)]


def parse_blocks(data: str, runs: Sequence[RunData], writer: Writer) -> list[Block]:
    """Blocks of the runs that are detectors: what they find, and how they take it apart.

    Args:
        data: name of the data set.
        runs: one per row.
        writer: makes the elements of the page.
    """
    scenes, statistics = Markup(), Markup()
    for run in runs:
        arrays = run.panels.get("parses")
        if arrays is None:
            continue
        record, suffix = from_arrays(arrays), f"{data}_{run.row}"
        head = Markup("<h4>{}</h4>").format(shown(run.row)) if len(runs) > 1 else Markup()
        scenes += head + _scenes(record, suffix, writer)
        found = _statistics(record, suffix, writer)
        statistics += head + found if found else Markup()
    seed = f" (seed {runs[0].seed})" if runs else ""
    return [
        Block(
            "What the detector finds",
            "The same validation images for every detector: boxes with their probability, thin "
            "lines are the leaves of a box's parse tree. Beside them the tree of the box with the "
            "thickest frame, as crops; framed crops are leaves. Nobody labelled these parts"
            f"{seed}.",
            scenes,
        ),
        Block(
            "How boxes are taken apart",
            f"All boxes of the last validation with a probability of at least one half{seed}.",
            statistics,
        ),
    ]


def _scenes(record: ParseRecord, suffix: str, writer: Writer) -> Markup:
    pictures = Markup()
    for name, draw in record_figures(record).items():
        if name.startswith("detections_"):
            alt = f"boxes and parse tree of image {name.removeprefix('detections_')}"
            image = save_picture(draw(), writer.folder / "figures", f"{name}_{suffix}", alt)
            pictures += Markup('<div class="plot">{}</div>').format(image)
    return pictures


def _statistics(record: ParseRecord, suffix: str, writer: Writer) -> Markup:
    if record.shape is None:
        return Markup()

    def save(figure: Figure, name: str, alt: str) -> Markup:
        return save_picture(figure, writer.folder / "figures", f"{name}_{suffix}", alt)

    graph = record.shape.graph()
    parts = summary_parts(
        PartSummary(record.class_names, record.trees, graph, record.example), save
    )
    body = Markup().join(
        Markup('<p class="lead"><strong>{}.</strong> {}</p><div class="plot">{}</div>').format(
            *part
        )
        for part in parts
    )
    if not parts:
        return body
    table = writer.table(rules_table(record.trees, record.class_names, f"rules_{suffix}"))
    folded = Markup("<details><summary>Every frequent production rule</summary>{}</details>")
    return body + folded.format(table)


def rules_table(
    trees: Sequence[Sequence[ParseTree]], names: Sequence[str], name: str = "production_rules"
) -> Table:
    """How often each category makes each choice; the csv lists the rare ones as well.

    Args:
        trees: one list per category.
        names: of the categories.
        name: of the table's files.
    """
    rules = [
        (names[index].replace("_", " "), rule)
        for index, listed in enumerate(trees)
        if listed
        for rule in production_rules(listed)
    ]
    rows = [
        (category, in_words(rule.whole), _parts_in_words(rule), f"{100 * rule.share:.0f} %")
        for category, rule in rules
        if rule.share >= _LEAST_SHARE
    ]
    records = [
        {
            "category": category,
            "whole": in_words(rule.whole),
            "parts": _parts_in_words(rule),
            "share": rule.share,
        }
        for category, rule in rules
    ]
    return Table(
        name=name,
        title="Production rules and the share of a category's boxes that use them",
        columns=("category", "rectangle", "is taken apart into", "share of boxes"),
        rows=tuple(rows),
        records=tuple(records),
        note=f"Cells of the grid, counted from 1. Rules of at least {100 * _LEAST_SHARE:.0f} % of "
        f"the boxes; the csv has all {len(rules)}.",
        words=frozenset({1, 2}),
    )


def in_words(rectangle: Rectangle) -> str:
    """Columns and rows of a rectangle, counted from 1."""
    right, bottom = rectangle.left + rectangle.width, rectangle.top + rectangle.height
    return f"columns {rectangle.left + 1}–{right}, rows {rectangle.top + 1}–{bottom}"


def _parts_in_words(rule: Rule) -> str:
    return "; ".join(map(in_words, rule.parts)) or "stays whole"
