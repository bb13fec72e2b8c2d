"""Where the cells of every layer lie in the image.

`trace_layers` runs a network once without data (meta tensors) and follows the operations, so every
network has a table without one being written by hand. `measure_geometry` finds the same numbers
from gradients, for networks with operations that `interp_train.operation_geometry` does not know.
"""

import copy
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from interp_train.activations import ActivationTap
from interp_train.operation_geometry import BATCH, PIXELS, Axis, Grid, GridTracer
from interp_train.structures import LayerGeometry


class LayerTrace(NamedTuple):
    """What one layer puts out for a given image size.

    Attributes:
        shape: of the output, for a batch of `BATCH` images.
        grid: where its cells lie; None where it has no cells (pooled over the image, or not
            4-dimensional), `UNKNOWN` where the recursion does not reach.
    """

    shape: tuple[int, ...]
    grid: Grid | str | None


def has_square_map(trace: LayerTrace) -> bool:
    """Whether square images give ``(N, K, h, h)`` with at least 2x2 cells or a known grid.

    Networks that put the units behind the cells, ``(N, h, w, K)``, do not.
    """
    if len(trace.shape) != 4 or trace.shape[-1] != trace.shape[-2]:
        return False
    return isinstance(trace.grid, tuple) or trace.shape[-1] > 1


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


def cells_of(network: nn.Module, layer: str, images: Tensor) -> LayerGeometry:
    """Where the cells of a layer lie: as the network states it, else traced, else measured."""
    stated: Any = getattr(network, "geometry", None)
    if callable(stated):
        geometry: LayerGeometry = stated(layer)
        return geometry
    channels, height, width = images.shape[1:]
    traces = trace_layers(network, (channels, height, width), run=network.forward)
    grid = traces[layer].grid if layer in traces else None
    found = geometry_of(grid) if isinstance(grid, tuple) else None
    return found or measure_geometry(network, [layer])[layer]


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
        tracer = GridTracer(images, grid)
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


def _trace_of(output: Tensor, tracer: GridTracer) -> LayerTrace:
    grid = tracer.grid(output) if output.dim() == 4 else None
    return LayerTrace(tuple(output.shape), grid)


