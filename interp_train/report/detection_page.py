"""Write what a detector found: detections.html (opens offline), detections.json, figures."""

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from markupsafe import Markup
from matplotlib.figure import Figure

import interp_train
from interp_train.atomic_files import write_json, write_text
from interp_train.parse_drawings import crop_tree_figure, scene_figure
from interp_train.report.detection_records import BoxView, DetectionRecord, SceneView, as_plain
from interp_train.report.embedding import save_picture
from interp_train.report.page import environment
from interp_train.report.parse_blocks import PartSummary, summary_parts


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
    if record.graph is None:
        return []
    trees = [record.trees_of(index) for index in range(len(record.class_names))]
    typical = _typical_tree(record)
    example = typical.drawn() if typical is not None else None
    summary = PartSummary(record.class_names, trees, record.graph, example)
    return summary_parts(summary, functools.partial(_saved, record))


def _typical_tree(record: DetectionRecord) -> BoxView | None:
    """The surest box that unfolds; else the surest."""
    boxes = [box for scene in record.scenes for box in scene.boxes if box.tree is not None]
    ordered = sorted(boxes, key=lambda box: (not (box.tree and box.tree.parts), -box.score))
    return ordered[0] if ordered else None


def _saved(record: DetectionRecord, figure: Figure, name: str, alt: str) -> Markup:
    return save_picture(figure, record.folder / "figures", name, alt)
