"""The table of a study."""

import io

import pytest
from rich.console import Console

from interp_train.report.measures import BASELINES
from interp_train.terminal_table import BASELINE_COLUMNS, mean_and_deviation, study_table

LAYER = "parts/head.relu_2/"
R2, INSTABILITY = f"{LAYER}part_tracking_mean_r2", f"{LAYER}location_instability"
PATTERNS = ["accuracy/top1", "parts/*/part_tracking_mean_r2", "parts/*/location_instability",
            "parts/*/class_selectivity"]  # fmt: skip


def printed(table, width=200):
    output = Console(file=io.StringIO(), width=width)
    output.print(table)
    return output.file.getvalue()


def words_of(text):
    lines = [line.split("  ") for line in text.splitlines() if line.strip()]
    return [[word.strip() for word in line if word.strip()] for line in lines]


def measured_cells():
    numbers = {
        "accuracy/top1": 0.875,
        R2: 0.25, f"{R2}_constant": 0.0, f"{R2}_oracle": 0.9, f"{R2}_random": -1.0,
        INSTABILITY: 0.125, f"{INSTABILITY}_constant": 0.0625,
        f"{INSTABILITY}_random_network": 0.14, f"{INSTABILITY}_oracle": 0.01,
        f"{LAYER}class_selectivity": 0.5, f"{LAYER}class_selectivity_shuffled_labels": 0.1,
    }  # fmt: skip
    others = {**numbers, R2: 0.5, f"{R2}_random_network": -0.3}
    return [("ordinary", numbers), ("ours", others), ("ours", {**others, R2: 0.75})]


def test_mean_and_deviation_by_hand():
    assert mean_and_deviation([0.8, 0.9, 1.0]) == "0.900 ± 0.100"
    assert mean_and_deviation([0.5]) == "0.500"
    assert mean_and_deviation([]) == "–"


def test_rows_stand_across_and_patterns_choose_and_order_quantities():
    cells = [
        ("ordinary", {"accuracy/top1": 0.8, "parts/a/x": 0.1, "parts/a/y": 0.2}),
        ("ordinary", {"accuracy/top1": 0.9, "parts/a/x": 0.3, "parts/a/y": 0.2}),
        ("ours", {"accuracy/top1": 0.7}),
    ]
    table = study_table("a study", cells, ["parts/*/x", "accuracy/*", "parts/*/x"])
    lines = words_of(printed(table))
    assert lines[0] == ["a study"]
    assert lines[1] == ["quantity", "ordinary", "ours"]
    assert lines[3:] == [
        ["parts/a/"],
        ["x", "0.200 ± 0.141", "–"],
        ["accuracy/top1", "0.850 ± 0.071", "0.700"],
    ]


def test_baselines_stand_beside_their_scores():
    lines = words_of(printed(study_table("a study", measured_cells(), PATTERNS)))
    headings = sorted(word for line in lines[1:3] for word in line)
    assert headings == sorted(["quantity", "ordinary", "ours", "constant", "random", "network",
                               "oracle"])  # fmt: skip
    assert lines[4:] == [
        ["accuracy/top1", "0.875", "0.875 ± 0.000", "–", "–", "–"],
        [LAYER],
        ["part_tracking_mean_r2", "0.250", "0.625 ± 0.177", "0.000", "-0.300", "0.900"],
        ["location_instability", "0.125", "0.125 ± 0.000", "0.062", "0.140", "0.010"],
        ["class_selectivity", "0.500", "0.500 ± 0.000", "–", "–", "–"],
    ]
    assert set(BASELINE_COLUMNS) <= set(BASELINES)


def test_quantities_of_a_layer_stand_together():
    result = {f"parts/{layer}/{name}": 0.5 for layer in "ab" for name in "xy"}
    lines = words_of(printed(study_table("", [("ours", result)], ["parts/*/y", "parts/*/x"])))
    assert [line[0] for line in lines[-6:]] == ["parts/a/", "y", "x", "parts/b/", "y", "x"]


@pytest.mark.parametrize("number", [1, 2, 3])
def test_a_hundred_columns_are_enough_for_three_methods(number):
    cells = [(f"method_{row}", result) for row in range(number) for _, result in measured_cells()]
    lines = printed(study_table("a study", cells, PATTERNS), width=100).splitlines()
    assert max(map(len, lines)) <= 100
    assert sum("part_tracking_mean_r2" in line for line in lines) == 1  # nothing is folded
    assert not any("…" in line for line in lines)
