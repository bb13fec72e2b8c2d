"""Write what a detector found: detections.html (opens offline), detections.json, figures."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from markupsafe import Markup
from matplotlib.figure import Figure

import interp_train
from interp_train.and_or_graph import AndOrGraph, ParseTree
from interp_train.atomic_files import write_json, write_text
from interp_train.figures import as_pixels, category_style, save_figure
from interp_train.parse_drawings import crop_tree_figure, graph_figure, scene_figure
from interp_train.report.detection_records import BoxView, DetectionRecord, SceneView, as_plain
from interp_train.report.embedding import data_uri
from interp_train.report.page import environment
from interp_train.report.parse_statistics import leaf_size_figure, rules_figure


class _Tree(NamedTuple):
    """One parsed box of the page."""

    title: str
    note: str
    picture: Markup


class _Section(NamedTuple):
    """One image of the page."""

    anchor: str
    title: str
    file: str
    note: str
    picture: Markup
    trees: list[_Tree]


def write_detections(record: DetectionRecord, trees_per_image: int = 6) -> Path:
    """Write the page, the records and the figures into the record's folder.

    Args:
        record: what was found.
        trees_per_image: boxes per image whose parse tree is drawn.

    Returns:
        The path of detections.html.
    """
    write_json(record.folder / "detections.json", as_plain(record))
    pages = environment().get_template("detections.html.j2")
    page = pages.render(
        title=f"Detections by {record.network}",
        facts=_facts(record),
        sections=[_section(record, scene, trees_per_image) for scene in record.scenes],
        parts=_summary(record),
        version=interp_train.__version__,
    )
    path = record.folder / "detections.html"
    write_text(path, page)
    return path


def chosen_boxes(boxes: Sequence[BoxView], number: int) -> list[BoxView]:
    """The surest boxes, one of each category in turn, surest first."""
    by_label: dict[int, list[BoxView]] = {}
    for box in boxes:
        by_label.setdefault(box.label, []).append(box)
    rounds = max(map(len, by_label.values()), default=0)
    turns = [
        box
        for turn in range(rounds)
        for listed in by_label.values()
        for box in listed[turn : turn + 1]
    ]
    return sorted(turns[:number], key=lambda box: -box.score)


def _facts(record: DetectionRecord) -> list[tuple[str, str]]:
    boxes = [box for scene in record.scenes for box in scene.boxes]
    found = [
        ("checkpoint", Path(record.source).name),
        ("images", str(len(record.scenes))),
        ("boxes", f"{len(boxes)} with a score of at least {record.least_score:g}"),
    ]
    trees = [box.tree for box in boxes if box.tree is not None]
    if trees:
        unfolded = sum(bool(tree.parts) for tree in trees)
        leaves = sum(len(tree.leaves()) for tree in trees) / len(trees)
        found += [
            ("grid", f"{record.grid[0]} x {record.grid[1]} cells"),
            ("unfolded", f"{100 * unfolded / len(trees):.0f} % of the boxes"),
            ("leaves per box", f"{leaves:.1f}"),
        ]
    return found


def _section(record: DetectionRecord, scene: SceneView, number: int) -> _Section:
    drawn = [box.drawn() for box in scene.boxes]
    figure = scene_figure(scene.pixels, drawn, record.class_names, record.grid)
    counts = {
        name: sum(box.label == index for box in scene.boxes)
        for index, name in enumerate(record.class_names)
    }
    listed = [f"{count} {name.replace('_', ' ')}" for name, count in counts.items() if count]
    trees = []
    for rank, box in enumerate(chosen_boxes(scene.boxes, number), 1):
        if box.tree is None:
            continue
        picture = crop_tree_figure(scene.pixels, box.drawn(), record.grid)
        note = "stays whole" if not box.tree.parts else f"{len(box.tree.leaves())} leaves"
        name = f"{scene.name}_tree_{rank}"
        alt = f"parse tree of {box.title}"
        trees.append(_Tree(box.title, note, _saved(record, picture, name, alt)))
    return _Section(
        anchor=f"image-{scene.name}",
        title=scene.name,
        file=scene.file,
        note=", ".join(listed) or "nothing found",
        picture=_saved(record, figure, scene.name, f"boxes found in {scene.name}"),
        trees=trees,
    )


def _summary(record: DetectionRecord) -> list[tuple[str, str, Markup]]:
    """Heading, explanation and picture of what holds for all boxes together."""
    graph = record.graph
    trees = [record.trees_of(index) for index in range(len(record.class_names))]
    if graph is None or not any(trees):
        return []
    cells = graph.height * graph.width
    sizes = leaf_size_figure(trees, record.class_names, cells)
    rules = rules_figure(trees, record.class_names, record.grid)
    found = [
        (
            "Sizes of the leaves",
            f"Share of the boxes' area that is covered by leaves of a size. At {cells} cells the "
            f"box stays whole: a detector with all its area there explains nothing.",
            _saved(record, sizes, "leaf_sizes", "share of the area over the size of leaves"),
        ),
        (
            "Production rules",
            "The choices that most parse trees of a category make: a rectangle and the parts it "
            "is taken apart into, or, in one full colour, a rectangle that stays whole; the "
            "largest rectangle first. Below: share of the category's boxes.",
            _saved(record, rules, "production_rules", "most frequent choices of each category"),
        ),
    ]
    path = _typical_tree(record)
    if path is not None:
        found.append(_graph_part(record, graph, path))
    return found


def _typical_tree(record: DetectionRecord) -> BoxView | None:
    """The surest box that unfolds; else the surest."""
    boxes = [box for scene in record.scenes for box in scene.boxes if box.tree is not None]
    ordered = sorted(boxes, key=lambda box: (not (box.tree and box.tree.parts), -box.score))
    return ordered[0] if ordered else None


def _graph_part(
    record: DetectionRecord, graph: AndOrGraph, box: BoxView
) -> tuple[str, str, Markup]:
    tree = box.tree
    assert isinstance(tree, ParseTree)
    figure = graph_figure(graph, tree, category_style(box.label)[0])
    return (
        "The And-Or graph and one path through it",
        f"All {graph.num_terminal} parts, {graph.num_and} cuts and "
        f"{graph.count_parse_trees():,} parse trees that the head chooses from, in rows of equal "
        f"area; in colour the choice of the surest box that unfolds, {box.title}. A square is the "
        f"grid with one rectangle in it; filled in colour: a leaf.",
        _saved(record, figure, "and_or_graph", "the And-Or graph with one parse tree"),
    )


def _saved(record: DetectionRecord, figure: Figure, name: str, alt: str) -> Markup:
    """Write a figure as png and pdf; returns the element for the page, at twice its size."""
    for suffix in (".png", ".pdf"):
        save_figure(figure, record.folder / "figures" / f"{name}{suffix}")
    wide = round(figure.get_figwidth() * 96)
    figure.set_dpi(192)
    pixels = as_pixels(figure).numpy()
    return Markup('<img src="{}" alt="{}" style="width:{}px">').format(
        data_uri(pixels, quality=88), alt, wide
    )
