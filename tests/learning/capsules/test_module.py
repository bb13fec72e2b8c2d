"""Losses against loops; resume, precision, overlapping objects, and one against two processes."""

import functools

import pytest
import torch
from torch import nn

from interp_train.learning.capsules.functional import lengths
from interp_train.learning.capsules.layers import ROUTINGS
from interp_train.learning.capsules.module import checked_margins
from interp_train.learning.capsules.schedules import exponential_decay
from interp_train.structures import BACKGROUND
from tests.learning.capsules.small_capsnet import (
    INFO,
    Bars,
    bars,
    small_capsnet,
    small_head,
    trained,
)


def slow_terms(system, capsules, labels, images):
    """Margin loss and reconstruction, image by image, category by category, pixel by pixel."""
    margin = squared = 0.0
    for row, categories in enumerate(labels):
        for category in range(3):
            length = float(capsules[row, category].norm())
            if category in categories:
                margin += max(0.0, 0.9 - length) ** 2
            else:
                margin += 0.5 * max(0.0, length - 0.1) ** 2
        for place, category in enumerate(categories):
            kept = torch.zeros(15, dtype=capsules.dtype)
            kept[5 * category : 5 * category + 5] = capsules[row, category]
            hidden = torch.relu(system.decoder.layers[0](kept))
            drawn = torch.sigmoid(system.decoder.layers[2](hidden))
            wanted = images[row, place].flatten() / 4 + 0.5
            squared += sum(float(d - w) ** 2 for d, w in zip(drawn, wanted, strict=True))
    return margin / len(labels), 0.0005 * squared / len(labels)


@pytest.mark.parametrize("overlapping", [False, True])
def test_losses_equal_those_by_hand(overlapping):
    system = small_capsnet().double().eval()
    batch = Bars(overlapping=overlapping).val.__getitems__(range(4))
    images = batch.object_images if overlapping else batch.images[:, None]
    labels = batch.object_labels.tolist() if overlapping else batch.labels[:, None].tolist()
    batch = batch._replace(images=batch.images.double())
    outputs = system.run(batch)
    capsules = outputs.activations["head.categories"]
    with torch.no_grad():
        terms = system.loss_terms(outputs, batch)
        margin, reconstruction = slow_terms(system, capsules, labels, images.double())
    assert float(terms["margin"]) == pytest.approx(margin, abs=1e-6)
    assert float(terms["reconstruction"]) == pytest.approx(reconstruction, rel=1e-6)
    found = lengths(capsules)
    torch.testing.assert_close(outputs.logits.sigmoid(), found, rtol=0, atol=1e-6)


def test_the_background_has_no_long_capsule_and_is_not_drawn():
    system = small_capsnet()
    batch = bars(3, 0).__getitems__(range(3))
    batch = batch._replace(labels=torch.full((3,), BACKGROUND))
    outputs = system.run(batch)
    terms = system.loss_terms(outputs, batch)
    found = lengths(outputs.activations["head.categories"])
    expected = 0.5 * (found - 0.1).clamp(min=0).square().sum(1).mean()
    torch.testing.assert_close(terms["margin"], expected)
    assert terms["reconstruction"] == 0


def test_bars_are_told_apart_and_drawn(tmp_path):
    system = small_capsnet(lr=1e-2, reconstruction_weight=0.005)
    data = Bars(number=72, batch_size=12)
    trainer = trained(system, tmp_path, epochs=1, data=data)
    before = trainer.callback_metrics["loss/validation/reconstruction"]
    trainer = trained(system, tmp_path, epochs=25, data=data, check_val_every_n_epoch=25)
    logged = trainer.callback_metrics
    assert logged["accuracy/top1"] >= 0.85
    assert logged["loss/validation/reconstruction"] < 0.8 * before
    assert set(logged) >= {
        "accuracy/train", "accuracy/per_category_mean", "loss/train/margin",
        "loss/train/reconstruction", "loss/validation/margin",
    }  # fmt: skip
    reading = system.read(data.val.__getitems__(range(7)).images)
    assert reading.activity.shape == (7, 2, 3, 3)
    torch.testing.assert_close(reading.coupling.sum(2), torch.ones(7, 18))
    drawn = system.drawn(reading.capsules, reading.lengths.argmax(1))
    assert drawn.shape == (7, 3, 12, 12)
    assert 0 <= drawn.min() <= drawn.max() <= 1


