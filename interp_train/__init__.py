"""Train, measure and compare interpretable convolutional networks in one run."""

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"
__all__ = ["__version__", "dissect", "explain", "load"]

if TYPE_CHECKING:
    from interp_train.explanation import explain
    from interp_train.network_dissection import dissect
    from interp_train.systems import load_system as load


def __getattr__(name: str) -> Any:
    """Import on first use, so that `import interp_train` does not import torch."""
    if name == "dissect":
        from interp_train.network_dissection import dissect

        return dissect
    if name == "explain":
        from interp_train.explanation import explain

        return explain
    if name == "load":
        from interp_train.systems import load_system

        return load_system
    raise AttributeError(f"module 'interp_train' has no attribute {name!r}.")
