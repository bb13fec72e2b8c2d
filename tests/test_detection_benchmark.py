"""The benchmark of the And-Or head measures what it says."""

import json

import torch

from interp_train.benchmark import BENCHMARKS
from interp_train.detection_benchmark import (
    VARIANTS,
    HeadSetting,
    HeadStep,
    benchmark_detector,
    head_memory,
)

SMALL = HeadSetting(num_boxes=4, channels=4, num_categories=3, device="cpu")


def test_variants_are_the_heads_in_their_stages():
    steps = {name: HeadStep(name, SMALL) for name in VARIANTS}
    kinds = {name: type(step.network[0]).__name__ for name, step in steps.items()}
    assert kinds == {
        "two_layer": "TwoMLPHead", "folding": "AndOrHead", "smooth": "AndOrHead",
        "unfolding": "AndOrHead", "position_sensitive_folding": "PositionSensitiveHead",
        "position_sensitive_unfolding": "PositionSensitiveHead",
    }  # fmt: skip
    assert steps["folding"].network[0].sharpness == 0
    assert steps["unfolding"].network[0].sharpness == float("inf")
    for step in steps.values():
        wall, processor = step()
        assert wall > 0
        assert processor >= 0
        assert bool(step.features.grad.any())


def test_rows_compare_each_stage_with_two_layers(tmp_path, monkeypatch):
    monkeypatch.setattr("interp_train.detection_benchmark.head_memory", lambda name, setting: 2**20)
    file = tmp_path / "found.json"
    found = benchmark_detector(
        image_size=64, num_boxes=4, box_channels=4, box_categories=(2,), repetitions=2,
        output=str(file),
    )  # fmt: skip
    assert [(row["measured"], row["head"]) for row in found["rows"]] == [
        (part, head) for part in ("head", "training step") for head in list(VARIANTS)[1:]
    ]
    assert all(row["time_ratio"] > 0 for row in found["rows"])
    assert [row["more_than_two_layer_mib"] for row in found["memory"]] == [0] * len(VARIANTS)
    assert json.loads(file.read_text())["setting"]["torch"] == torch.__version__
    assert BENCHMARKS["learning/interpretable_rcnn"] is benchmark_detector


def test_memory_is_measured_in_a_process_of_its_own():
    large = SMALL._replace(num_boxes=64, channels=64)
    assert head_memory("two_layer", large) > 64 * 64 * 49 * 4
