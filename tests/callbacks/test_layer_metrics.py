import json

import lightning.pytorch as lightning
import numpy as np
import pytest
import torch
import torch.distributed
from lightning.pytorch.callbacks import ModelCheckpoint

from interp_train.callbacks.class_selectivity import ClassSelectivity
from interp_train.callbacks.filter_deletion import FilterDeletion
from interp_train.callbacks.layer_metrics import found_geometries, measures_now, resolved_layer
from interp_train.callbacks.layer_records import read_table
from interp_train.callbacks.location_instability import LocationInstability
from interp_train.callbacks.mutual_information_score import MutualInformationScore
from interp_train.callbacks.part_interpretability import PartInterpretability
from interp_train.callbacks.part_tracking import PartTracking
from interp_train.callbacks.peak_consistency import PeakConsistency
from interp_train.callbacks.region_consistency import RegionConsistency
from interp_train.evaluation.part_tracking import PartTrackingMetric
from interp_train.stopwatch import stopwatch_of
from interp_train.structures import ImageBatch, LayerGeometry
from tests.callbacks.spot_run import (
    INFO,
    ForeignModule,
    SpotData,
    SpotSystem,
    as_part_batch,
    loader,
    spots,
    trainer,
)

CALLBACKS = [
    PartTracking, LocationInstability, PartInterpretability, ClassSelectivity, PeakConsistency,
    RegionConsistency, MutualInformationScore, FilterDeletion,
]  # fmt: skip
GEOMETRY = LayerGeometry(4.0, 1.5, 4.0)  # cells of 4 x 4 pixels


def foreign_loaders():
    return {
        "train_dataloaders": loader(spots(14, seed=1)),
        "val_dataloaders": loader(spots(41)),
    }


def parts_of(run):
    """What was logged under ``parts/``, as floats."""
    logged = run.callback_metrics.items()
    return {name: float(value) for name, value in logged if name.startswith("parts/")}


@pytest.mark.parametrize("kind", CALLBACKS)
def test_systems_and_foreign_modules_are_measured_alike(tmp_path, kind):
    """The same weights, once as a learning system and once as anybody's module."""
    torch.manual_seed(0)
    system = SpotSystem()
    state = {name: value.clone() for name, value in system.network.state_dict().items()}
    ours = trainer(tmp_path, callbacks=[kind(["top"], random_network=False)])
    ours.fit(system, datamodule=SpotData())
    module = ForeignModule()
    module.model.load_state_dict(
        {name: value for name, value in state.items() if "linear" not in name}
    )
    linear = {k.rpartition(".")[2]: value for k, value in state.items() if "linear" in k}
    module.head.load_state_dict(linear)
    callback = kind(["relu"], random_network=False, to_batch=as_part_batch, data_info=INFO)
    theirs = trainer(tmp_path, callbacks=[callback])
    theirs.fit(module, **foreign_loaders())
    expected = {name.replace("parts/relu/", ""): value for name, value in parts_of(ours).items()}
    found = {name.replace("parts/model.relu/", ""): v for name, v in parts_of(theirs).items()}
    assert found == expected
    assert expected
    assert stopwatch_of(theirs).seconds[callback.name] > 0
    assert not any(m._forward_hooks for m in module.modules())
    again = trainer(tmp_path, callbacks=[kind(["relu"], random_network=False)])
    again.validate(system, datamodule=SpotData(), verbose=False)
    assert parts_of(again) == parts_of(ours)


def test_known_filters_get_their_scores(tmp_path):
    callback = PartTracking(["relu"], to_batch=as_part_batch, data_info=INFO, by_category=False)
    run = trainer(tmp_path, callbacks=[callback])
    run.fit(ForeignModule(), **foreign_loaders())
    found = parts_of(run)
    # Rounding to cells of 4 pixels, landmarks spread over 32: 1 - 4^2 / 32^2.
    for name in ("best_red", "best_green", "mean_r2_oracle"):
        assert found[f"parts/model.relu/part_tracking_{name}"] == pytest.approx(
            1 - 1 / 64, abs=0.01
        )
    assert found["parts/model.relu/part_tracking_distinct_parts"] == 2
    assert callback.metrics["model.relu"].result.parts[:2].tolist() == [0, 1]