def _shape_recorder(name: str, tracer: GridTracer, traces: dict[str, LayerTrace]) -> Any:
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
) -> dict[str, LayerGeometry]:
    """Stride, offset and size of layers, found from gradients of single cells.

    Works on a copy whose weights are random and positive, without ReLUs and with sums instead of
    maximum pooling, so that no path is closed. Larger images are tried until the receptive field
    of a central cell fits. A layer that sees the whole image of the largest size gets that size,
    and cells that share the image evenly.

    Args:
        network: takes ``(N, 3, H, W)`` images of any size, or fails for sizes it cannot take.
        layers: dotted names.
        image_sizes: sides to try, ascending.
        method: of the network, that runs the layers.

    Raises:
        ValueError: if a layer has no two cells next to each other in the centre, or does not
            depend on the image.
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
    convolutions = (m for m in network.modules() if isinstance(m, nn.Conv2d))
    channels = next((convolution.in_channels for convolution in convolutions), 3)
    generator = torch.Generator().manual_seed(0)
    with torch.inference_mode(False), torch.enable_grad():
        images = torch.rand(1, channels, side, side, generator=generator, dtype=torch.float64)
        images = (images + 0.5).requires_grad_()
        with ActivationTap(network, layers) as tap, _OpenPaths():
            getattr(network, method)(images)
        found = {}
        for layer in layers:
            intervals = _central_intervals(tap.activations[layer], images, layer)
            geometry = _from_intervals(intervals, side)
            if geometry is None and last:
                stride = side / tap.activations[layer].shape[-1]
                geometry = LayerGeometry(stride, (stride - 1) / 2, float(side))
            if geometry is not None:
                found[layer] = geometry
    return found


class _Interval(NamedTuple):
    """First and last image column that a cell sees."""

    cell: int
    first: int
    last: int


def _central_intervals(
    activations: Tensor, images: Tensor, layer: str
) -> tuple[_Interval, _Interval]:
    """What two cells left and right of the centre see.

    They lie some cells apart, so that strides below one pixel show as well.
    """
    if activations.dim() != 4 or activations.shape[-1] < 2:
        raise ValueError(
            f"`layers` must name layers with at least 2x2 cells to measure where they lie, but "
            f"{layer!r} puts out {tuple(activations.shape)}. Use a larger image."
        )
    row, centre = activations.shape[-2] // 2, (activations.shape[-1] - 1) // 2
    apart = max(1, activations.shape[-1] // 16)
    generator = torch.Generator().manual_seed(1)
    weights = torch.rand(activations.shape[1], generator=generator, dtype=torch.float64) + 0.5
    intervals = []
    for cell in (max(0, centre - apart), centre + apart):
        score = (activations[0, :, row, cell] * weights).sum()
        (gradient,) = torch.autograd.grad(score, images, retain_graph=True)
        columns = gradient[0].abs().sum(dim=(0, 1)).nonzero().flatten()
        if not len(columns):
            raise ValueError(
                f"`layers` must name layers that depend on the image, but the gradient of "
                f"{layer!r} is zero everywhere. Check that the network uses its input."
            )
        intervals.append(_Interval(cell, int(columns[0]), int(columns[-1])))
    return intervals[0], intervals[1]


def _from_intervals(intervals: tuple[_Interval, _Interval], side: int) -> LayerGeometry | None:
    """The geometry that explains both intervals; None if the image cuts one of them off."""
    left, right = intervals
    if left.first == 0 or right.last == side - 1 or right.first <= left.first:
        return None
    sums = (left.first + left.last, right.first + right.last)
    stride = (sums[1] - sums[0]) / 2 / (right.cell - left.cell)
    offset = (sum(sums) / 2 - stride * (left.cell + right.cell)) / 2
    size = max(interval.last - interval.first + 1 for interval in intervals)
    return LayerGeometry(stride, offset, float(size))


def _open_copy(network: nn.Module) -> nn.Module:
    """A copy with random positive weights and without hooks."""
    opened = copy.deepcopy(network).to("cpu", torch.float64).eval().requires_grad_(False)
    generator = torch.Generator().manual_seed(2)
    for module in opened.modules():
        module._forward_hooks.clear()
        for name, parameter in module.named_parameters(recurse=False):
            fan_in = max(1, parameter[0].numel()) if parameter.dim() > 1 else 1
            random = torch.rand(parameter.shape, generator=generator, dtype=torch.float64)
            parameter.copy_(random * 0 if name == "bias" else (random + 0.5) / fan_in)
        if isinstance(module, nn.BatchNorm2d):
            module.reset_running_stats()
    return opened


class _OpenPaths(TorchFunctionMode):
    """Lets every path through: ReLUs pass all, maximum pooling becomes a sum."""

    def __torch_function__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        options = kwargs or {}
        if function in _RECTIFIERS:
            return args[0] * 1
        if function in (functional.max_pool2d, torch.max_pool2d):
            return _sum_pool(*args, **options)
        return function(*args, **options)


_RECTIFIERS = (
    functional.relu,
    functional.relu_,
    functional.relu6,
    functional.hardtanh,
    functional.hardtanh_,
    torch.relu,
    torch.relu_,
)


def _sum_pool(
    maps: Tensor,
    kernel_size: int | tuple[int, int],
    stride: int | tuple[int, int] | None = None,
    padding: int | tuple[int, int] = 0,
    *,
    dilation: int | tuple[int, int] = 1,
    **others: Any,
) -> Tensor:
    """The sum of each window of a maximum pooling; a last incomplete window is left out."""
    kernel = (kernel_size, kernel_size) if isinstance(kernel_size, int) else kernel_size
    window = torch.ones(maps.shape[1], 1, *kernel, dtype=maps.dtype)
    step = stride or kernel_size
    return functional.conv2d(maps, window, None, step, padding, dilation, maps.shape[1])
