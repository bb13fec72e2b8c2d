"""What heads that parse boxes cost beside torchvision's two layers, alone and in a whole step."""

import functools
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from interp_train.atomic_files import write_json
from interp_train.backbones.torchvision_backbone import torchvision_backbone
from interp_train.benchmark_timing import (
    interleaved,
    peak_in_process,
    peak_of_steps,
    time_ratios,
    timed,
)
from interp_train.checks import check_range
from interp_train.learning.interpretable_rcnn.detector import (
    DetectorSettings,
    PartSettings,
    box_head_of,
    box_predictor_of,
)
from interp_train.learning.interpretable_rcnn.module import InterpretableRcnn
from interp_train.learning.interpretable_rcnn.part_head import PartHead
from interp_train.learning.interpretable_rcnn.position_sensitive import PositionSensitiveHead
from interp_train.structures import DataInfo, DetectionBatch

# Name of a variant -> kind of head and sharpness of its Or nodes.
VARIANTS = {
    "two_layer": ("two_layer", 0.0),
    "folding": ("and_or", 0.0),
    "smooth": ("and_or", 3.0),
    "unfolding": ("and_or", math.inf),
    "position_sensitive_folding": ("position_sensitive", 0.0),
    "position_sensitive_unfolding": ("position_sensitive", math.inf),
}
_ORDINARY = "two_layer"
_OBJECTS, _MEMORY_STEPS = 5, 3


class HeadSetting(NamedTuple):
    """Boxes that a head reads.

    Attributes:
        num_boxes: N.
        channels: of their features.
        num_categories: without the background.
        device: torch's name.
    """

    num_boxes: int
    channels: int
    num_categories: int
    device: str


class HeadStep:
    """Repeats forward and backward of a box head and its predictor on random features.

    Args:
        variant: one of `VARIANTS`.
        setting: see `HeadSetting`.
    """

    def __init__(self, variant: str, setting: HeadSetting) -> None:
        torch.manual_seed(0)
        self.device = setting.device
        kind, sharpness = VARIANTS[variant]
        settings = DetectorSettings(channels=setting.channels)
        head = box_head_of(kind, 1 + setting.num_categories, settings, PartSettings())
        if isinstance(head, PartHead):
            head.sharpness = sharpness
        # Its convolution is run per image, and so counts in the training step alone.
        sensitive = isinstance(head, PositionSensitiveHead)
        channels = PartSettings.projection_size if sensitive else setting.channels
        predictor = box_predictor_of(head, 1 + setting.num_categories)
        self.network = nn.Sequential(head, predictor).to(setting.device)
        shape = (setting.num_boxes, channels, settings.grid, settings.grid)
        self.features = torch.randn(shape, device=setting.device, requires_grad=True)

    def __call__(self) -> tuple[float, float]:
        """Seconds of forward and backward: wall and processor."""
        return timed(self._step, self.device)

    def _step(self) -> None:
        logits, offsets = self.network(self.features)
        (logits.square().mean() + offsets.square().mean()).backward()


class DetectorStep:
    """Repeats the training step of a whole detector on two random images.

    Args:
        variant: one of `VARIANTS`.
        backbone: torchvision's name.
        levels: of the feature pyramid.
        image_size: side of the images, in pixels.
        setting: categories and device.
    """

    def __init__(
        self,
        variant: str,
        backbone: str,
        levels: Sequence[str],
        image_size: int,
        setting: HeadSetting,
    ) -> None:
        torch.manual_seed(0)
        self.device = setting.device
        kind, sharpness = VARIANTS[variant]
        network = torchvision_backbone(backbone, classifier=False, image_size=image_size)
        names = tuple(f"category {index}" for index in range(setting.num_categories))
        info = DataInfo("random", names, (), {}, (), image_size, 3, (0.0,) * 3, (1.0,) * 3, "", "")
        self.system = InterpretableRcnn(
            network,
            info,
            head=kind,
            levels=levels,
            detector=DetectorSettings(channels=setting.channels),
            optimizer=functools.partial(torch.optim.SGD, lr=1e-4, momentum=0.9),
        ).to(setting.device)
        if self.system.and_or_head is not None:
            self.system.and_or_head.sharpness = sharpness
        (self.optimizer,), _ = self.system.train().configure_optimizers()
        self.batch = _random_batch(image_size, setting)

    def __call__(self) -> tuple[float, float]:
        """Seconds of one step (forward, losses, backward, update): wall and processor."""
        return timed(self._step, self.device)

    def _step(self) -> None:
        self.optimizer.zero_grad()
        terms = self.system.run(self.batch).loss_terms
        torch.stack(tuple(terms.values())).sum().backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()


