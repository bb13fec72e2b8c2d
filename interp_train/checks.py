"""Checks of arguments and the messages they raise, in one wording.

Each message names the argument, the rule, the value received and a way out.
"""

import difflib
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # the command line words its errors without waiting for torch
    from torch import Tensor


def closest(name: str, names: Iterable[str], count: int = 3) -> str:
    """The `count` entries of `names` that resemble `name` most, for an error message.

    Falls back to the first entries, so that the reader always sees valid names.
    """
    known = list(dict.fromkeys(names))
    similar = difflib.get_close_matches(name, known, n=count, cutoff=0.4)
    similar += [other for other in known if name and name in other and other not in similar]
    chosen = similar[:count] or known[:count]
    return ", ".join(repr(entry) for entry in chosen) if chosen else "(none)"


def check_name(argument: str, name: str, names: Iterable[str], kind: str) -> None:
    """Raise ValueError unless `name` is one of `names`.

    Args:
        argument: the argument's name, as the caller wrote it.
        name: the value received.
        names: what is allowed.
        kind: what a valid value is, e.g. ``"a module of the network"``.
    """
    known = list(names)
    if name not in known:
        raise ValueError(
            f"`{argument}` must name {kind}, but got {name!r}. "
            f"Closest names: {closest(name, known)}."
        )


def check_choice(argument: str, value: str, choices: Sequence[str]) -> None:
    """Raise ValueError unless `value` is one of `choices`."""
    if value not in choices:
        raise ValueError(
            f"`{argument}` must be one of {', '.join(map(repr, choices))}, but got {value!r}."
        )


def check_range(
    argument: str, value: float, low: float | None = None, high: float | None = None
) -> None:
    """Raise ValueError unless ``low <= value <= high`` (None = unbounded; NaN always fails)."""
    above = low is None or value >= low
    below = high is None or value <= high
    if not (above and below):
        rule = " and ".join(
            part
            for part in (
                f">= {low}" if low is not None else "",
                f"<= {high}" if high is not None else "",
            )
            if part
        )
        raise ValueError(f"`{argument}` must be {rule}, but got {value!r}.")


def check_shape(argument: str, tensor: "Tensor", shape: Sequence[int | str]) -> None:
    """Raise ValueError unless `tensor` has `shape`.

    Args:
        argument: the argument's name.
        tensor: the value received.
        shape: one entry per axis: a length, or a letter that may have any length but must
            have the same length wherever it occurs, e.g. ``("N", "K", "H", "H")``.
    """
    lengths: dict[str, int] = {}
    fits = tensor.dim() == len(shape)
    for length, expected in zip(tensor.shape, shape, strict=False):
        wanted = lengths.setdefault(expected, length) if isinstance(expected, str) else expected
        fits = fits and length == wanted
    if not fits:
        wanted_text = ", ".join(map(str, shape))
        raise ValueError(
            f"`{argument}` must have shape ({wanted_text}), but got {tuple(tensor.shape)}."
        )
