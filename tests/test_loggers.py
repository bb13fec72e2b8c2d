"""metrics.csv: complete after every row, one file also after a resume."""

import csv

import pytest

from interp_train.loggers import MetricsTable


def rows_of(folder):
    with (folder / "metrics.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_rows_are_on_disk_at_once_and_new_columns_widen_the_table(tmp_path):
    table = MetricsTable(tmp_path)
    table.log_metrics({"loss": 0.5, "epoch": 0.0}, step=0)
    assert rows_of(tmp_path) == [{"step": "0", "epoch": "0", "loss": "0.5"}]
    table.log_metrics({"accuracy": 0.25, "epoch": 0}, step=1)
    table.log_metrics({"loss": 0.125}, step=2)
    assert rows_of(tmp_path) == [
        {"step": "0", "epoch": "0", "loss": "0.5", "accuracy": ""},
        {"step": "1", "epoch": "0", "loss": "", "accuracy": "0.25"},
        {"step": "2", "epoch": "", "loss": "0.125", "accuracy": ""},
    ]


def test_a_resumed_run_continues_the_table_from_its_step(tmp_path):
    first = MetricsTable(tmp_path)
    for step in range(5):
        first.log_metrics({"loss": step}, step=step)
    with (tmp_path / "metrics.csv").open("a") as file:
        file.write("5,,4.")  # a crash in the middle of a row
    second = MetricsTable(tmp_path, purge_step=3)
    second.log_metrics({"loss": 30.0, "new": 1.0}, step=3)
    assert [(row["step"], row["loss"]) for row in rows_of(tmp_path)] == [
        ("0", "0.0"), ("1", "1.0"), ("2", "2.0"), ("3", "30.0"),
    ]  # fmt: skip


def test_a_name_with_a_comma_is_one_column(tmp_path):
    table = MetricsTable(tmp_path)
    table.log_metrics({"a, b": 1.0, 'say "c"': 2.0}, step=0)
    table.log_metrics({"a, b": 3.0}, step=1)
    assert [row["a, b"] for row in rows_of(tmp_path)] == ["1.0", "3.0"]
    assert rows_of(tmp_path)[0]['say "c"'] == "2.0"


def test_a_purge_of_nothing_leaves_an_empty_table(tmp_path):
    MetricsTable(tmp_path, purge_step=0)
    assert rows_of(tmp_path) == []


def test_a_full_disk_keeps_the_rows_before(tmp_path, monkeypatch):
    table = MetricsTable(tmp_path)
    table.log_metrics({"loss": 1.0}, step=0)

    def full(path, text):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("interp_train.loggers.write_text", full)
    with pytest.raises(OSError, match="No space left"):
        table.log_metrics({"other": 1.0}, step=1)
    assert rows_of(tmp_path) == [{"step": "0", "epoch": "", "loss": "1.0"}]
