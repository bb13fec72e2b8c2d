import threading
import time

import numpy as np
import pytest
import torch
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from PIL import Image

from interp_train.callbacks.figure_writer import (
    FigureCallback,
    FigureJob,
    FigureWriter,
    image_log,
)
from interp_train.figures import new_figure
from tests.callbacks.panel_run import ForeignModule, loader, trainer


def job(folder, tag="parts/units", epoch=0, draw=None, vector=False, logs=()):
    return FigureJob(tag, epoch, 7, draw or (lambda: new_figure(1, 1)), folder, vector, logs)


def test_files_and_image_logs_in_the_order_of_submission(tmp_path):
    seen = []
    writer = FigureWriter(capacity=2)
    for epoch in range(5):

        def log(tag, pixels, step, epoch=epoch):
            seen.append((tag, tuple(pixels.shape), epoch))

        writer.submit(job(tmp_path, epoch=epoch, logs=(log,)))
    writer.flush()
    assert seen == [("parts/units", (3, 110, 110), epoch) for epoch in range(5)]
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        f"parts_units_epoch{epoch:03d}.png" for epoch in range(5)
    ]
    with Image.open(tmp_path / "parts_units_epoch000.png") as image:
        assert image.size == (110, 110)


def test_a_full_queue_makes_the_submitter_wait_and_drops_nothing(tmp_path):
    gate, drawn = threading.Event(), []

    def draw():
        gate.wait(10)
        drawn.append(1)
        return new_figure(1, 1)

    writer = FigureWriter(capacity=1)
    threading.Timer(0.3, gate.set).start()
    start = time.perf_counter()
    for epoch in range(4):
        writer.submit(job(tmp_path, epoch=epoch, draw=draw))
    assert time.perf_counter() - start > 0.2
    writer.flush()
    assert len(drawn) == 4


def test_vector_files_of_the_latest_drawing_only(tmp_path):
    drawn = []

    def draw(epoch):
        drawn.append(epoch)
        return new_figure(1, 1)

    writer = FigureWriter()
    for epoch in range(3):
        writer.submit(job(tmp_path, epoch=epoch, draw=lambda e=epoch: draw(e), vector=True))
    writer.flush()
    assert drawn == [0, 1, 2, 2]
    assert (tmp_path / "parts_units.pdf").read_bytes().startswith(b"%PDF")
    assert "<svg" in (tmp_path / "parts_units.svg").read_text()


def test_errors_surface_with_the_name_of_the_figure_and_the_writer_goes_on(tmp_path):
    def fail():
        raise OSError("No space left on device")

    writer = FigureWriter()
    writer.submit(job(tmp_path, draw=fail))
    with pytest.raises(RuntimeError, match=r"'parts/units' could not .* No space left"):
        writer.flush()
    writer.submit(job(tmp_path, epoch=1))
    writer.flush()
    assert (tmp_path / "parts_units_epoch001.png").is_file()


def test_an_error_surfaces_at_the_next_submission(tmp_path):
    writer = FigureWriter()
    writer.submit(job(tmp_path, draw=lambda: 1 / 0))
    time.sleep(0.3)
    with pytest.raises(RuntimeError, match="ZeroDivisionError"):
        writer.submit(job(tmp_path))


def test_flush_without_figures_does_nothing():
    FigureWriter().flush()


class Dots(FigureCallback):
    def on_validation_epoch_end(self, trainer, pl_module):
        self.submit(trainer, "heatmaps/dots", lambda: new_figure(1, 1), vector=True)


def test_loggers_are_asked_for_the_ability_to_take_images(tmp_path):
    class TakesImages:
        def log_image(self, key, images, step):
            self.taken = key, images[0].shape, step

    logger = TakesImages()
    image_log(logger)("tag", torch.zeros(3, 4, 5, dtype=torch.uint8), 9)
    assert logger.taken == ("tag", (4, 5, 3), 9)
    assert image_log(CSVLogger(tmp_path)) is None
    assert image_log(TensorBoardLogger(tmp_path)) is not None


def test_fit_and_validate_leave_files_and_tensorboard_images(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    loggers = [CSVLogger(tmp_path), TensorBoardLogger(tmp_path, name="", version="events")]
    run = trainer(tmp_path, [Dots()], logger=loggers, max_epochs=2, num_sanity_val_steps=0)
    run.fit(ForeignModule(), loader(), loader())
    names = sorted(path.name for path in (tmp_path / "figures").iterdir())
    assert names == [
        "heatmaps_dots.pdf", "heatmaps_dots.svg", "heatmaps_dots_epoch000.png",
        "heatmaps_dots_epoch001.png",
    ]  # fmt: skip
    events = EventAccumulator(str(tmp_path / "events")).Reload()
    images = events.Images("heatmaps/dots")
    assert [image.step for image in images] == [3, 6]
    assert images[0].encoded_image_string.startswith(b"\x89PNG")
    trainer(tmp_path / "again", [Dots()]).validate(ForeignModule(), loader(), verbose=False)
    assert len(list((tmp_path / "again" / "figures").glob("*.png"))) == 1


class Broken(FigureCallback):
    def on_validation_epoch_end(self, trainer, pl_module):
        self.submit(trainer, "heatmaps/broken", lambda: np.zeros(3)[5])


def test_a_broken_figure_fails_the_run_after_training(tmp_path):
    with pytest.raises(RuntimeError, match="'heatmaps/broken' could not be drawn"):
        trainer(tmp_path, [Broken()], num_sanity_val_steps=0).fit(
            ForeignModule(), loader(), loader()
        )


class Stops(FigureCallback):
    def on_validation_epoch_end(self, trainer, pl_module):
        self.submit(trainer, "heatmaps/dots", lambda: new_figure(1, 1))
        raise ArithmeticError("the run's own error")


def test_figures_of_a_failed_run_are_written(tmp_path):
    with pytest.raises(ArithmeticError, match="the run's own error"):
        trainer(tmp_path, [Stops()]).validate(ForeignModule(), loader(), verbose=False)
    assert (tmp_path / "figures" / "heatmaps_dots_epoch000.png").is_file()
