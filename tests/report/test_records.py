import pytest

from interp_train.report.records import (
    data_name,
    part_groups_of,
    quantities_of,
    read_folder,
    read_run,
)
from tests.report.fake_study import GROUPS, LAYER, drawn_images, write_run, write_study

IMAGES = drawn_images(40)


@pytest.fixture
def run_folder(tmp_path):
    return write_run(tmp_path / "run", "only", 3, 0.8, images=IMAGES)


def test_a_run_folder(run_folder):
    run = read_run(run_folder)
    assert (run.row, run.data, run.seed, run.state) == ("study_only", "creatures", 3, "finished")
    assert list(run.layers) == [LAYER]
    assert set(run.panels) == {"pinned", "heatmaps_grad_cam", f"units_{LAYER}"}
    assert part_groups_of(run.layers[LAYER]) == GROUPS
    assert "epoch" not in run.result
    assert run.problems == ()


def test_curves_hold_the_last_value_of_an_epoch(run_folder):
    with (run_folder / "metrics.csv").open("w") as file:
        file.write("step,epoch,a,b\n1,0,1.5,\n2,0,2.5,7\n3,,9,9\n4,1,,8\n")
    assert read_run(run_folder).curves == {"a": {0: 2.5}, "b": {0: 7.0, 1: 8.0}}


def test_a_folder_that_does_not_exist_is_an_empty_run(tmp_path):
    run = read_run(tmp_path / "nowhere")
    assert run.state == "missing"
    assert not run.result


def test_a_study_reads_its_runs_in_order(tmp_path):
    study = read_folder(write_study(tmp_path, images=IMAGES))
    assert [(run.row, run.seed) for run in study.runs] == [
        ("ordinary", 0), ("ordinary", 1), ("interpretable", 0), ("interpretable", 1),
    ]  # fmt: skip
    assert study.ordinary == "ordinary"
    assert [run.seed for run in study.of("interpretable", "creatures")] == [0, 1]


def test_known_measures_come_first_in_their_order(run_folder):
    run = read_run(run_folder)._replace(
        result={"loss/x": 1.0, "parts/l/location_instability": 1.0, "accuracy/top1": 1.0}
    )
    assert quantities_of([run]) == ["accuracy/top1", "parts/l/location_instability", "loss/x"]


def test_the_data_set_is_named_after_its_module():
    assert data_name({"data": {"_target_": "interp_train.data.cub.CubData"}}) == "cub"
    assert data_name({}) == "data"


def test_a_record_without_peaks_is_no_layer(run_folder):
    import numpy as np

    np.savez(run_folder / "measures" / "other.npz", class_selectivity_scores=np.zeros(3))
    assert list(read_run(run_folder).layers) == [LAYER]
