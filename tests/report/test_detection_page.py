"""The page of detections, and its records."""

import json

import torch

from interp_train.and_or_graph import AndOrGraph, ParseTree, Rectangle
from interp_train.report.detection_page import chosen_boxes, write_detections
from interp_train.report.detection_records import BoxView, DetectionRecord, SceneView

GRAPH = AndOrGraph(4, 4, min_side=2)
WHOLE = ParseTree(GRAPH.root)
HALVES = (ParseTree(Rectangle(0, 0, 2, 4)), ParseTree(Rectangle(2, 0, 2, 4)))
TWO = ParseTree(GRAPH.root, HALVES)
QUARTERS = (ParseTree(Rectangle(0, 0, 2, 2)), ParseTree(Rectangle(0, 2, 2, 2)))
THREE = ParseTree(GRAPH.root, (HALVES[0]._replace(parts=QUARTERS), HALVES[1]))


def box(label, score, tree):
    names = ("cat", "red_dog")
    return BoxView((4.0, 4.0, 36.0, 28.0), label, names[label], score, tree, tree and 1.5)


def record_of(folder, trees=(THREE, TWO, WHOLE), graph=GRAPH):
    image = torch.rand(3, 32, 40, generator=torch.Generator().manual_seed(0))
    boxes = [box(i % 2, 0.9 - 0.1 * i, tree) for i, tree in enumerate(trees)]
    scenes = [SceneView("one", "a/one.png", image, boxes), SceneView("two", "two.png", image, [])]
    return DetectionRecord(folder, "toy <run>", "best.ckpt", ("cat", "red_dog"), graph, 0.5, scenes)


def test_page_and_records_hold_everything(tmp_path):
    page = write_detections(record_of(tmp_path)).read_text("utf-8")
    assert "toy &lt;run&gt;" in page
    assert page.count("<img ") == 2 + 3 + 3  # images, trees, statistics
    assert "nothing found" in page
    assert "red dog 0.80" in page
    assert "67 % of the boxes" in page
    assert "http" not in page.replace("http://www.w3.org", "")
    figures = {path.name for path in (tmp_path / "figures").iterdir()}
    names = ("one", "two", "one_tree_1", "leaf_sizes", "production_rules", "and_or_graph")
    assert figures >= {f"{name}.{kind}" for name in names for kind in ("png", "pdf")}
    plain = json.loads((tmp_path / "detections.json").read_text())
    assert plain["grid"] == [4, 4]
    first = plain["images"][0]["detections"][0]
    assert (first["category"], first["leaves"], first["depth"]) == ("cat", 3, 2)
    left = first["tree"]["parts"][0]
    assert left["cells"] == [0, 0, 2, 4]
    assert left["box"] == [4, 4, 20, 28]
    assert [part["box"] for part in left["parts"]] == [[4, 4, 20, 16], [4, 16, 20, 28]]
    assert plain["images"][1]["detections"] == []
    assert plain["parts"]["red_dog"] == {
        "boxes": 1,
        "leaf_sizes": {"8": 1.0},
        "production_rules": [
            {"whole": [0, 0, 4, 4], "parts": [[0, 0, 2, 4], [2, 0, 2, 4]], "share": 1.0},
            {"whole": [0, 0, 2, 4], "parts": [], "share": 1.0},
            {"whole": [2, 0, 2, 4], "parts": [], "share": 1.0},
        ],
    }


def test_a_detector_without_trees_has_a_page(tmp_path):
    page = write_detections(record_of(tmp_path, trees=(None, None), graph=None)).read_text("utf-8")
    assert page.count("<img ") == 2
    assert "Parse trees" not in page
    plain = json.loads((tmp_path / "detections.json").read_text())
    assert plain["images"][0]["detections"][0]["tree"] is None


def test_boxes_are_taken_from_each_category_in_turn():
    listed = [box(0, score, None) for score in (0.9, 0.8, 0.7)] + [box(1, 0.6, None)]
    assert [(b.label, b.score) for b in chosen_boxes(listed, 2)] == [(0, 0.9), (1, 0.6)]
    assert len(chosen_boxes(listed, 9)) == 4
    assert chosen_boxes([], 3) == []
