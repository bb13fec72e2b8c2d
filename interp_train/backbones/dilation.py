"""Dilation in the place of strides: finer maps of a network that is trained already.

The "hole algorithm" of Chen, Papandreou, Kokkinos, Murphy & Yuille, "Semantic Image Segmentation
with Deep Convolutional Nets and Fully Connected CRFs" (ICLR 2015, arXiv 1412.7062).
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from torch import nn

from interp_train.checks import check_name
from interp_train.layer_geometry import LayerTrace, trace_layers
from interp_train.operation_geometry import pair_of

_Window = nn.Conv2d | nn.MaxPool2d | nn.AvgPool2d
_Pair = tuple[float, float]  # along y and x


def replace_strides(
    network: nn.Module, steps: Mapping[str, nn.Module], first: str, image_size: int
) -> None:
    """Let all windows from step `first` on move by one cell, in place.

    Those behind a window that moved by s cells read every s-th cell instead. The maps keep the
    values that they had, now in every s-th cell of maps that are s times as fine.

    Args:
        network: that takes RGB images.
        steps: of its chain, dotted name -> module.
        first: name of a step.
        image_size: side of the images, in pixels.

    Raises:
        ValueError: if `first` is no step, or the network cannot be made finer in this way.
    """
    check_name("dilate", first, steps, "a step of the network")
    names = list(steps)
    place = names.index(first)
    before = trace_layers(network, (3, image_size, image_size))
    start = _strides(first, before, names[place - 1]) if place else (1.0, 1.0)
    for name, window in _windows(steps, names[place:]):
        finer = zip(_strides(first, before, name), pair_of(window.stride), start, strict=True)
        rows, columns = (round(grid / (own * wanted)) for grid, own, wanted in finer)
        _widen(first, name, window, (rows, columns))
    try:
        after = trace_layers(network, (3, image_size, image_size))
    except RuntimeError as error:  # branches of a step that differ in size now
        raise _impossible(first, str(error)) from error
    for name in names[place:]:
        if name in before and before[name].grid is not None:  # else a function, or no map
            _check_finer(first, name, before, after, start)


def _windows(steps: Mapping[str, nn.Module], names: Sequence[str]) -> Iterator[tuple[str, _Window]]:
    """Modules in the named steps whose stride or padding matters, by their dotted name."""
    for step in names:
        for inner, module in steps[step].named_modules():
            if isinstance(module, _Window) and not _cellwise(module):
                yield f"{step}.{inner}" if inner else step, module


def _cellwise(window: _Window) -> bool:
    return pair_of(window.kernel_size) == pair_of(window.stride) == (1, 1)


def _strides(first: str, traces: Mapping[str, LayerTrace], name: str) -> _Pair:
    grid = traces[name].grid if name in traces else None
    if not isinstance(grid, tuple):
        raise _impossible(first, f"where the cells of {name!r} lie is not known")
    return grid[0].stride, grid[1].stride


def _widen(first: str, name: str, window: _Window, factor: tuple[int, int]) -> None:
    """A window that moves by one cell, over a map that is `factor` times as fine as before."""
    window.stride = (1, 1)
    if factor == (1, 1):
        return
    if isinstance(window, nn.AvgPool2d):
        raise _impossible(first, f"the mean over windows in {name!r} cannot be dilated")
    if isinstance(window, nn.MaxPool2d) and pair_of(window.padding) != (0, 0):
        raise _impossible(first, f"the maximum over padded windows in {name!r} cannot be dilated")
    window.dilation = _times(window.dilation, factor)
    if not isinstance(window.padding, str):
        window.padding = _times(window.padding, factor)


def _check_finer(
    first: str,
    name: str,
    before: Mapping[str, LayerTrace],
    after: Mapping[str, LayerTrace],
    start: _Pair,
) -> None:
    """That each cell before is one of the cells after, in each axis."""
    strides = zip(_strides(first, before, name), _strides(first, after, name), start, strict=True)
    sizes = zip(before[name].shape[2:], after[name].shape[2:], strict=True)
    for (coarse, fine, wanted), (old, new) in zip(strides, sizes, strict=True):
        if fine != wanted or -(-new // round(coarse / wanted)) != old:
            raise _impossible(
                first, f"{name!r} would put out {new} cells a side, which do not hold its {old}"
            )


def _impossible(first: str, reason: str) -> ValueError:
    return ValueError(
        f"`dilate` must name a step from which on strides can become dilation, but got {first!r}: "
        f"{reason}. Name a later step."
    )


def _times(value: Any, factor: tuple[int, int]) -> tuple[int, int]:
    rows, columns = pair_of(value)
    return rows * factor[0], columns * factor[1]
