"""Tables and figures of a dissection in the report."""

import csv
import io
import json

import numpy as np
import pytest

from interp_train.evaluation.layer_dissection import as_entries, layer_dissection
from interp_train.report.dissections import (
    detectors_plot,
    detectors_table,
    iou_plot,
    unit_panels,
    unit_table,
)
from interp_train.report.page import write_report
from interp_train.report.records import data_name, read_run
from interp_train.report.table_formats import as_csv, as_latex
from tests.evaluation.test_layer_dissection import measured


@pytest.fixture
def folder(tmp_path):
    """A run folder of two epochs with a dissected layer."""
    metric, numbers = measured()
    found = layer_dissection("layer4", metric, numbers, {"detectors": 1.0, "unique_best": 1.0,
                             "detectors_thing": 1.0, "unique_thing": 1.0, "detectors_scene": 0.0,
                             "unique_scene": 0.0, "mean_best_iou": 0.01})  # fmt: skip
    (tmp_path / "measures" / "panels").mkdir(parents=True)
    entries = {**as_entries(found), "dissection_numbers": json.dumps(found.numbers)}
    np.savez(tmp_path / "measures" / "layer4.npz", allow_pickle=False, layer="layer4", **entries)
    np.savez(
        tmp_path / "measures" / "panels" / "dissection_layer4.npz",
        pictures=np.zeros((2, 3, 3, 8, 8), dtype=np.uint8), units=[0, 2],
        values=np.array([[3.0, 2.0, 1.0], [2.0, 1.0, np.nan]]),
        captions=["unit 0: red\nthing, IoU .9", "unit 2: green\nthing, IoU .8"],
    )  # fmt: skip
    logged = {f"dissection/layer4/{name}": value for name, value in found.numbers.items()}
    (tmp_path / "result.json").write_text(json.dumps({"epoch": 1, **logged}))
    (tmp_path / "status.json").write_text(json.dumps({"status": "finished", "seed": 0}))
    (tmp_path / "config.yaml").write_text("name: net\ndata: {_target_: a.spots.Spots}\n")
    text = io.StringIO()
    writer = csv.DictWriter(text, ["epoch", "step", *logged])
    writer.writeheader()
    writer.writerows({"epoch": epoch, "step": epoch, **logged} for epoch in (0, 1))
    (tmp_path / "metrics.csv").write_text(text.getvalue())
    return tmp_path


def test_the_table_shows_categories_beside_the_baselines(folder):
    (found,) = read_run(folder).dissections.values()
    table = detectors_table(found)
    assert table.columns[1:] == (
        "this network",
        "random weights",
        "rotated basis",
        "shuffled masks",
    )
    counts = found.counts()
    rows = {row[0]: row[1:] for row in table.rows}
    things = f"{counts['detectors_thing']:.0f} ({counts['unique_thing']:.0f})"
    assert rows["thing"][:2] == (things, "1 (1)")
    assert rows["any category"][0] == f"{counts['detectors']:.0f} ({counts['unique_best']:.0f})"
    assert rows["mean IoU"][1] == "0.0100"
    lines = list(csv.DictReader(io.StringIO(as_csv(table))))
    assert float(lines[0]["detectors"]) == counts["detectors"]
    assert "shuffled masks" in as_latex(table)


def test_the_csv_has_units_that_the_table_leaves_out(folder):
    (found,) = read_run(folder).dissections.values()
    table = unit_table(found, most=2)
    ious = [row.iou for row in found.unit_rows()]
    assert [row[3] for row in table.rows] == [f"{iou:.3f}" for iou in sorted(ious)[:-3:-1]]
    assert table.note == "4 units of lower IoU are in the csv file."
    lines = list(csv.DictReader(io.StringIO(as_csv(table))))
    assert [float(line["iou"]) for line in lines] == ious


def test_a_run_without_dissection_has_no_figures(folder):
    run = read_run(folder)
    assert detectors_plot("spots", run).name == "detectors_spots_net"
    assert iou_plot("spots", run).name == "dissection_curves_spots_net"
    (panel,) = unit_panels("spots", run)
    assert [len(strip.tiles) for strip in panel.strips] == [3, 2]
    nothing = run._replace(dissections={})
    assert detectors_plot("spots", nothing) is None
    assert iou_plot("spots", nothing) is None
    assert unit_panels("spots", nothing) == []
    once = {name: {0: curve[0]} for name, curve in run.curves.items()}
    assert iou_plot("spots", run._replace(curves=once)) is None


def test_the_page_has_the_three_blocks(folder):
    page = write_report(folder).read_text()
    for title in ("What units detect", "over training", "Units, their concepts and their images"):
        assert title in page
    assert "rotated basis" in page
    files = {path.name for path in (folder / "figures").iterdir()}
    for name in ("detectors_spots_net", "dissection_curves_spots_net"):
        assert {f"{name}.{end}" for end in ("png", "pdf", "svg")} <= files
    assert "dissected_units_spots_net_layer4.pdf" in files
    tables = {path.name for path in (folder / "tables").iterdir()}
    assert {"units_spots_net_layer4.tex", "detectors_spots_net_layer4.csv"} <= tables


def test_a_broken_record_is_named(folder):
    with np.load(folder / "measures" / "layer4.npz") as record:
        kept = {name: record[name] for name in record.files if name != "dissection_quantiles"}
    np.savez(folder / "measures" / "layer4.npz", **kept)
    run = read_run(folder)
    assert run.dissections == {}
    assert "layer4.npz could not be read (KeyError" in run.problems[0]


def test_a_segmented_folder_is_called_by_its_name():
    target = "interp_train.data.segmentation_folder.SegmentationFolder"
    assert data_name({"data": {"_target_": target, "root": "/data/camvid"}}) == "camvid"
    assert data_name({"data": {"_target_": target}}) == "segmentation_folder"
