"""The benchmark of validations measures the same network with and without callbacks."""

import pytest

from interp_train import validation_benchmark
from interp_train.benchmark import BENCHMARKS
from interp_train.data.synthetic import SyntheticData
from interp_train.validation_benchmark import (
    Validation,
    benchmark_validation,
    measured_callbacks,
    network_of_data,
)


@pytest.fixture(scope="module")
def data():
    found = SyntheticData(num_train=1, num_val=40, image_size=64, num_classes=4, batch_size=20)
    found.setup("validate")
    return found


def test_rows_compare_with_the_plain_validation(monkeypatch, data):
    calls = []
    monkeypatch.setattr(
        validation_benchmark, "SyntheticData", lambda **options: calls.append(options) or data
    )
    some = ("plain validation", "part tracking")
    chosen = {name: found for name, found in measured_callbacks().items() if name in some}
    more = {**chosen, "heatmaps": []}
    monkeypatch.setattr(validation_benchmark, "measured_callbacks", lambda: more)
    result = benchmark_validation(
        num_validated=10, repetitions=2, image_size=64, batch_size=5, each_alone=False
    )
    assert calls == [
        {"num_train": 1, "num_val": 10, "image_size": 64, "num_classes": 4, "batch_size": 5}
    ]
    assert [row["variant"] for row in result["rows"]] == list(some)
    assert result["rows"][0]["time_ratio"] == 1.0
    assert BENCHMARKS["callbacks/validation"] is benchmark_validation


def test_the_callbacks_measure_in_every_validation(tmp_path, data):
    system = network_of_data("squeezenet1_0", data)
    everything = measured_callbacks()["dissection, part tracking, heatmaps"]
    validation = Validation(system, data, everything, tmp_path)
    for _ in range(2):
        wall, processor = validation()
        assert wall > 0
        assert processor > 0
    names = " ".join(validation.trainer.callback_metrics)
    assert "/detectors_shuffled_masks" in names
    assert "/part_tracking_mean_r2" in names
    assert len(list((tmp_path / "measures" / "panels").glob("heatmaps_grad_cam.npz"))) == 1


def test_numbers_must_be_in_range():
    with pytest.raises(ValueError, match="`repetitions` must be >= 2, but got 1"):
        benchmark_validation(repetitions=1)
    with pytest.raises(ValueError, match="`num_validated` must be >= 8, but got 3"):
        benchmark_validation(num_validated=3)
