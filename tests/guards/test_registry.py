"""Law 2: the YAML is the registry. Every method YAML mirrors one constructor."""

import inspect

import pytest

from interp_train.targets import locate
from tests.guards.constructors import (
    UNKNOWN,
    definitions,
    is_ours,
    is_wire,
    parameters,
    same,
)
from tests.guards.sources import REPOSITORY, modules

SPECIAL_KEYS = ("_target_", "_partial_")

# Plain values that the experiment passes, because only it knows the folder of the run.
INJECTED = {"logger": {"folder", "purge_step"}}


def registry_violations(root):
    """Every YAML below ``root/conf`` that does not mirror its constructor."""
    known = modules(root)
    files = {(file.group, file.path.stem): file for file in definitions(root)}
    found = []
    variants = {}
    for file in files.values():
        where = file.path.relative_to(root / "conf").as_posix()
        values = file.values or {}
        if "_target_" in values:
            found += node_violations(known, values, where)
            if is_ours(values["_target_"]):
                variants.setdefault((file.group, values["_target_"]), []).append(file)
        elif values and base_of(file, files) is not None:
            found += preset_violations(known, file, base_of(file, files), where)
        elif file.composes or file.path.stem == "none":
            found += composition_violations(known, values, where, file.composes)
        else:
            found.append(f"{where}: names no `_target_`")
    for (_, target), same_target in variants.items():
        found += base_violations(known, target, same_target, root)
    return found


def base_of(file, files):
    """The values of the file with a `_target_` that `file` inherits from, or None."""
    if len(file.parents) > 1:
        return None  # several whole nodes side by side, not one that is changed
    for parent in file.parents:
        inherited = files[file.group, parent]
        if "_target_" in (inherited.values or {}):
            return inherited.values
        deeper = base_of(inherited, files)
        if deeper is not None:
            return {**deeper, **(inherited.values or {})}
    return None


def node_violations(known, values, where):
    """A node's keys must be parameters; for ours all of them, in the same order."""
    target, keys = values["_target_"], [key for key in values if key not in SPECIAL_KEYS]
    found = nested_violations(known, values, where)
    if not is_ours(target):
        return found + [f"{where}: {target} has no {key!r}" for key in foreign_extras(target, keys)]
    listed = parameters(known, target)
    if listed is None:
        return [*found, f"{where}: `_target_` {target} does not exist"]
    names = [parameter.name for parameter in listed]
    given = {*keys, *INJECTED.get(where.split("/")[0], ())}
    missing = [entry.name for entry in listed if entry.plain and entry.name not in given]
    missing = [] if "_partial_" in values else missing
    found += [f"{where}: {target} has no {key!r}" for key in keys if key not in names]
    found += [f"{where}: leaves out {name!r}" for name in missing]
    if [key for key in keys if key in names] != [name for name in names if name in keys]:
        found.append(f"{where}: keys are not in the order of the parameters")
    return found


def nested_violations(known, values, where):
    """The nodes inside a node, which list only what is set."""
    found = []
    for key, value in values.items():
        if isinstance(value, dict) and "_target_" in value:
            inner = [name for name in value if name not in SPECIAL_KEYS]
            target = value["_target_"]
            if is_ours(target):
                names = {parameter.name for parameter in parameters(known, target) or ()}
                extras = [name for name in inner if name not in names]
            else:
                extras = foreign_extras(target, inner)
            found += [f"{where}: {key}: {target} has no {name!r}" for name in extras]
    return found


def foreign_extras(target, keys):
    """The keys that a third party's constructor does not take."""
    taken = inspect.signature(locate(target)).parameters
    if any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in taken.values()):
        return []
    return [key for key in keys if key not in taken]


def preset_violations(known, file, base, where):
    """A preset lists differences from what it inherits, and nothing else."""
    target, values = base["_target_"], file.values or {}
    found = node_violations(known, {**base, **values}, where)
    return found + [
        f"{where}: repeats {key!r} of the {target.rpartition('.')[2]} that it inherits"
        for key, value in values.items()
        if key in base and same(value, base[key])
    ]


def composition_violations(known, values, where, composes):
    """A composition names other files; what it adds are null entries, changes or whole nodes."""
    found = []
    for key, value in values.items():
        if isinstance(value, dict) and "_target_" in value:
            found += node_violations(known, value, f"{where}: {key}")
        elif value is not None and not (composes and isinstance(value, dict)):
            found.append(f"{where}: {key}: names no `_target_`")
    return found


def base_violations(known, target, files, root):
    """One of the files that name the same constructor must show its defaults."""
    where = [file.path.relative_to(root / "conf").as_posix() for file in files]
    differing = [default_violations(known, target, file.values) for file in files]
    found = []
    if all(differing):
        shortest = min(range(len(files)), key=lambda i: len(differing[i]))
        found += [f"{where[shortest]}: {text}" for text in differing[shortest]]
    if len(files) == 1 and files[0].path.stem.replace("_", "") not in spelled(target):
        found.append(f"{where[0]}: is named otherwise than {target}")
    return found


