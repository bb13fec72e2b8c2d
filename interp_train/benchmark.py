"""What an objective costs: time and memory of a training step, with it and without.

`BENCHMARKS` holds one entry per objective in ``conf/filter_objective``, whose presets are measured
beside one another, ``callbacks/dissection`` (`interp_train.dissection_benchmark`),
``callbacks/validation`` (`interp_train.validation_benchmark`), and two systems under ``learning``.
Steps with and without the objective alternate, so that other load on the machine meets both alike.
"""

import functools
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
import yaml

from interp_train.atomic_files import write_json
from interp_train.backbones.backbone import Backbone
from interp_train.backbones.heads import ConvolutionalHead
from interp_train.backbones.torchvision_backbone import torchvision_backbone
from interp_train.benchmark_timing import (
    interleaved,
    peak_in_process,
    peak_of_steps,
    time_ratios,
    timed,
)
from interp_train.capsule_benchmark import benchmark_capsules
from interp_train.checks import check_name, check_range
from interp_train.config_places import config_dir
from interp_train.detection_benchmark import benchmark_detector
from interp_train.dissection_benchmark import benchmark_dissection
from interp_train.learning.classifier import Classifier
from interp_train.structures import DataInfo, ViewBatch
from interp_train.targets import build
from interp_train.validation_benchmark import benchmark_validation

ORDINARY = "none"  # the option of the ordinary twin
CACHED_HEAD: dict[str, Any] = {"added_convolutions": 2, "channels": 96, "input_norm": True}
_MEMORY_STEPS = 3


class Setting(NamedTuple):
    """One network and batch, on which all objectives are compared.

    Attributes:
        backbone: torchvision's name.
        cut: last step of the backbone; the head with the tapped layer stands on it.
        image_size: side of the images, in pixels.
        batch_size: N.
        num_categories: C.
        device: torch's name.
        precision: ``"float32"`` or ``"bfloat16"`` (autocast).
        cached: whether all up to the cut is frozen and its output is given; the head is then that
            of ``study=filters``, two convolutions of 96 units.
        steps: whose mean time is measured; an objective may act in one step of several.
        dilate: step of the backbone from which on strides are dilation.
    """

    backbone: str
    cut: str
    image_size: int
    batch_size: int
    num_categories: int
    device: str
    precision: str
    cached: bool = False
    steps: int = 1
    dilate: str | None = None


class TrainingStep:
    """Repeats the training step of one network on one random batch.

    Args:
        setting: network and batch.
        objective: option of the group ``filter_objective``; `ORDINARY` for none.
    """

    def __init__(self, setting: Setting, objective: str) -> None:
        torch.manual_seed(0)
        self.setting = setting
        self.system = _classifier(setting, objective).to(setting.device).train()
        optimizer = self.system.configure_optimizers()
        assert isinstance(optimizer, torch.optim.Optimizer)  # no scheduler was given
        self.optimizer = optimizer
        self.batch = _batch(setting, self.system.network)
        self.map_size = tuple(self.system.network.feature_shape()[1:])

    def __call__(self) -> tuple[float, float]:
        """Seconds of one step (forward, loss terms, backward, update): wall and processor."""
        wall, processor = timed(self._steps, self.setting.device)
        return wall / self.setting.steps, processor / self.setting.steps

    def _steps(self) -> None:
        for _ in range(self.setting.steps):
            self._step()

    def _step(self) -> None:
        self.optimizer.zero_grad()
        device, precision = self.setting.device, getattr(torch, self.setting.precision)
        kind = torch.device(device).type
        with torch.autocast(kind, precision, enabled=precision != torch.float32):
            terms = self.system.loss_terms(self.system.run(self.batch), self.batch)
        torch.stack(tuple(terms.values())).sum().backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()


def benchmark_objective(
    objectives: Sequence[str],
    *,
    backbone: str = "resnet18",
    cuts: Sequence[str] = ("layer4", "layer3"),
    dilate: str | None = None,
    image_size: int = 224,
    batch_size: int = 16,
    num_categories: int = 7,
    repetitions: int = 10,
    device: str = "cpu",
    precision: str = "float32",
    cached: bool = True,
    output: str | None = None,
) -> dict[str, Any]:
    """Cost of a training step with each objective, over the step of the same network without.

    Args:
        objectives: options of the group ``filter_objective``.
        backbone: torchvision's name.
        cuts: last steps of the backbone, one per map size; of ResNet-18 at 224 pixels, layer4
            gives 7x7 and layer3 14x14. A head with one added convolution is put on each.
        dilate: step of the backbone from which on strides are dilation; None keeps all.
        image_size: side of the images, in pixels.
        batch_size: images per step.
        num_categories: number of logits.
        repetitions: rounds; in each round every objective makes one step, in turn, or as many as
            the one with the largest `every_n_steps` takes for one in which its terms act.
        device: torch's name.
        precision: ``"float32"`` or ``"bfloat16"`` (autocast).
        cached: whether to measure on cached activations of each cut, too.
        output: JSON file to write; None writes none.

    Returns:
        ``rows`` (one per cut, objective and whether it is `cached`: seconds are medians;
        `time_ratio` is the median of the ratios within rounds, `time_ratio_low` and `_high` their
        quartiles; `memory_ratio` is that of peak memory) and ``setting``.
    """
    check_range("repetitions", repetitions, 2)
    common = Setting(
        backbone, "", image_size, batch_size, num_categories, device, precision, dilate=dilate
    )
    rows = []
    for cut in cuts:
        rows += _compare(common._replace(cut=cut), objectives, repetitions)
        if cached:
            rows += _compare(common._replace(cut=cut, cached=True), objectives, repetitions)
    shared = {k: v for k, v in common._asdict().items() if k not in ("cut", "cached", "steps")}
    setting = {**_machine(device), **shared, "repetitions": repetitions}
    result = {"rows": rows, "setting": setting}
    if output is not None:
        write_json(Path(output), result)
    return result


