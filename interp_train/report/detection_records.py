"""What a detector found, as plain records: for the page, the figures and detections.json."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from interp_train.and_or_graph import AndOrGraph, ParseTree
from interp_train.parse_drawings import Box, DrawnBox, placed
from interp_train.parse_statistics import leaf_size_shares, production_rules


class BoxView(NamedTuple):
    """One detection.

    Attributes:
        box: x_min, y_min, x_max, y_max in pixels of the image, from edge to edge.
        label: category index.
        category: its name.
        score: probability of the category.
        tree: parse tree over the grid; None without the And-Or head.
        tree_score: value of the tree; None without one.
    """

    box: Box
    label: int
    category: str
    score: float
    tree: ParseTree | None
    tree_score: float | None

    @property
    def title(self) -> str:
        """Category and score in words."""
        return f"{self.category.replace('_', ' ')} {self.score:.2f}"

    def drawn(self) -> DrawnBox:
        """The box for a picture, with its score as caption."""
        return DrawnBox(self.box, self.label, f"{self.score:.2f}".lstrip("0"), self.tree)


class SceneView(NamedTuple):
    """One image and what was found in it.

    Attributes:
        name: of the image, unique in the record.
        file: where it comes from.
        pixels: in [0, 1], ``(3, H, W)``.
        boxes: surest first.
    """

    name: str
    file: str
    pixels: Tensor
    boxes: Sequence[BoxView]


class DetectionRecord(NamedTuple):
    """What one detector found in some images.

    Attributes:
        folder: where the page and the files lie.
        network: name of the run.
        source: checkpoint.
        class_names: of the categories.
        graph: And-Or graph of the head; None for a detector without one.
        least_score: of the boxes that are listed.
        scenes: one per image.
    """

    folder: Path
    network: str
    source: str
    class_names: Sequence[str]
    graph: AndOrGraph | None
    least_score: float
    scenes: Sequence[SceneView]

    @property
    def grid(self) -> tuple[int, int]:
        """Height and width of the grid, in cells."""
        return (self.graph.height, self.graph.width) if self.graph else (1, 1)

    def trees_of(self, label: int) -> list[ParseTree]:
        """Parse trees of all boxes of a category."""
        boxes = [box for scene in self.scenes for box in scene.boxes if box.label == label]
        return [box.tree for box in boxes if box.tree is not None]


def as_plain(record: DetectionRecord) -> dict[str, Any]:
    """The record as plain values."""
    return {
        "network": record.network,
        "source": record.source,
        "categories": list(record.class_names),
        "grid": list(record.grid) if record.graph else None,
        "coordinates": "pixels of the image, from its left upper corner (0, 0) to (width, height)",
        "least_score": record.least_score,
        "parts": _plain_parts(record),
        "images": [
            {
                "name": scene.name,
                "file": scene.file,
                "width": scene.pixels.shape[-1],
                "height": scene.pixels.shape[-2],
                "detections": [_plain_box(box, record.grid) for box in scene.boxes],
            }
            for scene in record.scenes
        ],
    }


def _plain_parts(record: DetectionRecord) -> dict[str, Any]:
    """Per category with parse trees: number of boxes, sizes of leaves, every production rule."""
    trees = {name: record.trees_of(index) for index, name in enumerate(record.class_names)}
    return {
        name: {
            "boxes": len(listed),
            "leaf_sizes": {str(size): share for size, share in leaf_size_shares(listed).items()},
            "production_rules": [
                {
                    "whole": list(rule.whole),
                    "parts": list(map(list, rule.parts)),
                    "share": rule.share,
                }
                for rule in production_rules(listed)
            ],
        }
        for name, listed in trees.items()
        if listed
    }


def _plain_box(view: BoxView, grid: tuple[int, int]) -> dict[str, Any]:
    tree = view.tree
    return {
        "category": view.category,
        "label": view.label,
        "score": view.score,
        "box": list(view.box),
        "leaves": len(tree.leaves()) if tree else None,
        "depth": tree.depth() if tree else None,
        "tree_score": view.tree_score,
        "tree": _plain_tree(tree, view.box, grid) if tree else None,
    }


def _plain_tree(tree: ParseTree, box: Box, grid: tuple[int, int]) -> dict[str, Any]:
    """A part: its cells (left, top, width, height), its box in pixels, and its own parts."""
    return {
        "cells": list(tree.rectangle),
        "box": list(placed(tree.rectangle, box, grid)),
        "parts": [_plain_tree(part, box, grid) for part in tree.parts],
    }
