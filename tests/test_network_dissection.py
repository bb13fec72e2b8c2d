"""Dissection outside of a run: any network, any probe set, nothing left behind."""

import copy

import pytest
import torch
from torch import nn

import interp_train
from interp_train.backbones.backbone import Backbone
from interp_train.callbacks.random_network import reinitialised
from interp_train.evaluation.dissection import DissectionMetric
from interp_train.network_dissection import dissect
from interp_train.structures import LayerGeometry
from interp_train.terminal_progress import shown_progress
from tests.callbacks.spot_run import spots
from tests.callbacks.test_dissection import NAMES, SpotProbe, as_concept_batch

OPTIONS = {"quantiles": (0.03,), "device": "cpu", "picture_size": 24, "num_images": 3}


def network():
    """Two units that see red and green, two that were drawn at random."""
    torch.manual_seed(0)
    steps = [nn.Conv2d(3, 4, 4, stride=4), nn.ReLU(), nn.Flatten(), nn.Dropout(0.5)]
    found = nn.Sequential(*steps, nn.Linear(4 * 12 * 12, 2))
    with torch.no_grad():
        for unit in range(2):
            found[0].weight[unit], found[0].bias[unit] = 0.0, 0.0
            found[0].weight[unit, unit] = 1 / 16
    return found


def expected(net, layer, geometry, **options):
    """The same by hand: all images at once."""
    batch = as_concept_batch(spots(41))
    maps = nn.Sequential(*list(net)[: int(layer) + 1])(batch.images).detach()
    metric = DissectionMetric(geometry, NAMES, quantiles=(0.03,), **options)
    metric.update(maps, batch)
    return {name: float(value) for name, value in metric.compute().items()}, metric.result


def test_a_foreign_network_is_dissected_and_left_alone():
    net = network().train()
    net[3].eval()
    before, state = copy.deepcopy(net.state_dict()), torch.random.get_rng_state()
    found = interp_train.dissect(net, SpotProbe(), ["1"], **OPTIONS)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())
    assert [module.training for module in net] == [True, True, True, False, True]
    assert not any(module._forward_hooks for module in net)
    layer = found.layers["1"]
    assert [row.label for row in layer.unit_rows()[:2]] == ["red", "green"]
    numbers, result = expected(net, "1", LayerGeometry(4.0, 1.5, 4.0))
    own = {k: v for k, v in layer.numbers.items() if not k.endswith("random_network")}
    assert own == pytest.approx(numbers)
    assert torch.equal(layer.result.iou, result.iou)
    twin, twin_result = expected(reinitialised(net), "1", LayerGeometry(4.0, 1.5, 4.0))
    assert layer.baselines["random_network"]["detectors"] == twin["detectors"]
    assert layer.numbers["mean_best_iou_random_network"] == pytest.approx(twin["mean_best_iou"])
    assert found.numbers["dissection/1/detectors"] == numbers["detectors"]
    assert found.num_images == 41
    panel = found.panels["1"]
    assert panel.pictures.shape == (len(panel.units), 3, 3, 24, 24)


def test_layers_come_in_the_order_of_the_network_and_by_alias():
    chain = dict(network().named_children())
    classifier = nn.Sequential(chain.pop("2"), chain.pop("3"), chain.pop("4"))
    net = Backbone(chain, taps={"top": "1"}, classifier=classifier, image_size=48)
    found = dissect(net, SpotProbe(9), ["top", "0", "1"], num_units=0, **OPTIONS)
    assert list(found.layers) == ["0", "1"]
    assert found.panels == {}
    headless = Backbone(dict(list(network().named_children())[:2]), image_size=48)
    alone = dissect(headless, SpotProbe(9), ["1"], num_units=0, **OPTIONS)
    assert alone.layers["1"].numbers == found.layers["1"].numbers


def test_two_passes_equal_one():
    options = {**OPTIONS, "shuffled_masks": False}
    once = dissect(network(), SpotProbe(), ["1"], **options)
    twice = dissect(network(), SpotProbe(), ["1"], cache_bytes=1000, **options)
    assert once.numbers == twice.numbers
    assert torch.equal(once.panels["1"].pictures, twice.panels["1"].pictures)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"layers": ["7"]}, "`layer` must name a module of the network, but got '7'"),
        ({"layers": "1"}, "`layers` must be a list of names, but got '1'"),
        ({"layers": ()}, "`layers` must be a list of names"),
        ({"num_images": 0}, "`num_images` must be"),
        ({"quantiles": (2,)}, "`quantiles` must be shares"),
        ({"probe_set": SpotProbe(0)}, "`probe_set` must hold at least one image"),
    ],
)
def test_bad_input_is_named(arguments, message):
    arguments = {"probe_set": SpotProbe(9), "layers": ["1"], **arguments}
    with pytest.raises(ValueError, match=message):
        dissect(network(), **arguments)
    with pytest.raises(FileNotFoundError, match="checkpoint"):
        dissect("nowhere", SpotProbe(9))


def test_long_loops_speak(capsys):
    found = list(shown_progress(range(3), "images", 3, seconds_between_lines=0.0))
    assert found == [0, 1, 2]
    lines = capsys.readouterr().err.splitlines()
    assert [line.split(",")[0] for line in lines] == ["images: 1/3", "images: 2/3"]


def test_units_are_labelled_with_formulas_beside_the_masks_of_other_images(tmp_path):
    found = dissect(network(), SpotProbe(), ["1"], formula_length=2, **OPTIONS)
    formulas = found.formulas["1"]
    assert [row.unit for row in formulas.rows] == [0, 1, 2, 3]
    for row, unit in zip(formulas.rows, found.layers["1"].unit_rows(), strict=True):
        assert row.iou >= row.concept_iou
        assert row.concept_iou == pytest.approx(unit.iou, abs=0.15)  # "all" images, not "paper"
    assert [row.concept for row in formulas.rows[:2]] == ["red", "green"]
    assert formulas.numbers["mean_best_iou"] > 2 * formulas.shuffled_masks["mean_best_iou"]
    found.write(tmp_path)
    lines = (tmp_path / "formulas.csv").read_text().splitlines()
    assert lines[0] == "layer,unit,formula,iou,concept,concept_iou"
    assert len(lines) == 5
    assert not dissect(network(), SpotProbe(), ["1"], **OPTIONS).formulas
