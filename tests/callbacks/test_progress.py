"""What a run says about its progress."""

import io
from types import SimpleNamespace

import pytest
from rich.console import Console

from interp_train.callbacks.progress import Progress, duration


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (None, "?"), (0.4, "0 s"), (48.2, "48 s"), (59.6, "1 min 00 s"), (200, "3 min 20 s"),
        (3599.7, "1 h 00 min"), (7500, "2 h 05 min"),
    ],
)  # fmt: skip
def test_durations_as_a_reader_says_them(seconds, text):
    assert duration(seconds) == text


class Clock:
    """Time that passes when we say so."""

    def __init__(self):
        self.now = 100.0

    def perf_counter(self):
        return self.now


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr("interp_train.callbacks.progress.time", clock)
    return clock


class FakeTrainer(SimpleNamespace):
    __hash__ = object.__hash__


def trainer_of(tmp_path):
    return FakeTrainer(
        current_epoch=0, num_training_batches=10, max_epochs=4, is_global_zero=True,
        sanity_checking=False, check_val_every_n_epoch=1, default_root_dir=str(tmp_path),
        callback_metrics={"accuracy/top1": 0.5, "loss/train/task": 1.0},
    )  # fmt: skip


def test_the_time_to_the_end_counts_steps_and_validations(tmp_path, clock):
    trainer, progress = trainer_of(tmp_path), Progress(forecast_after=10_000)
    progress.console = Console(file=io.StringIO(), width=200)
    assert progress.seconds_left(trainer) is None
    progress.on_train_start(trainer, None)
    for step in range(10):
        clock.now += 2.0
        progress.on_train_batch_end(trainer, None, {"loss": 1.0}, None, step)
    assert progress.seconds_left(trainer) == pytest.approx(30 * 2.0)  # validations unknown
    progress.on_validation_start(trainer, None)
    clock.now += 5.0
    progress.on_validation_end(trainer, None)
    assert progress.seconds_left(trainer) == pytest.approx(30 * 2.0 + 3 * 5.0)
    progress.on_train_epoch_end(trainer, None)
    assert progress.console.file.getvalue() == "epoch 1/4  accuracy/top1 0.5  1 min 15 s left\n"


def test_a_resumed_run_counts_only_its_own_steps(tmp_path, clock):
    trainer, progress = trainer_of(tmp_path), Progress()
    trainer.current_epoch = 2
    progress.on_train_start(trainer, None)
    clock.now += 3.0
    progress.on_train_batch_end(trainer, None, {"loss": 1.0}, None, 0)
    assert progress.seconds_left(trainer) == pytest.approx(19 * 3.0)


def test_lines_inside_an_epoch_keep_their_distance(tmp_path, clock):
    trainer = trainer_of(tmp_path)
    progress = Progress(forecast_after=10_000, seconds_between_lines=30.0)
    progress.console = Console(file=io.StringIO(), width=200)
    progress.on_train_start(trainer, None)
    for step in range(8):
        clock.now += 10.0
        progress.on_train_batch_end(trainer, None, {"loss": 0.25}, None, step)
    lines = progress.console.file.getvalue().splitlines()
    assert lines == [
        "epoch 1/4  step 4/10  loss 0.25  6 min 00 s left",
        "epoch 1/4  step 8/10  loss 0.25  5 min 20 s left",
    ]


def test_a_terminal_gets_a_bar(tmp_path, clock):
    trainer, progress = trainer_of(tmp_path), Progress(forecast_after=1)
    progress.console = Console(file=io.StringIO(), width=120, force_terminal=True)
    progress.on_train_start(trainer, None)
    clock.now += 1.0
    progress.on_train_batch_end(trainer, None, {"loss": 0.25}, None, 0)
    progress.on_train_epoch_end(trainer, None)
    progress.on_train_end(trainer, None)
    shown = progress.console.file.getvalue()
    assert "━" in shown
    assert "after 1 steps: about 39 s to the end without validation" in shown
    assert "step 1/10" in shown


def test_a_process_beside_the_main_one_is_silent(tmp_path, clock):
    trainer, progress = trainer_of(tmp_path), Progress(forecast_after=1)
    trainer.is_global_zero = False
    progress.console = Console(file=io.StringIO())
    progress.on_train_start(trainer, None)
    clock.now += 100.0
    progress.on_train_batch_end(trainer, None, {"loss": 0.25}, None, 0)
    progress.on_train_epoch_end(trainer, None)
    assert progress.console.file.getvalue() == ""
