"""Who learns from what, against steps by hand; resume, precision, and one against two processes."""

import copy
import math

import pytest
import torch
from torch import nn

from interp_train.affine_transforms import drawn_transforms, transformed
from interp_train.learning.infogan.functional import drawn_latents, generator_input
from interp_train.learning.infogan.settings import check_trainer, checked_weights
from tests.learning.infogan.small_gan import Bars, bars, small_gan, trained

PARTS = ("network", "scores", "code_head", "generator")
# update -> step -> what it moves with the adversarial loss and the codes' likelihood.
STEPS = {
    "official": {
        "discriminator": (("network", "scores", "code_head"), True),
        "generator": (("generator",), True),
    },
    "generator_and_q": {
        "discriminator": (("network", "scores"), False),
        "generator": (("generator", "code_head"), True),
    },
    "separate_step": {
        "discriminator": (("network", "scores"), False),
        "generator": (("generator",), False),
        "information": (("generator", "network", "code_head"), None),
    },
    "untied": {
        "discriminator": (("network", "scores"), False),
        "generator": (("generator",), False),
        "information": (("code_head",), None),
    },
}


TRANSFORMED = {
    "official": {"rotation": 20.0, "scale": (0.7, 1.2)},
    "untied": {"shift": 2.0, "shear": 0.3},
}


class SlowGan:
    """The same networks with losses written out and plain gradient descent."""

    def __init__(self, system):
        for part in PARTS:
            setattr(self, part, copy.deepcopy(getattr(system, part)).double().train())
        self.prior, self.seed, self.ranges = system.prior, system.seed, system.ranges

    def moved(self, images, ids, purpose):
        """Black is -1; the key ends after the places of the two codes."""
        transforms = drawn_transforms(ids, self.ranges, self.seed, 0, purpose, 3)
        return transformed(images + 1, transforms) - 1

    def log_q(self, features, moved, values):
        said = self.code_head(features)
        told = said if moved is None else self.code_head(self.network(moved))
        category = nn.functional.log_softmax(told[:, :2], 1)
        first = sum(category[row, int(values[row, 0])] for row in range(len(values)))
        squares = sum((said[row, 2] - values[row, 1]) ** 2 for row in range(len(values)))
        constant = 0.5 * math.log(2 * math.pi)
        return (first - 0.5 * squares) / len(values) - constant

    def step(self, name, ids, images, moved, with_codes, rate):
        purpose = ("discriminator", "generator", "information").index(name)
        latents = drawn_latents(self.prior, ids, self.seed, 0, purpose)
        made = self.generator(generator_input(latents, self.prior.codes))
        loss = 0.0
        if name == "discriminator":
            made = made.detach()
            loss = -nn.functional.logsigmoid(self.scores(self.network(images))).mean()
        features = self.network(made)
        if name == "discriminator":
            loss = loss - torch.log(1 - self.scores(features).sigmoid()).mean()
        elif name == "generator":
            loss = loss - torch.log(self.scores(features).sigmoid()).mean()
        if with_codes is not False:
            moved_images = None if self.ranges is None else self.moved(made, ids, purpose)
            loss = loss - self.log_q(features, moved_images, latents.values)
        for part in PARTS:
            getattr(self, part).zero_grad()
        loss.backward()
        with torch.no_grad():
            for part in moved:
                for weight in getattr(self, part).parameters():
                    weight -= rate * weight.grad
        return loss.item()


@pytest.mark.parametrize(
    ("update", "transforms"), [*((update, {}) for update in STEPS), *TRANSFORMED.items()]
)
def test_one_batch_equals_the_steps_by_hand(tmp_path, update, transforms):
    system = small_gan(update=update, make=torch.optim.SGD, lr=0.1, transforms=transforms)
    slow, data = SlowGan(system), Bars(number=8)
    order = next(iter(data.train_dataloader())).sample_ids
    images = data.train.__getitems__(order.tolist()).images.double()
    before = {part: copy.deepcopy(getattr(system, part)) for part in PARTS}
    trainer = trained(system, tmp_path, data=data, precision="64-true")
    losses = {}
    for name, (moved, with_codes) in STEPS[update].items():
        rate = 0.1 if name == "discriminator" else 0.2
        losses[name] = slow.step(name, order, images, moved, with_codes, rate)
    for part in PARTS:
        pairs = zip(
            getattr(system, part).parameters(), getattr(slow, part).parameters(), strict=True
        )
        for found, expected in pairs:
            torch.testing.assert_close(found, expected, rtol=1e-8, atol=1e-10)
        changed = not torch.equal(
            next(getattr(system, part).parameters()).float(), next(before[part].parameters())
        )
        assert changed == any(part in moved for moved, _ in STEPS[update].values())
    logged = trainer.callback_metrics
    for name, expected in losses.items():
        found = logged.get(f"loss/train/{name}_information", 0.0) + logged[f"loss/train/{name}"]
        assert float(found) == pytest.approx(expected, abs=1e-5)
    assert trainer.global_step == 1
    assert all(weight.grad is None for weight in system.parameters())


