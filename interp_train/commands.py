"""The short verbs: report, benchmark and layers."""

import importlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from interp_train.checks import check_name


def report_command(config: Mapping[str, Any]) -> int:
    """The verb `report`: write report.html of a run folder or a study folder."""
    from interp_train.report.page import write_report

    folder = Path(config["path"])
    if not any((folder / name).is_file() for name in ("status.json", "study.json")):
        raise FileNotFoundError(
            f"`path` must be the folder of a run (with status.json) or of a study (with "
            f"study.json), but got {str(folder)!r}."
        )
    print(f"report: {write_report(folder)}")
    return 0


def layers_command(config: Mapping[str, Any]) -> int:
    """The verb `layers`: shape, stride and receptive field of a backbone's layers."""
    from interp_train.layer_table import layer_table
    from interp_train.targets import build

    rows = layer_table(build(config["backbone"], "backbone", weights=None), config["image_size"])
    print_rows([row._asdict() if hasattr(row, "_asdict") else dict(row) for row in rows])
    return 0


def benchmark_command(config: Mapping[str, Any]) -> int:
    """The verb `benchmark`: time and memory of a part; writes JSON beside the table."""
    benchmark = importlib.import_module("interp_train.benchmark")
    check_name("target", config["target"], benchmark.BENCHMARKS, "a part with a benchmark")
    result = benchmark.BENCHMARKS[config["target"]](**config["settings"])
    print_rows(result["rows"])
    if config.get("output"):
        Path(config["output"]).write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
        print(f"written: {config['output']}")
    return 0


def print_rows(rows: list[dict[str, Any]]) -> None:
    """Print rows with equal keys as a table."""
    table = Table(*(str(key) for key in rows[0]) if rows else "nothing")
    for row in rows:
        table.add_row(*(f"{v:.4g}" if isinstance(v, float) else str(v) for v in row.values()))
    Console().print(table)