def test_metrics_work_in_a_plain_loop(tmp_path):
    module = ForeignModule()
    metric = PartTrackingMetric(GEOMETRY, INFO)
    for batch in loader(spots(41)):
        metric.update(module.model(batch.pixels), as_part_batch(batch))
    callback = PartTracking(["relu"], random_network=False, to_batch=as_part_batch, data_info=INFO)
    run = trainer(tmp_path, callbacks=[callback])
    run.validate(module, loader(spots(41)), verbose=False)
    for name, value in metric.compute().items():
        assert parts_of(run)[f"parts/model.relu/{name}"] == pytest.approx(float(value), abs=1e-6)


def test_a_checkpoint_can_follow_a_measure(tmp_path):
    follower = ModelCheckpoint(
        tmp_path / "checkpoints", monitor="parts/relu/part_tracking_mean_r2", mode="max"
    )
    run = trainer(
        tmp_path,
        callbacks=[follower, PartTracking(["top"], random_network=False)],
        enable_checkpointing=True,
    )
    run.fit(SpotSystem(), datamodule=SpotData())
    assert float(follower.best_model_score) == parts_of(run)["parts/relu/part_tracking_mean_r2"]


class Recorder(lightning.Callback):
    """What was logged after each validation."""

    def __init__(self):
        self.epochs = []

    def on_validation_end(self, trainer, pl_module):
        if not trainer.sanity_checking:
            self.epochs.append(parts_of(trainer))


def test_epochs_are_chosen_and_the_last_is_always_measured(tmp_path):
    callback, measured = PartTracking(["top"], every_n_epochs=2, random_network=False), []
    conclude = callback._conclude
    callback._conclude = lambda run, *rest: (
        measured.append((run.sanity_checking, run.current_epoch)),
        conclude(run, *rest),
    )
    run = trainer(tmp_path, callbacks=[callback], max_epochs=4)
    run.fit(SpotSystem(), datamodule=SpotData())
    assert measured == [(False, 0), (False, 2), (False, 3)]


@pytest.mark.parametrize(
    ("validated", "every", "expected"),
    [(2, 2, [1, 3, 5, 7]), (2, 4, [1, 5, 7]), (3, 2, [2, 5, 8]), (1, 3, [0, 3, 6, 8])],
)
def test_the_turn_is_counted_from_the_first_validation(tmp_path, validated, every, expected):
    measured, epochs = [], 9 if expected[-1] == 8 else 8

    class Asked(lightning.Callback):
        def on_validation_epoch_start(self, trainer, pl_module):
            if measures_now(trainer, every):
                measured.append(trainer.current_epoch)

    run = trainer(
        tmp_path, callbacks=[Asked()], max_epochs=epochs, check_val_every_n_epoch=validated
    )
    run.fit(SpotSystem(), datamodule=SpotData())
    assert measured == expected


def test_the_random_network_is_measured_once_and_shared(tmp_path):
    module, recorder = ForeignModule(), Recorder()
    tracking = PartTracking(["relu"], to_batch=as_part_batch, data_info=INFO)
    others = [
        kind(["relu"], to_batch=as_part_batch, data_info=INFO)
        for kind in (LocationInstability, ClassSelectivity)
    ]
    calls = []
    forward = ForeignModule.forward

    def counted(self, images):
        if self is not module:
            calls.append(len(images))
        return forward(self, images)

    before = [p.clone() for p in module.model.parameters()]
    ForeignModule.forward = counted
    try:
        torch.manual_seed(3)
        run = trainer(tmp_path, callbacks=[tracking, *others, recorder])
        run.fit(module, **foreign_loaders())
    finally:
        ForeignModule.forward = forward
    assert sum(calls) == 41  # one pass over the validation images, for three callbacks
    first, second = recorder.epochs
    random = {name for name in first if name.endswith("_random_network")}
    assert random == {
        f"parts/model.relu/{name}_random_network"
        for callback in (tracking, *others)
        for name in callback.headlines
    }
    assert all(first[name] == second[name] for name in random)
    name = "parts/model.relu/part_tracking_mean_r2"
    assert first[name] != first[f"{name}_random_network"]
    assert all(torch.equal(a, b) for a, b in zip(before, module.model.parameters(), strict=True))


