"""The table of a study."""

import io

from rich.console import Console

from interp_train.terminal_table import mean_and_deviation, study_table


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
    output = Console(file=io.StringIO(), width=200)
    output.print(study_table("a study", cells, ["parts/*/x", "accuracy/*", "parts/*/x"]))
    lines = [line.split("  ") for line in output.file.getvalue().splitlines() if line.strip()]
    lines = [[word.strip() for word in line if word.strip()] for line in lines]
    assert lines[0] == ["a study"]
    assert lines[1] == ["quantity", "ordinary", "ours"]
    assert lines[3:] == [
        ["parts/a/x", "0.200 ± 0.141", "–"],
        ["accuracy/top1", "0.850 ± 0.071", "0.700"],
    ]
