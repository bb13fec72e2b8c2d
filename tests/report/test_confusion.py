"""Confusions: counted as by hand, drawn as counted, the rarest names kept."""

import csv
import io

import numpy as np
import pytest

from interp_train.report.confusion import (
    confusion_counts,
    confusion_plot,
    confusion_table,
    error_panel,
)
from interp_train.report.records import read_run
from interp_train.report.table_formats import as_csv, as_latex


def run_with(predictions=None, panels=None):
    return read_run(None)._replace(row="ordinary", predictions=predictions or {},
                                   panels=panels or {})  # fmt: skip


ANSWERS = {
    "labels": np.array([0, 0, 0, 1, 1, 2, -1]),
    "predictions": np.array([0, 1, 1, 1, 0, 2, 2]),
    "class_names": np.array(["black_bird", "cat", "dog"]),
}
COUNTS = [[1, 2, 0, 0], [1, 1, 0, 0], [0, 0, 1, 0], [0, 0, 1, 0]]


def test_counts_by_hand_with_the_background_last():
    counts, names = confusion_counts(run_with(ANSWERS))
    assert names == ("black_bird", "cat", "dog", "background")
    assert counts.tolist() == COUNTS
    assert confusion_counts(run_with())[1] == ()


def test_categories_without_names_have_numbers():
    record = {"labels": np.array([0, 1]), "predictions": np.array([0, 0])}
    assert confusion_counts(run_with(record))[1] == ("0", "1")


def test_the_matrix_shows_shares_of_each_row():
    axes = confusion_plot("zoo", run_with(ANSWERS)).figure.axes[0]
    expected = np.array(COUNTS) / np.array([[3], [2], [1], [1]])
    np.testing.assert_allclose(axes.images[0].get_array(), expected)
    assert axes.get_yticklabels()[0].get_text() == "black bird"
    assert sorted(text.get_text() for text in axes.texts) == ["1", "1", "1", "1", "1", "2"]


def test_the_table_lists_the_most_frequent_confusions_first():
    table = confusion_table("zoo", run_with(ANSWERS))
    assert table.rows[0] == ("black bird", "cat", "2 of 3", "66.7")
    assert {row[:2] for row in table.rows[1:]} == {("cat", "black bird"), ("background", "dog")}
    lines = list(csv.DictReader(io.StringIO(as_csv(table))))
    assert sum(int(line["images"]) for line in lines) == 7
    assert {"category": "dog", "answer": "dog", "images": "1", "of": "1"} in lines
    assert r"\toprule" in as_latex(table)


def test_right_answers_and_single_categories_have_no_table():
    right = {"labels": np.array([0, 1]), "predictions": np.array([0, 1])}
    assert confusion_table("zoo", run_with(right)) is None
    assert confusion_plot("zoo", run_with(right)) is not None
    single = {"labels": np.array([0, 0]), "predictions": np.array([0, 0])}
    assert confusion_plot("zoo", run_with(single)) is None


def test_many_categories_are_drawn_without_names():
    record = {"labels": np.arange(40), "predictions": np.arange(40)[::-1]}
    axes = confusion_plot("zoo", run_with(record)).figure.axes[0]
    assert axes.get_xticklabels() == []
    assert len(axes.texts) == 0


def test_errors_are_drawn_with_both_heatmaps_on_one_scale():
    generator = np.random.default_rng(0)
    record = {
        "images": generator.integers(0, 255, (3, 3, 16, 16), dtype=np.uint8),
        "heatmaps": generator.random((3, 1, 16, 16)),
        "own_heatmaps": 2 * generator.random((3, 1, 16, 16)),
        "titles": np.array(["cat → dog (.9)", "dog → cat (.8)", "cat → <i> (.7)"]),
    }
    panel = error_panel("zoo", "grad_cam", run_with(panels={"errors_grad_cam": record}))
    assert [strip.label.split("\n")[0] for strip in panel.strips] == [
        "image", "for its answer", "for the image's category",
    ]  # fmt: skip
    assert panel.strips[1].label.split("\n")[1] == panel.strips[2].label.split("\n")[1] == "0 to 2"
    assert all(len(strip.tiles) == 3 for strip in panel.strips)
    assert "cat → &lt;i&gt; (.7)" in panel.strips[0].tiles[2]
    assert error_panel("zoo", "saliency", run_with()) is None


@pytest.mark.parametrize("name", ["confusion_zoo_ordinary"])
def test_files_are_named_by_data_and_row(name):
    assert confusion_plot("zoo", run_with(ANSWERS)).name == name
    assert confusion_table("zoo", run_with(ANSWERS)).name == name
