"""Red and green spots, and units that see them: dissection in validation, on any module."""

import json

import numpy as np
import pytest
import torch
import torch.distributed

from interp_train.callbacks.dissection import Dissection, ProbeSet
from interp_train.callbacks.random_network import activations_of
from interp_train.data.synthetic import SyntheticData
from interp_train.evaluation.dissection import DissectionMetric
from interp_train.structures import ConceptBatch, LayerGeometry
from tests.callbacks.spot_run import (
    SIZE,
    ForeignModule,
    SpotData,
    SpotSystem,
    loader,
    spots,
    trainer,
)

NAMES = {"spot": ("red", "green"), "side": ("left", "right")}
OPTIONS = {"quantiles": (0.03,), "concept_names": NAMES}
GEOMETRY = LayerGeometry(4.0, 1.5, 4.0)


def concept_maps(batch):
    """Disks of 5 pixels around the landmarks, and the side of the red one for the whole image."""
    y, x = torch.arange(SIZE)[:, None], torch.arange(SIZE)
    maps = torch.zeros(len(batch.target), 2, SIZE, SIZE, dtype=torch.long)
    for part in (1, 0):
        a, b = batch.landmarks[:, part, :, None, None].unbind(1)
        maps[:, 0][(x - a) ** 2 + (y - b) ** 2 <= 25] = 1 + part
    maps[:, 1] = (1 + batch.target)[:, None, None]
    return maps


def as_concept_batch(batch):
    return ConceptBatch(batch.pixels, batch.target, batch.number, concept_maps(batch))


