import functools
import math

import lightning.pytorch as pl
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader

from interp_train.backbones.backbone import Backbone
from interp_train.backbones.heads import ConvolutionalHead
from interp_train.learning.classifier import Classifier, check_labels, label_range
from interp_train.learning.filter_objectives.equivariant_parts.module import EquivariantParts
from interp_train.learning.filter_objectives.interpretable_filter.module import (
    InterpretableFilter,
)
from interp_train.structures import (
    BACKGROUND,
    DataInfo,
    ImageBatch,
    OverlapBatch,
    StepOutputs,
    ViewBatch,
)

pytestmark = pytest.mark.filterwarnings("ignore:.*does not have many workers")
SIDE = 8
ADAM = functools.partial(torch.optim.Adam, lr=1e-2)
HEAD = functools.partial(ConvolutionalHead, channels=6, dropout=0.0)


def data_info(num_categories):
    names = tuple(f"species {index}" for index in range(num_categories))
    return DataInfo("drawn", names, (), {}, (), SIDE, 3, (0.0,) * 3, (1.0,) * 3, "0", "none")


def classifier(num_categories=2, objectives=None, **options):
    network = Backbone(
        {"convolution": nn.Conv2d(3, 4, 3, padding=1), "relu": nn.ReLU()}, image_size=SIDE
    )
    options = {"head": HEAD, "optimizer": ADAM, **options}
    return Classifier(network, data_info(num_categories), objectives, **options)


def empty(number):
    return torch.empty(number, 0, 0, 0)


