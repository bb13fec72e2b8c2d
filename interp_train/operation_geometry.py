"""What one cell of a map sees, followed through the operations of a network.

`GridTracer` carries, through every operation, the interval of input pixels that cell 0 sees and the
step to the next cell: a window with kernel k, stride s, padding p and dilation d turns
``[low, high], stride`` into ``[low - p * stride, high + ((k - 1) * d - p) * stride], stride * s``;
where branches meet, the union counts (the recursion of Araujo, Norris & Sim, "Computing Receptive
Fields of Convolutional Neural Networks", Distill 2019). Global context, as in the gates of
squeeze-and-excitation and the statistics of group normalisation, is not counted.
"""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

# Operations whose output cell (i, j) reads only the input cells (i, j).
_CELLWISE = frozenset(
    "aten::" + name
    for name in """
    _native_batch_norm_legit _native_batch_norm_legit_no_training _to_copy _unsafe_view
    _reshape_alias abs add add_ addmm alias batch_norm bernoulli_ cat celu chunk clamp clamp_
    clamp_max clamp_min clone contiguous copy_ detach div div_ dropout elu empty_like exp expand
    expm1 gelu hardsigmoid hardswish hardswish_ hardtanh hardtanh_ leaky_relu leaky_relu_ lift_fresh
    linear log maximum minimum mish mm mul mul_ native_batch_norm native_dropout
    native_group_norm native_layer_norm neg permute pow prelu _prelu_kernel relu relu_ reshape
    rsqrt rsub select sigmoid sigmoid_ silu silu_ slice softplus split split_with_sizes sqrt sub
    sub_ t tanh transpose unsqueeze view
    """.split()  # noqa: SIM905
)
_POOLS = ("aten::max_pool2d_with_indices", "aten::max_pool2d", "aten::avg_pool2d")
_CONVOLUTIONS = ("aten::convolution", "aten::conv2d", "aten::_convolution")


class Axis(NamedTuple):
    """The input interval of cell 0 along one image axis, and the step to the next cell."""

    stride: float
    low: float
    high: float

    def window(self, kernel: int, stride: int, before: int, dilation: int = 1) -> "Axis":
        """After a sliding window with `before` cells of padding at the low end."""
        return Axis(
            self.stride * stride,
            self.low - before * self.stride,
            self.high + ((kernel - 1) * dilation - before) * self.stride,
        )


Grid = tuple[Axis, Axis]  # y, x
UNKNOWN = "unknown"  # an operation was met whose receptive field is not known
PIXELS: Grid = (Axis(1.0, 0.0, 0.0), Axis(1.0, 0.0, 0.0))


BATCH = 2


class GridTracer(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Carries grids from the inputs of every operation to its outputs."""

    def __init__(self, images: Tensor, grid: Grid | str | None) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._known: dict[int, tuple[Tensor, Grid | str]] = {}
        if grid is not None:
            self._known[id(images)] = (images, grid)

    def grid(self, tensor: Tensor) -> Grid | str | None:
        """The grid of a tensor of this run."""
        return self._known[id(tensor)][1] if id(tensor) in self._known else None

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        result = function(*args, **(kwargs or {}))
        for output in _tensors([result]):
            grid = self._follow(function._schema.name, args, output)
            self._known.pop(id(output), None)
            if grid is not None:  # the tensor is kept alive, so that its id stays its own
                self._known[id(output)] = (output, grid)
        return result

    def _follow(self, name: str, args: Sequence[Any], output: Tensor) -> Grid | str | None:
        grids = [grid for tensor in _tensors(args) if (grid := self.grid(tensor)) is not None]
        if not grids:
            return None
        if UNKNOWN in grids:
            return UNKNOWN
        if name in _CONVOLUTIONS:
            return _after_convolution(grids[0], args)
        if name in _POOLS:
            return _after_pool(grids[0], args, dilates="max" in name)
        if name == "aten::constant_pad_nd":
            return _after_pad(grids[0], args[1])
        if name in ("aten::_adaptive_avg_pool2d", "aten::adaptive_avg_pool2d"):
            return _after_adaptive_pool(grids[0], args[0], output)
        if name in ("aten::mean", "aten::sum", "aten::amax"):
            return None
        if name not in _CELLWISE:
            return UNKNOWN
        if output.dim() == 2 and output.shape[0] == BATCH:  # flattened: one row per image
            return None
        return union_of_grids(grids)


def union_of_grids(grids: Sequence[Any]) -> Grid | str:
    """What a cell sees that reads the same cell of several maps."""
    axes = []
    for axis in zip(*grids, strict=True):
        if len({entry.stride for entry in axis}) > 1:
            return UNKNOWN
        low, high = min(entry.low for entry in axis), max(entry.high for entry in axis)
        axes.append(Axis(axis[0].stride, low, high))
    return axes[0], axes[1]


def _tensors(values: Any) -> Iterator[Tensor]:
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, list | tuple):
            yield from _tensors(value)


def pair_of(value: Any) -> tuple[int, int]:
    """A module's kernel, stride, padding or dilation along y and x; one number counts for both."""
    values = list(value) if isinstance(value, list | tuple) else [value]
    return int(values[0]), int(values[-1])


def _slide(grid: Any, kernel: Any, stride: Any, padding: Any, dilation: Any = 1) -> Grid:
    windows = zip(*map(pair_of, (kernel, stride, padding, dilation)), strict=True)
    y, x = (axis.window(*window) for axis, window in zip(grid, windows, strict=True))
    return y, x


def _after_convolution(grid: Any, args: Sequence[Any]) -> Grid | str:
    weight, stride, padding, dilation = args[1], args[3], args[4], args[5]
    if isinstance(padding, str) or args[6] is True:  # a transposed convolution
        return UNKNOWN
    return _slide(grid, tuple(weight.shape[-2:]), stride, padding, dilation)


def _after_pool(grid: Any, args: Sequence[Any], *, dilates: bool) -> Grid:
    kernel = args[1]
    stride = args[2] if len(args) > 2 and args[2] else kernel
    dilation = args[4] if dilates and len(args) > 4 else 1
    return _slide(grid, kernel, stride, args[3] if len(args) > 3 else 0, dilation)


def _after_pad(grid: Any, padding: Sequence[int]) -> Grid:
    left, top = padding[0], padding[2] if len(padding) > 2 else 0
    y, x = (
        Axis(axis.stride, axis.low - before * axis.stride, axis.high - before * axis.stride)
        for axis, before in zip(grid, (top, left), strict=True)
    )
    return y, x


def _after_adaptive_pool(grid: Any, cells: Tensor, output: Tensor) -> Grid | str | None:
    before, after = cells.shape[-2:], output.shape[-2:]
    if before == after:
        return grid  # type: ignore[no-any-return]
    if tuple(after) == (1, 1):
        return None
    if any(size % wanted for size, wanted in zip(before, after, strict=True)):
        return UNKNOWN
    kernel = tuple(size // wanted for size, wanted in zip(before, after, strict=True))
    return _slide(grid, kernel, kernel, 0)
