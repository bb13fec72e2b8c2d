"""Pictures of a run, what a time budget leaves out, and a run that goes on."""

import logging

import numpy as np
import pytest
import torch

from interp_train.callbacks.dissection import NULLS, PICTURES, RANDOM, Dissection
from interp_train.evaluation.layer_dissection import from_entries
from tests.callbacks.spot_run import SpotSystem, trainer
from tests.callbacks.test_dissection import OPTIONS, ConceptSpots, SpotProbe, logged

FAST = {**OPTIONS, "num_units": 3, "num_images": 2}


@pytest.fixture(scope="module")
def two_epochs(tmp_path_factory):
    """Folder and callback of a run of two epochs, with pictures."""
    folder = tmp_path_factory.mktemp("run")
    torch.manual_seed(0)
    callback = Dissection(["top"], **FAST)
    run = trainer(folder, callbacks=[callback], max_epochs=2)
    run.fit(SpotSystem(), datamodule=ConceptSpots())
    return folder, callback, logged(run)


def test_figures_are_written_at_each_validation(two_epochs):
    folder, _, _ = two_epochs
    names = {path.name for path in (folder / "figures").iterdir()}
    expected = {
        f"dissection_relu_{what}_epoch00{epoch}.png"
        for what in ("detectors", "units")
        for epoch in (0, 1)
    }
    assert expected <= names
    assert "dissection_relu_curves_epoch001.png" in names
    assert "dissection_relu_curves_epoch000.png" not in names  # one point is no curve
    vectors = {f"dissection_relu_{w}.{e}" for w in ("detectors", "curves") for e in ("pdf", "svg")}
    assert vectors <= names


def test_records_hold_what_the_report_draws(two_epochs):
    folder, callback, numbers = two_epochs
    with np.load(folder / "measures" / "relu.npz", allow_pickle=False) as record:
        found = from_entries({name: record[name] for name in record.files})
    assert [row.label for row in found.unit_rows()[:2]] == ["red", "green"]
    assert found.baselines.keys() == {"random_network", "rotated_basis", "shuffled_masks"}
    assert found.numbers == callback.numbers["relu"]
    assert {f"dissection/relu/{name}": v for name, v in found.numbers.items()} == numbers
    with np.load(folder / "measures" / "panels" / "dissection_relu.npz") as record:
        assert record["pictures"].shape == (len(record["units"]), 2, 3, 112, 112)
        assert str(record["captions"][0]).startswith("unit ")
        assert record["epoch"] == 1
        assert set(record["units"].tolist()) >= {0, 1}


def test_a_resumed_run_keeps_curves_and_the_random_network(two_epochs, tmp_path):
    _, callback, numbers = two_epochs
    torch.save(callback.state_dict(), tmp_path / "state.pt")
    state = torch.load(tmp_path / "state.pt", weights_only=True)
    torch.manual_seed(0)
    later = Dissection(["top"], **FAST)
    assert later.state_key == callback.state_key
    assert Dissection(["top"], **{**FAST, "quantiles": (0.1,)}).state_key != callback.state_key
    run = trainer(tmp_path, callbacks=[later])
    system = SpotSystem()
    later.setup(run, system, "validate")  # as Lightning does before it restores callbacks
    later.load_state_dict(state)
    assert later.state_dict() == callback.state_dict()
    run.validate(system, datamodule=ConceptSpots(), verbose=False)
    assert later.history["relu"]["detectors"].keys() == {0, 1}
    assert later._twin_metrics == {}
    name = "dissection/relu/mean_best_iou_random_network"
    assert logged(run)[name] == pytest.approx(numbers[name])
    assert later.budget.costs[RANDOM] == callback.budget.costs[RANDOM]  # not measured again


@pytest.mark.parametrize("options", [{"budget_seconds": 0.0}, {"budget_share": 0.0}])
@pytest.mark.parametrize("source", ["validation", "probe_set"])
def test_without_time_only_the_units_are_counted(tmp_path, caplog, two_epochs, options, source):
    probe = SpotProbe() if source == "probe_set" else None
    results = []
    for more in ({}, options):
        torch.manual_seed(0)
        callback = Dissection(["top"], **FAST, **more, probe_set=probe, save_records=False)
        run = trainer(tmp_path / str(len(results)), callbacks=[callback])
        with caplog.at_level(logging.INFO):
            caplog.clear()
            run.validate(SpotSystem(), datamodule=ConceptSpots(), verbose=False)
        results.append(logged(run))
    everything, short = results
    # How long the first validation will take is not known before its images were seen.
    late = source == "validation" and "budget_share" in options
    left_out = {NULLS, PICTURES} if late else {RANDOM, NULLS, PICTURES}
    assert callback.budget.skipped.keys() == left_out
    ends = ("rotated_basis", "shuffled_masks", "null_p95", "above_null")
    ends = ends if late else (*ends, "random_network")
    assert short == {name: v for name, v in everything.items() if not name.endswith(ends)}
    assert not (tmp_path / "1" / "figures").exists()
    for part in left_out:
        assert f"dissection leaves out {part}, epoch 1: " in caplog.text
    assert "Raise `budget_seconds` or `budget_share`." in caplog.text
    assert callback._twin_measured == late  # otherwise it is tried again


def test_with_time_nothing_is_left_out(tmp_path):
    callback = Dissection(["top"], **FAST, budget_seconds=1000.0, budget_share=1000.0)
    run = trainer(tmp_path, callbacks=[callback])
    run.validate(SpotSystem(), datamodule=ConceptSpots(), verbose=False)
    assert callback.budget.skipped == {}
    assert "dissection/relu/detectors_random_network" in logged(run)
    assert callback.budget.costs.keys() == {RANDOM, NULLS, PICTURES}