def benchmark_detector(
    *,
    backbone: str | None = None,
    cuts: Sequence[str] = ("layer4", "layer3"),
    image_size: int = 224,
    num_boxes: int = 512,
    box_channels: int = 256,
    box_categories: Sequence[int] = (20, 80),
    repetitions: int = 10,
    device: str = "cpu",
    output: str | None = None,
) -> dict[str, Any]:
    """Cost of the heads that parse boxes, in each stage, over torchvision's two layers.

    Args:
        backbone: torchvision's name, for the whole step; None is ResNet-18.
        cuts: layers of its feature pyramid, coarsest first.
        image_size: of the whole step's two images, in pixels.
        num_boxes: that the head alone reads.
        box_channels: of their features.
        box_categories: numbers of categories; memory is that of the last, the whole step has the
            first.
        repetitions: rounds; in each round every variant makes one step, in turn.
        device: torch's name.
        output: JSON file to write; None writes none.

    Returns:
        ``rows`` (times as in `interp_train.benchmark`), ``memory`` and ``setting``.
    """
    check_range("repetitions", repetitions, 2)
    backbone = backbone or "resnet18"
    rows: list[dict[str, Any]] = []
    for number in box_categories:
        setting = HeadSetting(num_boxes, box_channels, number, device)
        heads = {name: HeadStep(name, setting) for name in VARIANTS}
        rows += _rows("head", number, interleaved(heads, repetitions))
    setting = HeadSetting(num_boxes, box_channels, box_categories[0], device)
    levels = tuple(reversed(cuts))
    whole = {name: DetectorStep(name, backbone, levels, image_size, setting) for name in VARIANTS}
    rows += _rows("training step", box_categories[0], interleaved(whole, repetitions))
    del whole
    memory = _memory(HeadSetting(num_boxes, box_channels, box_categories[-1], device))
    described = {"torch": torch.__version__, "threads": torch.get_num_threads(), "device": device,
                 "backbone": backbone, "image_size": image_size, "num_boxes": num_boxes,
                 "box_channels": box_channels, "repetitions": repetitions}  # fmt: skip
    result = {"rows": rows, "memory": memory, "setting": described}
    if output is not None:
        write_json(Path(output), result)
    return result


def _rows(
    part: str, categories: int, measured: dict[str, list[tuple[float, float]]]
) -> list[dict[str, Any]]:
    return [
        {
            "measured": part,
            "head": name,
            "categories": categories,
            **time_ratios(times, measured[_ORDINARY]),
        }
        for name, times in measured.items()
        if name != _ORDINARY
    ]


def _memory(setting: HeadSetting) -> list[dict[str, Any]]:
    """Peak of each head, and what it takes more than two layers."""
    peaks = {name: head_memory(name, setting) for name in VARIANTS}
    return [
        {
            "head": name,
            "categories": setting.num_categories,
            "peak_mib": peak / 2**20,
            "more_than_two_layer_mib": (peak - peaks[_ORDINARY]) / 2**20,
        }
        for name, peak in peaks.items()
    ]


def _random_batch(image_size: int, setting: HeadSetting) -> DetectionBatch:
    """Two images with a few boxes each."""
    generator = torch.Generator().manual_seed(0)

    def one() -> tuple[Tensor, Tensor, Tensor]:
        image = torch.rand(3, image_size, image_size, generator=generator)
        corners = torch.rand(_OBJECTS, 2, generator=generator) * image_size * 0.6
        sizes = (0.2 + 0.2 * torch.rand(_OBJECTS, 2, generator=generator)) * image_size
        kinds = torch.randint(setting.num_categories, (_OBJECTS,), generator=generator)
        boxes = torch.cat([corners, corners + sizes], 1)
        return image.to(setting.device), boxes.to(setting.device), kinds.to(setting.device)

    (image, boxes, kinds), (other, more, others) = one(), one()
    none = torch.zeros(_OBJECTS, dtype=torch.bool, device=setting.device)
    parts = boxes.new_zeros(_OBJECTS, 0, 4)
    ids = torch.arange(2, device=setting.device)
    return DetectionBatch(
        (image, other), (kinds, others), ids, (boxes, more), (none, none), (parts, parts)
    )


def head_memory(variant: str, setting: HeadSetting) -> int:
    """Bytes at the peak of a few steps of a head, in a process of its own."""
    task = json.dumps({"variant": variant, "setting": setting})
    return peak_in_process(__name__, task)


def print_peak(task: str) -> None:
    """Body of the process of `head_memory`."""
    described = json.loads(task)
    setting = HeadSetting(*described["setting"])
    make = functools.partial(HeadStep, described["variant"], setting)
    print(peak_of_steps(make, _MEMORY_STEPS, setting.device))
