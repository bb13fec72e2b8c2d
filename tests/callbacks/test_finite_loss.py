"""A loss that is not finite stops the run and names its terms."""

from types import SimpleNamespace

import pytest
import torch

from interp_train.callbacks.finite_loss import FiniteLoss

NAN = float("nan")


def step(callback, number, **terms):
    values = {f"loss/train/{name}": torch.tensor(value) for name, value in terms.items()}
    trainer = SimpleNamespace(callback_metrics=values, current_epoch=0, global_step=number + 1)
    callback.on_train_batch_end(trainer, None, {"loss": sum(values.values())}, None, number)
    return trainer


def test_the_first_terms_are_named_not_those_that_they_spoiled():
    callback = FiniteLoss(every_n_steps=3)
    step(callback, 0, task=1.0, filters=0.5)
    step(callback, 1, task=1.0, filters=NAN)
    with pytest.raises(FloatingPointError, match=r"first in: filters\. "):
        step(callback, 2, task=NAN, filters=NAN)


def test_the_flags_are_read_before_a_validation_and_before_the_checkpoint():
    callback = FiniteLoss(every_n_steps=100)
    trainer = step(callback, 0, task=float("inf"))
    for look in (callback.on_validation_start, callback.on_train_epoch_end):
        with pytest.raises(FloatingPointError, match="first in: task"):
            look(trainer, None)


def test_a_finite_loss_passes_and_epochs_start_anew():
    callback = FiniteLoss(every_n_steps=1)
    step(callback, 0, task=1.0)
    callback.every_n_steps = 100
    trainer = step(callback, 1, task=NAN)
    callback.on_train_epoch_start(trainer, None)
    callback.on_train_epoch_end(trainer, None)


def test_a_loss_without_logged_terms_is_watched_too():
    callback = FiniteLoss(every_n_steps=1)
    trainer = SimpleNamespace(callback_metrics={}, current_epoch=0, global_step=1)
    with pytest.raises(FloatingPointError, match="first in: the sum"):
        callback.on_train_batch_end(trainer, None, torch.tensor(NAN), None, 0)


def test_the_interval_must_be_positive():
    with pytest.raises(ValueError, match=r"`every_n_steps` must be >= 1"):
        FiniteLoss(every_n_steps=0)
