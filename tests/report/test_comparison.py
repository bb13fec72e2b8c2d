import math
import random

import pytest
import torch

from interp_train.evaluation.bootstrap import (
    PairedDifference,
    bootstrap_location_instability,
    bootstrap_part_tracking,
)
from interp_train.report.comparison import cell_of, paired_with_ordinary, verdict
from interp_train.report.records import read_folder
from tests.report.fake_study import LAYER, drawn_images, write_study

IMAGES = drawn_images(60)


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    return read_folder(write_study(tmp_path_factory.mktemp("outputs"), images=IMAGES))


def slow_accuracy_interval(pairs, resamples, seed=5):
    """Bootstrap by drawing image numbers one at a time; (difference, low, high)."""
    generator = random.Random(seed)
    number = len(pairs[0][0])

    def score(chosen):
        per_pair = [
            sum(second[i] for i in chosen) / number - sum(first[i] for i in chosen) / number
            for first, second in pairs
        ]
        return sum(per_pair) / len(per_pair)

    draws = sorted(
        score([generator.randrange(number) for _ in range(number)]) for _ in range(resamples)
    )
    whole = score(range(number))
    return whole, draws[int(0.025 * resamples)], draws[int(0.975 * resamples)]


def test_accuracy_agrees_with_a_slow_bootstrap(study):
    found = paired_with_ordinary(study, "creatures", "interpretable")["top1"]
    pairs = []
    for first, second in zip(
        study.of("ordinary", "creatures"), study.of("interpretable", "creatures"), strict=True
    ):
        right = [
            (run.predictions["predictions"] == run.predictions["labels"]).tolist()
            for run in (first, second)
        ]
        pairs.append(right)
    whole, low, high = slow_accuracy_interval(pairs, 2000)
    assert found.difference == pytest.approx(whole, abs=1e-12)
    assert found.low == pytest.approx(low, abs=0.02)
    assert found.high == pytest.approx(high, abs=0.02)


def test_part_measures_agree_with_the_bootstrap_of_the_evaluation(study):
    found = paired_with_ordinary(study, "creatures", "interpretable")
    tables = [
        [run.layers[LAYER].measured_table() for run in study.of(row, "creatures")]
        for row in ("ordinary", "interpretable")
    ]
    tracking = bootstrap_part_tracking(*tables)
    for name in ("mean_r2", "share"):
        assert found[f"part_tracking_{name}"] == pytest.approx(tracking[name], abs=1e-9)
    diagonal = study.runs[0].layers[LAYER].frame.diagonal()
    instability = bootstrap_location_instability(*tables, diagonal=diagonal, parts=(0, 4))
    assert found["location_instability"] == pytest.approx(
        instability["location_instability"], abs=1e-9
    )


def test_scores_on_all_images_are_those_that_were_logged(study):
    found = paired_with_ordinary(study, "creatures", "interpretable")
    for name in ("part_tracking_mean_r2", "part_tracking_share", "location_instability"):
        logged = cell_of(study.of("interpretable", "creatures"), f"parts/{LAYER}/{name}").mean
        assert found[name].second == pytest.approx(logged, abs=1e-6), name


def test_several_categories_are_scored_as_they_were_logged(tmp_path):
    folder = write_study(tmp_path, seeds=(0,), classes=3, images=drawn_images(90, 3))
    study = read_folder(folder)
    found = paired_with_ordinary(study, "creatures", "interpretable")
    for name in ("part_tracking_mean_r2", "location_instability"):
        logged = study.of("interpretable", "creatures")[0].result[f"parts/{LAYER}/{name}"]
        assert found[name].second == pytest.approx(logged, abs=1e-6), name


def test_only_seeds_that_both_rows_have_are_paired(tmp_path):
    folder = write_study(
        tmp_path, missing=[("ordinary", 0)], failed=[("interpretable", 1)], images=IMAGES
    )
    assert paired_with_ordinary(read_folder(folder), "creatures", "interpretable") == {}


def test_runs_on_other_images_are_not_paired(study):
    def shifted(run):
        layer = run.layers[LAYER]
        table = layer.table._replace(sample_ids=layer.table.sample_ids + 1)
        predictions = {**run.predictions, "sample_ids": run.predictions["sample_ids"] + 1}
        return run._replace(layers={LAYER: layer._replace(table=table)}, predictions=predictions)

    runs = tuple(shifted(run) if run.row == "ordinary" else run for run in study.runs)
    assert paired_with_ordinary(study._replace(runs=runs), "creatures", "interpretable") == {}


def test_the_ordinary_row_is_not_compared_with_itself(study):
    assert paired_with_ordinary(study, "creatures", "ordinary") == {}
    assert paired_with_ordinary(study._replace(ordinary=None), "creatures", "interpretable") == {}


def test_cells_leave_out_what_was_not_measured(study):
    runs = study.of("ordinary", "creatures")
    runs = [runs[0]._replace(result={"a": 1.0}), runs[1]._replace(result={"a": 4.0, "b": math.nan})]
    assert cell_of(runs, "a").mean == 2.5
    assert cell_of(runs, "a").deviation == pytest.approx(3 / math.sqrt(2))
    assert cell_of(runs, "b").values == ()
    assert math.isnan(cell_of(runs[:1], "a").deviation)


@pytest.mark.parametrize(
    ("low", "high", "higher", "expected"),
    [(0.1, 0.2, True, "better"), (0.1, 0.2, False, "worse"),
     (-0.1, 0.2, True, "no clear difference"), (-0.2, -0.1, False, "better"),
     (0.0, 0.2, True, "no clear difference")],
)  # fmt: skip
def test_verdicts(low, high, higher, expected):
    assert verdict(PairedDifference(0.0, 0.0, (low + high) / 2, low, high), higher) == expected


def test_tables_of_the_record_are_tensors(study):
    assert isinstance(study.runs[0].layers[LAYER].table.positions, torch.Tensor)
