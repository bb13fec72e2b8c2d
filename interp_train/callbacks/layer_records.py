"""Records of the measures of a layer, for reports and bootstrap intervals.

``<default_root_dir>/measures/<layer>.npz`` holds what the callbacks last measured; each replaces
its own entries:

* the merged table of peaks (`PeakTable`): `sample_ids`, `labels`, `boxes`, `part_locations`,
  `positions`, `values`;
* the frame: `grid` (h, w), `image_size` (H, W), `geometry` (stride, offset, size);
* names: `layer`, `class_names`, `part_names`, `part_groups` (JSON), `instability_parts`;
* per callback `<callback>_numbers` (JSON of what was logged), `<callback>_epoch`, and its table
  of filters, e.g. `part_tracking_scores`, `part_tracking_parts`, `part_tracking_categories`.

``measures/missing.json`` says, per callback and layer, what a measure lacked.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Trainer
from torch import Tensor

from interp_train.evaluation.part_scheme import part_scheme
from interp_train.evaluation.peak_table import MapFrame, PeakTable
from interp_train.structures import DataInfo, LayerGeometry


def table_entries(table: PeakTable, frame: MapFrame, info: DataInfo | None) -> dict[str, Any]:
    """A table with its frame and names, as entries of a record."""
    scheme = part_scheme(table, info)
    return {
        **table._asdict(),
        "grid": [frame.height, frame.width],
        "image_size": [frame.image_height, frame.image_width],
        "geometry": list(frame.geometry),
        "class_names": list(info.class_names) if info is not None else [],
        "part_names": list(scheme.part_names),
        "part_groups": json.dumps({name: list(p) for name, p in scheme.part_groups.items()}),
        "instability_parts": list(scheme.instability_parts),
    }


def read_table(path: Path) -> tuple[PeakTable, MapFrame]:
    """The table of peaks in a record, and its frame.

    Raises:
        ValueError: if the file holds no table.
    """
    with np.load(path, allow_pickle=False) as record:
        if "positions" not in record:
            raise ValueError(
                f"`path` must be a record with a table of peaks, but {str(path)!r} has none. "
                f"Measure with part_tracking or location_instability and save_records=true."
            )
        table = PeakTable(*(torch.from_numpy(record[name]) for name in PeakTable._fields))
        sizes = [int(n) for name in ("grid", "image_size") for n in record[name]]
        geometry = LayerGeometry(*record["geometry"].tolist())
    height, width, image_height, image_width = sizes
    return table, MapFrame(height, width, image_height, image_width, geometry)


def save_entries(trainer: Trainer, layer: str, entries: Mapping[str, Any]) -> Path:
    """Replace `entries` in the record of `layer`, in one step; process 0 only."""
    return write_entries(Path(trainer.default_root_dir), layer, entries)


def write_entries(folder: Path, layer: str, entries: Mapping[str, Any]) -> Path:
    """Replace `entries` in ``<folder>/measures/<layer>.npz``, in one step."""
    measures = folder / "measures"
    measures.mkdir(parents=True, exist_ok=True)
    path, part = measures / f"{layer}.npz", measures / f".{layer}.part.npz"
    kept: dict[str, Any] = {}
    if path.exists():
        with np.load(path, allow_pickle=False) as record:
            kept = {name: record[name] for name in record.files}
    fresh = {name: _array(value) for name, value in entries.items()}
    np.savez(part, allow_pickle=False, **{**kept, "layer": np.array(layer), **fresh})
    return part.replace(path)


def save_missing(trainer: Trainer, name: str, missing: Mapping[str, str]) -> None:
    """Replace what the callback `name` lacks in ``measures/missing.json``; process 0 only."""
    path = Path(trainer.default_root_dir) / "measures" / "missing.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    known = json.loads(path.read_text("utf-8")) if path.exists() else {}
    known.pop(name, None)
    if missing:
        known[name] = dict(missing)
    part = path.with_name(".missing.part.json")
    part.write_text(json.dumps(known, indent=2) + "\n", "utf-8")
    part.replace(path)


def _array(value: Any) -> Any:
    return value.detach().cpu().numpy() if isinstance(value, Tensor) else np.asarray(value)