class ConceptSpots(SpotData):
    """Spots whose data module knows their concepts."""

    concept_names = NAMES

    def concept_maps(self, sample_ids):
        everything = spots(self.count)
        return concept_maps(type(everything)(*(f[(sample_ids - 1) // 3] for f in everything)))


class SpotProbe:
    """A probe set of its own."""

    concept_names = NAMES

    def __init__(self, count=41):
        self.count = count

    def concept_dataloader(self):
        return loader(as_concept_batch(spots(self.count)), batch_size=5)


def logged(run):
    found = run.callback_metrics.items()
    return {name: float(value) for name, value in found if name.startswith("dissection/")}


def expected_numbers(network, count=41, **options):
    batch = as_concept_batch(spots(count))
    maps = activations_of(network, ["relu"], batch.images)["relu"]
    metric = DissectionMetric(GEOMETRY, NAMES, quantiles=(0.03,), **options)
    metric.update(maps, batch)
    return {name: float(value) for name, value in metric.compute().items()}


def test_known_units_are_labelled(tmp_path):
    system = SpotSystem()
    callback = Dissection(["top"], **OPTIONS, save_records=True)
    run = trainer(tmp_path, callbacks=[callback])
    run.fit(system, datamodule=ConceptSpots())
    found = logged(run)
    labels = callback.metrics["relu"].result.labels()
    assert labels.concepts[:2].tolist() == [0, 1]
    assert labels.scores[:2].min() > 0.6
    assert found["dissection/relu/unique_spot"] == 2
    assert found["dissection/relu/detectors_above_null"] >= 2
    name = "dissection/relu/mean_best_iou"
    assert found[f"{name}_shuffled_masks"] < found[name] / 2
    assert {f"{name}_random_network", f"{name}_rotated_basis"} <= found.keys()
    own = {n: v for n, v in found.items() if not n.endswith("random_network")}
    expected = expected_numbers(system.network)
    assert own == pytest.approx({f"dissection/relu/{n}": v for n, v in expected.items()})
    with np.load(tmp_path / "measures" / "relu.npz", allow_pickle=False) as record:
        assert record["dissection_iou"].shape == (4, 1, 4)
        assert record["dissection_concept_names"].tolist() == ["red", "green", "left", "right"]
        assert (
            json.loads(str(record["dissection_numbers"]))["detectors"]
            == own["dissection/relu/detectors"]
        )


@pytest.mark.parametrize("way", ["to_batch", "probe_set"])
def test_foreign_modules_are_measured_alike(tmp_path, way):
    torch.manual_seed(0)
    system = SpotSystem()
    ours = trainer(tmp_path, callbacks=[Dissection(["top"], **OPTIONS, random_network=False)])
    ours.validate(system, datamodule=ConceptSpots(), verbose=False)
    module = ForeignModule()
    module.model.load_state_dict(
        {name: value for name, value in system.network.state_dict().items() if "linear" not in name}
    )
    source = {"to_batch": as_concept_batch} if way == "to_batch" else {"probe_set": SpotProbe()}
    if way == "probe_set":
        source["to_batch"] = lambda batch: (
            batch if isinstance(batch, ConceptBatch) else as_concept_batch(batch)
        )
    callback = Dissection(["relu"], **OPTIONS, **source, random_network=False)
    theirs = trainer(tmp_path, callbacks=[callback])
    count = 41 if way == "to_batch" else 9  # the probe set does not depend on it
    theirs.validate(module, loader(spots(count)), verbose=False)
    found = {name.replace("model.relu", "relu"): value for name, value in logged(theirs).items()}
    assert found == logged(ours)
    assert found
    assert not any(m._forward_hooks for m in module.modules())


def test_one_forward_pass_serves_and_large_maps_cost_a_second(tmp_path):
    calls = []
    forward = ForeignModule.forward

    def counted(self, images):
        calls.append(len(images))
        return forward(self, images)

    ForeignModule.forward = counted
    results = []
    try:
        for cache_bytes in (2**30, 1000):
            calls.clear()
            torch.manual_seed(0)
            callback = Dissection(
                ["relu"], **OPTIONS, to_batch=as_concept_batch, random_network=False,
                shuffled_masks=False, cache_bytes=cache_bytes, geometry={"model.relu": GEOMETRY},
                num_units=0,
            )  # fmt: skip
            run = trainer(tmp_path, callbacks=[callback], limit_val_batches=4)
            run.validate(ForeignModule(), loader(spots(41)), verbose=False)
            results.append((logged(run), list(calls)))
    finally:
        ForeignModule.forward = forward
    (once, first), (twice, second) = results
    assert first == [7] * 4
    assert second == [7] * 8
    assert once == twice
    assert once


def test_random_network_needs_two_passes_too(tmp_path):
    results = []
    for cache_bytes in (2**30, 1000):
        torch.manual_seed(0)
        callback = Dissection(
            ["top"], **OPTIONS, shuffled_masks=False, rotated_basis=False, cache_bytes=cache_bytes
        )
        run = trainer(tmp_path, callbacks=[callback])
        run.validate(SpotSystem(), datamodule=ConceptSpots(), verbose=False)
        results.append(logged(run))
    assert results[0] == results[1]
    assert any(name.endswith("detectors_random_network") for name in results[0])


def test_measuring_leaves_training_as_it_is(tmp_path):
    def trained(callbacks):
        torch.manual_seed(0)
        system = SpotSystem()
        trainer(tmp_path, callbacks=callbacks).fit(system, datamodule=ConceptSpots())
        return system.state_dict(), torch.rand(3)

    callbacks = [Dissection(["top"], **OPTIONS), Dissection(["top"], probe_set=SpotProbe(9))]
    (first, draw), (second, other_draw) = trained([]), trained(callbacks)
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert torch.equal(draw, other_draw)


def test_the_synthetic_creatures_carry_their_concepts(tmp_path):
    data = SyntheticData(num_train=4, num_val=12, image_size=SIZE, batch_size=5)
    data.setup("validate")
    callback = Dissection(["relu"], random_network=False, least_images=2)

    class Reader(ForeignModule):
        def validation_step(self, batch, batch_idx):
            self(batch.images)

    run = trainer(tmp_path, callbacks=[callback])
    run.validate(Reader(), datamodule=data, verbose=False)
    scheme = callback.metrics["model.relu"].scheme
    assert scheme.categories == ("object", "part", "colour", "texture", "scene")
    assert "dissection/model.relu/unique_texture" in logged(run)
    assert isinstance(data, ProbeSet)
    probing = Dissection(["relu"], random_network=False, least_images=2, probe_set=data)
    again = trainer(tmp_path, callbacks=[probing])
    again.validate(Reader(), datamodule=data, verbose=False)
    for name in ("thresholds", "area"):
        first, second = (
            getattr(c.metrics["model.relu"].result, name).shape for c in (callback, probing)
        )
        assert first == second


class OverlappingProbe:
    """Concepts of one category that overlap: two maps."""

    concept_names = {"spot": ("red", "green", "wide red")}
    concept_layers = {"spot": 2}

    def concept_dataloader(self):
        batch = as_concept_batch(spots(21))
        maps = batch.concept_maps[:, :1]
        wide = torch.nn.functional.max_pool2d((maps == 1).float(), 5, 1, 2).long() * 3
        return loader(batch._replace(concept_maps=torch.cat([maps, wide], 1)), batch_size=5)


def test_a_probe_set_may_have_several_maps_of_a_category(tmp_path):
    callback = Dissection(["top"], quantiles=(0.03,), probe_set=OverlappingProbe())
    run = trainer(tmp_path, callbacks=[callback])
    run.validate(SpotSystem(), datamodule=SpotData(), verbose=False)
    result = callback.metrics["relu"].result
    assert result.iou.shape == (4, 1, 3)
    assert (result.iou[0, 0, [0, 2]] > 0.3).all()  # the same unit sees both
    assert "dissection/relu/unique_spot" in logged(run)


def test_what_is_missing_is_said(tmp_path):
    callback = Dissection(["top"])
    run = trainer(tmp_path, callbacks=[callback])
    run.validate(SpotSystem(), datamodule=SpotData(), verbose=False)
    assert logged(run) == {}
    assert callback.missing["relu"].startswith("dissection needs concept maps with names")


def test_errors(tmp_path):
    with pytest.raises(ValueError, match="`probe_set` must have `concept_names` .* got list"):
        Dissection(probe_set=[])
    with pytest.raises(ValueError, match="`union` must be one of"):
        Dissection(union="none")
    run = trainer(tmp_path, callbacks=[Dissection(["top"], **OPTIONS)])
    with pytest.raises(ValueError, match="`to_batch` must give a ConceptBatch .* got PartBatch"):
        run.validate(SpotSystem(), datamodule=SpotData(), verbose=False)


def measured_by(folder, count, cache_bytes):
    """Validation of the same weights by however many processes there are."""
    torch.manual_seed(0)
    world = torch.distributed.get_world_size() if torch.distributed.is_initialized() else 1
    more = {"strategy": "ddp", "devices": 2} if world > 1 else {}
    callback = Dissection(
        ["top"], **OPTIONS, least_images=1, cache_bytes=cache_bytes, shuffled_masks=cache_bytes > 0
    )
    run = trainer(folder, callbacks=[callback], **more)
    run.validate(SpotSystem(), datamodule=ConceptSpots(count, batch_size=4), verbose=False)
    return logged(run)


@pytest.mark.parametrize(("count", "cache_bytes"), [(41, 2**30), (41, 0), (5, 2**30)])
def test_two_processes_log_what_one_logs(two_processes, tmp_path, count, cache_bytes):
    expected = measured_by(tmp_path / "one", count, cache_bytes)
    for found in two_processes(measured_by, tmp_path / "two", count, cache_bytes):
        assert found == pytest.approx(expected, abs=1e-9)
    assert len(expected) > 15
