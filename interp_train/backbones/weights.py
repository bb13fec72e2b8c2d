"""Pretrained weights: by torchvision's name, or from a state-dict file, checked key by key."""

import hashlib
import logging
import os
import pickle
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from interp_train.backbones.parameter_groups import is_inside
from interp_train.checks import closest

_LOG = logging.getLogger(__name__)
_WRAPPERS = ("module.", "_orig_mod.", "network.", "model.", "backbone.")
_DENSENET_KEY = re.compile(r"^(.*denselayer\d+\.(?:norm|relu|conv))\.([12]\..*)$")


def load_weights(
    network: nn.Module, weights: str, *, model: str | None = None, left_out: Sequence[str] = ()
) -> None:
    """Load `weights` into `network`.

    Args:
        network: the whole network, before anything is cut off.
        weights: name of torchvision weights of `model` (``"DEFAULT"``, ``"IMAGENET1K_V1"``), or
            path of a state-dict file; a relative path is also looked for in
            ``$INTERP_TRAIN_DATA/weights``.
        model: torchvision's name of the network, if it has one.
        left_out: prefixes of dotted names that need not fit (a classifier that a head replaces);
            what is left out is logged.

    Raises:
        FileNotFoundError: if there is neither a file nor weights of that name.
        ConnectionError: if the weights cannot be downloaded.
        ValueError: if the file is not a state dict, or keys or shapes differ; lists them.
    """
    names = _torchvision_names(model)
    if weights in names:
        state, source = _downloaded(str(model), weights), f"{model} {weights}"
    else:
        file = weights_file(weights, names)
        state, source = _read(file), str(file)
    wanted = network.state_dict()
    state = _unwrapped(state, wanted)
    fitting, problems, skipped = _compare(state, wanted, left_out)
    if problems:
        raise ValueError(
            f"`weights` must fit the network, but {source!r} does not: " + "; ".join(problems) + "."
        )
    if skipped:
        _LOG.info("Weights of %s left out: %s.", source, ", ".join(skipped))
    network.load_state_dict(fitting, strict=False)


def save_weights(network: nn.Module, file: str | Path) -> None:
    """Write the weights and statistics of `network` in half precision, to be read by `weights`.

    Args:
        network: its classifier, if it has one, is left out for a `Backbone`.
        file: where to; an existing file is replaced.
    """
    left_out = (*getattr(network, "readout", ()), "head")
    state = {
        key: tensor.half() if tensor.is_floating_point() else tensor
        for key, tensor in network.state_dict().items()
        if not any(is_inside(key, prefix) for prefix in left_out)
    }
    torch.save(state, file)


