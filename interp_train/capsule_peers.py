"""Training steps of public CapsNets in PyTorch, run from the folders of their repositories.

Nothing of them is part of this package: the user gives a folder with clones, and their code runs
because of that. Folders have the names of `PEERS`, after the owners of

- github.com/gram-ai/capsule-networks,
- github.com/adambielski/CapsNet-pytorch,
- github.com/XifengGuo/CapsNet-Pytorch,
- github.com/higgsfield/Capsule-Network-Tutorial (classes in the cells of a notebook).

They were written for the torch of 2017 to 2019. What they need today is done around them, for the
time of a step only: ``Tensor.cuda`` means "to the device that is measured", so that they need no
GPU; warnings are not shown; the capsules of gram-ai are laid out so that its ``view`` accepts them.
Each has three iterations of routing and its own loss with reconstruction.
"""

import contextlib
import importlib
import json
import sys
import types
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from interp_train.benchmark_timing import timed
from interp_train.checks import check_name

_ITERATIONS = 3
_DIGITS, _SIDE = 10, 28
Loss = Callable[[Tensor, Tensor], Tensor]


class PeerStep:
    """Repeats the training step of a public network on one random batch.

    Args:
        name: one of `PEERS`.
        folder: with clones.
        number: images in the batch.
        device: torch's name.

    Raises:
        FileNotFoundError: if there is no such clone.
        Exception: whatever the foreign code raises, here or in a step.
    """

    def __init__(self, name: str, folder: Path, number: int, device: str = "cpu") -> None:
        check_name("name", name, PEERS, "a public implementation")
        if not (folder / name).is_dir():
            raise FileNotFoundError(f"{folder} has no folder {name!r}")
        torch.manual_seed(0)
        self.device = device
        with self._as_it_was():
            self.network, self.loss = PEERS[name](folder / name)
        self.network.to(device).train()
        self.optimizer = torch.optim.Adam(self.network.parameters())
        self.images = torch.rand(number, 1, _SIDE, _SIDE, device=device)
        self.labels = torch.arange(number, device=device) % _DIGITS

    def __call__(self) -> tuple[float, float]:
        """Seconds of one step (forward, loss, backward, update): wall and processor."""
        with self._as_it_was():
            return timed(self._step, self.device)

    def _step(self) -> None:
        self.optimizer.zero_grad()
        self.loss(self.images, self.labels).backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()

    @contextlib.contextmanager
    def _as_it_was(self) -> Iterator[None]:
        """`Tensor.cuda` moves to the device that is measured; no warnings."""

        def to_device(tensor: Tensor, *_: Any, **__: Any) -> Tensor:
            return tensor.to(self.device)

        original = Tensor.cuda
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            Tensor.cuda = to_device  # type: ignore[method-assign, assignment]
            try:
                yield
            finally:
                Tensor.cuda = original  # type: ignore[method-assign]


def foreign_module(folder: Path, name: str) -> types.ModuleType:
    """Module `name` of a foreign folder, which leaves no trace in the import system."""
    before, limit, silent = set(sys.modules), sys.getrecursionlimit(), sys.dont_write_bytecode
    sys.path.insert(0, str(folder))
    sys.dont_write_bytecode = True
    try:
        importlib.invalidate_caches()
        return importlib.import_module(name)
    finally:
        sys.path.remove(str(folder))
        sys.dont_write_bytecode = silent
        sys.setrecursionlimit(limit)
        for added in set(sys.modules) - before:
            file = getattr(sys.modules[added], "__file__", None)
            if file and Path(file).is_relative_to(folder):
                del sys.modules[added]


def notebook_module(file: Path) -> types.ModuleType:
    """Imports and classes of a notebook; cells that load data or train are left out."""
    module = types.ModuleType(file.stem)
    for cell in json.loads(file.read_text("utf-8"))["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] == "code" and ("USE_CUDA =" in source or source.startswith("class ")):
            exec(compile(source, str(file), "exec"), module.__dict__)
    return module


def _gram_ai(folder: Path) -> tuple[nn.Module, Loss]:
    module: Any = foreign_module(folder, "capsule_network")
    module.Variable = torch.autograd.Variable  # imported by its main part only
    module.NUM_ROUTING_ITERATIONS = _ITERATIONS
    network, criterion = module.CapsuleNet(), module.CapsuleLoss()
    network.digit_capsules.register_forward_hook(_images_first)

    def loss(images: Tensor, labels: Tensor) -> Tensor:
        targets = one_hot(labels)
        found: Tensor = criterion(images, targets, *network(images, targets))
        return found

    return network, loss


def _images_first(module: nn.Module, given: Any, capsules: Tensor) -> Tensor:
    """Capsules ``(C, N, ...)`` in the same shape, image by image in memory."""
    return capsules.transpose(0, 1).contiguous().transpose(0, 1)


def _adambielski(folder: Path) -> tuple[nn.Module, Loss]:
    module: Any = foreign_module(folder, "net")
    # It counts the iterations after the first.
    capsules = module.CapsNet(_ITERATIONS - 1)
    network = module.CapsNetWithReconstruction(capsules, module.ReconstructionNet())
    criterion = module.MarginLoss(0.9, 0.1, 0.5)

    def loss(images: Tensor, labels: Tensor) -> Tensor:
        drawn, lengths = network(images, labels)
        error = nn.functional.mse_loss(drawn, images.flatten(1))
        found: Tensor = 0.0005 * error + criterion(lengths, labels)
        return found

    return network, loss


def _xifeng_guo(folder: Path) -> tuple[nn.Module, Loss]:
    module: Any = foreign_module(folder, "capsulenet")
    network = module.CapsuleNet([1, _SIDE, _SIDE], _DIGITS, _ITERATIONS)

    def loss(images: Tensor, labels: Tensor) -> Tensor:
        targets = one_hot(labels)
        lengths, drawn = network(images, targets)
        found: Tensor = module.caps_loss(targets, lengths, images, drawn, 0.0005 * _SIDE**2)
        return found

    return network, loss


def _higgsfield(folder: Path) -> tuple[nn.Module, Loss]:
    module: Any = notebook_module(folder / "Capsule Network.ipynb")
    network = module.CapsNet()  # three iterations are written into it

    def loss(images: Tensor, labels: Tensor) -> Tensor:
        capsules, drawn, _ = network(images)
        found: Tensor = network.loss(images, capsules, one_hot(labels), drawn)
        return found

    return network, loss


def one_hot(labels: Tensor) -> Tensor:
    """1 for the label, else 0, float ``(N, 10)``."""
    return nn.functional.one_hot(labels, _DIGITS).float()


PEERS: dict[str, Callable[[Path], tuple[nn.Module, Loss]]] = {
    "gram-ai": _gram_ai,
    "adambielski": _adambielski,
    "XifengGuo": _xifeng_guo,
    "higgsfield": _higgsfield,
}
