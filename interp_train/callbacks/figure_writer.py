"""Write figures while training goes on: one thread, a bounded queue, nothing dropped.

A callback copies what it needs to the CPU and submits a function that draws. The thread draws,
writes ``<default_root_dir>/figures/<tag>_epoch<E>.png`` and hands the pixels to every logger that
takes images. If the queue is full, the submitting callback waits. An error in the thread is
raised at the next submission or flush. The latest drawing of each tag is also written as PDF and
SVG when the run ends.
"""

import queue
import threading
import weakref
from abc import ABC
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from lightning.pytorch import Callback, LightningModule, Trainer
from matplotlib.figure import Figure

from interp_train.figures import as_pixels, save_figure
from interp_train.stopwatch import stopwatch_of

Draw = Callable[[], Figure]


class FigureJob(NamedTuple):
    """One figure to draw and write.

    Attributes:
        tag: group and name, e.g. ``"heatmaps/grad_cam"``.
        epoch: 0 in the first epoch.
        step: optimiser steps so far.
        draw: makes the figure from data of its own.
        folder: where files go.
        vector: whether the latest drawing is also written as PDF and SVG.
        image_logs: functions that take tag, pixels uint8 ``(3, H, W)`` and step.
    """

    tag: str
    epoch: int
    step: int
    draw: Draw
    folder: Path
    vector: bool
    image_logs: tuple[Callable[..., None], ...]


class FigureWriter:
    """A thread that draws and writes figures in the order of submission.

    Args:
        capacity: jobs that may wait; a further submission blocks until one is done.
        vector: whether the latest drawing of a tag is written as PDF and SVG where a job asks.
    """

    def __init__(self, capacity: int = 16, *, vector: bool = True) -> None:
        self._jobs: queue.Queue[FigureJob | None] = queue.Queue(capacity)
        self._writes_vector = vector
        self._vector: dict[str, FigureJob] = {}
        self._error: tuple[str, Exception] | None = None
        self._thread: threading.Thread | None = None

    def submit(self, job: FigureJob) -> None:
        """Queue a job; wait while the queue is full.

        Raises:
            RuntimeError: if an earlier figure failed.
        """
        self._raise_error()
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name="figures", daemon=True)
            self._thread.start()
        self._jobs.put(job)

    def flush(self) -> None:
        """Wait until everything is written, the vector files too; end the thread.

        Raises:
            RuntimeError: if a figure failed.
        """
        thread, self._thread = self._thread, None
        if thread is not None:
            self._jobs.put(None)
            thread.join()
        self._raise_error()

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            if job.vector and self._writes_vector:
                self._vector[job.tag] = job
            self._attempt(job, _write_pixels)
        for job in self._vector.values():
            self._attempt(job, _write_vector)
        self._vector.clear()

    def _attempt(self, job: FigureJob, write: Callable[[FigureJob], None]) -> None:
        if self._error is not None:  # the first error is the one to see
            return
        try:
            write(job)
        except Exception as error:
            self._error = (job.tag, error)

    def _raise_error(self) -> None:
        if self._error is not None:
            (tag, error), self._error = self._error, None
            raise RuntimeError(
                f"The figure {tag!r} could not be drawn or written ({type(error).__name__}: "
                f"{error}). Leave out its callback to go on without it."
            ) from error


def _write_pixels(job: FigureJob) -> None:
    figure = job.draw()
    save_figure(figure, job.folder / f"{file_name(job.tag)}_epoch{job.epoch:03d}.png")
    if job.image_logs:
        pixels = as_pixels(figure)
        for log in job.image_logs:
            log(job.tag, pixels, job.step)


def _write_vector(job: FigureJob) -> None:
    figure = job.draw()
    for suffix in (".pdf", ".svg"):
        save_figure(figure, job.folder / f"{file_name(job.tag)}{suffix}")


def file_name(tag: str) -> str:
    """A tag as part of a file name."""
    return tag.replace("/", "_")


def image_log(logger: Any) -> Callable[..., None] | None:
    """How `logger` takes an image (tag, pixels, step); None if it takes none.

    Asks for the ability, not for the class: TensorBoard's experiment has `add_image`, others
    have `log_image` on the logger.
    """
    add_image = getattr(logger.experiment, "add_image", None) if _has_experiment(logger) else None
    if callable(add_image):
        return lambda tag, pixels, step: add_image(tag, pixels, step)
    log_image = getattr(logger, "log_image", None)
    if callable(log_image):
        return lambda tag, pixels, step: log_image(
            key=tag, images=[pixels.permute(1, 2, 0).numpy()], step=step
        )
    return None


def _has_experiment(logger: Any) -> bool:
    return hasattr(type(logger), "experiment")


_WRITERS: "weakref.WeakKeyDictionary[object, FigureWriter]" = weakref.WeakKeyDictionary()


def figure_writer_of(trainer: Trainer) -> FigureWriter:
    """The one writer of a trainer, made at first use."""
    if trainer not in _WRITERS:
        _WRITERS[trainer] = FigureWriter()
    return _WRITERS[trainer]


def use_figure_writer(trainer: Trainer, writer: FigureWriter) -> None:
    """Have a trainer's figures written by `writer`; before the first is submitted."""
    _WRITERS[trainer] = writer


def submit_figure(trainer: Trainer, tag: str, draw: Draw, *, vector: bool = False) -> None:
    """Have a figure drawn, written and logged; whoever submits must `flush` when the run ends.

    Args:
        trainer: whose folder and loggers are used; other processes than 0 do nothing.
        tag: group and name, e.g. ``"heatmaps/grad_cam"``.
        draw: makes the figure; must not touch the network or tensors that change.
        vector: also write the latest drawing as PDF and SVG.
    """
    if not trainer.is_global_zero:
        return
    logs = tuple(log for logger in trainer.loggers if (log := image_log(logger)) is not None)
    folder = Path(trainer.default_root_dir) / "figures"
    job = FigureJob(tag, trainer.current_epoch, trainer.global_step, draw, folder, vector, logs)
    figure_writer_of(trainer).submit(job)


class FigureCallback(Callback, ABC):
    """A callback that submits figures on process 0 and waits for them when the run ends."""

    def submit(self, trainer: Trainer, tag: str, draw: Draw, *, vector: bool = False) -> None:
        """See `submit_figure`."""
        submit_figure(trainer, tag, draw, vector=vector)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Wait for the figures before the loggers close."""
        with stopwatch_of(trainer).measure("figures"):
            figure_writer_of(trainer).flush()

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        """Write what was submitted; an error of a figure must not hide the run's own."""
        try:
            figure_writer_of(trainer).flush()
        except RuntimeError as error:
            exception.add_note(str(error))
