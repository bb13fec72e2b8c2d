import json

import pytest
import torch
import yaml

from interp_train import benchmark
from interp_train.config_places import config_dir

TARGET = "filter_objective/interpretable_filter"


def test_every_preset_of_an_objective_is_measured():
    measured = benchmark.BENCHMARKS[TARGET].args[0]
    assert set(measured) == {
        "exact_mutual_information", "paper_approximation", "released_gradient",
    }  # fmt: skip


def test_a_preset_changes_what_it_inherits_and_nothing_else():
    base = yaml.safe_load((config_dir() / f"{TARGET}.yaml").read_text())
    node = benchmark.objective_node("released_gradient")
    own = yaml.safe_load((config_dir() / "filter_objective/released_gradient.yaml").read_text())
    del own["defaults"]
    assert node == {**base, **own}


def test_an_unknown_objective_is_named():
    with pytest.raises(ValueError, match="`objective` must name an option of filter_objective"):
        benchmark.objective_node("interpretable_filtre")


def test_rounds_take_turns():
    calls = []

    def step(name):
        return lambda: (calls.append(name), 1.0)

    steps = {name: step(name) for name in "abc"}
    found = benchmark.interleaved(steps, 3)
    assert "".join(calls) == "aabbcc" + "abc" + "bca" + "cab"
    assert all(len(times) == 3 for times in found.values())


def test_ratios_of_known_times():
    measured = [(2.0, 3.0), (4.0, 3.0), (6.0, 9.0), (3.0, 6.0)]
    ordinary = [(1.0, 3.0), (2.0, 3.0), (2.0, 3.0), (3.0, 3.0)]
    ratios = benchmark.time_ratios(measured, ordinary)
    assert ratios["seconds"] == 3.5
    assert ratios["time_ratio"] == 2.0
    assert ratios["processor_ratio"] == 1.5
    assert (ratios["time_ratio_low"], ratios["time_ratio_high"]) == (1.25, 2.75)


def test_a_small_benchmark_gives_a_table_and_a_file(tmp_path, monkeypatch):
    monkeypatch.setattr(benchmark, "peak_memory", lambda setting, name: 3 - (name == "none"))
    path = tmp_path / "benchmark.json"
    result = benchmark.BENCHMARKS[TARGET](
        cuts=["layer3"], image_size=32, batch_size=2, repetitions=2, output=str(path)
    )
    assert [row["map"] for row in result["rows"]] == ["2x2"] * 6
    assert [row["cached"] for row in result["rows"]] == [False] * 3 + [True] * 3
    assert all(row["time_ratio"] > 0 and row["memory_ratio"] == 1.5 for row in result["rows"])
    assert json.loads(path.read_text()) == json.loads(json.dumps(result))


def test_a_finer_backbone_is_timed_on_its_finer_map(monkeypatch):
    monkeypatch.setattr(benchmark, "peak_memory", lambda setting, name: 1)
    result = benchmark.BENCHMARKS[TARGET](
        cuts=["layer4"], dilate="layer4", image_size=64, batch_size=2, repetitions=2, cached=False
    )
    assert {row["map"] for row in result["rows"]} == {"4x4"}
    assert result["setting"]["dilate"] == "layer4"


def test_a_step_on_cached_activations_leaves_the_frozen_network_out():
    setting = benchmark.Setting("resnet18", "layer3", 32, 4, 3, "cpu", "float32", cached=True)
    step = benchmark.TrainingStep(setting, "released_gradient")
    assert step.batch.images.numel() == 0
    assert step.batch.prefix_activations.shape == (4, 256, 2, 2)
    frozen = [p.clone() for p in step.system.network.layer3.parameters()]
    head = step.system.network.head
    first = [p.clone() for p in head.parameters()]
    step()
    assert all(map(torch.equal, frozen, step.system.network.layer3.parameters()))
    assert not all(map(torch.equal, first, head.parameters()))
    assert {p.shape[0] for p in head.parameters() if p.dim() == 4} == {96}


def test_the_time_of_several_steps_is_their_mean(monkeypatch):
    monkeypatch.setattr(benchmark, "timed", lambda work, device: (work(), (6.0, 3.0))[1])
    setting = benchmark.Setting("resnet18", "layer3", 32, 4, 3, "cpu", "float32", steps=3)
    step, made = benchmark.TrainingStep(setting, "none"), []
    monkeypatch.setattr(step, "_step", lambda: made.append(1))
    assert step() == (2.0, 1.0)
    assert len(made) == 3


def test_steps_are_as_many_as_the_rarest_objective_needs(monkeypatch):
    settings = []
    monkeypatch.setattr(benchmark, "peak_memory", lambda setting, name: 1)
    monkeypatch.setattr(benchmark, "TrainingStep", lambda s, n: settings.append(s) or Unmeasured())
    setting = benchmark.Setting("resnet18", "layer3", 32, 4, 3, "cpu", "float32")
    benchmark._compare(setting, ["equivariant_parts", "released_gradient"], 2)
    assert {s.steps for s in settings} == {2}


class Unmeasured:
    map_size = (2, 2)

    def __call__(self):
        return 1.0, 1.0


@pytest.mark.slow
def test_memory_is_that_of_the_step_not_of_the_libraries():
    setting = benchmark.Setting("resnet18", "layer1", 64, 4, 3, "cpu", "float32")
    small = benchmark.peak_memory(setting, "none")
    large = benchmark.peak_memory(setting._replace(batch_size=64), "none")
    # 60 more images of 64 channels of 32x32 and, several times, of 16x16 in float32.
    assert large - small > 60 * 64 * (32**2 + 4 * 16**2) * 4


@pytest.mark.slow
def test_a_failing_process_is_reported():
    setting = benchmark.Setting("resnet18", "layer9", 64, 4, 3, "cpu", "float32")
    with pytest.raises(RuntimeError, match="`cut` must name a step of the chain"):
        benchmark.peak_memory(setting, "none")