def test_global_step_counts_batches_and_the_average_follows(tmp_path):
    system = small_gan(average_decay=0.9)
    first = copy.deepcopy(system.generator.body[0].weight.detach())
    trainer = trained(system, tmp_path, max_steps=3, epochs=9)
    assert trainer.global_step == 3
    assert torch.equal(system.average.body[1].running_mean, system.generator.body[1].running_mean)
    mean, weight = system.average.body[0].weight, system.generator.body[0].weight.detach()
    assert 0 < (mean - first).norm() < (weight - first).norm()
    latents = system.draw(torch.arange(4), 0)
    pictures = system.pictures(latents)
    assert pictures.shape == (4, 3, 8, 8)
    assert 0 <= pictures.min() <= pictures.max() <= 1
    system.average = None
    assert not torch.equal(pictures, system.pictures(latents))


def test_losses_are_logged_in_the_batch_that_is_written(tmp_path, monkeypatch):
    """The generator's step moves `global_step` on before the losses of the batch are summed."""
    system, logged, asked = small_gan(), [], []
    step, log_dict = system.training_step, system.log_dict

    def counted(batch, batch_idx):
        asked.append(batch_idx)
        return step(batch, batch_idx)

    def noted(values, **options):
        if "loss/train/generator" in values:
            logged.append(asked[-1])
        log_dict(values, **options)

    monkeypatch.setattr(system, "training_step", counted)
    monkeypatch.setattr(system, "log_dict", noted)
    trained(system, tmp_path, log_every_n_steps=2)
    assert logged == [1]


def test_an_interrupted_training_equals_one_that_was_not(tmp_path):
    whole, half = (small_gan(weights={"contrastive": 1.0}, average_decay=0.5) for _ in range(2))
    trained(whole, tmp_path, epochs=3)
    trained(half, tmp_path, epochs=1).save_checkpoint(tmp_path / "half.ckpt")
    other = small_gan(weights={"contrastive": 1.0}, average_decay=0.5)
    trainer = trained(other, tmp_path, epochs=3, ckpt_path=str(tmp_path / "half.ckpt"))
    assert trainer.global_step == 6
    for name, value in whole.state_dict().items():
        assert torch.equal(other.state_dict()[name], value), name


def double_training(folder, options):
    """State after two batches in float64, and the logged measures; ranks share the batches."""
    ranked = torch.distributed.is_initialized()
    more = {"strategy": "ddp", "devices": 2} if ranked else {}
    system = small_gan(make=torch.optim.SGD, **options)  # Adam blows up rounding errors
    data = Bars(batch_size=4 if ranked else 8)
    trainer = trained(system, folder, data=data, precision="64-true", **more)
    state = {name: value.clone() for name, value in system.state_dict().items()}
    measured = {k: float(v) for k, v in trainer.callback_metrics.items() if "train" not in k}
    return state, {k: v for k, v in measured.items() if "watched" not in k}


@pytest.mark.parametrize(
    "options",
    [
        {"gradient_clip_norm": 0.05, "weights": {"contrastive": 1.0}, "average_decay": 0.5},
        {"update": "separate_step"},
    ],
)
def test_two_processes_learn_what_one_learns(two_processes, tmp_path, options):
    state, measured = double_training(tmp_path, options)
    for found, found_measures in two_processes(double_training, str(tmp_path), options):
        for name, value in state.items():
            torch.testing.assert_close(found[name], value, rtol=1e-7, atol=1e-9, msg=name)
        assert found_measures == pytest.approx(measured, rel=1e-6)
    assert set(measured) >= {"accuracy/clustering", "loss/validation/information_maximum"}


