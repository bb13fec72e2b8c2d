"""Build objects from configuration nodes that name a `_target_`, from an allow-list only.

A node is a plain mapping ``{"_target_": "package.module.Class", argument: value, ...}``;
``_partial_: true`` gives a `functools.partial`; nested nodes are built first. The same helper
serves the experiment and the loading of checkpoints, so a checkpoint can never name a
constructor that its reader does not trust.
"""

import functools
import importlib
from collections.abc import Mapping, Sequence
from typing import Any

from interp_train.checks import closest

# Only what a configuration has reason to name: no `torch.load`, no `torch.hub`.
_TRUSTED = [
    "interp_train",
    "torch.optim",
    "torch.nn",
    "torchmetrics",
    "torchvision.models",
    "torchvision.transforms",
    "lightning.pytorch",
]
_BUILT_IN = tuple(_TRUSTED)


def trust(package: str) -> None:
    """Let configurations name constructors of `package` (a dotted prefix)."""
    if package not in _TRUSTED:
        _TRUSTED.append(package)


def trusted_packages() -> tuple[str, ...]:
    """The dotted prefixes that configurations may name."""
    return tuple(_TRUSTED)


def added_packages() -> tuple[str, ...]:
    """The prefixes that `trust` added, for a run in another process."""
    return tuple(package for package in _TRUSTED if package not in _BUILT_IN)


def locate(path: str) -> Any:
    """The object at a dotted import path.

    Raises:
        ValueError: if the path is outside the allow-list, or names nothing.
    """
    if not any(path == prefix or path.startswith(prefix + ".") for prefix in _TRUSTED):
        raise ValueError(
            f"`_target_` must lie in a trusted package ({', '.join(_TRUSTED)}), but got "
            f"{path!r}. Add `--trust {path.split('.')[0]}` if you trust that package."
        )
    parts = path.split(".")
    for cut in range(len(parts) - 1, 0, -1):
        module_name = ".".join(parts[:cut])
        try:
            found: Any = importlib.import_module(module_name)
        except ModuleNotFoundError as error:
            # A missing dependency of the target's module is not a wrong path.
            if error.name is None or not (module_name + ".").startswith(error.name + "."):
                raise
            continue
        for attribute in parts[cut:]:
            if not hasattr(found, attribute):
                names = [name for name in dir(found) if not name.startswith("_")]
                raise ValueError(
                    f"`_target_` must name an object that exists, but {path!r} has no "
                    f"{attribute!r}. Closest names: {closest(attribute, names)}."
                )
            found = getattr(found, attribute)
        return found
    raise ValueError(f"`_target_` must name an importable object, but got {path!r}.")


def build(node: Mapping[str, Any], where: str = "config", **objects: Any) -> Any:
    """Call the constructor that `node` names.

    Args:
        node: mapping with a `_target_`; its other keys are the constructor's arguments.
        where: the node's place in the configuration, for error messages.
        objects: further arguments, passed as they are (never built, never copied); they
            replace keys of the node.

    Returns:
        What the constructor returns, or a partial of it with ``_partial_: true``.

    Raises:
        ValueError: without `_target_`, for an untrusted or unknown target, or for arguments
            that the constructor does not take.
    """
    if not isinstance(node, Mapping) or not isinstance(node.get("_target_"), str):
        raise ValueError(
            f"`{where}` must be a mapping with a `_target_` (the dotted path of a constructor), "
            f"but got {node!r}. Set the entry to null to leave it out."
        )
    target = locate(node["_target_"])
    arguments = {
        key: build_nested(value, f"{where}.{key}")
        for key, value in node.items()
        if key not in ("_target_", "_partial_") and key not in objects
    }
    arguments.update(objects)
    check_arguments(target, arguments, where)
    if node.get("_partial_"):
        return functools.partial(target, **arguments)
    return target(**arguments)


def check_arguments(target: Any, arguments: Mapping[str, Any], where: str) -> None:
    """Raise ValueError for an argument that `target` does not take."""
    import inspect

    try:
        parameters = inspect.signature(target).parameters
    except (TypeError, ValueError):  # a builtin without a signature checks its own arguments
        return
    if any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters.values()):
        return
    for key in arguments:
        if key not in parameters:
            raise ValueError(
                f"`{where}.{key}` must be a parameter of {target.__qualname__}, but it has none "
                f"of that name. Closest names: {closest(key, parameters)}."
            )


def build_nested(value: Any, where: str) -> Any:
    """Build every node with a `_target_` inside `value`; return the rest as it is."""
    if isinstance(value, Mapping):
        if "_target_" in value:
            return build(value, where)
        return {key: build_nested(entry, f"{where}.{key}") for key, entry in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [build_nested(entry, f"{where}[{i}]") for i, entry in enumerate(value)]
    return value


def build_entries(nodes: Mapping[str, Any] | None, where: str, **objects: Any) -> dict[str, Any]:
    """Build a mapping of named nodes (callbacks, objectives ...); null entries are left out."""
    return {
        name: build(node, f"{where}.{name}", **objects)
        for name, node in (nodes or {}).items()
        if node is not None
    }