def test_measuring_leaves_training_as_it_is(tmp_path):
    def trained(callbacks):
        torch.manual_seed(0)
        module = ForeignModule()
        trainer(tmp_path, callbacks=callbacks).fit(module, **foreign_loaders())
        return module.state_dict(), torch.rand(3)

    everything = [kind(["relu"], to_batch=as_part_batch, data_info=INFO) for kind in CALLBACKS]
    (first, draw), (second, other_draw) = trained([]), trained(everything)
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert torch.equal(draw, other_draw)


def without_parts(batch):
    return ImageBatch(*as_part_batch(batch)[:5])


def test_what_is_missing_is_said_once_and_nothing_is_logged(tmp_path, caplog):
    caplog.set_level("INFO")
    callbacks = [
        kind(["relu"], to_batch=without_parts, data_info=INFO, save_records=True)
        for kind in CALLBACKS
    ]
    run = trainer(tmp_path, callbacks=callbacks)
    run.fit(ForeignModule(), **foreign_loaders())
    lacking = {
        "part_tracking": "part_locations",
        "location_instability": "part_locations",
        "part_interpretability": "part_masks or part_boxes",
        "region_consistency": "part_locations",
    }
    messages = [record.getMessage() for record in caplog.records]
    for callback in callbacks:
        text = f"{callback.name} needs {lacking.get(callback.name)}; this data set has none"
        assert sum(text in message for message in messages) == (callback.name in lacking)
        assert bool(callback.missing) == (callback.name in lacking)
    written = json.loads((tmp_path / "measures" / "missing.json").read_text("utf-8"))
    assert written["part_tracking"] == {
        "model.relu": "part_tracking needs part_locations; this data set has none, so it is not "
        "measured."
    }
    assert set(written) == set(lacking)
    measured = {name.split("/")[-1].split("_")[0] for name in parts_of(run)}
    assert measured == {"class", "peak", "mutual", "filter"}


def test_records_hold_the_table_and_the_filters(tmp_path):
    callbacks = [kind(["top"], save_records=True) for kind in CALLBACKS]
    run = trainer(tmp_path, callbacks=callbacks)
    run.fit(SpotSystem(), datamodule=SpotData())
    path = tmp_path / "measures" / "relu.npz"
    table, frame = read_table(path)
    assert frame.geometry == GEOMETRY
    assert (frame.height, frame.width, frame.image_height, frame.image_width) == (12, 12, 48, 48)
    latest = callbacks[0].metrics["relu"].latest
    assert all(torch.equal(a, b) for a, b in zip(table, latest, strict=True))
    with np.load(path, allow_pickle=False) as record:
        assert record["part_names"].tolist() == ["red", "green"]
        assert json.loads(str(record["part_groups"])) == {"red": [0], "green": [1]}
        assert record["part_tracking_parts"].shape == (4,)
        assert int(record["part_tracking_epoch"]) == 1
        for callback in callbacks:
            numbers = json.loads(str(record[f"{callback.name}_numbers"]))
            assert numbers
            for name, value in numbers.items():
                assert parts_of(run)[f"parts/relu/{name}"] == pytest.approx(value, abs=1e-6)
    assert sorted(p.name for p in path.parent.iterdir()) == ["missing.json", "relu.npz"]
    np.savez(tmp_path / "other.npz", labels=np.zeros(3))
    with pytest.raises(ValueError, match="must be a record with a table of peaks"):
        read_table(tmp_path / "other.npz")


