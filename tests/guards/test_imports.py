"""Law 1: imports point down; third-party fences; rooms have names that say something."""

import sys

import pytest

from tests.guards.sources import PACKAGE, REPOSITORY, imports, modules

EMPTY_NAMES = {"util", "utils", "helper", "helpers", "common", "misc", "core"}

# Folders, and the files at the top of the package whose level does not follow from what they
# import. Any other file at the top is L1 if it imports only L0 and L1, and L6 otherwise.
FOLDER_LEVELS = {
    "backbones": 2,
    "data": 2,
    "evaluation": 3,
    "learning": 4.0,
    "visualization": 4.1,
    "diagnosis": 4.1,
    "disentangling": 4.2,
    "interaction": 4.3,
    "callbacks": 5,
    "report": 5,
}
FILE_LEVELS = {
    "structures": 0,
    "protocols": 0,
    "checks": 0,
    "targets": 1,
    "activations": 1,
    "stopwatch": 1,
    "receptive_field": 1,
    "streaming": 1,
    "thread_map": 1,
    "collectives": 1,
    "and_or_graph": 1,
    "figures": 1,
    "systems": 3,
}
ENTRY = 6

HYDRA = {"hydra", "omegaconf", "hydra_plugins"}
LIGHTNING = {"lightning", "pytorch_lightning", "lightning_fabric"}
LIGHTNING_ROOMS = {"data", "learning", "visualization", "callbacks"}
TENSORBOARD = ("tensorboard", "tensorboardX", "torch.utils.tensorboard")


def level_of(name, known, trail=()):
    """Level of a module of the package, or None for a folder that has none."""
    parts = name.split(".")[1:]
    if not parts:
        return 0  # the package itself holds the version
    if len(parts) > 1 or known[name].is_package:
        return FOLDER_LEVELS.get(parts[0])
    if parts[0] in FILE_LEVELS:
        return FILE_LEVELS[parts[0]]
    if name in trail:
        return 1  # a ring of files is as high as what else they import
    for _, imported in imports(known[name], known):
        if imported.split(".")[0] in HYDRA | LIGHTNING:
            return ENTRY
        if imported in known and (level_of(imported, known, (*trail, name)) or 0) > 1:
            return ENTRY
    return 1


def points_down(importer, imported, known):
    """Whether `importer` may import `imported`, both modules of the package."""
    high, low = level_of(importer.name, known), level_of(imported, known)
    if high is None or low is None:
        return True  # reported as a folder without a level
    room, other_room = importer.name.split(".")[1:2], imported.split(".")[1:2]
    at_top = importer.name.count(".") == 1 and not importer.is_package
    if int(high) != 4 or int(low) != 4:
        same_room = room == other_room or (at_top and imported.count(".") == 1 and low <= high)
        return low < high or same_room
    if known[imported].folder == importer.folder:
        return True
    return imported.endswith(".functional") and (low < high or room == other_room)


def import_violations(root):
    """Every import of the package that points up or sideways."""
    known = modules(root)
    found = []
    for module in known.values():
        if module.name == PACKAGE:
            continue  # the public door imports on first use
        if level_of(module.name, known) is None:
            found.append(f"{module.name}: its folder has no level")
        for line, imported in imports(module, known):
            ours = imported if imported in known else imported.rpartition(".")[0]
            if ours in known and not points_down(module, ours, known):
                found.append(
                    f"{module.name}:{line} (L{level_of(module.name, known)}) imports "
                    f"{ours} (L{level_of(ours, known)})"
                )
    return found


def fence_violations(root):
    """Every import of a third party from a room where it has no business."""
    known = modules(root)
    found = []
    for module in known.values():
        level, room = level_of(module.name, known), (*module.name.split(".")[1:], "")[0]
        for line, imported in imports(module, known):
            top = imported.split(".")[0]
            lightning_allowed = level == ENTRY or room in LIGHTNING_ROOMS or room == "systems"
            if (
                (top in HYDRA and level != ENTRY)
                or (top in LIGHTNING and not lightning_allowed)
                or any(imported == name or imported.startswith(name + ".") for name in TENSORBOARD)
            ):
                found.append(f"{module.name}:{line} imports {imported}")
            if module.name.endswith(".functional") and not is_pure(imported, known):
                found.append(f"{module.name}:{line} is pure maths, but imports {imported}")
    return found