def hash_of_modules(modules: Mapping[str, nn.Module]) -> str:
    """Hash of named modules: their settings, weights and statistics, bit by bit."""
    digest = hashlib.sha256()
    for step, module in modules.items():
        digest.update(f"{step} {module!r}".encode())
        for name, tensor in module.state_dict().items():
            value = tensor.detach().cpu().contiguous()
            digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
            digest.update(value.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def weights_file(weights: str, names: Sequence[str] = ()) -> Path:
    """The file that `weights` leads to.

    Raises:
        FileNotFoundError: if there is none; names the places and the known weight names.
    """
    places = [Path(weights).expanduser()]
    folder = os.environ.get("INTERP_TRAIN_DATA")
    if folder and not places[0].is_absolute():
        places += [Path(folder) / "weights" / weights, Path(folder) / weights]
    for place in places:
        if place.is_file():
            return place
    known = f" or one of torchvision's names ({', '.join(names)})" if names else ""
    raise FileNotFoundError(
        f"`weights` must be the path of a state-dict file{known}, but got {weights!r}. Looked for: "
        f"{', '.join(map(str, places))}. Relative paths are also looked for in "
        "$INTERP_TRAIN_DATA/weights."
    )


def _torchvision_names(model: str | None) -> list[str]:
    if model is None:
        return []
    import torchvision

    members: Any = torchvision.models.get_model_weights(model)
    return ["DEFAULT", *(member.name for member in members)]


def _downloaded(model: str, weights: str) -> dict[str, Tensor]:
    import torchvision

    entry: Any = torchvision.models.get_model_weights(model)[weights]
    try:
        state: dict[str, Tensor] = entry.get_state_dict(progress=False, check_hash=True)
    except OSError as error:  # URLError, timeouts and refused connections are OSErrors
        raise ConnectionError(
            f"`weights` must be downloadable, but {weights!r} of {model} is not ({error}). "
            f"Download {entry.url} elsewhere and give the file's path as `weights`."
        ) from error
    return {_DENSENET_KEY.sub(r"\1\2", key): tensor for key, tensor in state.items()}


def _read(file: Path) -> dict[str, Tensor]:
    """The tensors of a state-dict file; no code of the file is run."""
    try:
        state: Any = torch.load(file, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, KeyError) as error:
        raise ValueError(
            f"`weights` must be a file of tensors (torch.save of a state dict), but {str(file)!r} "
            f"cannot be read as one ({str(error).partition(chr(10))[0] or type(error).__name__})."
        ) from error
    for key in ("state_dict", "model_state_dict", "model"):
        if isinstance(state, Mapping) and isinstance(state.get(key), Mapping):
            state = state[key]
    if not isinstance(state, Mapping) or not state:
        raise ValueError(
            f"`weights` must hold a state dict, but {str(file)!r} holds a {type(state).__name__}. "
            "Save `network.state_dict()`."
        )
    tensors = {key: value for key, value in state.items() if isinstance(value, Tensor)}
    return {_DENSENET_KEY.sub(r"\1\2", key): tensor for key, tensor in tensors.items()}


def _unwrapped(state: dict[str, Tensor], wanted: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Keys without the prefixes of wrappers, as long as all keys share one."""
    while state and not any(key in wanted for key in state):
        shared = [p for p in _WRAPPERS if all(key.startswith(p) for key in state)]
        if not shared:
            break
        state = {key.removeprefix(shared[0]): tensor for key, tensor in state.items()}
    return state


def _compare(
    state: Mapping[str, Tensor], wanted: Mapping[str, Tensor], left_out: Sequence[str]
) -> tuple[dict[str, Tensor], list[str], list[str]]:
    """What fits (in the network's dtype), what is wrong, and which keys were left out."""
    optional = {
        key for key in {*state, *wanted} if any(is_inside(key, prefix) for prefix in left_out)
    }
    missing = [key for key in wanted if key not in state and key not in optional]
    missing = [key for key in missing if not key.endswith("num_batches_tracked")]
    extra = [key for key in state if key not in wanted and key not in optional]
    shared = [key for key in state if key in wanted]
    different = [key for key in shared if state[key].shape != wanted[key].shape]
    wrong = [key for key in different if key not in optional]
    problems = []
    if missing:
        problems.append(f"{len(missing)} missing keys ({_listed(missing)})")
    if extra:
        hint = f", closest to {extra[0]!r}: {closest(extra[0], wanted)}" if missing else ""
        problems.append(f"{len(extra)} extra keys ({_listed(extra)}{hint})")
    if wrong:
        shapes = [f"{k} {tuple(state[k].shape)} for {tuple(wanted[k].shape)}" for k in wrong]
        problems.append(
            f"{len(wrong)} keys of another shape ({_listed(shapes)}); set `classifier` to false "
            "if these belong to a classifier that a head replaces"
        )
    fitting = {k: state[k].to(wanted[k].dtype) for k in shared if k not in different}
    return fitting, problems, sorted(key for key in optional if key in state and key not in fitting)


def _listed(keys: Sequence[str], count: int = 8) -> str:
    more = f", and {len(keys) - count} more" if len(keys) > count else ""
    return ", ".join(keys[:count]) + more