def test_both_objects_are_counted(tmp_path):
    system = small_capsnet()
    trainer = trained(system, tmp_path, data=Bars(overlapping=True))
    logged = trainer.callback_metrics
    assert "accuracy/top1" not in logged
    batch = Bars(overlapping=True).val.__getitems__(range(7))
    with torch.no_grad():
        two = system.eval()(batch.images).topk(2, 1).indices.tolist()
    pairs = zip(two, batch.object_labels.tolist(), strict=True)
    hits = [len(set(found) & set(own)) for found, own in pairs]
    assert float(logged["accuracy/objects"]) == pytest.approx(sum(hits) / 14)
    assert float(logged["accuracy/all_objects"]) == pytest.approx(hits.count(2) / 7)


@pytest.mark.parametrize("routing", ROUTINGS)
@pytest.mark.parametrize("shared", [False, True])
def test_every_routing_trains_with_finite_losses(tmp_path, routing, shared):
    squash = "none" if routing in ("self", "inverted", "em") else "quadratic"
    head = small_head(routing=routing, shared=shared, primary={"squash": squash})
    system = small_capsnet(head=head)
    trainer = trained(system, tmp_path, precision="bf16-mixed")
    losses = {k: v for k, v in trainer.callback_metrics.items() if k.startswith("loss/")}
    assert len(losses) == 4
    assert all(bool(value.isfinite()) for value in losses.values())


def test_half_precision_is_close_to_single(tmp_path):
    results = [
        trained(small_capsnet(), tmp_path / p, precision=p).callback_metrics
        for p in ("32-true", "bf16-mixed")
    ]
    for name in ("loss/validation/margin", "loss/validation/reconstruction"):
        assert float(results[1][name]) == pytest.approx(float(results[0][name]), rel=0.03)


def test_the_margin_of_the_spread_loss_rises_with_the_batches(tmp_path):
    system = small_capsnet(loss="spread", margins={"rise": 6}, reconstruction_weight=0.0)
    seen = []
    system.on_train_batch_start = lambda *_: seen.append(system.current_margin())
    trainer = trained(system, tmp_path, epochs=3)
    wanted = [0.2 + 0.7 * min(1, step / 6) for step in range(9)]
    assert seen == pytest.approx(wanted)
    assert "loss/train/spread" in trainer.callback_metrics
    with pytest.raises(ValueError, match="`reconstruction_weight` must be positive to draw"):
        system.drawn(torch.zeros(1, 3, 5), torch.zeros(1, dtype=torch.long))


def test_the_learning_rate_falls_as_in_the_programme():
    weights = [nn.Parameter(torch.zeros(1)), nn.Parameter(torch.zeros(1))]
    optimizer = torch.optim.Adam(
        [{"params": weights[:1], "lr": 1e-3}, {"params": weights[1:], "lr": 1e-4}]
    )
    scheduler = exponential_decay(optimizer, rate=0.96, steps=10, floor=5e-5)
    found = []
    for _ in range(200):
        found.append(scheduler.get_last_lr())
        optimizer.step()
        scheduler.step()
    for step, rates in enumerate(found):
        for rate, first in zip(rates, (1e-3, 1e-4), strict=True):
            assert rate == pytest.approx(max(5e-5, first * 0.96 ** (step / 10)))
    with pytest.raises(ValueError, match="`rate` must be >= 0.0 and <= 1.0, but got 2"):
        exponential_decay(optimizer, rate=2)


