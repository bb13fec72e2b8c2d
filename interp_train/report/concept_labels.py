"""The concepts that a dissection gave to the units of a layer, read from its table.

A table is a csv or JSON file with the entries ``unit``, ``label`` (or ``concept``) and ``iou``, and
perhaps ``layer``. Where a unit occurs several times, its highest IoU counts.
"""

import csv
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

DETECTOR_IOU = 0.04  # Bau et al., CVPR 2017: a unit below it is no detector
_NAMES = {
    "unit": ("unit", "unit_index", "index"),
    "label": ("label", "concept", "best_label", "best_concept"),
    "iou": ("iou", "best_iou", "max_iou"),
    "layer": ("layer",),
}


class ConceptLabel(NamedTuple):
    """What a unit stands for.

    Attributes:
        name: of the concept.
        iou: overlap of the unit with it, over the data set of the dissection.
    """

    name: str
    iou: float

    @property
    def is_detector(self) -> bool:
        """Whether the overlap exceeds 0.04."""
        return self.iou > DETECTOR_IOU


def read_labels(path: Path, layers: Sequence[str]) -> dict[int, ConceptLabel]:
    """Unit -> concept, of the lines about one layer.

    Args:
        path: csv or JSON file.
        layers: dotted name and aliases of the layer; lines that name another are left out.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it holds no table of units, or none about the layer.
    """
    if not path.is_file():
        raise FileNotFoundError(
            f"`dissection` must be a csv or JSON file with unit, label and iou, but "
            f"{str(path)!r} does not exist."
        )
    try:
        found, others = _labels_of(list(_lines(path)), layers)
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"`dissection` must be a csv or JSON table with unit, label and iou, but "
            f"{str(path)!r} is not: {error}."
        ) from error
    if not found:
        about = f" (it has {', '.join(sorted(others))})" if others else ""
        raise ValueError(
            f"`dissection` must hold units of layer {layers[0]!r}, but {str(path)!r} has none"
            f"{about}. Dissect that layer, or choose another with layer=<name>."
        )
    return found


def find_labels(
    folder: Path | None, layers: Sequence[str]
) -> tuple[dict[int, ConceptLabel], Path | None]:
    """The labels of a layer in a run folder, and the file they come from.

    Looks for csv and JSON files with ``dissect`` in their path below the folder. A table without a
    column of layers counts if the layer's name is in its path.

    Returns:
        Empty and None where there is no such table.
    """
    if folder is None:
        return {}, None
    files = [path for suffix in ("csv", "json") for path in sorted(folder.rglob(f"*.{suffix}"))]
    for path in files:
        place = path.relative_to(folder).as_posix()
        if "dissect" not in place.lower():
            continue
        try:
            lines = list(_lines(path))
            named = any(_entry(line, "layer") is not None for line in lines)
            found, _ = _labels_of(lines, layers)
        except (ValueError, KeyError, TypeError, OSError):
            continue  # another file of that name
        if found and (named or any(layer in place for layer in layers)):
            return found, path
    return {}, None


def _labels_of(
    lines: Sequence[Mapping[str, Any]], layers: Sequence[str]
) -> tuple[dict[int, ConceptLabel], set[str]]:
    found: dict[int, ConceptLabel] = {}
    others: set[str] = set()
    for line in lines:
        layer = _entry(line, "layer")
        if layer is not None and str(layer) not in layers:
            others.add(str(layer))
            continue
        unit, iou = int(_required(line, "unit")), float(_required(line, "iou"))
        known = found.get(unit)
        if known is None or iou > known.iou:
            found[unit] = ConceptLabel(str(_required(line, "label")), iou)
    return found, others


def _lines(path: Path) -> Iterator[Mapping[str, Any]]:
    """The lines of a table, whatever its form."""
    text = path.read_text(encoding="utf-8")
    if path.suffix.lower() == ".json":
        yield from _flattened(json.loads(text), {})
    else:
        yield from csv.DictReader(text.splitlines())


def _flattened(value: Any, known: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """Lines of nested JSON: a list of units, or mappings by layer or by unit."""
    if isinstance(value, list):
        for entry in value:
            yield from _flattened(entry, known)
    elif isinstance(value, Mapping) and _entry(value, "iou") is not None:
        yield {**known, **value}
    elif isinstance(value, Mapping):
        own = {key: entry for key, entry in value.items() if key == "layer"}
        for key, entry in value.items():
            if isinstance(entry, list | Mapping):
                name = {"unit": key} if str(key).isdigit() else {}
                looks_named = not name and key not in ("units", "layers", "rows", "table")
                layer = {"layer": key} if looks_named and "layer" not in own else {}
                yield from _flattened(entry, {**known, **layer, **own, **name})


def _entry(line: Mapping[str, Any], kind: str) -> Any:
    lowered = {str(key).strip().lower(): value for key, value in line.items()}
    return next((lowered[name] for name in _NAMES[kind] if lowered.get(name) not in (None, "")),
                None)  # fmt: skip


def _required(line: Mapping[str, Any], kind: str) -> Any:
    value = _entry(line, kind)
    if value is None:
        raise ValueError(f"a line lacks {kind!r}, it has {', '.join(map(str, line)) or 'nothing'}")
    return value
