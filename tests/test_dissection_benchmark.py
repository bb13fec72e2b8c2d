"""The benchmark compares procedures that count alike."""

import numpy as np
import pytest
import torch

from interp_train import dissection_benchmark
from interp_train.activations import ActivationTap
from interp_train.backbones.small_cnn import small_cnn
from interp_train.benchmark import BENCHMARKS
from interp_train.dissection_benchmark import (
    ProbeImages,
    block_labels,
    concept_names,
    dissected_pass,
    lite_pass,
    memory_rows,
)
from interp_train.evaluation.dissection import DissectionMetric
from interp_train.receptive_field import upsampled
from interp_train.structures import LayerGeometry


@pytest.fixture(scope="module")
def probe():
    return ProbeImages(num_images=12, image_size=64, batch_size=5, num_concepts=20)


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    return small_cnn(widths=(4, 6, 6, 8), image_size=64).eval().requires_grad_(False)


def test_labels_are_unequal_blocks():
    labels = block_labels(50, 5, torch.Generator().manual_seed(0))
    assert labels.shape == (50, 4, 112, 112)
    assert (
        labels.view(50, 4, 8, 14, 8, 14) == labels[:, :, ::14, ::14].view(50, 4, 8, 1, 8, 1)
    ).all()
    counts = torch.bincount(labels.flatten().long())
    assert len(counts) == 6
    assert 0.2 < counts[0] / counts.sum() < 0.6
    assert counts[1:].min() > 0


def test_the_peer_counts_as_the_metric_does_with_its_rules(probe, network):
    network.resize_classifier(2)
    layer = network.resolve("top")
    found = lite_pass(network, probe, layer)
    with torch.no_grad(), ActivationTap(network, [layer]) as tap:
        network(probe.images)
        maps = tap.take()[layer]
    cells, size = maps.shape[-1], 112
    stride = size / cells  # cells tile the map: what an image library takes for granted
    tiled = LayerGeometry(stride, (stride - 1) / 2, stride)
    fields = upsampled(maps, (size, size), tiled)
    values = np.sort(maps.transpose(0, 1).flatten(1).double().numpy(), 1)
    levels = torch.from_numpy(values[:, int(0.995 * (values.shape[1] - 1))]).float()
    active = fields > levels[:, None, None]
    for unit in range(0, maps.shape[1], 3):
        for category in range(4):
            labels = probe.labels[:, category]
            met = (active[:, unit] & (labels > 0)).flatten(1).any(1)
            for concept in range(5):
                here = labels == concept + 1
                both = int((active[:, unit] & here).sum())
                union = int(active[met, unit].sum()) + int(here.sum()) - both
                assert found[unit, 5 * category + concept] == pytest.approx(
                    both / max(union, 1), abs=2e-3
                )


def test_passes_agree(probe, network):
    network.resize_classifier(2)
    layer = network.resolve("top")
    options = {"names": concept_names(20), "shuffled_masks": False}
    once = dissected_pass(network, probe, [layer], **options)
    twice = dissected_pass(network, probe, [layer], cache_bytes=0, **options)
    assert once == twice
    assert isinstance(once[layer]["detectors"], torch.Tensor)


def test_the_target_gives_rows_and_a_file(monkeypatch, tmp_path):
    monkeypatch.setattr(dissection_benchmark, "peak_of", lambda number: 2**20 * (100 + number))
    result = BENCHMARKS["callbacks/dissection"](
        image_size=64, batch_size=4, repetitions=2, num_images=6, memory_images=(0, 5),
        output=str(tmp_path / "b.json"),
    )  # fmt: skip
    names = [row["variant"] for row in result["rows"]]
    assert names[0] == "plain forward pass"
    assert any(name.startswith("NetDissect-Lite") for name in names)
    assert result["rows"][0]["time_ratio"] == 1
    assert [row["ratio_to_first"] for row in result["memory"]] == [1, 1.05]
    assert (tmp_path / "b.json").exists()


@pytest.mark.slow
def test_memory_does_not_grow_with_the_images():
    first, second = memory_rows([500, 2000])
    assert first["peak_mib"] > 50
    assert second["ratio_to_first"] < 1.05


def test_a_metric_in_two_passes_keeps_no_maps(probe):
    metric = DissectionMetric(None, concept_names(20), cache_bytes=0, num_images=12,
                              shuffled_masks=False)  # fmt: skip
    for batch in probe.batches():
        metric.update(torch.rand(len(batch.images), 3, 8, 8), batch)
    assert metric._passes._kept is None
