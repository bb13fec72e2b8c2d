"""Parameters of our constructors, read from the sources, and the YAML files that name them."""

import ast
import re
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from tests.guards.sources import PACKAGE, resolve

# A parameter of any other type is an object that the caller injects.
PLAIN_TYPES = {
    "str", "int", "float", "bool", "None", "list", "tuple", "dict", "Sequence", "Mapping",
    "Collection", "Iterable", "Literal", "Path", "PathLike", "Any", "Optional", "Union", "Final",
}  # fmt: skip
UNKNOWN = object()  # a default that is not a literal


class Parameter(NamedTuple):
    """One parameter of a constructor."""

    name: str
    plain: bool  # its type is one that a configuration can hold
    required: bool
    default: Any


class Definition(NamedTuple):
    """One YAML file of a group."""

    path: Path
    group: str
    parents: tuple[str, ...]  # other options of the same group that it inherits
    composes: bool  # its defaults list names anything but `_self_`
    values: Any  # what it says itself, without the defaults list


class Loader(yaml.SafeLoader):
    """Reads ``1e-3`` as a number, as OmegaConf does."""


Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?$|^[-+]?\.(inf|Inf)$|^\.(nan|NaN)$"),
    list("-+0123456789."),
)


def definitions(root, skipped=("experiment", "study", "sweep", "hydra")):
    """Every YAML file of every group below ``root/conf``."""
    folder = root / "conf"
    for path in sorted(folder.rglob("*.yaml")):
        group = path.parent.relative_to(folder).as_posix()
        if group == "." or group.split("/")[0] in skipped:
            continue
        values = yaml.load(path.read_text("utf-8"), Loader)
        entries = values.pop("defaults", []) if isinstance(values, dict) else []
        entries = [entry for entry in entries if entry != "_self_"]
        options = [entry.partition("@")[0] for entry in entries if isinstance(entry, str)]
        parents = tuple(name for name in options if (path.parent / f"{name}.yaml").exists())
        yield Definition(path, group, parents, bool(entries), values)


def parameters(known, target):
    """Parameters of the constructor at a dotted path; None if the path leads to nothing."""
    module, _, name = target.rpartition(".")
    if module not in known:
        return None
    for node in known[module].tree.body:
        if isinstance(node, ast.FunctionDef) and node.name == name:
            return written_parameters(known, known[module], node)
        if isinstance(node, ast.ClassDef) and node.name == name:
            return class_parameters(known, known[module], node)
    return None


def class_parameters(known, module, node):
    """Parameters of a class, from ``__init__``, dataclass fields or the first base with any."""
    for child in node.body:
        if isinstance(child, ast.FunctionDef) and child.name == "__init__":
            return written_parameters(known, module, child)[1:]
    if any("dataclass" in ast.unparse(decorator) for decorator in node.decorator_list):
        return [
            parameter(known, module, child.target.id, child.annotation, child.value)
            for child in node.body
            if isinstance(child, ast.AnnAssign)
        ]
    for base in node.bases:
        inherited = parameters(known, resolve(module, ast.unparse(base)))
        if inherited is not None:
            return inherited
    return []


def written_parameters(known, module, function):
    """Parameters in a signature, `self` included; ``*args`` and ``**kwargs`` left out."""
    arguments = function.args
    positional = [*arguments.posonlyargs, *arguments.args]
    missing = [None] * (len(positional) - len(arguments.defaults))
    pairs = [
        *zip(positional, [*missing, *arguments.defaults], strict=True),
        *zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True),
    ]
    return [parameter(known, module, arg.arg, arg.annotation, value) for arg, value in pairs]


def parameter(known, module, name, annotation, default):
    """One `Parameter` from its syntax."""
    value = None if default is None else literal(known, module, default)
    return Parameter(name, is_plain(annotation), default is None, value)


def is_plain(annotation):
    """Whether a configuration can hold a value of this type."""
    if annotation is None:
        return True
    if isinstance(annotation, ast.Constant) and isinstance(annotation.value, str):
        annotation = ast.parse(annotation.value, mode="eval").body
    if isinstance(annotation, ast.Subscript) and ast.unparse(annotation.value) == "Literal":
        return True
    names = {node.id for node in ast.walk(annotation) if isinstance(node, ast.Name)}
    dotted = any(isinstance(node, ast.Attribute) for node in ast.walk(annotation))
    return names <= PLAIN_TYPES and not dotted


def literal(known, module, node):
    """The value of a default: a literal, or a constant of a module of ours; else `UNKNOWN`."""
    try:
        return ast.literal_eval(node)
    except ValueError:
        pass
    if isinstance(node, ast.Name):
        origin, _, name = resolve(module, node.id).rpartition(".")
        for statement in known[origin].tree.body if origin in known else ():
            targets = getattr(statement, "targets", [getattr(statement, "target", None)])
            if any(isinstance(target, ast.Name) and target.id == name for target in targets):
                return literal(known, known[origin], statement.value)
    return UNKNOWN


def is_ours(target):
    """Whether a dotted path lies in the package."""
    return target.split(".")[0] == PACKAGE


def same(value, default):
    """Whether a YAML value equals a default; lists stand for tuples."""
    if isinstance(value, bool) or isinstance(default, bool):
        return value is default
    if isinstance(value, list) and isinstance(default, list | tuple):
        return len(value) == len(default) and all(map(same, value, default))
    if isinstance(value, dict) and isinstance(default, dict):
        return value.keys() == default.keys() and all(same(value[k], default[k]) for k in value)
    return value == default


def is_wire(value):
    """Whether a YAML value is an interpolation or a mandatory gap: it holds no default."""
    return isinstance(value, str) and (value == "???" or value.startswith("${"))