def is_pure(imported, known):
    """Whether a ``functional.py`` may import it: the standard library, torch, L0, L1."""
    top = imported.split(".")[0]
    if top == PACKAGE:
        ours = imported if imported in known else imported.rpartition(".")[0]
        # Another method's functional.py is as pure as this one; its level is checked above.
        return ours.endswith(".functional") or (level_of(ours, known) or 0) <= 1
    return top == "torch" or top in sys.stdlib_module_names


def name_violations(root):
    """Every folder or file whose name says nothing."""
    return [
        str(path.relative_to(root))
        for path in sorted((root / PACKAGE).rglob("*"))
        if path.stem.strip("_").lower() in EMPTY_NAMES and path.suffix in ("", ".py")
    ]


def init_violations(root):
    """Every ``__init__.py`` of a sub-package that holds more than a docstring."""
    return [
        module.name
        for module in modules(root).values()
        if module.is_package and module.name != PACKAGE and len(module.tree.body) != 1
    ]


def test_imports_point_down():
    assert import_violations(REPOSITORY) == []


def test_third_parties_stay_behind_their_fences():
    assert fence_violations(REPOSITORY) == []


def test_no_room_has_an_empty_name():
    assert name_violations(REPOSITORY) == []


def test_sub_packages_hold_a_docstring_only():
    assert init_violations(REPOSITORY) == []


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("interp_train/structures.py", "from interp_train.targets import build\n"),
        ("interp_train/checks.py", "import interp_train.backbones.planted\n"),
        ("interp_train/targets.py", "from interp_train.systems import load_system\n"),
        ("interp_train/backbones/planted.py", "from interp_train.data import planted\n"),
        ("interp_train/evaluation/planted.py", "from interp_train import systems\n"),
        ("interp_train/learning/planted.py", "def f():\n    import interp_train.callbacks\n"),
        ("interp_train/diagnosis/planted.py", "import interp_train.learning.planted\n"),
        ("interp_train/learning/planted.py", "import interp_train.diagnosis.a.functional\n"),
        ("interp_train/callbacks/planted.py", "from interp_train.report import planted\n"),
        ("interp_train/report/planted.py", "from ..callbacks import planted\n"),
        ("interp_train/newroom/planted.py", "import torch\n"),
    ],
)
def test_an_import_that_points_up_is_found(plant, path, text):
    for room in ("backbones", "data", "learning", "callbacks", "report"):
        plant(f"interp_train/{room}/planted.py", "")
    copy = plant("interp_train/diagnosis/a/functional.py", "")
    before = import_violations(copy)
    (violation,) = set(import_violations(plant(path, text))) - set(before)
    assert violation.startswith(path.removesuffix(".py").replace("/", "."))


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("interp_train/diagnosis/planted.py", "import interp_train.learning.a.functional\n"),
        ("interp_train/learning/a/module.py", "import interp_train.learning.a.functional\n"),
        ("interp_train/planted.py", "import interp_train.checks\n"),
        ("interp_train/planted.py", "import interp_train.report\nimport lightning.pytorch\n"),
    ],
)
def test_what_the_law_allows_is_not_reported(plant, path, text):
    copy = plant("interp_train/learning/a/functional.py", "")
    before = import_violations(copy) + fence_violations(copy)
    copy = plant(path, text)
    assert import_violations(copy) + fence_violations(copy) == before


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("interp_train/callbacks/planted.py", "from omegaconf import OmegaConf\n"),
        ("interp_train/data/planted.py", "import hydra\n"),
        ("interp_train/evaluation/planted.py", "from lightning.pytorch import Trainer\n"),
        ("interp_train/report/planted.py", "import lightning\n"),
        ("interp_train/structures.py", "import lightning\n"),
        ("interp_train/callbacks/planted.py", "from torch.utils import tensorboard\n"),
        ("interp_train/callbacks/planted.py", "import tensorboard\n"),
        ("interp_train/learning/a/functional.py", "import numpy\n"),
        ("interp_train/learning/a/functional.py", "import interp_train.systems\n"),
    ],
)
def test_a_third_party_outside_its_fence_is_found(plant, copy, path, text):
    before = fence_violations(copy)
    assert len(fence_violations(plant(path, text))) == len(before) + 1


@pytest.mark.parametrize("path", ["data/utils.py", "_helpers/__init__.py", "core.py"])
def test_an_empty_name_is_found(plant, path):
    assert len(name_violations(plant(f"interp_train/{path}", '"""."""\n'))) == 1


def test_an_import_in_a_sub_package_is_found(plant):
    copy = plant("interp_train/planted/__init__.py", '"""."""\nimport torch\n')
    assert init_violations(copy) == ["interp_train.planted"]
