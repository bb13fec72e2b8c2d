"""What a validation leaves of a detector's parse trees, for pictures now and in a report later."""

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

from interp_train.and_or_drawings import graph_figure
from interp_train.and_or_graph import AndOrGraph, ParseTree
from interp_train.figures import category_style
from interp_train.parse_drawings import DrawnBox, scene_figure, scene_with_tree_figure
from interp_train.parse_statistics import leaf_size_figure, rules_figure


class ParsedScene(NamedTuple):
    """An image and what was found in it.

    Attributes:
        pixels: in [0, 1], ``(3, H, W)``.
        boxes: surest first.
    """

    pixels: Tensor
    boxes: Sequence[DrawnBox]

    @property
    def example(self) -> int | None:
        """Index of the surest box that unfolds, else of the surest; None without trees."""
        trees = [box.tree for box in self.boxes]
        unfolded = [index for index, tree in enumerate(trees) if tree is not None and tree.parts]
        whole = [index for index, tree in enumerate(trees) if tree is not None]
        return next(iter(unfolded + whole), None)


class GraphShape(NamedTuple):
    """What an And-Or graph of a detector's head is built from; see `AndOrGraph`."""

    height: int
    width: int
    min_side: int
    root_terminal: bool

    def graph(self) -> AndOrGraph:
        """The graph."""
        return AndOrGraph(
            self.height, self.width, min_side=self.min_side, root_terminal=self.root_terminal
        )


class ParseRecord(NamedTuple):
    """Pinned images, and the parse trees of all boxes of a validation.

    Attributes:
        class_names: of the categories.
        shape: of the And-Or graph; None for a detector without one.
        scenes: pinned images.
        trees: of all boxes, one list per category; empty lists without an And-Or graph.
        epoch: 0 in the first epoch.
    """

    class_names: Sequence[str]
    shape: GraphShape | None
    scenes: Sequence[ParsedScene]
    trees: Sequence[Sequence[ParseTree]]
    epoch: int

    @property
    def grid(self) -> tuple[int, int]:
        """Height and width of the grid, in cells."""
        return (self.shape.height, self.shape.width) if self.shape else (1, 1)

    @property
    def example(self) -> DrawnBox | None:
        """The first image's box that unfolds, else the first box with a tree; None without."""
        found = [scene.boxes[scene.example] for scene in self.scenes if scene.example is not None]
        unfolded = [box for box in found if box.tree is not None and box.tree.parts]
        return next(iter(unfolded + found), None)


def as_arrays(record: ParseRecord) -> dict[str, Any]:
    """The record as arrays: the pixels of each image, and the rest as JSON in bytes."""
    plain = {
        "class_names": list(record.class_names),
        "shape": list(record.shape) if record.shape else None,
        "scenes": [[_plain_box(box) for box in scene.boxes] for scene in record.scenes],
        "trees": [[tree.as_plain() for tree in listed] for listed in record.trees],
        "epoch": record.epoch,
    }
    pixels = {
        f"image_{index}": (scene.pixels.clamp(0, 1) * 255).round().to(torch.uint8).numpy()
        for index, scene in enumerate(record.scenes)
    }
    return {**pixels, "record": np.frombuffer(json.dumps(plain).encode(), np.uint8)}


def from_arrays(arrays: Mapping[str, Any]) -> ParseRecord:
    """The record of what `as_arrays` gave."""
    plain = json.loads(bytes(arrays["record"]))
    scenes = [
        ParsedScene(
            torch.as_tensor(arrays[f"image_{index}"]).float() / 255, list(map(_drawn_box, boxes))
        )
        for index, boxes in enumerate(plain["scenes"])
    ]
    return ParseRecord(
        class_names=plain["class_names"],
        shape=GraphShape(*plain["shape"]) if plain["shape"] else None,
        scenes=scenes,
        trees=[list(map(ParseTree.from_plain, listed)) for listed in plain["trees"]],
        epoch=plain["epoch"],
    )


def _plain_box(box: DrawnBox) -> list[Any]:
    tree = box.tree.as_plain() if box.tree is not None else None
    return [list(box.box), box.label, box.caption, tree]


def _drawn_box(plain: Sequence[Any]) -> DrawnBox:
    (left, top, right, bottom), label, caption, tree = plain
    parsed = ParseTree.from_plain(tree) if tree is not None else None
    return DrawnBox((left, top, right, bottom), label, caption, parsed)


def record_figures(record: ParseRecord) -> dict[str, Callable[[], Figure]]:
    """Name -> function that draws the figure; figures without content are left out.

    ``detections_<n>``: an image with boxes and leaves, beside it a parse tree as a tree of crops;
    ``and_or_graph``: the graph with the path of `ParseRecord.example`; ``leaf_sizes`` and
    ``production_rules``: see `interp_train.parse_statistics`.
    """
    names, grid = record.class_names, record.grid
    found: dict[str, Callable[[], Figure]] = {
        f"detections_{index}": _scene_drawing(scene, names, grid)
        for index, scene in enumerate(record.scenes, 1)
    }
    shape, example = record.shape, record.example
    if shape is not None and example is not None and example.tree is not None:
        tree, colour = example.tree, category_style(example.label)[0]
        found["and_or_graph"] = lambda: graph_figure(shape.graph(), tree, colour)
    if any(record.trees):
        found["leaf_sizes"] = lambda: leaf_size_figure(record.trees, names, grid[0] * grid[1])
        found["production_rules"] = lambda: rules_figure(record.trees, names, grid)
    return found


def _scene_drawing(
    scene: ParsedScene, names: Sequence[str], grid: tuple[int, int]
) -> Callable[[], Figure]:
    chosen = scene.example
    if chosen is None:
        return lambda: scene_figure(scene.pixels, scene.boxes, names, grid)
    return lambda: scene_with_tree_figure(scene.pixels, scene.boxes, chosen, names, grid)
