"""Records of parse trees come back as they were, and lead to the right figures."""

import numpy as np
import torch

from interp_train.and_or_graph import AndOrGraph, ParseTree, Rectangle
from interp_train.parse_drawings import DrawnBox
from interp_train.parse_records import (
    GraphShape,
    ParsedScene,
    ParseRecord,
    as_arrays,
    from_arrays,
    record_figures,
)

SHAPE = GraphShape(4, 4, 2, True)
WHOLE = ParseTree(Rectangle(0, 0, 4, 4))
TWO = ParseTree(
    WHOLE.rectangle, (ParseTree(Rectangle(0, 0, 2, 4)), ParseTree(Rectangle(2, 0, 2, 4)))
)
BOX = (4.0, 4.0, 20.0, 20.5)


def record_of(trees=((WHOLE, TWO), ()), shape=SHAPE, found=(WHOLE, TWO)):
    pixels = torch.randint(0, 256, (3, 24, 32), generator=torch.Generator().manual_seed(0)) / 255
    boxes = [DrawnBox(BOX, 0, f".{9 - index}", tree) for index, tree in enumerate(found)]
    scenes = [ParsedScene(pixels, boxes), ParsedScene(pixels[:, :16], [])]
    return ParseRecord(["cat", "dog"], shape, scenes, [list(listed) for listed in trees], 3)


def test_a_record_comes_back_from_its_file(tmp_path):
    record = record_of()
    np.savez_compressed(tmp_path / "a.npz", **as_arrays(record))
    with np.load(tmp_path / "a.npz") as arrays:
        found = from_arrays(arrays)
    assert found._replace(scenes=()) == record._replace(scenes=())
    for scene, other in zip(found.scenes, record.scenes, strict=True):
        torch.testing.assert_close(scene.pixels, other.pixels)
        assert scene.boxes == other.boxes
    assert len(found.shape.graph()) == len(AndOrGraph(4, 4, min_side=2))


def test_the_example_is_a_box_that_unfolds():
    assert record_of().scenes[0].example == 1
    assert record_of().example.tree == TWO
    assert record_of(found=(WHOLE,)).scenes[0].example == 0
    assert record_of(found=()).example is None
    assert record_of(found=(None,), shape=None).scenes[0].example is None


def test_figures_are_those_with_content():
    assert list(record_figures(record_of())) == [
        "detections_1", "detections_2", "and_or_graph", "leaf_sizes", "production_rules",
    ]  # fmt: skip
    plain = record_of(trees=((), ()), shape=None, found=(None,))
    assert list(record_figures(plain)) == ["detections_1", "detections_2"]
    figures = {name: draw() for name, draw in record_figures(record_of()).items()}
    assert len(figures["detections_1"].axes) == 2
    assert len(figures["detections_2"].axes) == 1
    assert [text.get_text() for text in figures["detections_1"].texts] == ["cat .8: 2 leaves"]
    assert len(figures["leaf_sizes"].axes) == 1
