"""The short verbs: report, benchmark and layers."""

import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich import box
from rich.table import Table

from interp_train.checks import check_name
from interp_train.terminal_table import output_console


def report_command(config: Mapping[str, Any]) -> int:
    """The verb `report`: write report.html of a run folder or a study folder."""
    folder = Path(config["path"])
    if not any((folder / name).is_file() for name in ("status.json", "study.json")):
        raise FileNotFoundError(
            f"`path` must be the folder of a run (with status.json) or of a study (with "
            f"study.json), but got {str(folder)!r}."
        )
    from interp_train.report.page import write_report

    print(f"report: {write_report(folder)}")
    return 0


def layers_command(config: Mapping[str, Any]) -> int:
    """The verb `layers`: shape, stride and receptive field of a backbone's layers."""
    from interp_train.layer_table import layer_table
    from interp_train.targets import build

    backbone = build(config["backbone"], "backbone", weights=None)
    rows = layer_table(backbone, int(config["backbone"]["image_size"]), inner=config["inner"])
    print_rows([{name: _cell(value) for name, value in row._asdict().items()} for row in rows])
    return 0


def benchmark_command(config: Mapping[str, Any]) -> int:
    """The verb `benchmark`: time and memory that a part costs."""
    from interp_train.benchmark import BENCHMARKS
    from interp_train.host_memory import keep_freed_memory

    if config["settings"]["keep_memory"]:
        keep_freed_memory()
    check_name("target", config["target"], BENCHMARKS, "a part with a benchmark")
    benchmark = BENCHMARKS[config["target"]]
    taken = inspect.signature(benchmark).parameters
    settings = {key: v for key, v in config["settings"].items() if key in taken and v is not None}
    result = benchmark(**settings)
    for rows in (result["rows"], result.get("memory")):
        if rows:
            print_rows([{name: _cell(value) for name, value in row.items()} for row in rows])
    if config["settings"].get("output"):
        print(f"written: {config['settings']['output']}")
    return 0


def print_rows(rows: list[dict[str, str]]) -> None:
    """Print rows with equal keys as a table."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in rows[0] if rows else ["nothing"]:
        table.add_column(name.replace("_", " "), overflow="fold")
    for row in rows:
        table.add_row(*row.values())
    output_console().print(table)


def _cell(value: Any) -> str:
    if value is None:
        return "–"
    if isinstance(value, tuple):
        separator = " x " if value and isinstance(value[0], int) else ", "
        return separator.join(map(str, value))
    return f"{value:.4g}" if isinstance(value, float) else str(value)