def test_codes_are_read_back_after_a_short_training(tmp_path):
    system = small_gan(lr=5e-3, trunk={"slope": 0.1})
    data = Bars(number=64)
    trainer = trained(system, tmp_path, epochs=14, data=data, check_val_every_n_epoch=14)
    logged = trainer.callback_metrics
    assert logged["loss/validation/information"] > 0.5
    assert logged["loss/validation/information_maximum"] == pytest.approx(math.log(2))
    latents = system.draw(torch.arange(1000), 9)
    images = (system.pictures(latents)[:, :1] - 0.5) / 0.5
    agreement = (system.estimates(images)[:, 0] == latents.values[:, 0]).float().mean()
    assert agreement > 0.9


@pytest.mark.parametrize(
    "options",
    [
        {"precision": "bf16-mixed"},
        {"precision": "bf16-true"},
        {"trunk": {"normalisation": "instance"}, "weights": {"r1": 1.0}},
        {"trunk": {"normalisation": "none", "spectral_norm": True}, "fixed_deviation": False},
        {"codes": ["bernoulli", "bernoulli"], "noise": "normal"},
        {"precision": "bf16-mixed", "transforms": {"rotation": 15.0, "shift": 1.0}},
    ],
)
def test_variants_train_with_finite_losses(tmp_path, options):
    precision = options.pop("precision", "32-true")
    system = small_gan(**options)
    trainer = trained(system, tmp_path, precision=precision)
    losses = {k: v for k, v in trainer.callback_metrics.items() if k.startswith("loss/")}
    assert losses
    assert all(bool(value.isfinite()) for value in losses.values())
    assert ("loss/train/r1" in losses) == ("weights" in options)
    images = bars(5, 0).__getitems__(range(5)).images.to(system.dtype)
    assert system.estimates(images).shape == (5, 2)


def test_validation_outputs_are_logits_of_categories():
    system = small_gan().eval()
    system.log = system.log_dict = lambda *args, **kwargs: None
    batch = bars(6, 0).__getitems__(range(6))
    system.measures.matching.copy_(torch.tensor([1, 0]))
    outputs = system.validation_step(batch, 0)
    clusters = system.code_head(system.network(batch.images))[:, :2]
    assert torch.equal(outputs.logits, clusters.flip(1))
    counts = system.measures.counts.compute()
    assert counts.sum() == 6
    right = (clusters.flip(1).argmax(1) == batch.labels).float().mean()
    assert system.measures.summary()["accuracy/clustering"] == pytest.approx(right.item())


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="`objectives` must be empty for an InfoGAN"):
        small_gan(objectives={"parts": nn.Identity()})
    with pytest.raises(ValueError, match="`update` must be one of"):
        small_gan(update="both")
    with pytest.raises(ValueError, match="`weights` must name a weight of the loss"):
        small_gan(weights={"r2": 1.0})
    with pytest.raises(ValueError, match=r"`weights.r1` must be >= 0"):
        checked_weights({"r1": -1.0})
    with pytest.raises(ValueError, match=r"`weights.r1` must be 0 for a trunk with batch"):
        small_gan(weights={"r1": 1.0})
    with pytest.raises(ValueError, match="at least two codes for the contrastive term, but got 1"):
        small_gan(codes=["uniform"], weights={"contrastive": 1.0})
    with pytest.raises(ValueError, match=r"`network` must take the data's images, 1 channels of 8"):
        small_gan(trunk={"in_channels": 3})
    with pytest.raises(ValueError, match="`transforms` must name a range of the transforms"):
        small_gan(transforms={"turn": 3.0})
    with pytest.raises(ValueError, match="`shear` must be >= 0"):
        small_gan(transforms={"shear": -1.0})
    with pytest.raises(ValueError, match="`codes` holds uniform ones only"):
        small_gan(codes=["uniform"], transforms={"shift": 1.0})
    with pytest.raises(ValueError, match="`trainer.precision` must not be '16-mixed'"):
        check_trainer("16-mixed", None)
    with pytest.raises(ValueError, match="`trainer.strategy` must be auto or ddp, but got object"):
        check_trainer("32-true", object())
