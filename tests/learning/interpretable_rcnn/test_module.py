"""Interpretable R-CNN as a system: losses, course of training, checkpoints, two processes."""

import copy
import functools
import math

import pytest
import torch
from lightning.pytorch import Trainer
from torch import nn

from interp_train.experiment import build_data
from interp_train.learning.interpretable_rcnn.detector import targets_of, validated
from interp_train.systems import build_system, load_system
from tests.learning.interpretable_rcnn.small_detector import NODE, data_of, system_of

LOSSES = {"loss_classifier", "loss_box_reg", "loss_objectness", "loss_rpn_box_reg"}
pytest.importorskip("faster_coco_eval", reason="needs the extra `detection`")
pytestmark = [
    pytest.mark.filterwarnings("ignore:Found .* in eval mode at the start of training"),
    pytest.mark.filterwarnings("ignore:The 'val_dataloader' does not have many workers"),
    pytest.mark.filterwarnings("ignore:The 'train_dataloader' does not have many workers"),
    pytest.mark.filterwarnings("ignore:The number of training batches"),
    pytest.mark.filterwarnings("ignore:It is recommended to use .*sync_dist=True"),
]


@pytest.fixture(scope="module")
def data():
    return data_of()


@pytest.fixture
def batch(data):
    return data.dataset("train").__getitems__([0, 1, 2, 4])


def trainer_of(**options):
    return Trainer(
        **{
            "accelerator": "cpu", "max_epochs": 1, "logger": False, "enable_checkpointing": False,
            "enable_progress_bar": False, "enable_model_summary": False,
            "use_distributed_sampler": False, "num_sanity_val_steps": 0, **options,
        }
    )  # fmt: skip


@pytest.mark.parametrize("head", ["and_or", "position_sensitive", "two_layer"])
def test_it_learns(data, batch, head):
    system = system_of(data.info, head=head, frozen_norms=False).train()
    optimizer = torch.optim.Adam(system.parameters(), lr=0.01)
    losses = []
    for _ in range(12):
        terms = system.loss_terms(system.run(batch), batch)
        assert set(terms) == LOSSES
        loss = sum(terms.values())
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert losses[-1] < 0.8 * losses[0]


def test_an_image_without_objects_and_ignored_objects_teach_the_background(data, batch):
    system = system_of(data.info).train()
    nothing = batch._replace(ignored=tuple(~entry for entry in batch.ignored))
    assert [len(target["boxes"]) for target in targets_of(nothing)] == [0, 0, 0, 0]
    terms = system.run(nothing).loss_terms
    assert terms["loss_box_reg"] == terms["loss_rpn_box_reg"] == 0
    assert all(term.isfinite() for term in terms.values())


def test_validation_sees_images_alone_and_leaves_no_trace(data, batch):
    system = system_of(data.info, frozen_norms=False).eval()
    state, random_state = copy.deepcopy(system.state_dict()), torch.get_rng_state()
    losses, found = validated(system.detector, batch)
    assert set(losses) == LOSSES
    after = system.state_dict()
    assert all(torch.equal(value, after[name]) for name, value in state.items())
    assert torch.equal(random_state, torch.get_rng_state())
    assert not any(module.training for module in system.modules())
    assert all(parameter.grad is None for parameter in system.parameters())
    alone = [
        validated(system.detector, data.dataset("train").__getitems__([index]))
        for index in (0, 1, 2, 4)
    ]
    for name, loss in losses.items():
        expected = sum(terms[name] for terms, _ in alone) / 4
        torch.testing.assert_close(loss, expected, rtol=1e-5, atol=1e-6)
    for together, (_, (single,)) in zip(found, alone, strict=True):
        torch.testing.assert_close(together.boxes, single.boxes)
        assert together.trees == single.trees


def test_validation_losses_are_those_of_training_where_nothing_differs(data):
    """With frozen statistics and every box sampled, torchvision's own training step says it."""
    batch = data.dataset("val").__getitems__([1])
    system = system_of(data.info, settings={"num_sampled": 4000, "num_proposals": 30})
    for sampler in (system.detector.rpn.fg_bg_sampler, system.detector.roi_heads.fg_bg_sampler):
        sampler.batch_size_per_image = 4000
    found, _ = validated(system.eval().detector, batch)
    expected = system.train().run(batch).loss_terms
    for name, loss in expected.items():
        torch.testing.assert_close(found[name], loss.detach())