def _machine(device: str) -> dict[str, Any]:
    name = torch.cuda.get_device_name(device) if "cuda" in device else "cpu"
    return {"torch": torch.__version__, "threads": torch.get_num_threads(), "device_name": name}


def _compare(setting: Setting, objectives: Sequence[str], repetitions: int) -> list[dict[str, Any]]:
    names = (ORDINARY, *objectives)
    # Of all as many as the objective that acts least often needs for one that does.
    every = [int(objective_node(name).get("every_n_steps", 1)) for name in objectives]
    setting = setting._replace(steps=max(every))
    steps = {name: TrainingStep(setting, name) for name in names}
    measured = interleaved(steps, repetitions)
    height, width = steps[ORDINARY].map_size
    del steps
    memory = {name: peak_memory(setting, name) for name in names}
    return [
        {
            "objective": name,
            "cut": setting.cut,
            "cached": setting.cached,
            "map": f"{height}x{width}",
            **time_ratios(measured[name], measured[ORDINARY]),
            "peak_mib": memory[name] / 2**20,
            "peak_mib_without": memory[ORDINARY] / 2**20,
            "memory_ratio": memory[name] / memory[ORDINARY],
        }
        for name in objectives
    ]


def peak_memory(setting: Setting, objective: str) -> int:
    """Bytes at the peak of a few steps, in a process of its own.

    On a GPU what torch allocates; on the CPU what the process holds more than after importing
    everything.
    """
    task = json.dumps({"setting": setting, "objective": objective})
    return peak_in_process(__name__, task)


def print_peak(task: str) -> None:
    """Body of the process of `peak_memory`."""
    described = json.loads(task)
    setting = Setting(*described["setting"])
    make = functools.partial(TrainingStep, setting, described["objective"])
    print(peak_of_steps(make, _MEMORY_STEPS, setting.device))


def _classifier(setting: Setting, objective: str) -> Classifier:
    network = torchvision_backbone(
        setting.backbone, cut=setting.cut, image_size=setting.image_size,
        freeze=setting.cut if setting.cached else None, dilate=setting.dilate,
    )  # fmt: skip
    names = tuple(f"category {index}" for index in range(setting.num_categories))
    info = DataInfo(
        "random", names, (), {}, (), setting.image_size, 3, (0.0,) * 3, (1.0,) * 3, "", ""
    )
    objectives = {} if objective == ORDINARY else {objective: build(objective_node(objective))}
    return Classifier(
        network,
        info,
        objectives,
        loss="softmax" if setting.num_categories > 1 else "logistic",
        head=functools.partial(ConvolutionalHead, **(CACHED_HEAD if setting.cached else {})),
        optimizer=functools.partial(torch.optim.SGD, lr=1e-4, momentum=0.9),
    )


def _batch(setting: Setting, network: Backbone) -> ViewBatch:
    """Random images or activations, two of which at a time count as views of one photo."""
    number, side = setting.batch_size, setting.image_size
    images = torch.randn(number, 3, side, side, device=setting.device)
    ids = torch.arange(number, device=setting.device) // 2
    boxes = torch.full((number, 4), torch.nan, device=setting.device)
    none = images.new_empty(number, 0, 0, 0)
    transforms = torch.eye(3, device=setting.device)[:2].expand(number, 2, 3)
    batch = ViewBatch(images, ids % setting.num_categories, ids, boxes, none, transforms)
    if not setting.cached:
        return batch
    with torch.no_grad():
        activations = network.forward_prefix(images)
    return batch._replace(images=none, prefix_activations=activations)


def objective_files(folder: Path) -> dict[str, dict[str, Any]]:
    """Content of every YAML file in the group ``filter_objective``, by option."""
    paths = sorted(folder.glob("*.yaml"))
    return {path.stem: yaml.safe_load(path.read_text("utf-8")) or {} for path in paths}


def objective_node(name: str, folder: Path | None = None) -> dict[str, Any]:
    """The node of one objective, with what its preset inherits.

    Args:
        name: option of the group ``filter_objective``.
        folder: of that group; None is the one of this package.

    Raises:
        ValueError: if there is no such option.
    """
    files = objective_files(folder or config_dir() / "filter_objective")
    check_name("objective", name, files, "an option of filter_objective")
    own = dict(files[name])
    parents = [parent for parent in own.pop("defaults", ()) if parent != "_self_"]
    inherited = {key: v for p in parents for key, v in objective_node(p, folder).items()}
    return {**inherited, **own}


def objective_benchmarks(folder: Path) -> dict[str, Callable[..., dict[str, Any]]]:
    """``filter_objective/<name>`` -> benchmark of that objective, or of its presets."""
    files = objective_files(folder)
    found: dict[str, Callable[..., dict[str, Any]]] = {}
    for name in files:
        if "_target_" in files[name]:
            presets = [key for key, node in files.items() if name in node.get("defaults", ())]
            measured = tuple(presets or [name])
            found[f"filter_objective/{name}"] = functools.partial(benchmark_objective, measured)
    return found


BENCHMARKS: dict[str, Callable[..., dict[str, Any]]] = {
    **objective_benchmarks(config_dir() / "filter_objective"),
    "callbacks/dissection": benchmark_dissection,
    "callbacks/validation": benchmark_validation,
    "learning/capsules": benchmark_capsules,
    "learning/interpretable_rcnn": benchmark_detector,
}
