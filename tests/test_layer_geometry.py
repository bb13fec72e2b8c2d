from collections import OrderedDict

import pytest
import torch
from torch import nn
from torch.nn import functional

from interp_train.layer_geometry import (
    cells_of,
    geometry_of,
    grid_of,
    measure_geometry,
    trace_layers,
)
from interp_train.operation_geometry import UNKNOWN
from interp_train.structures import LayerGeometry
from tests.contracts.options import small_network


class Branches(nn.Module):
    """Three paths of different reach that meet by addition and concatenation."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 2, 3, stride=2, padding=1)
        self.narrow = nn.Conv2d(2, 2, 1)
        self.wide = nn.Conv2d(2, 2, 3, padding=2, dilation=2)
        self.pool = nn.AvgPool2d(3, 1, 1)
        self.out = nn.Identity()

    def forward(self, images):
        maps = self.stem(images)
        both = self.narrow(maps) + self.wide(maps)
        return self.out(torch.cat([both, self.pool(maps)], 1))


class Gate(nn.Module):
    """Squeeze and excitation: global context that does not belong to a cell."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)
        self.fc = nn.Conv2d(4, 4, 1)
        self.out = nn.Identity()

    def forward(self, images):
        maps = self.conv(images)
        return self.out(maps * self.fc(functional.adaptive_avg_pool2d(maps, 1)).sigmoid())


class ChannelsLast(nn.Module):
    """Works on channels behind the cells, as ConvNeXt does."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 4, stride=4)
        self.norm = nn.LayerNorm(8)
        self.fc = nn.Linear(8, 8)
        self.out = nn.Identity()

    def forward(self, images):
        maps = self.conv(images).permute(0, 2, 3, 1)
        return self.out(functional.gelu(self.fc(self.norm(maps))).permute(0, 3, 1, 2))


class Padded(nn.Module):
    """More padding before than behind."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 2, 4, stride=2)
        self.out = nn.Identity()

    def forward(self, images):
        return self.out(self.conv(functional.pad(images, (2, 1, 2, 1))))


def chain(*layers):
    named = {str(index): layer for index, layer in enumerate(layers)}
    return nn.Sequential(OrderedDict(named, out=nn.Identity()))


NETWORKS = {
    "odd": lambda: chain(nn.Conv2d(3, 2, 5, 2, 2), nn.MaxPool2d(3, 2, 1), nn.Conv2d(2, 2, 3)),
    "even": lambda: chain(nn.Conv2d(3, 2, 4, 2, 1), nn.ReLU(), nn.AvgPool2d(2), nn.Conv2d(2, 2, 2)),
    "ceil": lambda: chain(nn.Conv2d(3, 2, 3, 2), nn.MaxPool2d(3, 2, ceil_mode=True)),
    "dilated": lambda: chain(nn.Conv2d(3, 2, 3, 2, 3, dilation=3), nn.MaxPool2d(2, 1, dilation=2)),
    "groups": lambda: chain(nn.Conv2d(3, 6, 3, groups=3), nn.BatchNorm2d(6), nn.ReLU(inplace=True)),
    "branches": Branches,
    "channels_last": ChannelsLast,
    "padded": Padded,
}


def slow_geometry(network, side):
    """Perturbs one image column after the other and sees which cells of the middle row change.

    All weights are positive and the image is positive, so a change can only be an increase.
    """
    network = network.double().eval()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.uniform_(0.1, 1)
        image = torch.rand(1, 3, side, side, dtype=torch.float64)
        batch = image.repeat(side, 1, 1, 1)
        for column in range(side):
            batch[column, :, :, column] += torch.rand(3, side) + 5
        before, after = network(image), network(batch)
    row = before.shape[-2] // 2
    changed = ((after - before).abs() > 1e-12).any(1)[:, row]  # (column, cell)
    cell = before.shape[-1] // 2
    columns = [changed[:, index].nonzero().flatten() for index in (cell, cell + 1)]
    first, last = int(columns[0][0]), int(columns[0][-1])
    stride = int(columns[1][0]) - first
    return LayerGeometry(float(stride), (first + last) / 2 - stride * cell, last - first + 1.0)


@pytest.mark.parametrize("name", NETWORKS)
def test_traced_and_measured_agree_with_perturbed_columns(name):
    network = NETWORKS[name]()
    expected = slow_geometry(network, 40)
    trace = trace_layers(network, (3, 40, 40))["out"]
    assert geometry_of(trace.grid) == expected
    assert measure_geometry(network, ["out"], image_sizes=[40])["out"] == expected


def test_global_gates_are_not_part_of_a_cell():
    grid = trace_layers(Gate(), (3, 16, 16))["out"].grid
    assert geometry_of(grid) == LayerGeometry(1.0, 0.0, 3.0)


@pytest.mark.parametrize("name", NETWORKS)
def test_shapes_are_those_of_a_real_run(name):
    network = NETWORKS[name]().eval()
    trace = trace_layers(network, (3, 41, 38))
    assert trace["out"].shape == (2, *network(torch.zeros(2, 3, 41, 38)).shape[1:])


def test_even_kernels_have_half_pixel_centres():
    assert geometry_of(trace_layers(nn.Conv2d(3, 1, 2, 2), (3, 8, 8))[""].grid) == (2.0, 0.5, 2.0)


