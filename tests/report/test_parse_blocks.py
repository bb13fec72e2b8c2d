"""How a detector takes boxes apart, in the report of a run and of a study."""

import csv

import numpy as np
import torch

from interp_train.and_or_graph import ParseTree, Rectangle
from interp_train.parse_drawings import DrawnBox
from interp_train.parse_records import GraphShape, ParsedScene, ParseRecord, as_arrays
from interp_train.report.page import write_report
from interp_train.report.parse_blocks import rules_table
from tests.report.fake_study import drawn_images, write_run

WHOLE = ParseTree(Rectangle(0, 0, 4, 4))
TOP, BOTTOM = ParseTree(Rectangle(0, 0, 4, 2)), ParseTree(Rectangle(0, 2, 4, 2))
TWO = ParseTree(WHOLE.rectangle, (TOP, BOTTOM))


SHAPE = GraphShape(4, 4, 2, True)


def record_of(shape=SHAPE):
    tree = TWO if shape else None
    pixels = torch.rand(3, 24, 32, generator=torch.Generator().manual_seed(0))
    scenes = [ParsedScene(pixels, [DrawnBox((2.0, 2.0, 20.0, 20.0), 1, ".9", tree)])]
    trees = [[], [WHOLE, TWO, TWO]] if shape else [[], []]
    return ParseRecord(["cat", "red_dog"], shape, scenes, trees, 5)


def report_of(folder, record):
    write_run(folder, "detector", 0, 0.5, images=drawn_images(12), landmarks=False)
    np.savez_compressed(folder / "measures" / "panels" / "parses.npz", **as_arrays(record))
    write_report(folder)
    return (folder / "report.html").read_text("utf-8")


def test_a_report_shows_scenes_statistics_and_rules(tmp_path):
    page = report_of(tmp_path / "run", record_of())
    for text in ("What the detector finds", "How boxes are taken apart", "Sizes of the leaves",
                 "Production rules", "The And-Or graph and one path through it", "red dog .9",
                 "columns 1–4, rows 1–2; columns 1–4, rows 3–4"):  # fmt: skip
        assert text in page, text
    names = {path.stem.split("_", 2)[0] for path in (tmp_path / "run" / "figures").iterdir()}
    assert {"detections", "leaf", "production", "and"} <= names
    (file,) = (tmp_path / "run" / "tables").glob("rules_*.csv")
    with file.open(encoding="utf-8") as lines:
        assert len(list(csv.DictReader(lines))) == 4
    assert "http" not in page.split("How boxes are taken apart")[-1].split("</section>")[0]


def test_a_detector_without_trees_shows_its_boxes(tmp_path):
    page = report_of(tmp_path / "run", record_of(shape=None))
    assert "What the detector finds" in page
    assert "How boxes are taken apart" not in page


def test_the_table_counts_every_rule_per_category():
    table = rules_table([[], [WHOLE, TWO, TWO]], ["cat", "red_dog"])
    assert table.rows == (
        (
            "red dog",
            "columns 1–4, rows 1–4",
            "columns 1–4, rows 1–2; columns 1–4, rows 3–4",
            "67 %",
        ),
        ("red dog", "columns 1–4, rows 1–2", "stays whole", "67 %"),
        ("red dog", "columns 1–4, rows 3–4", "stays whole", "67 %"),
        ("red dog", "columns 1–4, rows 1–4", "stays whole", "33 %"),
    )
    rare = rules_table([[TWO] * 99 + [WHOLE]], ["cat"])
    assert (len(rare.rows), len(rare.records)) == (3, 4)
    assert "the csv has all 4" in rare.note