@pytest.mark.parametrize("head", ["and_or", "position_sensitive"])
def test_detections_come_with_the_parse_of_their_box(data, batch, head):
    system = system_of(data.info, head=head).eval()
    (found,) = system([batch.images[1]])
    assert len(found.trees) == len(found.boxes) == 10
    assert (found.scores[:-1] >= found.scores[1:]).all()
    assert set(found.labels.tolist()) <= {0, 1}
    resized, _ = system.detector.transform([batch.images[1]])
    maps = system.detector.backbone(resized.tensors)
    heads = system.detector.roi_heads
    pooled = heads.box_roi_pool(maps, [found.boxes], resized.image_sizes)
    parses = heads.box_head.parses(pooled, found.labels + 1)
    assert [parse.tree for parse in parses] == list(found.trees)
    torch.testing.assert_close(
        found.tree_scores, torch.tensor([parse.score for parse in parses]), rtol=1e-4, atol=1e-4
    )
    (plain,) = system_of(data.info, head="two_layer")([batch.images[1]])
    assert plain.trees == []
    assert plain.tree_scores.isnan().all()


def test_boxes_are_in_the_pixels_of_the_image(data, batch):
    system = system_of(data.info, settings={"shorter_side": 24, "longer_side": 24})
    large = torch.nn.functional.interpolate(batch.images[1][None], scale_factor=2)[0]
    (small,), (doubled,) = system([batch.images[1]]), system([large])
    assert small.boxes.max() <= 48 < doubled.boxes.max() <= 96


@pytest.mark.parametrize(("folding", "smooth"), [(0.5, 0.25), (0.0, 0.0), (1.0, 0.0)])
def test_the_course_from_folding_to_unfolding(data, folding, smooth):
    system = system_of(data.info, parts={"folding": folding, "smooth": smooth})
    seen = []
    head = system.detector.roi_heads.box_head
    head.register_forward_pre_hook(
        lambda module, inputs: seen.append(module.sharpness) if module.training else None
    )
    trainer_of(limit_val_batches=0).fit(system, datamodule=data)
    assert len(seen) == 4
    assert seen[:2] == ([0.0, 0.0] if folding else [math.inf, math.inf])
    if smooth:
        assert 0 < seen[2] < math.inf
    assert seen[3] == (0.0 if folding == 1 else math.inf)


@pytest.mark.parametrize("head", ["and_or", "position_sensitive"])
def test_a_run_logs_its_measures_and_its_checkpoint_detects_the_same(tmp_path, data, batch, head):
    learning = {**NODE["learning"], "head": head}
    node = {**NODE, "learning": learning, "name": "toy", "seed": 3}
    system = build_system(node, data.info)
    trainer = trainer_of()
    trainer.fit(system, datamodule=build_data(NODE["data"]))
    logged = set(trainer.callback_metrics)
    assert {f"loss/train/{name}" for name in LOSSES} <= logged
    assert {f"loss/validation/{name}" for name in LOSSES} <= logged
    assert {"accuracy/map", "accuracy/map_50", "accuracy/map_75", "accuracy/voc07_ap_50"} <= logged
    system.and_or_head.sharpness = 2.5
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    keys = torch.load(tmp_path / "last.ckpt", weights_only=True)["state_dict"]
    assert not any("convolution_1" in key for key in keys if not key.startswith("network."))
    loaded = load_system(tmp_path / "last.ckpt")
    assert loaded.and_or_head.sharpness == 2.5
    for found, expected in zip(loaded(batch.images), system(batch.images), strict=True):
        torch.testing.assert_close(found.boxes, expected.boxes)
        torch.testing.assert_close(found.scores, expected.scores)
        assert found.trees == expected.trees


@pytest.mark.parametrize("head", ["and_or", "position_sensitive"])
def test_mixed_precision_learns_and_detects(data, batch, head):
    system = system_of(data.info, head=head).train()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        terms = system.run(batch).loss_terms
        sum(terms.values()).backward()
        losses, found = validated(system.eval().detector, batch)
    assert all(term.isfinite() for term in [*terms.values(), *losses.values()])
    learned = [parameter for parameter in system.parameters() if parameter.requires_grad]
    assert all(parameter.grad.isfinite().all() for parameter in learned)
    assert len(found) == 4