def spelled(target):
    """A dotted path in small letters without underscores: ``GradCam`` and ``grad_cam`` agree."""
    return target.lower().replace("_", "")


def default_violations(known, target, values):
    """Plain parameters whose value differs from the constructor's default."""
    return [
        f"{parameter.name!r} is {values[parameter.name]!r}, but defaults to {parameter.default!r}"
        for parameter in parameters(known, target) or ()
        if parameter.name in values
        and parameter.plain
        and not parameter.required
        and not is_wire(values[parameter.name])
        and (parameter.default is UNKNOWN or not same(values[parameter.name], parameter.default))
    ]


def test_every_yaml_mirrors_its_constructor():
    assert registry_violations(REPOSITORY) == []


METHOD = """
from torch import nn
SLOPE = 4.0

class Planted:
    def __init__(self, network: nn.Module, taps: tuple[str, ...] = ("top",), *,
                 weight: float = 0.1, slope: float = SLOPE, steps: int | None = None):
        pass
"""
COMPLETE = """# @package heatmaps.planted
# A citation.
_target_: interp_train.diagnosis.heatmaps.planted.Planted
taps: [top]
weight: 1e-1
slope: 4.0
steps: null
"""
PATH = "conf/heatmap/planted.yaml"


@pytest.fixture
def with_method(copy, plant):
    """Copy of the repository with one more method, complete and right."""
    plant("interp_train/diagnosis/heatmaps/planted.py", METHOD)
    return plant(PATH, COMPLETE)


def new_violations(copy):
    """Violations of the planted method only."""
    return [text for text in registry_violations(copy) if "planted" in text or "preset" in text]


def test_a_complete_yaml_passes(with_method, plant):
    assert new_violations(with_method) == []
    preset = "defaults: [planted, _self_]\nweight: 0.2\n"
    assert new_violations(plant("conf/heatmap/preset.yaml", preset)) == []
    assert new_violations(plant("conf/heatmap/planted_two.yaml", "defaults: [preset]\n")) == []


@pytest.mark.parametrize(
    ("text", "instead_of", "message"),
    [
        ("", "steps: null\n", "leaves out 'steps'"),
        ("weight: 0.3", "weight: 1e-1", "'weight' is 0.3, but defaults to 0.1"),
        ("slope: 5.0", "slope: 4.0", "'slope' is 5.0, but defaults to 4.0"),
        ("taps: [top, mid]", "taps: [top]", "'taps' is"),
        ("steps: false", "steps: null", "'steps' is False, but defaults to None"),
        ("weigth: 0.1", "weight: 1e-1", "has no 'weigth'"),
        ("slope: 4.0\nweight: 0.1\n", "weight: 1e-1\nslope: 4.0\n", "not in the order"),
        ("_target_: interp_train.planted.Gone", "_target_: interp_train", "does not exist"),
        ("", COMPLETE.splitlines()[2], "names no `_target_`"),
    ],
)
def test_a_yaml_that_differs_from_its_constructor_is_found(
    with_method, plant, text, instead_of, message
):
    assert any(message in found for found in new_violations(plant(PATH, text, instead_of)))


@pytest.mark.parametrize(
    ("path", "text", "message"),
    [
        ("heatmap/preset.yaml", "defaults: [planted]\nweight: 0.1\n", "repeats 'weight'"),
        ("heatmap/preset.yaml", "defaults: [planted]\nwidth: 0.1\n", "has no 'width'"),
        ("heatmap/preset.yaml", "weight: 0.2\n", "names no `_target_`"),
        ("callbacks/preset.yaml", "stop:\n  patience: 3\n", "names no `_target_`"),
        ("callbacks/preset.yaml", "defaults: [none]\nstop: 3\n", "names no `_target_`"),
        ("trainer/preset.yaml", "_target_: lightning.pytorch.Trainer\nepochs: 3\n", "no 'epochs'"),
        (
            "learning/preset.yaml",
            "defaults: [none]\nx:\n  _target_: torch.optim.SGD\n  rate: 1\n",
            "no 'rate'",
        ),
    ],
)
def test_a_wrong_preset_or_third_party_is_found(with_method, plant, path, text, message):
    assert any(message in found for found in new_violations(plant(f"conf/{path}", text)))


def test_a_file_named_otherwise_than_its_module_is_found(copy, plant):
    plant("interp_train/diagnosis/heatmaps/planted.py", METHOD)
    copy = plant("conf/heatmap/other.yaml", COMPLETE)
    assert any("named otherwise" in text for text in new_violations(copy))
