import csv
import io

import pytest

from interp_train.report.measures import number, parsed
from interp_train.report.records import read_folder
from interp_train.report.table_formats import Table, as_csv, as_html, as_latex
from interp_train.report.tables import (
    category_table,
    comparison_table,
    cost_table,
    heading,
    signed_number,
    summary_table,
)
from tests.report.fake_study import LAYER, drawn_images, write_study

IMAGES = drawn_images(60)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_study(tmp_path_factory.mktemp("outputs"), images=IMAGES)


@pytest.mark.parametrize(
    ("logged", "expected"),
    [
        ("accuracy/top1", ("accuracy", "", "top1", "")),
        (
            "parts/head.relu_2/location_instability_random_network",
            ("parts", "head.relu_2", "location_instability", "random_network"),
        ),
        ("parts/l/part_tracking_mean_r2_random", ("parts", "l", "part_tracking_mean_r2", "random")),
        ("parts/l/peak_consistency_shift", ("parts", "l", "peak_consistency_shift", "")),
        ("epoch", ("", "", "epoch", "")),
    ],
)
def test_logged_names_are_taken_apart(logged, expected):
    assert tuple(parsed(logged)) == expected


def test_numbers_as_readers_expect_them():
    assert number(0.9731, "top1") == "97.3"
    assert number(-0.25, "part_tracking_mean_r2") == "−0.250"
    assert number(None) == "–"
    assert number(float("nan"), "top1") == "–"
    assert signed_number(0.012, "top1") == "+1.2"
    assert signed_number(-0.012, "top1") == "−1.2"


def test_comparison_holds_mean_and_deviation_beside_baselines(folder):
    study = read_folder(folder)
    table = comparison_table(study, "creatures", LAYER)
    accuracies = [run.result["accuracy/top1"] for run in study.of("ordinary", "creatures")]
    mean = 100 * sum(accuracies) / 2
    deviation = 100 * abs(accuracies[0] - accuracies[1]) / 2**0.5
    assert table.rows[0][:2] == ("ordinary", f"{mean:.1f} ± {deviation:.1f}")
    labels = [row[0] for row in table.rows]
    assert labels[:2] == ["ordinary", "interpretable"]
    assert {labels[index] for index in table.muted} >= {"constant position", "oracle per part"}
    column = table.columns.index(heading(f"parts/{LAYER}/part_tracking_mean_r2"))
    assert (1, column) in table.bold
    assert (0, column) not in table.bold
    constant = labels.index("constant position")
    logged = study.runs[0].result[f"parts/{LAYER}/part_tracking_mean_r2_constant"]
    assert table.rows[constant][column] == number(logged)
    assert table.rows[constant][1] == "–"


def test_csv_holds_plain_numbers(folder):
    text = as_csv(comparison_table(read_folder(folder), "creatures", LAYER))
    rows = list(csv.DictReader(io.StringIO(text)))
    first = next(row for row in rows if row["measure"] == "top1" and row["row"] == "ordinary")
    assert float(first["mean"]) == pytest.approx(0.971)
    assert first["seeds"] == "2"
    assert {row["kind"] for row in rows} == {"network", "baseline"}


def test_latex_has_equal_columns_and_escapes():
    table = Table(
        "name", "50 % of a_b & c", ("", "R² ↑", "words"),
        (("x_1", "−0.5 ± 0.1", "a"), ("b", "–", "")),
        bold=frozenset({(0, 1)}), muted=frozenset({1}), words=frozenset({2}),
    )  # fmt: skip
    lines = as_latex(table).splitlines()
    assert r"  \caption{50 \% of a\_b \& c}" in lines
    assert r"  \begin{tabular}{lrl}" in lines
    assert r"    x\_1 & \textbf{$-$0.5 $\pm$ 0.1} & a \\" in lines
    body = [line for line in lines if line.endswith(r"\\")]
    assert all(line.replace(r"\&", "").count("&") == 2 for line in body)
    assert lines.count(r"    \midrule") == 2
    assert "".join(lines).isascii()


def test_html_escapes_and_marks():
    table = Table("n", "t", ("", "<b>"), (("<i>", "1"),), bold=frozenset({(0, 1)}))
    text = as_html(table)
    assert "<b>" not in text
    assert "&lt;i&gt;" in text
    assert '<td class="best">1</td>' in text


def test_cost_is_the_share_of_the_run(folder):
    table = cost_table(read_folder(folder), "creatures")
    row = dict(zip(table.columns, table.rows[0], strict=True))
    # 3.2 + 1.1 + 2.0 of the mean of 120 and 121 seconds.
    assert row["run, s"] == "120"
    assert row["interpretability"] == f"{100 * 6.3 / 120.5:.1f} %"


def test_filters_are_counted_by_category(tmp_path):
    folder = write_study(tmp_path, seeds=(0,), classes=3, images=drawn_images(90, 3))
    study = read_folder(folder)
    table = category_table(study, "creatures", LAYER)
    for column, run in ((1, "ordinary"), (4, "interpretable")):
        assigned = study.of(run, "creatures")[0].layers[LAYER].arrays["part_tracking_categories"]
        counts = [str(int((assigned == category).sum())) for category in range(3)]
        assert [row[column] for row in table.rows] == counts


def test_one_category_needs_no_table_of_categories(folder):
    assert category_table(read_folder(folder), "creatures", LAYER) is None


def test_summary_for_the_terminal(folder):
    lines = summary_table(folder)
    assert [line["row"] for line in lines[:2]] == ["ordinary", "interpretable"]
    assert lines[0]["data"] == "creatures"
    assert heading("accuracy/top1") in lines[0]
