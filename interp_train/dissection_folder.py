"""The verb `dissect`: networks and probe sets from a configuration, results in a folder.

The folder holds ``dissection.csv`` (one line per unit), ``dissection.json`` (the counts beside the
baselines, too), ``formulas.csv`` where formulas were asked for, the records that reports read, and
report.html with its figures and tables.
"""

import csv
import inspect
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from interp_train.atomic_files import write_json, write_text
from interp_train.callbacks.layer_records import write_entries
from interp_train.callbacks.pinned_images import write_record
from interp_train.callbacks.probe_set import ProbeSet
from interp_train.commands import print_rows
from interp_train.evaluation.layer_dissection import LayerDissection, UnitRow, as_entries
from interp_train.experiment import DEFAULTS, build_data, recorded_run
from interp_train.network_dissection import NetworkDissection, dissect
from interp_train.report.dissections import detectors_table
from interp_train.targets import build, locate
from interp_train.trained_network import TrainedNetwork, configured_network
from interp_train.unit_formulas import FormulaRow, LayerFormulas

# Keys of the configuration that are not arguments of `dissect`.
_OF_THE_VERB = (
    "path", "checkpoint", "backbone", "callbacks", "name", "output_dir", "folder", "report",
)  # fmt: skip


def dissect_command(config: Mapping[str, Any]) -> int:
    """The verb `dissect`."""
    subject = configured_network(config)
    plain = {**DEFAULTS, **config, "resume": None, "path": str(config.get("path") or "")}
    node = config["callbacks"]["dissection"]["probe_set"] or {}  # where runs have it, too
    with recorded_run({**plain, "data": node.get("data") or node}) as record:
        probe_set = _probe_set(node, subject)
        options = {key: value for key, value in config.items() if key not in _OF_THE_VERB}
        found = dissect(subject.network, probe_set, progress=True, **options)
        write_dissection(found, record.folder)
        if subject.config:
            record.update(checkpoint=subject.source)
    for layer in found.layers.values():
        print_layer(layer)
    for name, formulas in found.formulas.items():
        print_formulas(name, formulas)
    print(f"dissection folder: {record.folder}")
    if (record.folder / "report.html").is_file():
        print(f"report: {record.folder / 'report.html'}")
    return 0


def _probe_set(node: Mapping[str, Any], subject: TrainedNetwork) -> ProbeSet:
    """The probe set, shown at the size and with the normalisation that the network was trained on.

    Raises:
        ValueError: if there is none.
    """
    if node:
        info = subject.info
        wanted: dict[str, Any] = {"image_size": info.image_size}
        if subject.config:
            wanted |= {"mean": info.mean, "std": info.std}
        taken = inspect.signature(locate(node["_target_"])).parameters if "_target_" in node else ()
        known = {key: value for key, value in wanted.items() if key in taken}
        probe_set = build(node, "probe_set", **known)
    else:
        probe_set = build_data(subject.config["data"]) if subject.config else None
    if not isinstance(probe_set, ProbeSet):
        kind = "nothing" if probe_set is None else type(probe_set).__name__
        raise ValueError(
            f"`probe_set` must be images with concept maps, but got {kind}. Choose one with "
            f"probe_set=<name>; the data of a run are taken where they have concepts."
        )
    if hasattr(probe_set, "setup"):  # a data module
        probe_set.setup("validate")
    return probe_set


def write_dissection(found: NetworkDissection, folder: Path) -> None:
    """Write what was found, as files to read and as records for the report."""
    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / "dissection.csv", units_csv(found.layers.values()))
    write_json(folder / "dissection.json", as_json(found))
    if found.formulas:
        write_text(folder / "formulas.csv", formulas_csv(found.formulas))
    for layer, dissection in found.layers.items():
        numbers = {"dissection_numbers": json.dumps(dissection.numbers), "dissection_epoch": 0}
        write_entries(folder, layer, {**as_entries(dissection), **numbers})
    for layer, panel in found.panels.items():
        write_record(folder, f"dissection_{layer}", **panel.as_arrays())
    write_json(folder / "result.json", {"epoch": 0.0, **found.numbers})


def formulas_csv(formulas: Mapping[str, LayerFormulas]) -> str:
    """One line per unit: layer, unit, formula, iou, concept, concept_iou."""
    text = io.StringIO()
    writer = csv.DictWriter(text, ["layer", *FormulaRow._fields], lineterminator="\n")
    writer.writeheader()
    for layer, found in formulas.items():
        writer.writerows({"layer": layer, **row._asdict()} for row in found.rows)
    return text.getvalue()


def units_csv(layers: Any) -> str:
    """One line per unit: layer, unit, label, category, iou, detector, threshold, active area."""
    text = io.StringIO()
    writer = csv.DictWriter(text, ["layer", *UnitRow._fields], lineterminator="\n")
    writer.writeheader()
    for found in layers:
        for row in found.unit_rows():
            plain = {**row._asdict(), "detector": int(row.detector)}
            writer.writerow({"layer": found.layer, **plain})
    return text.getvalue()


def as_json(found: NetworkDissection) -> dict[str, Any]:
    """Everything but the IoU of every unit with every concept, which the records hold."""
    return {
        "num_images": found.num_images,
        "layers": {
            layer: {
                "num_units": len(dissection.result.iou),
                "quantiles": list(dissection.quantiles),
                "least_iou": dissection.least_iou,
                "concepts": _concepts(dissection),
                "counts": dissection.counts(),
                "baselines": dissection.baselines,
                "numbers": dissection.numbers,
                "units": [row._asdict() for row in dissection.unit_rows()],
                **_formulas(found.formulas.get(layer)),
            }
            for layer, dissection in found.layers.items()
        },
    }


def _formulas(found: LayerFormulas | None) -> dict[str, Any]:
    if found is None:
        return {}
    numbers = {"numbers": dict(found.numbers), "shuffled_masks": dict(found.shuffled_masks)}
    return {"formulas": {**numbers, "units": [row._asdict() for row in found.rows]}}


def _concepts(found: LayerDissection) -> dict[str, Sequence[str]]:
    """Category -> names of the concepts that were frequent enough to be counted."""
    scheme, counted = found.scheme, found.result.counted.tolist()
    return {
        category: [
            name
            for name, of, seen in zip(scheme.names, scheme.category_of, counted, strict=True)
            if of == index and seen
        ]
        for index, category in enumerate(scheme.categories)
    }


def print_layer(found: LayerDissection) -> None:
    """Print the detectors of each category beside the baselines."""
    table = detectors_table(found)
    print_rows([dict(zip(table.columns, row, strict=True)) for row in table.rows])


def print_formulas(layer: str, found: LayerFormulas, most: int = 12) -> None:
    """Print the numbers of the formulas beside the null, and the units of the highest IoU."""
    columns = {"formulas": found.numbers, "with the masks of other images": found.shuffled_masks}
    print_rows([
        {layer: name.replace("_", " "), **{k: f"{v[name]:.4g}" for k, v in columns.items()}}
        for name in found.numbers
    ])  # fmt: skip
    best = sorted(found.rows, key=lambda row: -row.iou)[:most]
    print_rows([
        {"unit": str(row.unit), "formula": row.formula, "IoU": f"{row.iou:.3f}",
         "best concept": row.concept, "its IoU": f"{row.concept_iou:.3f}"}
        for row in best
    ])  # fmt: skip
