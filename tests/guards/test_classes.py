"""Law 5: a class is abstract or final, and the steps of a LightningModule are short."""

import ast

import pytest

from tests.guards.sources import (
    PACKAGE,
    REPOSITORY,
    body_lines,
    classes,
    functions,
    modules,
    resolve,
)

STEPS = {"training_step", "validation_step", "test_step", "predict_step"}
LONGEST_STEP = 9


def inheritance_violations(root):
    """Every class of ours that inherits from a class of ours which is not abstract."""
    known = modules(root)
    ours = classes(known)
    found = []
    for name, (module, node) in ours.items():
        for base in node.bases:
            written = base.value if isinstance(base, ast.Subscript) else base
            origin = resolve(module, ast.unparse(written))
            if origin.startswith(PACKAGE) and origin in ours and not is_abstract(ours[origin][1]):
                found.append(f"{name} inherits from {origin}, which is not abstract")
    return found


def is_abstract(node):
    """Whether a class says so itself: ABC, Protocol, or an abstract method."""
    written = [ast.unparse(entry) for entry in (*node.bases, *node.keywords)]
    if any(text.split("[")[0].rpartition(".")[2] in ("ABC", "Protocol") for text in written):
        return True
    if any("ABCMeta" in text for text in written):
        return True
    methods = [child for child in node.body if isinstance(child, ast.FunctionDef)]
    return any(
        "abstract" in ast.unparse(decorator)
        for method in methods
        for decorator in method.decorator_list
    )


def step_violations(root):
    """Every step with a body of 10 lines or more."""
    return [
        f"{module.name}.{owner.name}.{node.name} has {body_lines(node)} lines"
        for module in modules(root).values()
        for node, owner in functions(module)
        if owner is not None and node.name in STEPS and body_lines(node) > LONGEST_STEP
    ]


def test_no_class_inherits_from_a_concrete_class_of_ours():
    assert inheritance_violations(REPOSITORY) == []


def test_steps_are_short():
    assert step_violations(REPOSITORY) == []


TOWER = """
from abc import ABC, abstractmethod
from torch import nn

class Ground(ABC): ...
class Contract(nn.Module):
    @abstractmethod
    def f(self): ...
class First(Ground): ...
class Second(Contract): ...
"""


def test_abstract_and_foreign_bases_pass(plant):
    assert inheritance_violations(plant("interp_train/planted.py", TOWER)) == []


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("interp_train/planted.py", "class Third(First): ...\n"),
        ("interp_train/data/planted.py", "from interp_train.planted import Second as S\n"
         "class Third(S): ...\n"),
        ("interp_train/data/planted.py", "import interp_train.planted\n"
         "class Third(interp_train.planted.First): ...\n"),
    ],
)  # fmt: skip
def test_a_tower_is_found(plant, path, text):
    plant("interp_train/planted.py", TOWER)
    (violation,) = inheritance_violations(plant(path, text))
    assert "Third inherits from interp_train.planted." in violation


@pytest.mark.parametrize(("length", "count"), [(9, 0), (10, 1)])
def test_a_long_step_is_found(plant, length, count):
    body = "        x = 1\n" * length
    text = f'class A:\n    def training_step(self):\n        """Doc.\n\n        More."""\n{body}'
    assert len(step_violations(plant("interp_train/planted.py", text))) == count
