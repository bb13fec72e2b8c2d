"""What the callbacks of a validation cost beside a plain one: dissection, parts and heatmaps.

Both validate the same network on the same pictures in memory, in turn. The callbacks stay the same
objects, so that after the round that does not count only what recurs is measured (the network with
random weights is measured once in a run). What a run writes once at its end, PDF and SVG, is left
out; the pictures of the validation itself are drawn and waited for.
"""

import logging
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, Trainer
from torch import nn

from interp_train.atomic_files import write_json
from interp_train.backbones.torchvision_backbone import torchvision_backbone
from interp_train.benchmark_timing import interleaved, time_ratios, timed
from interp_train.callbacks.dissection import Dissection
from interp_train.callbacks.figure_writer import FigureWriter, use_figure_writer
from interp_train.callbacks.heatmap_panels import HeatmapPanels
from interp_train.callbacks.part_tracking import PartTracking
from interp_train.checks import check_range
from interp_train.data.synthetic import SyntheticData
from interp_train.diagnosis.heatmaps.grad_cam import GradCam
from interp_train.learning.classifier import Classifier
from interp_train.run_log import without_noise

_PINNED = 8


class Validation:
    """Repeats the validation of one network on pictures of creatures.

    Args:
        system: what is validated.
        data: with `setup` called.
        callbacks: of every validation.
        folder: where pictures go.
    """

    def __init__(
        self, system: Classifier, data: SyntheticData, callbacks: Sequence[Callback], folder: Path
    ) -> None:
        self.system, self.data = system, data
        self.trainer = Trainer(
            accelerator="cpu", logger=False, enable_checkpointing=False, callbacks=[*callbacks],
            enable_progress_bar=False, enable_model_summary=False, default_root_dir=folder,
        )  # fmt: skip
        use_figure_writer(self.trainer, FigureWriter(vector=False))

    def __call__(self) -> tuple[float, float]:
        """Seconds of one validation with its pictures: wall and processor."""
        with without_noise():
            return timed(lambda: self.trainer.validate(self.system, self.data, verbose=False))


def network_of_data(backbone: str, data: SyntheticData) -> Classifier:
    """An untrained classifier of the creatures."""
    torch.manual_seed(0)
    network = torchvision_backbone(backbone, image_size=data.info.image_size)
    network.resize_classifier(len(data.info.class_names))
    for module in network.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    return Classifier(network, data.info, {}, loss="softmax", head=None, optimizer=torch.optim.SGD)


def measured_callbacks() -> dict[str, list[Callback]]:
    """Name -> callbacks of a validation, the plain one first, then all, then each alone."""

    def dissection() -> Callback:
        return Dissection(["last"])

    def tracking() -> Callback:
        return PartTracking(["last"])

    def heatmaps() -> Callback:
        return HeatmapPanels({"grad_cam": GradCam()}, num_images=_PINNED)

    return {
        "plain validation": [],
        "dissection, part tracking, heatmaps": [dissection(), tracking(), heatmaps()],
        "dissection": [dissection()],
        "part tracking": [tracking()],
        "heatmaps": [heatmaps()],
    }


def benchmark_validation(
    *,
    backbone: str = "squeezenet1_0",
    image_size: int = 224,
    batch_size: int = 16,
    repetitions: int = 10,
    num_validated: int = 500,
    each_alone: bool = True,
    output: str | None = None,
) -> dict[str, Any]:
    """Time of a validation with callbacks over that of a plain one.

    Args:
        backbone: torchvision's name.
        image_size: side of the images, in pixels.
        batch_size: images per step.
        repetitions: rounds; in each round every variant validates once, in turn.
        num_validated: images.
        each_alone: whether each callback is measured alone, too.
        output: JSON file to write; None writes none.

    Returns:
        ``rows`` as in `interp_train.benchmark.benchmark_objective`, and ``setting``.
    """
    check_range("repetitions", repetitions, 2)
    check_range("num_validated", num_validated, _PINNED)
    data = SyntheticData(
        num_train=1, num_val=num_validated, image_size=image_size, num_classes=4,
        batch_size=batch_size,
    )  # fmt: skip
    data.setup("validate")
    logging.getLogger("lightning.pytorch.utilities.rank_zero").setLevel(logging.WARNING)
    system = network_of_data(backbone, data)
    with tempfile.TemporaryDirectory() as folder:
        steps = {
            name: Validation(system, data, callbacks, Path(folder) / str(number))
            for number, (name, callbacks) in enumerate(measured_callbacks().items())
            if each_alone or number < 2
        }
        measured = interleaved(steps, repetitions, warm_up=1)
    plain = measured["plain validation"]
    rows = [{"variant": name, **time_ratios(found, plain)} for name, found in measured.items()]
    result = {
        "rows": rows,
        "setting": {
            "torch": torch.__version__, "threads": torch.get_num_threads(), "backbone": backbone,
            "image_size": image_size, "batch_size": batch_size, "repetitions": repetitions,
            "num_validated": num_validated,
        },
    }  # fmt: skip
    if output is not None:
        write_json(Path(output), result)
    return result
