"""Train, measure and compare interpretable convolutional networks in one run."""

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"
__all__ = ["__version__", "detect", "dissect", "explain", "load", "visualize"]

if TYPE_CHECKING:
    from interp_train.detection import detect
    from interp_train.explanation import explain
    from interp_train.network_dissection import dissect
    from interp_train.systems import load_system as load
    from interp_train.unit_visualization import visualize

_PLACES = {
    "detect": ("interp_train.detection", "detect"),
    "dissect": ("interp_train.network_dissection", "dissect"),
    "explain": ("interp_train.explanation", "explain"),
    "load": ("interp_train.systems", "load_system"),
    "visualize": ("interp_train.unit_visualization", "visualize"),
}


def __getattr__(name: str) -> Any:
    """Import on first use, so that `import interp_train` does not import torch."""
    if name not in _PLACES:
        raise AttributeError(f"module 'interp_train' has no attribute {name!r}.")
    module, function = _PLACES[name]
    return getattr(importlib.import_module(module), function)