def scheduled(**options):
    decay = functools.partial(exponential_decay, rate=0.5, steps=3, floor=1e-4)
    return small_capsnet(scheduler=decay, **options)


def test_an_interrupted_training_equals_one_that_was_not(tmp_path):
    whole, half, other = (scheduled() for _ in range(3))
    trained(whole, tmp_path, epochs=3)
    trained(half, tmp_path, epochs=1).save_checkpoint(tmp_path / "half.ckpt")
    trainer = trained(other, tmp_path, epochs=3, ckpt_path=str(tmp_path / "half.ckpt"))
    assert trainer.global_step == 9
    for name, value in whole.state_dict().items():
        assert torch.equal(other.state_dict()[name], value), name


def double_training(folder, overlapping):
    """State after three batches in float64, and the logged measures; ranks share the batches."""
    ranked = torch.distributed.is_initialized()
    more = {"strategy": "ddp", "devices": 2} if ranked else {}
    system = scheduled(make=torch.optim.SGD, trunk={"batch_norm": True})  # Adam blows up rounding
    data = Bars(batch_size=3 if ranked else 6, overlapping=overlapping)
    trainer = trained(system, folder, data=data, precision="64-true", **more)
    state = {name: value.clone() for name, value in system.state_dict().items()}
    measured = {k: float(v) for k, v in trainer.callback_metrics.items() if "loss/train" not in k}
    return state, measured


@pytest.mark.parametrize("overlapping", [False, True])
def test_two_processes_learn_what_one_learns(two_processes, tmp_path, overlapping):
    state, measured = double_training(tmp_path, overlapping)
    for found, found_measures in two_processes(double_training, str(tmp_path), overlapping):
        for name, value in state.items():
            torch.testing.assert_close(found[name], value, rtol=1e-7, atol=1e-9, msg=name)
        assert found_measures == pytest.approx(measured, rel=1e-6)
    accuracy = "accuracy/objects" if overlapping else "accuracy/top1"
    assert set(measured) >= {accuracy, "loss/validation/margin"}


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="`objectives` must be empty for a capsule network"):
        small_capsnet(objectives={"parts": nn.Identity()})
    with pytest.raises(ValueError, match="`loss` must be one of 'margin', 'spread'"):
        small_capsnet(loss="hinge")
    with pytest.raises(ValueError, match="`margins` must name a margin of the loss"):
        small_capsnet(margins={"top": 0.5})
    with pytest.raises(ValueError, match=r"`margins.present` must be >= 0.0 and <= 1.0"):
        checked_margins({"present": 1.5})
    with pytest.raises(ValueError, match=r"`network` must take the data's images, 1 channels"):
        small_capsnet(trunk={"in_channels": 3})
    with pytest.raises(ValueError, match=r"`kernel_size` .* got 9 for 8 x 8 cells"):
        small_capsnet(head=small_head(primary={"kernel_size": 9}))
    with pytest.raises(ValueError, match="`num_outputs` must be at least 2"):
        small_head()(in_channels=6, num_outputs=1, in_size=(8, 8))
    spread = small_capsnet(loss="spread")
    batch = Bars(overlapping=True).val.__getitems__(range(2))
    with pytest.raises(ValueError, match="`loss` must be 'margin' for images of several objects"):
        spread.loss_terms(spread.run(batch), batch)
    with pytest.raises(ValueError, match="`optimizer` must be a partial with a learning rate"):
        small_capsnet(make=torch.optim.Adam).__class__.configure_optimizers(
            small_capsnet_without_rate()
        )


def small_capsnet_without_rate():
    system = small_capsnet()
    system.make_optimizer = torch.optim.Adam
    return system


def test_images_of_another_size_are_refused():
    system = small_capsnet()
    with pytest.raises(ValueError, match=r"`maps` must have 8x8 cells"):
        system(torch.zeros(1, 1, 16, 16))
    assert len(INFO.class_names) == system(torch.zeros(1, 1, 12, 12)).shape[1]
