"""What capsules cost: their routing beside a plain one, and a training step beside public ones."""

import functools
import importlib
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from interp_train.atomic_files import write_json
from interp_train.benchmark_timing import (
    interleaved,
    peak_in_process,
    peak_of_steps,
    time_ratios,
    timed,
)
from interp_train.capsule_peers import PEERS, PeerStep
from interp_train.checks import check_range
from interp_train.composition import compose_config
from interp_train.learning.capsules.functional import dynamic_routing, squash
from interp_train.learning.capsules.layers import truncated_normal
from interp_train.structures import DataInfo, ImageBatch
from interp_train.systems import LearnedSystem, build_system

Times = list[tuple[float, float]]
_OURS, _FLOOR = "ours", "its two convolutions"
_DETACHED = "ours, detached"
_EXPERIMENT = ["experiment=capsnet_mnist"]
_MEMORY_STEPS = 2


class RoutingSetting(NamedTuple):
    """Capsules that are routed; by default those of CapsNet on MNIST.

    Attributes:
        number: images.
        inputs: capsules of each.
        in_atoms: of an input capsule.
        outputs: capsules.
        out_atoms: of each.
        device: torch's name.
    """

    number: int = 128
    inputs: int = 1152
    in_atoms: int = 8
    outputs: int = 10
    out_atoms: int = 16
    device: str = "cpu"


def plain_routing(
    inputs: Tensor, weights: Tensor, iterations: int = 3, *, detach: bool = False
) -> Tensor:
    """Routing as procedure 1 of Sabour et al. 2017 reads, with every prediction formed.

    Args:
        inputs: ``(N, I, D)``.
        weights: ``(I, D, J, O)``.
        iterations: at least 1.
        detach: no gradients through all but the last iteration.

    Returns:
        Output capsules ``(N, J, O)``.
    """
    shape = (*inputs.shape[:2], *weights.shape[2:])
    predictions = (inputs[:, :, None] @ weights.flatten(2)).view(shape)  # N, I, J, O
    constant = predictions.detach() if detach else predictions
    logits = inputs.new_zeros(shape[:3])
    for _ in range(iterations - 1):
        outputs = squash((logits.softmax(2)[..., None] * constant).sum(1))
        logits = logits + (constant * outputs[:, None]).sum(3)
    return squash((logits.softmax(2)[..., None] * predictions).sum(1))


def our_routing(inputs: Tensor, weights: Tensor, *, detach: bool = False) -> Tensor:
    """Outputs of `dynamic_routing`."""
    return dynamic_routing(inputs, weights, detach=detach)[0]


ROUTINGS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "ours": our_routing,
    "plain": plain_routing,
    "ours, detached": functools.partial(our_routing, detach=True),
    "plain, detached": functools.partial(plain_routing, detach=True),
}


class RoutingStep:
    """Repeats forward and backward of a routing on random capsules.

    Args:
        variant: one of `ROUTINGS`.
        setting: see `RoutingSetting`.
    """

    def __init__(self, variant: str, setting: RoutingSetting) -> None:
        self.route, self.device = ROUTINGS[variant], setting.device
        torch.manual_seed(0)
        number, inputs, in_atoms, outputs, out_atoms, device = setting
        weights = torch.empty(inputs, in_atoms, outputs, out_atoms)
        truncated_normal(weights, 0.1)
        capsules = squash(torch.randn(number, inputs, in_atoms))
        self.leaves = [tensor.to(device).requires_grad_() for tensor in (capsules, weights)]
        self.direction = torch.randn(number, outputs, out_atoms).to(device)

    def __call__(self) -> tuple[float, float]:
        """Seconds of forward and backward: wall and processor."""
        return timed(self.results, self.device)

    def results(self) -> list[Tensor]:
        """Output capsules, and gradients of inputs and weights."""
        outputs = self.route(*self.leaves)
        gradients = torch.autograd.grad(outputs, self.leaves, self.direction)
        return [outputs.detach(), *gradients]