def batch_of(labels, seed=0):
    """Bright upper half for odd labels, lower half for even, nothing for the background."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.as_tensor(labels)
    images = 0.1 * torch.randn(len(labels), 3, SIDE, SIDE, generator=generator)
    images[labels == 0, :, : SIDE // 2] += 1.0
    images[labels == 1, :, SIDE // 2 :] += 1.0
    ids, boxes = torch.arange(len(labels)), torch.full((len(labels), 4), math.nan)
    return ImageBatch(images, labels, ids, boxes, empty(len(labels)))


class Rows(torch.utils.data.Dataset):
    def __init__(self, batch):
        self.batch = batch

    def __len__(self):
        return len(self.batch.labels)

    def __getitem__(self, index):
        return type(self.batch)(*(field[index] for field in self.batch))


def fit(system, labels, epochs=2, **options):
    batch = labels if isinstance(labels, OverlapBatch) else batch_of(labels)
    loader = DataLoader(Rows(batch), batch_size=4)
    trainer = pl.Trainer(
        max_epochs=epochs, accelerator="cpu", logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, log_every_n_steps=1, **options,
    )  # fmt: skip
    trainer.fit(system, loader, loader)
    return trainer


@pytest.mark.parametrize(
    ("num_categories", "loss", "labels"),
    [
        (2, "softmax", [0, 1] * 6),
        (2, "logistic", [0, 1] * 6),
        (1, "logistic", [0, BACKGROUND] * 6),
    ],
)
def test_it_learns_and_logs_every_promised_quantity(num_categories, loss, labels):
    objectives = {"interpretable_filter": InterpretableFilter()}
    system = classifier(num_categories, objectives, loss=loss)
    trainer = fit(system, labels, epochs=12)
    found = {name: value.item() for name, value in trainer.logged_metrics.items()}
    assert found["accuracy/top1"] == 1.0
    assert found["accuracy/per_category_mean"] == 1.0
    assert found["accuracy/train"] > 0.9
    for term in ("task", "interpretable_filter/head.relu_1"):
        assert math.isfinite(found[f"loss/train/{term}"])
    assert math.isfinite(found["loss/validation/task"])
    assert found["loss/watched/interpretable_filter/head.relu_1/effective_images"] > 0


def test_views_reach_the_objectives_that_compare_them():
    objectives = {"parts": EquivariantParts(every_n_steps=1), "filters": InterpretableFilter()}
    system = classifier(1, objectives, loss="logistic")
    batch = batch_of([0, 0, BACKGROUND, BACKGROUND])
    views = ViewBatch(*batch, torch.eye(2, 3).expand(4, 2, 3))
    views = views._replace(sample_ids=torch.tensor([5, 5, 6, 6]))
    plain = system.loss_terms(system.run(batch), batch)
    paired = system.loss_terms(system.run(views), views)
    assert set(paired) - set(plain) == {"parts/head.convolution_1/equivariance"}
    assert set(plain) <= set(paired)


def test_validation_loss_is_the_mean_over_images_of_unequal_batches():
    system = classifier()
    labels = [0, 1, 0, 1, 1]
    trainer = fit(system, labels, epochs=1)
    batch = batch_of(labels)
    with torch.no_grad():
        expected = nn.functional.cross_entropy(system.eval()(batch.images), batch.labels)
    found = trainer.callback_metrics["loss/validation/task"]
    torch.testing.assert_close(found, expected)


def test_the_twin_and_the_interpretable_network_have_the_same_weights():
    ordinary = classifier().network.state_dict()
    interpretable = classifier(2, {"parts": InterpretableFilter()}).network.state_dict()
    assert {k: v.shape for k, v in ordinary.items()} == {
        k: v.shape for k, v in interpretable.items()
    }


def test_task_losses_are_means_over_images_and_sums_over_categories():
    logits = torch.tensor([[2.0, -1.0], [0.5, 0.0]])
    labels = torch.tensor([0, BACKGROUND])
    system = classifier(2, loss="logistic")
    rows = [
        math.log(1 + math.exp(-2.0)) + math.log(1 + math.exp(-1.0)),
        math.log(1 + math.exp(0.5)) + math.log(2.0),
    ]
    assert system.task_loss(logits, labels).item() == pytest.approx(sum(rows) / 2)
    system = classifier(2, loss="softmax")
    expected = math.log(1 + math.exp(-3.0))
    assert system.task_loss(logits[:1], labels[:1]).item() == pytest.approx(expected)


def test_balance_weights_rare_categories_up():
    logits = torch.zeros(4, 2)
    labels = torch.tensor([0, 0, 0, 1])
    system = classifier(2, balance=True)
    leaf = logits.clone().requires_grad_()
    system.task_loss(leaf, labels).backward()
    pulls = leaf.grad.abs().sum(1)
    assert (pulls[3] / pulls[0]).item() == pytest.approx(3.0)
    system = classifier(1, balance=True, loss="logistic")
    leaf = logits[:, :1].clone().requires_grad_()
    system.task_loss(leaf, torch.tensor([0, 0, 0, BACKGROUND])).backward()
    assert leaf.grad.sum().item() == pytest.approx(0.0, abs=1e-7)  # both sides weigh the same


@pytest.mark.parametrize(
    ("num_categories", "options", "expected"),
    [
        (2, {}, [1, 0]),
        (2, {"loss": "logistic"}, [1, 0]),
        (2, {"loss": "logistic", "background": True}, [1, BACKGROUND]),
        (1, {"loss": "logistic"}, [BACKGROUND, BACKGROUND]),
    ],
)
def test_predictions(num_categories, options, expected):
    logits = torch.tensor([[-1.0, 2.0], [-1.0, -3.0]])[:, :num_categories]
    assert classifier(num_categories, **options).predict(logits).tolist() == expected


def test_terms_carry_the_name_of_their_objective():
    system = classifier(2, {"parts": InterpretableFilter(taps=("top", "last"))})
    batch = batch_of([0, 1, 0, 1])
    outputs = system.run(batch)
    assert set(system.loss_terms(outputs, batch)) == {
        "task", "parts/relu", "parts/head.relu_1",
    }  # fmt: skip
    assert set(outputs.activations) == {"relu", "head.relu_1"}


def test_without_a_head_the_own_classifier_is_fitted():
    system = classifier(5, head=None)
    assert system(torch.zeros(1, 3, SIDE, SIDE)).shape == (1, 5)
    assert system.network.taps["last"] == "relu"


def test_scheduler_and_learning_rates_reach_the_optimiser():
    scheduler = functools.partial(torch.optim.lr_scheduler.StepLR, step_size=1, gamma=0.1)
    system = classifier(scheduler=scheduler, scheduler_interval="epoch")
    trainer = fit(system, [0, 1] * 2, epochs=2)
    assert trainer.optimizers[0].param_groups[0]["lr"] == pytest.approx(1e-4)


def test_a_compiled_system_adds_no_keys_to_the_state():
    assert classifier(compile=True).state_dict().keys() == classifier().state_dict().keys()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"loss": "hinge"}, "`loss` must be one of 'softmax', 'logistic', but got 'hinge'"),
        ({"num_categories": 1}, "'logistic' for one category .* Set loss=logistic"),
        ({"background": True}, "'logistic' for one category or with a background"),
        ({"scheduler_interval": "week"}, "`scheduler_interval` must be one of"),
    ],
)
def test_wrong_options_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        classifier(**options)


def test_wrong_parts_are_named():
    with pytest.raises(TypeError, match=r"`objectives\['relu'\]` must be an nn.Module .* got ReLU"):
        classifier(2, {"relu": nn.ReLU()})
    system = classifier(optimizer=torch.optim.Adam)
    with pytest.raises(ValueError, match="`optimizer` must be a partial with a learning rate"):
        system.configure_optimizers()


@pytest.mark.parametrize(
    ("labels", "loss", "message"),
    [
        ([0, BACKGROUND], "softmax", r"some images are background \(-1\). Set loss=logistic"),
        (
            [0, 2],
            "softmax",
            "indices below 2, or -1 for the background, but got values from 0 to 2",
        ),
        ([-2, 0], "logistic", "but got values from -2 to 0"),
    ],
)
def test_labels_that_the_loss_cannot_take_are_named(labels, loss, message):
    with pytest.raises(ValueError, match=message):
        check_labels(torch.tensor(labels), 2, loss)
    batch = batch_of([0, 1])._replace(labels=torch.tensor(labels))
    system = classifier(2, loss=loss)
    with pytest.raises(ValueError, match=message):
        system.loss_terms(StepOutputs(torch.zeros(2, 2), {}, {}), batch)


def test_labels_on_a_device_are_kept_as_a_range_and_checked_at_the_end_of_the_epoch():
    first, second = torch.tensor([2, 0, 1]), torch.tensor([4, 3])
    kept = label_range(second, label_range(first, None))
    assert kept.tolist() == [0, 4]
    system = classifier(3)
    system._label_range = kept
    for end_of_epoch in (system.on_train_epoch_end, system.on_validation_epoch_end):
        with pytest.raises(ValueError, match="below 3, .* but got values from 0 to 4"):
            end_of_epoch()


class DrawnData(pl.LightningDataModule):
    def __init__(self, batch):
        super().__init__()
        self.batch = batch

    def train_dataloader(self):
        return DataLoader(Rows(self.batch), batch_size=4)

    val_dataloader = train_dataloader


def test_a_plain_trainer_says_nothing_about_hooks():
    """Any warning is an error: with loaders, and with a data module."""
    drawn = DrawnData(batch_of([0, 1] * 4))
    loader = drawn.train_dataloader()
    loaders = {"train_dataloaders": loader, "val_dataloaders": loader}
    for data in (loaders, {"datamodule": drawn}):
        trainer = pl.Trainer(
            max_epochs=1, accelerator="cpu", log_every_n_steps=1, logger=False,
            enable_model_summary=False, enable_progress_bar=False, enable_checkpointing=False,
        )  # fmt: skip
        trainer.fit(classifier(2), **data)
        assert trainer.global_step == 2


def double_step(labels):
    """Gradients of one float64 step; over two processes, each takes every second image."""
    torch.manual_seed(0)
    objectives = {"parts": InterpretableFilter(weight=1.0)}
    system = classifier(1, objectives, loss="logistic").double().train()
    batch = batch_of(labels)
    batch = batch._replace(images=batch.images.double())
    ranked = torch.distributed.is_initialized()
    if ranked:
        share = slice(torch.distributed.get_rank(), None, 2)
        batch = ImageBatch(*(field[share] for field in batch))
    sum(system.loss_terms(system.run(batch), batch).values()).backward()
    found = {}
    for name, parameter in system.named_parameters():
        found[name] = parameter.grad.clone()
        if ranked:
            torch.distributed.all_reduce(found[name])
            found[name] /= 2
    return found


def test_one_step_with_two_processes_equals_one_with_one(two_processes):
    labels = [0, 0, BACKGROUND, 0, 0, BACKGROUND]
    expected = double_step(labels)
    for found in two_processes(double_step, labels):
        for name, gradient in expected.items():
            torch.testing.assert_close(found[name], gradient, rtol=0, atol=1e-8)


def test_it_trains_in_mixed_precision():
    system = classifier(1, {"parts": InterpretableFilter()}, loss="logistic")
    trainer = fit(system, [0, BACKGROUND] * 6, epochs=12, precision="bf16-mixed")
    assert trainer.logged_metrics["accuracy/top1"] == 1.0
    assert all(parameter.isfinite().all() for parameter in system.parameters())


# -- images of several objects -------------------------------------------------------------

PAIRS = torch.tensor([[1, 0], [0, 1], [1, 2], [2, 0]])
SCORES = torch.tensor([[0.9, 0.8, 0.1], [0.9, 0.1, 0.8], [0.1, 0.2, 0.3], [0.5, 0.6, 0.4]])


def overlapping(pairs=PAIRS):
    """Objects are bright in the channel of their category."""
    objects = torch.zeros(len(pairs), 2, 3, SIDE, SIDE)
    objects += torch.eye(3)[pairs][..., None, None]
    single = batch_of(pairs[:, 0])._replace(images=objects.sum(1))
    return OverlapBatch(*single, pairs, objects)


def several(objectives=None, num_categories=3, **options):
    return classifier(num_categories, objectives, **{"loss": "logistic", **options})


@pytest.mark.parametrize("balance", [False, True])
def test_the_loss_of_several_objects_equals_a_loop_over_categories(balance):
    system = several(balance=balance).double().train()
    logits = torch.randn(4, 3, dtype=torch.float64)
    shares = [3 / 4, 3 / 4, 2 / 4]  # of images that show the category
    total = 0.0
    for row, pair in zip(logits.tolist(), PAIRS.tolist(), strict=True):
        for category, logit in enumerate(row):
            side = 1 if category in pair else -1
            share = shares[category] if side > 0 else 1 - shares[category]
            weight = 0.5 / share if balance else 1.0
            total += weight * math.log(1 + math.exp(-side * logit))
    assert system.task_loss(logits, PAIRS).item() == pytest.approx(total / 4, rel=1e-12)
    if not balance:
        terms = system.loss_terms(StepOutputs(logits, {}, {}), overlapping())
        assert terms["task"].item() == pytest.approx(total / 4, rel=1e-6)


def test_the_highest_scores_are_held_against_all_objects():
    system = several()
    system.run = lambda batch: StepOutputs(SCORES, {}, {})
    system.validation_step(overlapping(), 0)
    found = {name: value.item() for name, value in system.measures.validation_summary().items()}
    # Both, the first, both, the second.
    assert found == {
        "accuracy/all_objects": pytest.approx(2 / 4),
        "accuracy/objects": pytest.approx(6 / 8),
        "loss/validation/task": pytest.approx(system.task_loss(SCORES, PAIRS).item()),
    }


def test_all_objects_are_learned():
    trainer = fit(several(), overlapping(PAIRS.repeat(3, 1)), epochs=12)
    found = {name: value.item() for name, value in trainer.logged_metrics.items()}
    assert "accuracy/top1" not in found
    assert found["accuracy/all_objects"] == found["accuracy/objects"] == 1.0
    assert found["accuracy/train"] > 0.9


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"loss": "softmax"}, "'logistic' for images of several objects, but got 'softmax'. Set"),
        (
            {"objectives": {"parts": InterpretableFilter()}},
            r"`objectives` must be empty for .* objects, but got \['parts'\]. Set filter_obj",
        ),
        ({"num_categories": 2}, "indices below 2, .* but got values from 0 to 2"),
    ],
)
def test_what_does_not_fit_several_objects_is_named(options, message):
    system = several(**options)
    batch = overlapping()
    with pytest.raises(ValueError, match=message):
        system.loss_terms(system.run(batch), batch)
