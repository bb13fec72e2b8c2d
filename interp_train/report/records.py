"""Read run folders and study folders, whatever is missing from them.

What cannot be read is left out and named in `problems`: a report is built from what there is.
"""

import csv
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import torch
import yaml

from interp_train.atomic_files import read_json
from interp_train.evaluation.layer_dissection import LayerDissection, from_entries
from interp_train.evaluation.part_scheme import as_one_category
from interp_train.evaluation.peak_table import MapFrame, PeakTable
from interp_train.report.measures import BY_NAME, parsed
from interp_train.run_folder import read_status
from interp_train.structures import LayerGeometry

Arrays = Mapping[str, Any]


class LayerData(NamedTuple):
    """What was recorded of one layer.

    Attributes:
        layer: dotted name.
        table: peaks and annotations.
        frame: how the maps lie in the image.
        class_names: of the categories.
        part_names: of the landmarks.
        instability_parts: landmarks that location instability uses.
        arrays: every entry of the record, e.g. ``"part_tracking_scores"``.
    """

    layer: str
    table: PeakTable
    frame: MapFrame
    class_names: tuple[str, ...]
    part_names: tuple[str, ...]
    instability_parts: tuple[int, ...]
    arrays: Arrays

    @property
    def num_categories(self) -> int:
        """Categories by which parts were assigned to filters."""
        assigned = self.arrays.get("part_tracking_categories")
        if assigned is None or int(assigned.max()) == 0:
            return 1
        return max(len(self.class_names), int(assigned.max()) + 1)

    def measured_table(self) -> PeakTable:
        """The table with labels as the measures counted them."""
        return self.table if self.num_categories > 1 else as_one_category(self.table)


class RunData(NamedTuple):
    """One run.

    Attributes:
        row: name of the method.
        data: name of the data set.
        seed: of the run.
        folder: of the run; None if it never started.
        status: content of status.json.
        config: resolved configuration.
        result: quantity -> value of the last validation.
        curves: quantity -> epoch -> value.
        layers: dotted name -> record, in the order of the logs.
        predictions: arrays of measures/predictions.npz; empty without.
        panels: name -> arrays of measures/panels/<name>.npz.
        missing: callback -> layer -> what the measure lacked.
        problems: what could not be read.
        dissections: dotted name -> what the units detect, in the order of the logs.
    """

    row: str
    data: str
    seed: int
    folder: Path | None
    status: Mapping[str, Any]
    config: Mapping[str, Any]
    result: Mapping[str, float]
    curves: Mapping[str, Mapping[int, float]]
    layers: Mapping[str, LayerData]
    predictions: Arrays
    panels: Mapping[str, Arrays]
    missing: Mapping[str, Mapping[str, str]]
    problems: Sequence[str]
    dissections: Mapping[str, LayerDissection] = MappingProxyType({})

    @property
    def state(self) -> str:
        """``finished``, ``failed``, ``interrupted``, ``running`` or ``missing``."""
        return str(self.status.get("status", "missing"))


class StudyData(NamedTuple):
    """Runs to compare; a single run is a study of one.

    Attributes:
        name: of the study or run.
        folder: where the report goes.
        rows: methods, in order.
        data: data sets, in order.
        seeds: in order.
        ordinary: the row that others are compared with; None without one.
        runs: all of them, finished or not.
        command: that started it.
        is_study: False for a single run.
    """

    name: str
    folder: Path
    rows: tuple[str, ...]
    data: tuple[str, ...]
    seeds: tuple[int, ...]
    ordinary: str | None
    runs: tuple[RunData, ...]
    command: str
    is_study: bool

    def of(self, row: str, data: str) -> list[RunData]:
        """Runs of a row on a data set that have results, by seed."""
        found = [run for run in self.runs if (run.row, run.data) == (row, data) and run.result]
        return sorted(found, key=lambda run: run.seed)


def read_folder(folder: Path) -> StudyData:
    """The runs of a study folder or of a run folder.

    Raises:
        FileNotFoundError: if `folder` is neither.
    """
    if (folder / "study.json").is_file():
        return _read_study(folder)
    if not any((folder / name).is_file() for name in ("status.json", "result.json")):
        raise FileNotFoundError(
            f"`folder` must be the folder of a run (with status.json) or of a study (with "
            f"study.json), but got {str(folder)!r}."
        )
    run = read_run(folder)
    names = (run.row,), (run.data,), (run.seed,)
    command = str(run.status.get("command", ""))
    name = str(run.config.get("name", folder.name))
    return StudyData(name, folder, *names, None, (run,), command, is_study=False)


def _read_study(folder: Path) -> StudyData:
    study = read_json(folder / "study.json")
    runs = []
    for planned in study["runs"]:
        place = planned.get("folder")
        read = read_run(Path(folder, place) if place else None)
        status = {"status": planned.get("status") or "missing", **read.status}
        runs.append(
            read._replace(
                row=planned["row"], data=planned["data"], seed=planned["seed"], status=status
            )
        )
    return StudyData(
        name=str(study["name"]),
        folder=folder,
        rows=tuple(study["rows"]),
        data=tuple(study["data"]),
        seeds=tuple(study["seeds"]),
        ordinary=study.get("ordinary_row"),
        runs=tuple(runs),
        command=str(study.get("command", "")),
        is_study=True,
    )


