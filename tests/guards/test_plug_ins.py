"""Law 3: a method comes with its test and its reference numbers, and both have the right form."""

import re

import pytest
import yaml

from tests.guards.constructors import definitions, is_ours
from tests.guards.sources import REPOSITORY

METHOD_GROUPS = ("filter_objective", "heatmap", "unit_visualizer", "diagnosis", "explainer")
FIELDS = {"quantity", "value", "tolerance", "source", "setting", "status"}
STATUS = ("reproduced", "scaled-down", "not run")
RECORD_FIELDS = {"command", "commit", "seed", "config_hash", "metrics"}


def methods(root):
    """Path of every method of ours (``diagnosis/heatmaps/grad_cam``), as its YAML names it."""
    found = set()
    for file in definitions(root):
        target = (file.values or {}).get("_target_", "")
        if file.group in METHOD_GROUPS and is_ours(target):
            parts = target.split(".")[1:-1]
            found.add("/".join(parts[:-1] if parts[-1] == "module" else parts))
    return sorted(found)


def plug_in_violations(root):
    """Every method without a test file or without reference numbers."""
    found = []
    for method in methods(root):
        shelf, _, name = method.rpartition("/")
        tests = root / "tests" / shelf
        if not any((tests / name).glob("test_*.py")) and not (tests / f"test_{name}.py").exists():
            found.append(f"{method} has no test")
        if not (root / "tests" / "reference" / f"{method}.yaml").exists():
            found.append(f"{method} has no reference numbers")
    return found


def reference_violations(root):
    """Every entry of a reference file that lacks something."""
    found = []
    for path in sorted((root / "tests" / "reference").rglob("*.yaml")):
        where = path.relative_to(root).as_posix()
        entries = yaml.safe_load(path.read_text("utf-8"))
        if not isinstance(entries, list) or not entries:
            found.append(f"{where} is not a list of entries")
            continue
        for number, entry in enumerate(entries):
            found += [f"{where}[{number}] {text}" for text in entry_violations(entry)]
    return found


def entry_violations(entry):
    """What is wrong with one entry."""
    if not isinstance(entry, dict):
        return ["is not a mapping"]
    found = [f"lacks {field}" for field in sorted(FIELDS - entry.keys())]
    if found:
        return found
    if entry["status"] not in STATUS:
        found.append(f"has status {entry['status']!r}")
    numbers = (entry["value"], entry["tolerance"])
    if any(isinstance(number, bool) or not is_number(number) for number in numbers):
        found.append("has a value or tolerance that is no number")
    empty = [field for field in ("quantity", "source", "setting") if not entry[field]]
    found += [f"has an empty {field}" for field in empty]
    if "record" in entry:
        found += [f"lacks record.{field}" for field in sorted(RECORD_FIELDS - set(entry["record"]))]
    return found


def is_number(value):
    """A number, or a list or mapping of numbers."""
    if isinstance(value, list):
        return bool(value) and all(map(is_number, value))
    if isinstance(value, dict):
        return bool(value) and all(map(is_number, value.values()))
    # PyYAML reads 1e-3 as text.
    return isinstance(value, int | float) or bool(re.fullmatch(r"-?\d+(\.\d+)?e-?\d+", str(value)))


def package_violations(root):
    """Every folder of tests without ``__init__.py``: equal file names would collide."""
    folders = {path.parent for path in (root / "tests").rglob("test_*.py")}
    return sorted(
        str(path.relative_to(root)) for path in folders if not (path / "__init__.py").exists()
    )


def test_every_method_has_a_test_and_reference_numbers():
    assert plug_in_violations(REPOSITORY) == []


def test_reference_numbers_are_complete():
    assert reference_violations(REPOSITORY) == []


def test_folders_of_tests_are_packages():
    assert package_violations(REPOSITORY) == []


def test_a_method_without_test_or_reference_is_found(plant):
    target = "_target_: interp_train.diagnosis.heatmaps.planted.Planted\n"
    copy = plant("conf/heatmap/planted.yaml", target)
    assert len([text for text in plug_in_violations(copy) if "planted" in text]) == 2
    plant("tests/diagnosis/heatmaps/test_planted.py", "")
    copy = plant("tests/reference/diagnosis/heatmaps/planted.yaml", "")
    assert not [text for text in plug_in_violations(copy) if "planted" in text]


def test_a_method_in_a_folder_may_have_a_folder_of_tests(plant):
    target = "_target_: interp_train.learning.filter_objectives.planted.module.Planted\n"
    plant("conf/filter_objective/planted.yaml", target)
    copy = plant("tests/learning/filter_objectives/planted/test_functional.py", "")
    assert [text for text in plug_in_violations(copy) if "planted" in text] == [
        "learning/filter_objectives/planted has no reference numbers"
    ]
    assert package_violations(copy) == ["tests/learning/filter_objectives/planted"]


ENTRY = """
- quantity: location instability
  value: 0.076
  tolerance: 1e-2
  source: Zhang et al. 2018, table 3, row VGG-16
  setting: CUB, single category
  status: reproduced
  record: {command: x, commit: y, seed: 0, config_hash: z, metrics: {a: 1}}
"""


@pytest.mark.parametrize(
    ("instead_of", "text", "message"),
    [
        ("0.076", "0.076", None),
        ("1e-2", "{a: 0.1, b: 2}", None),
        ("status: reproduced", "status: done", "has status 'done'"),
        ("  setting: CUB, single category\n", "", "lacks setting"),
        ("CUB, single category", "''", "has an empty setting"),
        ("0.076", "low", "no number"),
        ("0.076", "true", "no number"),
        ("commit: y, ", "", "lacks record.commit"),
        (ENTRY, "quantity: alone\n", "not a list"),
        (ENTRY, "- alone\n", "not a mapping"),
    ],
)
def test_an_incomplete_reference_is_found(plant, instead_of, text, message):
    assert instead_of in ENTRY
    copy = plant("tests/reference/planted.yaml", ENTRY.replace(instead_of, text))
    found = [text for text in reference_violations(copy) if "planted" in text]
    assert len(found) == (message is not None)
    assert message is None or message in found[0]
