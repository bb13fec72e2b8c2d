"""Budgets of STYLE: lines of a file, lines of a function, positional arguments."""

import pytest

from tests.guards.sources import REPOSITORY, functions, modules, total_lines

FILE_LINES = 400
FUNCTION_LINES = 40
POSITIONAL_ARGUMENTS = 5

# Signatures that a framework fixes.
FIXED_SIGNATURES = {
    "on_train_batch_start",
    "on_train_batch_end",
    "on_validation_batch_start",
    "on_validation_batch_end",
    "on_test_batch_end",
    "on_predict_batch_end",
    "_load_from_state_dict",
}


def file_violations(root):
    """Every source or test file that is too long."""
    files = [*(root / "interp_train").rglob("*.py"), *(root / "tests").rglob("*.py")]
    lengths = {path: len(path.read_text("utf-8").splitlines()) for path in sorted(files)}
    return [
        f"{path.relative_to(root)} has {length} lines"
        for path, length in lengths.items()
        if length > FILE_LINES
    ]


def function_violations(root):
    """Every function of the package that is too long or takes too many positional arguments."""
    found = []
    for module in modules(root).values():
        for node, owner in functions(module):
            name = f"{module.name}:{node.lineno} {node.name}"
            if total_lines(node) > FUNCTION_LINES:
                found.append(f"{name} has {total_lines(node)} lines")
            count = len(node.args.posonlyargs) + len(node.args.args)
            static = any(getattr(d, "id", "") == "staticmethod" for d in node.decorator_list)
            count -= owner is not None and not static
            if count > POSITIONAL_ARGUMENTS and node.name not in FIXED_SIGNATURES:
                found.append(f"{name} takes {count} positional arguments")
    return found


def test_files_are_short():
    assert file_violations(REPOSITORY) == []


def test_functions_are_short_and_take_few_positional_arguments():
    assert function_violations(REPOSITORY) == []


@pytest.mark.parametrize(("length", "count"), [(400, 0), (401, 1)])
def test_a_long_file_is_found(plant, copy, length, count):
    before = file_violations(copy)
    copy = plant("interp_train/planted.py", "x = 1\n" * length)
    assert len(file_violations(copy)) - len(before) == count


@pytest.mark.parametrize(("length", "count"), [(39, 0), (40, 1)])
def test_a_long_function_is_found(plant, copy, length, count):
    before = function_violations(copy)
    docstring = '    """First.\n\n    Second.\n    """\n'
    text = "def f():\n" + docstring + "    x = 1\n" * length
    copy = plant("interp_train/planted.py", text)
    assert len(function_violations(copy)) - len(before) == count


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("def f(a, b, c, d, e): ...\n", 0),
        ("def f(a, b, c, d, e, f): ...\n", 1),
        ("def f(a, b, c, d, e, *, f, g): ...\n", 0),
        ("class A:\n    def f(self, a, b, c, d, e): ...\n", 0),
        ("class A:\n    def f(self, a, b, c, d, e, f): ...\n", 1),
        ("class A:\n    @staticmethod\n    def f(a, b, c, d, e, f): ...\n", 1),
        ("class A:\n    def on_train_batch_end(self, a, b, c, d, e, f): ...\n", 0),
    ],
)
def test_many_positional_arguments_are_found(plant, copy, text, count):
    before = function_violations(copy)
    after = function_violations(plant("interp_train/planted.py", text))
    assert len(after) - len(before) == count
