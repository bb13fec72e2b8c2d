"""Every system on an accelerator: it runs in mixed precision, never waits, and measures alike."""

import traceback
import warnings
from pathlib import Path

import lightning.pytorch
import numpy as np
import pytest
import torch
from PIL import Image

from interp_train import targets
from interp_train.composition import compose_config
from interp_train.evaluate import evaluate
from interp_train.experiment import train
from interp_train.resume import resumed_config

pytestmark = pytest.mark.gpu

FEW = (
    "data.num_train=64", "data.num_val=32", "data.batch_size=8", "trainer.max_epochs=1",
    "trainer.check_val_every_n_epoch=1", "trainer.num_sanity_val_steps=0",
)  # fmt: skip
WATCHED = "+callbacks.waits={_target_:tests.end_to_end.test_gpu.Waits}"
OBJECTIVES = (
    "exact_mutual_information", "interpretable_filter", "paper_approximation", "released_gradient",
    "class_gates", "sampled_filter_classes", "compositional_groups", "equivariant_parts",
)  # fmt: skip
CAPSULES = {
    "dynamic": [],
    "detached": ["learning.head.categories.detach=true"],
    "attention": ["learning.head.categories.routing=attention"],
    "inverted": ["learning.head.categories.routing=inverted", "learning.head.primary.squash=none"],
    "self": ["learning.head.categories.routing=self", "learning.head.primary.squash=none"],
    "em": ["learning.head.categories.routing=em", "learning.head.primary.squash=none"],
    "spread": ["learning.loss=spread"],
}
CODES = {
    "official": [],
    "generator_and_q": ["learning.update=generator_and_q"],
    "separate_step": ["learning.update=separate_step"],
    "untied": ["learning.update=untied"],
    "r1_and_average": [
        "learning.weights.r1=1.0",
        "backbone.normalisation=instance",
        "learning.average_decay=0.99",
    ],
    "contrastive": ["learning.weights.contrastive=1.0"],
}


class Waits(lightning.pytorch.Callback):
    """Notes the lines of this package at which a training step waits for the device."""

    found: list[str] = []

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if batch_idx:  # the first batch sets things up
            torch.cuda.set_sync_debug_mode("warn")

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        torch.cuda.set_sync_debug_mode("default")


@pytest.fixture
def waits(monkeypatch):
    """The lines at which a watched training waited."""
    Waits.found = []

    def noted(message, *_, **__):
        if "synchronizing" in str(message):
            stack = traceback.extract_stack()
            own = [frame for frame in stack if "interp_train/" in frame[0]] or stack
            Waits.found.append(f"{Path(own[-1][0]).name}:{own[-1][1]} {own[-1][3]}")

    monkeypatch.setattr(targets, "_TRUSTED", list(targets._TRUSTED))
    targets.trust("tests")
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        monkeypatch.setattr(warnings, "showwarning", noted)
        yield Waits.found
        if torch.cuda.is_available():
            torch.cuda.set_sync_debug_mode("default")


def run(folder, *overrides):
    """The result of a training with few images on the accelerator."""
    config = compose_config("train", [*overrides, f"output_dir={folder}", "report=false"])
    return train(config)


def photos(folder):
    """A folder with images of two categories."""
    generator = np.random.default_rng(0)
    for category in ("dark", "bright"):
        (folder / category).mkdir(parents=True)
        for number in range(24):
            pixels = generator.integers(0, 128 if category == "dark" else 256, (48, 48, 3))
            Image.fromarray(pixels.astype(np.uint8)).save(folder / category / f"{number}.png")
    return folder


def check_finite(result):
    """Its measures are numbers."""
    assert result.metrics
    losses = [value for name, value in result.metrics.items() if name.startswith("loss/")]
    assert losses
    assert all(torch.tensor(losses).isfinite())


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_a_classifier_with_an_objective_never_waits(objective, tmp_path, waits):
    data = FEW
    if objective == "equivariant_parts":
        data = ["data=image_folder", f"data.root={photos(tmp_path / 'photos')}",
                "data.views_per_photo=2", "data.image_size=96", *FEW[2:]]  # fmt: skip
    options = ["trainer=gpu", f"filter_objective=[{objective}]", "learning.head.channels=16"]
    check_finite(run(tmp_path, *options, *data, WATCHED))
    assert sorted(set(waits)) == []


@pytest.mark.parametrize("options", CAPSULES.values(), ids=CAPSULES)
def test_a_capsule_network_never_waits(options, tmp_path, waits):
    check_finite(run(tmp_path, "experiment=class_capsules", "trainer=gpu", *FEW, *options, WATCHED))
    assert sorted(set(waits)) == []


@pytest.mark.parametrize("options", CODES.values(), ids=CODES)
def test_an_infogan_never_waits(options, tmp_path, waits):
    check_finite(run(tmp_path, "experiment=class_infogan", "trainer=gpu", *FEW, *options, WATCHED))
    assert sorted(set(waits)) == []


@pytest.mark.parametrize("head", ["and_or", "position_sensitive", "two_layer"])
def test_a_detector_runs(head, tmp_path):
    """Its choice of proposals depends on their number, so that it has to wait."""
    free = (
        ["learning.parts.homogeneity=0", "learning.parts.leaf_cost=0"] if head != "and_or" else []
    )
    options = ["experiment=creature_scenes", "trainer=gpu", f"learning.head={head}", *free]
    check_finite(run(tmp_path, *options, *FEW))


def test_a_wait_is_noticed(waits):
    """Otherwise the tests above say nothing."""
    numbers = torch.ones(3, device="cuda")
    torch.cuda.set_sync_debug_mode("warn")
    numbers.sum().item()
    assert waits


@pytest.mark.filterwarnings("ignore:GPU available but not used")
def test_measures_are_those_of_the_processor(tmp_path):
    callbacks = "callbacks=[default,dissection,unit_visualizations]"
    heatmaps = "heatmap=[grad_cam,hires_cam,integrated_gradients,score_cam,eigen_cam,occlusion]"
    trained = run(tmp_path, "trainer=cpu", *FEW, "callbacks=default")
    measured = []
    for accelerator in ("cpu", "gpu"):
        overrides = [
            f"path={trained.folder}", "trainer=cpu", f"trainer.accelerator={accelerator}",
            callbacks, heatmaps, f"output_dir={tmp_path}",
        ]  # fmt: skip
        measured.append(evaluate(compose_config("evaluate", overrides)).metrics)
    assert measured[0].keys() == measured[1].keys()
    assert len(measured[0]) > 20
    for name, value in measured[0].items():
        if not name.startswith("time/"):
            assert measured[1][name] == pytest.approx(value, rel=2e-3, abs=2e-3), name


def test_a_resumed_run_goes_on_from_the_same_state(tmp_path):
    whole = run(tmp_path, "experiment=class_infogan", "trainer=gpu", *FEW, "trainer.max_epochs=2")
    half = run(tmp_path, "experiment=class_infogan", "trainer=gpu", *FEW)
    resumed = train(resumed_config(half.folder, {"trainer.max_epochs": 2}))
    for name, value in whole.metrics.items():
        if name.startswith("loss/"):
            assert resumed.metrics[name] == pytest.approx(value, rel=2e-2, abs=2e-2), name