def read_run(folder: Path | None) -> RunData:
    """Everything that a run folder holds; empty where it does not exist."""
    if folder is None or not folder.is_dir():
        return RunData("", "", 0, None, {}, {}, {}, {}, {}, {}, {}, {}, ())
    attempt = _Attempt()
    status = attempt(lambda path: read_status(path.parent), folder / "status.json", {})
    config = attempt(_read_yaml, folder / "config.yaml", {})
    result = attempt(read_json, folder / "result.json", {})
    curves = attempt(_read_curves, folder / "metrics.csv", {})
    measures = folder / "measures"
    paths = [path for path in sorted(measures.glob("*.npz")) if path.stem != "predictions"]
    arrays = {path.stem: attempt(_read_arrays, path, {}) for path in paths}
    records = {path.stem: attempt(_layer_of(arrays[path.stem]), path, None) for path in paths}
    dissected = {
        path.stem: attempt(_dissection_of(arrays[path.stem]), path, None) for path in paths
    }
    panels = {
        path.stem: attempt(_read_arrays, path, {}) for path in sorted(measures.glob("panels/*.npz"))
    }
    order = list(dict.fromkeys(parsed(name).layer for name in (*result, *curves)))
    names = sorted(arrays, key=_order_in(order))
    return RunData(
        row=str(config.get("name", folder.name)),
        data=data_name(config),
        seed=int(status.get("seed") or config.get("seed") or 0),
        folder=folder,
        status=status,
        config=config,
        result={name: value for name, value in result.items() if name != "epoch"},
        curves=curves,
        layers={name: records[name] for name in names if records[name] is not None},
        predictions=attempt(_read_arrays, measures / "predictions.npz", {}),
        panels={name: arrays for name, arrays in panels.items() if arrays},
        missing=attempt(read_json, measures / "missing.json", {}),
        problems=tuple(attempt.problems),
        dissections={name: dissected[name] for name in names if dissected[name] is not None},
    )


class _Attempt:
    """Reads files; what cannot be read becomes a problem to report."""

    def __init__(self) -> None:
        self.problems: list[str] = []

    def __call__(self, read: Any, path: Path, otherwise: Any) -> Any:
        if not path.is_file():
            return otherwise
        try:
            return read(path)
        except Exception as error:
            reason = f"{type(error).__name__}: {error}"
            self.problems.append(f"{path.name} could not be read ({reason})")
            return otherwise


def data_name(config: Mapping[str, Any]) -> str:
    """The data set of a configuration: the module that its constructor stands in."""
    node = config.get("data") or {}
    target = str(node.get("_target_", "data"))
    name = target.split(".")[-2] if "." in target else target
    # A reader of any folder says less than the folder's name.
    return Path(node["root"]).name if name == "segmentation_folder" and node.get("root") else name


def quantities_of(runs: Sequence[RunData]) -> list[str]:
    """Names of all results of `runs`: known measures in their order, then the others."""
    names = list(dict.fromkeys(name for run in runs for name in run.result))
    order = list(BY_NAME)

    def key(name: str) -> tuple[int, int]:
        quantity = parsed(name).name
        return (order.index(quantity) if quantity in order else len(order), names.index(name))

    return sorted(names, key=key)


def _order_in(order: Sequence[str]) -> Any:
    return lambda name: (order.index(name) if name in order else len(order), name)


def _read_yaml(path: Path) -> dict[str, Any]:
    content = yaml.safe_load(path.read_text(encoding="utf-8"))
    return content if isinstance(content, dict) else {}


def _read_arrays(path: Path) -> dict[str, Any]:
    with np.load(path, allow_pickle=False) as record:
        return {name: record[name] for name in record.files}


def _read_curves(path: Path) -> dict[str, dict[int, float]]:
    """Quantity -> epoch -> last value of that epoch."""
    curves: dict[str, dict[int, float]] = {}
    with path.open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            if not row.get("epoch"):
                continue
            epoch = int(float(row["epoch"]))
            for name, text in row.items():
                if name not in (None, "epoch", "step") and text:
                    curves.setdefault(name, {})[epoch] = float(text)
    return curves


def _layer_of(arrays: Arrays) -> Callable[[Path], LayerData | None]:
    """How a record becomes that of a layer; None if it holds no table of peaks."""
    return lambda path: _layer(arrays, path.stem) if "positions" in arrays else None


def _dissection_of(arrays: Arrays) -> Callable[[Path], LayerDissection | None]:
    return lambda path: from_entries(arrays, path.stem)


def _layer(arrays: Arrays, name: str) -> LayerData:
    table = PeakTable(*(torch.from_numpy(arrays[name]) for name in PeakTable._fields))
    height, width = (int(n) for n in arrays["grid"])
    image_height, image_width = (int(n) for n in arrays["image_size"])
    geometry = LayerGeometry(*(float(n) for n in arrays["geometry"]))
    return LayerData(
        layer=str(arrays.get("layer", name)),
        table=table,
        frame=MapFrame(height, width, image_height, image_width, geometry),
        class_names=tuple(str(name) for name in arrays.get("class_names", ())),
        part_names=tuple(str(name) for name in arrays.get("part_names", ())),
        instability_parts=tuple(int(part) for part in arrays.get("instability_parts", ())),
        arrays=arrays,
    )


def part_groups_of(layer: LayerData) -> dict[str, list[int]]:
    """Group name -> indices of its parts."""
    text = str(layer.arrays.get("part_groups", "{}"))
    groups: dict[str, list[int]] = json.loads(text)
    return groups