def test_a_map_without_cells_has_no_grid():
    network = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2)
    )
    traces = trace_layers(network, (3, 16, 16))
    assert traces["0"].grid is not None
    assert all(traces[name].grid is None for name in ("1", "2", "3"))
    assert traces[""].shape == (2, 2)


def test_adaptive_pooling_into_equal_parts_is_a_pooling():
    network = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.AdaptiveAvgPool2d(4))
    assert geometry_of(trace_layers(network, (3, 16, 16))[""].grid) == LayerGeometry(4.0, 1.5, 6.0)


@pytest.mark.parametrize(
    "layer",
    [nn.Upsample(scale_factor=2, mode="bilinear"), nn.ConvTranspose2d(4, 4, 2, 2)],
    ids=["bilinear", "transposed"],
)
def test_operations_that_are_not_known_are_said_to_be_unknown(layer):
    network = nn.Sequential(nn.Conv2d(3, 4, 5, 4, 2), layer, nn.Conv2d(4, 4, 1))
    traces = trace_layers(network, (3, 32, 32))
    assert isinstance(traces["0"].grid, tuple)
    assert traces["1"].grid == traces["2"].grid == UNKNOWN


def test_a_stride_below_one_pixel_is_measured():
    # Cell i of the larger map reads pixel i // 2, so centres lie at i / 2 - 1/4 on average.
    found = measure_geometry(nn.Sequential(nn.Upsample(scale_factor=2)), ["0"], image_sizes=[64])
    assert found["0"].stride == 0.5
    assert abs(found["0"].offset + 0.25) <= 0.25
    assert found["0"].size == 1.0


def test_unequal_strides_or_axes_have_no_square_geometry():
    uneven = trace_layers(nn.Conv2d(3, 1, (3, 1), (2, 1)), (3, 9, 9))[""].grid
    assert geometry_of(uneven) is None
    oblong = trace_layers(nn.Conv2d(3, 1, (1, 7), padding=(0, 3)), (3, 9, 9))[""].grid
    assert geometry_of(oblong) == LayerGeometry(1.0, 0.0, 7.0)


def test_a_grid_goes_on_from_a_geometry():
    geometry = LayerGeometry(8.0, 3.5, 20.0)
    assert geometry_of(grid_of(geometry)) == geometry
    after = trace_layers(nn.Conv2d(3, 1, 3, padding=1), (3, 9, 9), grid=grid_of(geometry))[""].grid
    assert geometry_of(after) == LayerGeometry(8.0, 3.5, 36.0)


def test_a_layer_that_sees_everything_gets_the_size_of_the_image():
    network = nn.Sequential(nn.Conv2d(3, 2, 3, 2, 1), nn.Conv2d(2, 2, 31, padding=15))
    assert measure_geometry(network, ["1"], image_sizes=[32])["1"] == LayerGeometry(2.0, 0.5, 32.0)


def test_tracing_leaves_no_trace():
    network = chain(nn.Conv2d(3, 2, 3), nn.BatchNorm2d(2), nn.Dropout())
    random_state, statistics = torch.get_rng_state(), network[1].running_mean.clone()
    trace_layers(network, (3, 16, 16))
    measure_geometry(network, ["0"], image_sizes=[16])
    assert torch.equal(torch.get_rng_state(), random_state)
    assert torch.equal(network[1].running_mean, statistics)
    assert network[1].num_batches_tracked == 0
    assert not any(module._forward_hooks for module in network.modules())
    assert all(parameter.device.type == "cpu" for parameter in network.parameters())


def test_tracing_works_inside_inference_mode_and_autocast():
    network = Branches()
    expected = trace_layers(network, (3, 16, 16))
    with torch.inference_mode(), torch.autocast("cpu", dtype=torch.bfloat16):
        assert trace_layers(network, (3, 16, 16)) == expected


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        ("2", r"`layers` must name layers with at least 2x2 cells .* '2' puts out \(1, 2, 1, 1\)"),
        ("1", r"`layers` must name layers that depend on the image, but the gradient of '1'"),
    ],
)
def test_errors(layer, message):
    network = nn.Sequential(nn.Conv2d(3, 2, 3), Constant(), nn.AdaptiveAvgPool2d(1))
    with pytest.raises(ValueError, match=message):
        measure_geometry(network, [layer], image_sizes=[16])


class Constant(nn.Module):
    """Does not use its input."""

    def forward(self, maps):
        return maps * 0


def test_cells_are_stated_traced_or_measured():
    network = small_network()
    images = torch.zeros(1, 3, 64, 64)
    top = network.taps["top"]
    assert cells_of(network, top, images) == network.geometry(top)
    strided = nn.Sequential(nn.Conv2d(3, 4, 5, stride=4, padding=2), nn.ReLU())
    assert cells_of(strided, "1", images) == LayerGeometry(4.0, 0.0, 5.0)

    class Shuffled(nn.Module):
        """With an operation that the recursion does not know."""

        def __init__(self):
            super().__init__()
            self.body, self.copy = strided[0], nn.Identity()

        def forward(self, images):
            maps = self.body(images)
            return self.copy(torch.stack([maps, maps]).mean(0)).mean((-2, -1))

    assert cells_of(Shuffled(), "copy", images) == LayerGeometry(4.0, 0.0, 5.0)