class CapsNetStep:
    """Repeats the training step of the network of ``experiment=capsnet_mnist`` on random digits.

    Args:
        number: images in the batch.
        device: torch's name.
        detach: no gradients through all but the last iteration of routing.
    """

    def __init__(self, number: int, device: str = "cpu", *, detach: bool = False) -> None:
        torch.manual_seed(0)
        self.device = device
        self.system = capsnet(detach=detach).to(device).train()
        configured: Any = self.system.configure_optimizers()
        self.optimizer: torch.optim.Optimizer = configured["optimizer"]
        ids = torch.arange(number, device=device)
        boxes = torch.full((number, 4), torch.nan, device=device)
        images = torch.rand(number, 1, 28, 28, device=device)
        self.batch = ImageBatch(images, ids % 10, ids, boxes, images.new_empty(number, 0, 0, 0))

    def __call__(self) -> tuple[float, float]:
        """Seconds of one step (forward, losses, backward, update): wall and processor."""
        return timed(self._step, self.device)

    def _step(self) -> None:
        self.optimizer.zero_grad()
        terms = self.system.loss_terms(self.system.run(self.batch), self.batch)
        torch.stack(tuple(terms.values())).sum().backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()


class ConvolutionsStep:
    """Repeats forward and backward of the two convolutions of a network: the floor of its time.

    Args:
        whole: step of the network.
    """

    def __init__(self, whole: CapsNetStep) -> None:
        modules = whole.system.network.modules()
        first, second = [module for module in modules if isinstance(module, nn.Conv2d)]
        self.network = nn.Sequential(first, nn.ReLU(), second)
        self.images, self.device = whole.batch.images, whole.device
        with torch.no_grad():
            self.direction = torch.randn_like(self.network(self.images))

    def __call__(self) -> tuple[float, float]:
        """Seconds of forward and backward: wall and processor."""
        return timed(self._step, self.device)

    def _step(self) -> None:
        self.network.zero_grad()
        self.network(self.images).backward(self.direction)


def capsnet(*, detach: bool = False) -> LearnedSystem:
    """The network of ``experiment=capsnet_mnist``, untrained; see `dynamic_routing` for detach."""
    names = tuple(f"digit {index}" for index in range(10))
    info = DataInfo("random", names, (), {}, (), 28, 1, (0.0,), (1.0,), "", "")
    settings = [*_EXPERIMENT, f"learning.head.categories.detach={str(detach).lower()}"]
    return build_system(compose_config("train", settings), info)


def benchmark_capsules(
    *,
    capsule_images: int = 128,
    peers: str | None = None,
    repetitions: int = 10,
    device: str = "cpu",
    output: str | None = None,
) -> dict[str, Any]:
    """Time and memory of routing and of a training step of CapsNet, over ours.

    Args:
        capsule_images: images per step.
        peers: folder with clones of public repositories, one folder per name of
            `interp_train.capsule_peers.PEERS`, whose code is run; None compares with none.
        repetitions: rounds; in each round every variant makes one step, in turn.
        device: torch's name.
        output: JSON file to write; None writes none.

    Returns:
        ``rows`` (`time_ratio`: how many times as long as what it stands `beside`, see
        `interp_train.benchmark`; `difference`: largest of outputs and gradients, over the largest
        value; `note`: why there are no times), ``memory`` (of a process of its own, beyond what
        imports take) and ``setting``.

    Raises:
        ValueError: for an argument out of range, or a folder that is not there.
    """
    check_range("repetitions", repetitions, 2)
    check_range("capsule_images", capsule_images, 1)
    folder = None if peers is None else checked_folder(peers)
    setting = RoutingSetting(number=capsule_images, device=device)
    rows = routing_rows(setting, repetitions)
    steps, notes = training_steps(folder, setting)
    measured = interleaved(steps, repetitions, warm_up=1)
    del steps
    rows += [row("training step", name, beside, measured, setting.number)
             for name in measured for beside in (_OURS, _DETACHED)
             if name not in (_OURS, beside)]  # fmt: skip
    rows += [{**dict.fromkeys(rows[0]), "measured": "training step", "variant": name,
              "note": note} for name, note in notes.items()]  # fmt: skip
    peaks = {("routing", name): peak_of(name, setting) for name in ROUTINGS}
    for name in measured:
        if name != _FLOOR:
            peaks["training step", name] = peak_of(name, setting, folder, training=True)
    described = {"torch": torch.__version__, "threads": torch.get_num_threads(), "device": device,
                 "capsule_images": capsule_images, "repetitions": repetitions}  # fmt: skip
    result = {"rows": rows, "memory": memory_rows(peaks), "setting": described}
    if output is not None:
        write_json(Path(output), result)
    return result


