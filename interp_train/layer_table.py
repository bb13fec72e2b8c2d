"""The layers of a backbone as a table: what a user may name, and where its cells lie."""

from typing import NamedTuple

from interp_train.backbones.backbone import Backbone
from interp_train.layer_geometry import LayerTrace, geometry_of, has_square_map, trace_layers
from interp_train.structures import LayerGeometry


class LayerRow(NamedTuple):
    """One layer.

    Attributes:
        layer: dotted name.
        kind: class of the module.
        shape: of its output for one image, without the batch axis.
        channels: units; features of a layer without cells.
        stride: pixels between neighbouring cells; None without cells.
        receptive_field: side of a cell's receptive field, in pixels; None without cells.
        offset: pixel at the centre of the receptive field of cell 0; None without cells.
        aliases: tap aliases of the layer.
        frozen: whether it belongs to the frozen prefix.
    """

    layer: str
    kind: str
    shape: tuple[int, ...]
    channels: int
    stride: float | None
    receptive_field: float | None
    offset: float | None
    aliases: tuple[str, ...]
    frozen: bool


def layer_table(backbone: Backbone, image_size: int, *, inner: bool = False) -> list[LayerRow]:
    """The steps, tapped layers and readout (or head) of a backbone, in the order they are called.

    Nothing is computed, and the network stays as it is.

    Args:
        backbone: the network.
        image_size: side of the images, in pixels.
        inner: also the layers inside the steps.

    Raises:
        ValueError: if the network cannot take images of that size.
    """
    shape = (backbone.in_channels, image_size, image_size)
    complete = backbone.has_head or bool(backbone.readout)
    try:
        traces = trace_layers(backbone, shape, run=None if complete else backbone.forward_chain)
    except (RuntimeError, ValueError) as error:
        raise ValueError(
            f"`image_size` must suit the network, but with {image_size} it fails: {error}."
        ) from error
    wanted = {*backbone.chain, *backbone.readout, *backbone.taps.values()}
    names = [name for name in traces if name and (inner or _is_shown(name, wanted, backbone))]
    return [_row(backbone, name, traces[name]) for name in names]


def _is_shown(name: str, wanted: set[str], backbone: Backbone) -> bool:
    of_head = backbone.has_head and name.startswith("head.") and name.count(".") == 1
    single = name.startswith("model.") and name.count(".") == 1  # a network of one single step
    return name in wanted or of_head or single


def _row(backbone: Backbone, name: str, trace: LayerTrace) -> LayerRow:
    geometry: LayerGeometry | None = None
    if has_square_map(trace) and isinstance(trace.grid, tuple):
        geometry = geometry_of(trace.grid)
    elif has_square_map(trace) and trace.grid is not None:
        geometry = backbone.geometry(name)
    prefix = backbone.prefix_steps
    return LayerRow(
        layer=name,
        kind=type(backbone.get_submodule(name)).__name__,
        shape=trace.shape[1:],
        channels=trace.shape[1],
        stride=geometry.stride if geometry else None,
        receptive_field=geometry.size if geometry else None,
        offset=geometry.offset if geometry else None,
        aliases=tuple(alias for alias, layer in backbone.taps.items() if layer == name),
        frozen=any(name == step or name.startswith(step + ".") for step in prefix),
    )
