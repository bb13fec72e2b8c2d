"""The benchmark of capsules compares routings and networks that compute the same."""

import json

import pytest
import torch
from torch import nn

from interp_train import capsule_benchmark
from interp_train.benchmark import BENCHMARKS
from interp_train.capsule_benchmark import (
    ROUTINGS,
    CapsNetStep,
    ConvolutionsStep,
    RoutingSetting,
    RoutingStep,
    benchmark_capsules,
    largest_difference,
    peak_of,
    plain_routing,
)

SMALL = RoutingSetting(number=2, inputs=12, in_atoms=3, outputs=4, out_atoms=5)


def test_plain_routing_is_the_procedure_by_hand():
    """One input capsule, two outputs, two iterations."""
    inputs = torch.tensor([[[2.0]]])
    weights = torch.tensor([[[[1.0], [-0.5]]]])
    votes = torch.tensor([2.0, -1.0])
    first = [0.5 * vote for vote in votes]
    first = [value * abs(value) / (1 + value**2) for value in first]
    shares = (votes * torch.stack(first)).softmax(0)
    sums = shares * votes
    expected = sums * sums.abs() / (1 + sums**2)
    torch.testing.assert_close(plain_routing(inputs, weights, 2).flatten(), expected)


@pytest.mark.parametrize("ending", ["", ", detached"])
def test_both_routings_give_the_same_outputs_and_gradients(ending):
    found, expected = (
        RoutingStep(f"{name}{ending}", SMALL).results() for name in ("ours", "plain")
    )
    assert largest_difference(found, expected) < 1e-5
    full = RoutingStep("plain", SMALL).results()
    assert (largest_difference(expected, full) > 1e-3) == bool(ending)


def test_largest_difference_is_relative_to_the_largest_value():
    found = [torch.tensor([1.0, 2.0]), torch.tensor([10.0, -40.0])]
    expected = [torch.tensor([1.0, 2.0]), torch.tensor([12.0, -40.0])]
    assert largest_difference(found, expected) == pytest.approx(2 / 40)


def test_the_training_step_is_that_of_capsnet_on_mnist():
    step = CapsNetStep(2)
    numbers = sum(parameter.numel() for parameter in step.system.parameters())
    assert numbers == 8_215_568
    before = [parameter.clone() for parameter in step.system.parameters()]
    assert min(step()) > 0
    after = list(step.system.parameters())
    assert not any(torch.equal(a, b) for a, b in zip(before, after, strict=True))
    head = CapsNetStep(2, detach=True).system.network.head
    assert (head.categories.detach, step.system.network.head.categories.detach) == (True, False)
    floor = ConvolutionsStep(step)
    assert min(floor()) > 0
    kept = [(type(m), tuple(m.weight.shape)) for m in floor.network if hasattr(m, "weight")]
    assert kept == [(nn.Conv2d, (256, 1, 9, 9)), (nn.Conv2d, (256, 256, 9, 9))]
    assert floor.direction.shape == (2, 256, 6, 6)


class _Peer:
    def __init__(self, name, folder, number, device):
        if name == "higgsfield":
            raise RuntimeError("not today\nand more")

    def __call__(self):
        return 1e6, 1e6


def test_rows_compare_with_ours(tmp_path, monkeypatch):
    monkeypatch.setattr(capsule_benchmark, "PeerStep", _Peer)
    monkeypatch.setattr(
        capsule_benchmark, "peak_of", lambda name, *rest, **how: 2**20 * (1 + len(name))
    )
    file = tmp_path / "found.json"
    found = benchmark_capsules(
        capsule_images=2, peers=str(tmp_path), repetitions=2, output=str(file)
    )
    peers = ["gram-ai", "adambielski", "XifengGuo"]
    assert [(row["variant"], row["beside"]) for row in found["rows"]] == [
        ("plain", "ours"), ("plain, detached", "ours, detached"), ("plain", "ours, detached"),
        ("ours, detached", "ours"),
        *(
            (name, ours)
            for name in ("its two convolutions", *peers)
            for ours in ("ours", "ours, detached")
        ),
        ("higgsfield", None),
    ]  # fmt: skip
    assert all(row["difference"] < 1e-5 for row in found["rows"][:3])
    assert found["rows"][-1]["note"] == "does not run: RuntimeError: not today"
    assert 0 < found["rows"][4]["time_ratio"] < 1
    assert found["rows"][6]["images_per_second"] == 2e-6
    assert len({tuple(row) for row in found["rows"]}) == 1
    memory = {(row["measured"], row["variant"]): row for row in found["memory"]}
    assert list(memory) == [
        *(("routing", name) for name in ROUTINGS),
        *(("training step", name) for name in ("ours", "ours, detached", *peers)),
    ]
    assert memory["routing", "plain"]["memory_ratio"] == pytest.approx(6 / 5)
    assert json.loads(file.read_text())["setting"]["capsule_images"] == 2
    assert BENCHMARKS["learning/capsules"] is benchmark_capsules


def test_memory_is_that_of_the_steps_of_one_variant():
    setting = RoutingSetting(number=32)
    predictions = 32 * 1152 * 10 * 16 * 4
    plain, ours = (peak_of(name, setting) for name in ("plain", "ours"))
    assert plain > 2 * predictions
    assert 3 * ours < plain


def test_arguments_must_be_in_range(tmp_path):
    with pytest.raises(ValueError, match="`repetitions` must be >= 2, but got 1"):
        benchmark_capsules(repetitions=1)
    with pytest.raises(ValueError, match="`peers` must be a folder with clones named gram-ai"):
        benchmark_capsules(peers=str(tmp_path / "nowhere"))