def checked_folder(peers: str) -> Path:
    """The absolute folder of clones.

    Raises:
        ValueError: if it is none.
    """
    folder = Path(peers).resolve()
    if not folder.is_dir():
        raise ValueError(
            f"`peers` must be a folder with clones named {', '.join(PEERS)}, but got {peers!r}. "
            "Leave it out to measure without them."
        )
    return folder


def routing_rows(setting: RoutingSetting, repetitions: int) -> list[dict[str, Any]]:
    """Each plain routing beside ours of the same gradient, and the full one beside our cheapest."""
    steps = {name: RoutingStep(name, setting) for name in ROUTINGS}
    # The outputs are the same in all of them, the gradients in the first two pairs.
    pairs = [("plain", "ours"), ("plain, detached", "ours, detached"), ("plain", "ours, detached")]
    results = {name: step.results() for name, step in steps.items()}
    differences = [
        largest_difference(results[ours][:count], results[plain][:count])
        for (plain, ours), count in zip(pairs, (None, None, 1), strict=True)
    ]
    del results
    measured = interleaved(steps, repetitions)
    return [
        {**row("routing", *pair, measured, setting.number), "difference": difference}
        for pair, difference in zip(pairs, differences, strict=True)
    ]


def largest_difference(found: Sequence[Tensor], expected: Sequence[Tensor]) -> float:
    """Over pairs of tensors, of the largest difference over the largest expected value."""
    return max(
        float((ours - theirs).abs().max() / theirs.abs().max())
        for ours, theirs in zip(found, expected, strict=True)
    )


def training_steps(
    folder: Path | None, setting: RoutingSetting
) -> tuple[dict[str, Callable[[], tuple[float, float]]], dict[str, str]]:
    """Steps that run, by name, and why others do not; each has made one step."""
    ours = CapsNetStep(setting.number, setting.device)
    steps: dict[str, Callable[[], tuple[float, float]]] = {
        _OURS: ours,
        _DETACHED: CapsNetStep(setting.number, setting.device, detach=True),
        _FLOOR: ConvolutionsStep(ours),
    }
    notes = {}
    for name in PEERS if folder is not None else ():
        assert folder is not None
        try:
            steps[name] = PeerStep(name, folder, setting.number, setting.device)
            steps[name]()
        except Exception as error:  # foreign code may fail in any way; the others are measured
            steps.pop(name, None)
            first_line = str(error).partition("\n")[0]
            notes[name] = f"does not run: {type(error).__name__}: {first_line}"
    return steps, notes


def row(
    measured: str, variant: str, beside: str, times: Mapping[str, Times], number: int
) -> dict[str, Any]:
    """One row of the table."""
    ratios: dict[str, Any] = dict(time_ratios(times[variant], times[beside]))
    return {
        "measured": measured, "variant": variant, "beside": beside, **ratios,
        "images_per_second": number / ratios["seconds"],
        "images_per_second_beside": number / ratios["seconds_without"],
        "difference": None, "note": None,
    }  # fmt: skip


def memory_rows(peaks: Mapping[tuple[str, str], int]) -> list[dict[str, Any]]:
    """Peak memory, and how many times that of ours it is."""
    return [
        {"measured": part, "variant": name, "peak_mib": peak / 2**20,
         "memory_ratio": peak / peaks[part, _OURS]}
        for (part, name), peak in peaks.items()
    ]  # fmt: skip


def peak_of(
    variant: str, setting: RoutingSetting, folder: Path | None = None, *, training: bool = False
) -> int:
    """Bytes at the peak of a few steps, in a process of its own, beyond what imports take."""
    task = json.dumps([variant, setting, None if folder is None else str(folder), training])
    return peak_in_process(__name__, task)


def print_peak(task: str) -> None:
    """Body of the process of `peak_of`."""
    variant, described, folder, training = json.loads(task)
    setting = RoutingSetting(*described)
    if training:  # what composing and building import is no memory of a step
        compose_config("train", _EXPERIMENT)
        for imported in ("torchvision", "interp_train.learning.capsules.module"):
            importlib.import_module(imported)
    make: Callable[[], Callable[[], tuple[float, float]]]
    if not training:
        make = functools.partial(RoutingStep, variant, setting)
    elif variant in (_OURS, _DETACHED):
        detach = variant == _DETACHED
        make = functools.partial(CapsNetStep, setting.number, setting.device, detach=detach)
    else:
        make = functools.partial(PeerStep, variant, Path(folder), setting.number, setting.device)
    print(peak_of_steps(make, _MEMORY_STEPS, setting.device))
