"""Where the cells of every layer lie in the image, computed by following the operations.

`trace_layers` runs a network once without data (meta tensors) and carries, through every
operation, the interval of input pixels that cell 0 sees and the step to the next cell:
a convolution or pooling with kernel k, stride s, padding p and dilation d turns
``[low, high], stride`` into ``[low - p * stride, high + ((k - 1) * d - p) * stride],
stride * s``; where branches meet, the union counts (the recursion of Araujo, Norris & Sim,
"Computing Receptive Fields of Convolutional Neural Networks", Distill 2019). Global context,
as in squeeze-and-excitation gates, is not part of a cell's receptive field here.

`measure_geometry` finds the same numbers from gradients, for networks with operations that the
recursion does not know.
"""

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from interp_train.activations import ActivationTap
from interp_train.structures import LayerGeometry

# Operations whose output cell (i, j) reads only the input cells (i, j).
_CELLWISE = frozenset(
    "aten::" + name
    for name in """
    _native_batch_norm_legit _native_batch_norm_legit_no_training _to_copy _unsafe_view
    _reshape_alias abs add add_ addmm alias batch_norm bernoulli_ cat celu chunk clamp clamp_
    clamp_max clamp_min clone contiguous copy_ detach div div_ dropout elu empty_like exp expand
    gelu hardsigmoid hardswish hardswish_ hardtanh hardtanh_ leaky_relu leaky_relu_ lift_fresh
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


class LayerTrace(NamedTuple):
    """What one layer puts out for a given image size.

    Attributes:
        shape: of the output, for a batch of `BATCH` images.
        grid: where its cells lie; None where it has no cells (pooled over the image, or not
            4-dimensional), `UNKNOWN` where the recursion does not reach.
    """

    shape: tuple[int, ...]
    grid: Grid | str | None


BATCH = 2


def geometry_of(grid: Grid) -> LayerGeometry | None:
    """`grid` as stride, offset and size; the wider axis counts.

    Returns:
        None if the two axes differ in stride or centre, which `LayerGeometry` cannot express.
    """
    y, x = grid
    if y.stride != x.stride or y.low + y.high != x.low + x.high:
        return None
    size = max(y.high - y.low, x.high - x.low) + 1
    return LayerGeometry(y.stride, (y.low + y.high) / 2, size)


def grid_of(geometry: LayerGeometry) -> Grid:
    """The inverse of `geometry_of`, for square receptive fields."""
    reach = (geometry.size - 1) / 2
    axis = Axis(geometry.stride, geometry.offset - reach, geometry.offset + reach)
    return axis, axis


class _GridTracer(TorchDispatchMode):  # type: ignore[no-untyped-call]
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
            return _after_pool(grids[0], args)
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


def _pair(value: Any) -> tuple[int, int]:
    values = list(value) if isinstance(value, list | tuple) else [value]
    return int(values[0]), int(values[-1])


def _slide(grid: Any, kernel: Any, stride: Any, padding: Any, dilation: Any = 1) -> Grid:
    windows = zip(*map(_pair, (kernel, stride, padding, dilation)), strict=True)
    y, x = (axis.window(*window) for axis, window in zip(grid, windows, strict=True))
    return y, x


def _after_convolution(grid: Any, args: Sequence[Any]) -> Grid | str:
    weight, stride, padding, dilation = args[1], args[3], args[4], args[5]
    if isinstance(padding, str) or args[6] is True:  # a transposed convolution
        return UNKNOWN
    return _slide(grid, tuple(weight.shape[-2:]), stride, padding, dilation)


def _after_pool(grid: Any, args: Sequence[Any]) -> Grid:
    kernel = args[1]
    stride = args[2] if len(args) > 2 and args[2] else kernel
    return _slide(grid, kernel, stride, args[3] if len(args) > 3 else 0)


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


class _Run(nn.Module):
    """`run`, a method of `network`, as a module of its own, for `functional_call`."""

    def __init__(self, network: nn.Module, run: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.network = network
        self._run = (run,)  # inside a tuple, a module is not registered a second time

    def forward(self, images: Tensor) -> Tensor:
        return self._run[0](images)


def trace_layers(
    network: nn.Module,
    shape: tuple[int, int, int],
    *,
    grid: Grid | str | None = PIXELS,
    run: Callable[[Tensor], Tensor] | None = None,
) -> dict[str, LayerTrace]:
    """Output shape and grid of every module that a forward pass calls.

    Runs on meta tensors: no arithmetic, no random numbers, no change of statistics.

    Args:
        network: any module.
        shape: of one input, ``(channels, height, width)``.
        grid: of the input; pixels unless the input is itself a map.
        run: the method of `network` to call; None calls the network.

    Returns:
        Dotted name -> trace, in the order of (the last) call; ``""`` is the whole run.
    """
    wrapped = _Run(network, run or network)
    state = {
        name: tensor.detach().to("meta")
        for name, tensor in (*wrapped.named_parameters(), *wrapped.named_buffers())
    }
    traces: dict[str, LayerTrace] = {}
    dtype = next((t.dtype for t in state.values() if t.is_floating_point()), torch.float32)
    with torch.inference_mode(False), torch.no_grad():
        images = torch.empty(BATCH, *shape, device="meta", dtype=dtype)
        tracer = _GridTracer(images, grid)
        handles = [
            module.register_forward_hook(_shape_recorder(name, tracer, traces), prepend=True)
            for name, module in network.named_modules()
            if name
        ]
        try:
            with tracer:
                output = torch.func.functional_call(wrapped, state, (images,))
        finally:
            for handle in handles:
                handle.remove()
    traces[""] = _trace_of(output, tracer)
    return traces


def _trace_of(output: Tensor, tracer: _GridTracer) -> LayerTrace:
    grid = tracer.grid(output) if output.dim() == 4 else None
    return LayerTrace(tuple(output.shape), grid)


def _shape_recorder(name: str, tracer: _GridTracer, traces: dict[str, LayerTrace]) -> Any:
    def record(module: nn.Module, inputs: Any, output: Any) -> None:
        if isinstance(output, Tensor):
            traces.pop(name, None)
            traces[name] = _trace_of(output, tracer)

    return record


def measure_geometry(
    network: nn.Module,
    layers: Sequence[str],
    *,
    image_sizes: Sequence[int] = (224, 448, 896),
    method: str = "forward",
) -> Mapping[str, LayerGeometry]:
    """Stride, offset and size of layers, found from gradients of single cells.

    Works on a copy whose weights are random and positive, with max pooling replaced by average
    pooling, so that no path is closed. Larger images are tried until the receptive field of a
    central cell fits. A layer that sees the whole image of the largest size gets that size,
    and cells that share the image evenly.

    Args:
        network: takes ``(N, 3, H, W)`` images of any size, or fails for sizes it cannot take.
        layers: dotted names.
        image_sizes: sides to try, ascending.
        method: of the network, that runs the layers.

    Raises:
        ValueError: if a layer has no two cells next to each other in the centre.
    """
    open_network = _open_copy(network)
    found: dict[str, LayerGeometry] = {}
    for position, side in enumerate(image_sizes):
        waiting = [layer for layer in layers if layer not in found]
        if not waiting:
            break
        last = position == len(image_sizes) - 1
        found.update(_measure(open_network, waiting, side, method=method, last=last))
    return {layer: found[layer] for layer in layers}


def _measure(
    network: nn.Module, layers: Sequence[str], side: int, *, method: str, last: bool
) -> dict[str, LayerGeometry]:
    weights = next((p for p in network.parameters() if p.dim() == 4), None)
    channels = 3 if weights is None else int(weights.shape[1])
    generator = torch.Generator().manual_seed(0)
    with torch.inference_mode(False), torch.enable_grad():
        images = torch.rand(1, channels, side, side, generator=generator, dtype=torch.float64)
        images = (images + 0.5).requires_grad_()
        with ActivationTap(network, layers) as tap:
            getattr(network, method)(images)
        found = {}
        for layer in layers:
            intervals = _central_intervals(tap.activations[layer], images, layer)
            geometry = _from_intervals(*intervals, side=side, last=last)
            if geometry is not None:
                found[layer] = geometry
    return found


def _central_intervals(
    activations: Tensor, images: Tensor, layer: str
) -> tuple[int, tuple[int, int], tuple[int, int], int]:
    """Index of a central cell, the image columns it and its right neighbour see, grid width."""
    if activations.dim() != 4 or activations.shape[-1] < 2:
        raise ValueError(
            f"`layers` must name layers with at least 2x2 cells to measure where they lie, but "
            f"{layer!r} puts out {tuple(activations.shape)}. Use a larger image."
        )
    row, cell = activations.shape[-2] // 2, (activations.shape[-1] - 1) // 2
    generator = torch.Generator().manual_seed(1)
    weights = torch.rand(activations.shape[1], generator=generator, dtype=torch.float64) + 0.5
    intervals = []
    for column in (cell, cell + 1):
        score = (activations[0, :, row, column] * weights).sum()
        (gradient,) = torch.autograd.grad(score, images, retain_graph=True)
        columns = gradient[0].abs().sum(dim=(0, 1)).nonzero().flatten()
        intervals.append((int(columns[0]), int(columns[-1])) if len(columns) else (0, -1))
    return cell, intervals[0], intervals[1], int(activations.shape[-1])


def _from_intervals(
    cell: int,
    first: tuple[int, int],
    second: tuple[int, int],
    cells: int,
    *,
    side: int,
    last: bool,
) -> LayerGeometry | None:
    fits = 0 < first[0] <= first[1] and second[1] < side - 1 and second[0] > first[0]
    if fits:
        stride = float(second[0] - first[0])
        centre = (first[0] + first[1]) / 2
        return LayerGeometry(stride, centre - stride * cell, float(first[1] - first[0] + 1))
    if not last:
        return None
    stride = side / cells
    return LayerGeometry(stride, (stride - 1) / 2, float(side))


def _open_copy(network: nn.Module) -> nn.Module:
    """A copy in which every input pixel of a cell has a non-zero gradient."""
    opened = copy.deepcopy(network).to("cpu", torch.float64).eval().requires_grad_(False)
    generator = torch.Generator().manual_seed(2)
    for module in list(opened.modules()):
        module._forward_hooks.clear()
        for name, child in list(module.named_children()):
            if isinstance(child, nn.MaxPool2d):
                pool = nn.AvgPool2d(child.kernel_size, child.stride, child.padding, child.ceil_mode)
                setattr(module, name, pool)
        for name, parameter in module.named_parameters(recurse=False):
            fan_in = max(1, parameter[0].numel()) if parameter.dim() > 1 else 1
            random = torch.rand(parameter.shape, generator=generator, dtype=torch.float64)
            parameter.copy_(random * 0 if name == "bias" else (random + 0.5) / fan_in)
        if isinstance(module, nn.BatchNorm2d):
            module.reset_running_stats()
    return opened