def test_wrong_names_fail_before_anything_is_computed(tmp_path):
    run = trainer(tmp_path, callbacks=[PartTracking(["layer4"])])
    with pytest.raises(ValueError, match="`layer` must name an alias .* but got 'layer4'"):
        run.fit(SpotSystem(), datamodule=SpotData())
    run = trainer(tmp_path, callbacks=[PartTracking(["rellu"])])
    with pytest.raises(ValueError, match="Closest names: 'model.relu'"):
        run.fit(ForeignModule(), **foreign_loaders())
    with pytest.raises(ValueError, match="`layers` must be a list of names, but got 'layer4'"):
        PartTracking("layer4")
    with pytest.raises(ValueError, match="`every_n_epochs` must be >= 1"):
        PartTracking(["layer4"], every_n_epochs=0)
    nested = torch.nn.ModuleDict({"a": ForeignModule(), "b": ForeignModule()})
    with pytest.raises(ValueError, match=r"one module of the network, .* 'a\.model\.relu'"):
        resolved_layer(nested, "relu")


def test_foreign_batches_need_a_translation(tmp_path):
    run = trainer(tmp_path, callbacks=[PartTracking(["relu"])])
    with pytest.raises(ValueError, match="`to_batch` must give an ImageBatch or a PartBatch, but"):
        run.validate(ForeignModule(), loader(spots(7)), verbose=False)


class Skipping(ForeignModule):
    """Has a layer that validation never calls."""

    def __init__(self):
        super().__init__()
        self.spare = torch.nn.ReLU()


def test_a_layer_that_is_never_called_is_named(tmp_path):
    module = Skipping()
    callback = PartTracking(["spare"], random_network=False, to_batch=as_part_batch)
    with pytest.raises(ValueError, match="a layer that the validation step calls, but got 'spare'"):
        trainer(tmp_path, callbacks=[callback]).validate(module, loader(spots(7)), verbose=False)
    assert not any(m._forward_hooks for m in module.modules())


def test_geometries_of_foreign_modules_are_followed():
    images = torch.zeros(1, 3, 48, 48)
    assert found_geometries(ForeignModule(), ["model.relu"], images) == {"model.relu": GEOMETRY}
    assert found_geometries(ForeignModule(), ["head"], images) == {}

    class Untraceable(ForeignModule):
        def forward(self, images):
            return super().forward(images * float(images.sum()))

    assert found_geometries(Untraceable(), ["model.relu"], images) == {}


def measured_by(folder, count):
    """Validation of the same weights by however many processes there are."""
    torch.manual_seed(0)
    callbacks = [kind(["top"], save_records=True) for kind in CALLBACKS]
    world = torch.distributed.get_world_size() if torch.distributed.is_initialized() else 1
    more = {"strategy": "ddp", "devices": 2} if world > 1 else {}
    run = trainer(folder, callbacks=callbacks, **more)
    run.validate(SpotSystem(), datamodule=SpotData(count, batch_size=4), verbose=False)
    return parts_of(run)


@pytest.mark.parametrize("count", [41, 5])
def test_two_processes_log_what_one_logs(two_processes, tmp_path, count):
    expected = measured_by(tmp_path / "one", count)
    for found in two_processes(measured_by, tmp_path / "two", count):
        assert found.keys() == expected.keys()
        for name, value in found.items():
            assert value == pytest.approx(expected[name], abs=1e-6), name
    assert len(expected) > 30
    if count == 41:
        one, _ = read_table(tmp_path / "one" / "measures" / "relu.npz")
        two, _ = read_table(tmp_path / "two" / "measures" / "relu.npz")
        assert all(torch.equal(a, b) for a, b in zip(one, two, strict=True))
