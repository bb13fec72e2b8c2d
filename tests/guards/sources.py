"""Reads the package's sources without importing them, so that guards work on any copy."""

import ast
import functools
import shutil
from pathlib import Path
from typing import NamedTuple

REPOSITORY = Path(__file__).parents[2]
PACKAGE = "interp_train"


class Module(NamedTuple):
    """One source file of the package."""

    name: str  # dotted
    path: Path
    tree: ast.Module

    @property
    def is_package(self):
        return self.path.name == "__init__.py"

    @property
    def folder(self):
        """Dotted name of the folder the file lies in."""
        return self.name if self.is_package else self.name.rpartition(".")[0]


def modules(root):
    """Dotted name -> `Module`, of all source files below ``root/interp_train``."""
    found = {}
    for path in sorted((root / PACKAGE).rglob("*.py")):
        parts = path.relative_to(root).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        try:
            found[name] = Module(name, path, parsed(path.read_text("utf-8")))
        except SyntaxError as error:
            error.add_note(f"in {path}")
            raise
    return found


@functools.cache
def parsed(text):
    """Syntax tree of a source text; copies of the repository share it."""
    return ast.parse(text)


@functools.cache
def written_imports(tree, folder):
    """``(line, origin, name)`` of every import of a file; `name` is None for ``import x``."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [(node.lineno, alias.name, None) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            origin = node.module or ""
            if node.level:
                parts = folder.split(".")
                parts = parts[: len(parts) - node.level + 1]
                origin = ".".join([*parts, *([origin] if origin else [])])
            found += [(node.lineno, origin, alias.name) for alias in node.names]
    return found


def imports(module, known):
    """``(line, dotted name)`` of every import in `module`, wherever it stands.

    ``from package import name`` is an import of ``package.name``, except where ``package`` is
    one of the `known` modules and ``package.name`` is not: then it is one of ``package``.
    """
    for line, origin, name in written_imports(module.tree, module.folder):
        inner = f"{origin}.{name}"
        yield line, origin if name is None or (origin in known and inner not in known) else inner


def classes(known):
    """Dotted name -> ``(Module, ClassDef)`` of every class at the top level of a module."""
    return {
        f"{module.name}.{node.name}": (module, node)
        for module in known.values()
        for node in module.tree.body
        if isinstance(node, ast.ClassDef)
    }


def resolve(module, name):
    """The dotted origin of `name` (``Metric`` or ``nn.Module``) as seen from `module`."""
    first, _, rest = name.partition(".")
    origin = f"{module.name}.{first}"
    for node in ast.walk(module.tree):
        if isinstance(node, ast.ImportFrom) and not node.level:
            for alias in node.names:
                if (alias.asname or alias.name) == first:
                    origin = f"{node.module}.{alias.name}"
        elif isinstance(node, ast.Import):
            for alias in node.names:
                if alias.asname == first:
                    origin = alias.name
                elif alias.asname is None and alias.name.split(".")[0] == first:
                    origin = first
    return f"{origin}.{rest}" if rest else origin


def functions(module):
    """Every function and method of `module`, nested ones too, with its class or None."""
    owners = {
        child: node
        for node in ast.walk(module.tree)
        if isinstance(node, ast.ClassDef)
        for child in node.body
    }
    for node in ast.walk(module.tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node, owners.get(node)


def body_lines(function):
    """Number of lines of `function` without decorators, docstring and lines above the body."""
    body = function.body
    if ast.get_docstring(function, clean=False) is not None:
        body = body[1:]
    return body[-1].end_lineno - body[0].lineno + 1 if body else 0


def total_lines(function):
    """Number of lines of `function` from ``def`` to its end, without its docstring."""
    docstring = 0
    if ast.get_docstring(function, clean=False) is not None:
        docstring = function.body[0].end_lineno - function.body[0].lineno + 1
    return function.end_lineno - function.lineno + 1 - docstring


def copy_repository(target):
    """A copy of what the guards read, to plant violations in."""
    skipped = shutil.ignore_patterns("__pycache__", "*.pyc")
    for folder in (PACKAGE, "conf", "scripts", "tests"):
        shutil.copytree(REPOSITORY / folder, target / folder, ignore=skipped)
    for pattern in ("*.md", "*.toml", "*.txt", "*.cff", "Makefile"):
        for path in REPOSITORY.glob(pattern):
            shutil.copy(path, target / path.name)
    return target