def test_a_missing_package_is_named_when_measures_are_asked_for(data, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ModuleNotFoundError, match=r"faster-coco-eval.*interp-train\[detection\]"):
        system_of(data.info).setup("fit")
    system_of(data.info).setup("predict")


@pytest.mark.parametrize("frozen", [True, False])
def test_frozen_norms_keep_statistics_and_weights(data, frozen):
    system = system_of(data.info, frozen_norms=frozen)
    norms = [module for module in system.network.modules() if isinstance(module, nn.BatchNorm2d)]
    before = [norm.running_mean.clone() for norm in norms]
    trainer_of(limit_val_batches=1, max_epochs=2).fit(system, datamodule=data)
    same = [torch.equal(norm.running_mean, old) for norm, old in zip(norms, before, strict=True)]
    assert all(same) if frozen else not any(same)
    assert all(norm.weight.requires_grad != frozen for norm in norms)


def gradients_of_share(head):
    """Gradients of one float64 step on this process's images; of all images for one."""
    data = data_of()
    system = system_of(data.info, head=head).double().train()
    batch = data.dataset("train").__getitems__([0, 1, 2, 4])
    ranked = torch.distributed.is_initialized()
    share = slice(torch.distributed.get_rank(), None, 2) if ranked else slice(None)
    batch = type(batch)(*(field[share] for field in batch))
    batch = batch._replace(
        images=tuple(image.double() for image in batch.images),
        boxes=tuple(boxes.double() for boxes in batch.boxes),
    )
    step = _Step(system)
    step = nn.parallel.DistributedDataParallel(step) if ranked else step
    step(batch).backward()
    return {name: value.grad for name, value in system.named_parameters() if value.requires_grad}


class _Step(nn.Module):
    def __init__(self, system):
        super().__init__()
        self.system = system

    def forward(self, batch):
        return sum(self.system.run(batch).loss_terms.values())


@pytest.mark.parametrize("head", ["and_or", "position_sensitive", "two_layer"])
def test_two_processes_learn_what_one_learns(two_processes, head):
    expected = gradients_of_share(head)
    assert all(gradient is not None for gradient in expected.values())
    for found in two_processes(gradients_of_share, head):
        for name, gradient in expected.items():
            torch.testing.assert_close(found[name], gradient, rtol=1e-7, atol=1e-9)


def measures_of_share():
    data = data_of()
    system = system_of(data.info).eval()
    system.setup("validate")
    logged = {}
    system.log_dict = lambda values, **options: logged.update(values)
    system.log = lambda name, value, **options: logged.update({name: value})
    for index, batch in enumerate(data.val_dataloader()):
        system.validation_step(batch, index)
    system.on_validation_epoch_end()
    return {name: float(value) for name, value in logged.items()}


def test_two_processes_measure_what_one_measures(two_processes):
    expected = measures_of_share()
    assert len(expected) >= 8
    for found in two_processes(measures_of_share):
        assert found == pytest.approx(expected, rel=1e-5, abs=1e-7, nan_ok=True)


def test_bad_arguments_are_named(data):
    with pytest.raises(
        ValueError, match="`head` must be one of 'and_or', 'position_sensitive', 'two_layer'"
    ):
        system_of(data.info, head="three_layer")
    with pytest.raises(ValueError, match="`objectives` must be empty for a detector"):
        system_of(data.info, objectives={"filters": nn.Identity()})
    with pytest.raises(ValueError, match="`homogeneity` and `leaf_cost` must be 0 for the pos"):
        system_of(data_of().info, parts={"leaf_cost": 3}, head="position_sensitive")
    with pytest.raises(ValueError, match="`smooth` must be >= 0 and <= 0.5"):
        system_of(data.info, parts={"folding": 0.5, "smooth": 0.7})
    system = system_of(data.info)
    system.make_optimizer = functools.partial(torch.optim.SGD)
    with pytest.raises(ValueError, match="`optimizer` must be a partial with a learning rate"):
        system.configure_optimizers()
    endless = trainer_of(max_epochs=-1, max_steps=-1, limit_val_batches=0)
    with pytest.raises(ValueError, match="`trainer` must know its number of steps"):
        endless.fit(system_of(data.info), datamodule=data)
