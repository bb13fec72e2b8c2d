"""Runs a contract check inside a trainer, or on two processes."""

import copy
import pickle
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, final

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, nn
from torch.utils.data import DataLoader


def run_on_two_processes(function: Callable[..., Any], *args: Any) -> list[Any]:
    """Run a picklable function on two new gloo ranks; returns the result of rank 0, of rank 1."""
    with tempfile.TemporaryDirectory() as folder:
        context: Any = torch.multiprocessing
        context.spawn(_run_rank, (folder, pickle.dumps((function, args))), nprocs=2)
        return [pickle.loads(Path(folder, str(rank)).read_bytes()) for rank in range(2)]


def _run_rank(rank: int, folder: str, task: bytes) -> None:
    torch.set_num_threads(1)
    meeting = f"file://{folder}/meeting"
    torch.distributed.init_process_group("gloo", init_method=meeting, rank=rank, world_size=2)
    try:
        function, args = pickle.loads(task)
        Path(folder, str(rank)).write_bytes(pickle.dumps(function(*args)))
    finally:
        torch.distributed.destroy_process_group()


@final
class _Bare(LightningModule):
    """Any network, with a training step that changes nothing."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        logits: Tensor = self.network(batch)
        return 0.0 * logits.sum()

    def validation_step(self, batch: Tensor, batch_idx: int) -> None:
        self.network(batch)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.0)


@final
class _Calls(Callback):
    """Calls a function with network and images at the end of each validation batch."""

    def __init__(self, call: Callable[[nn.Module, Tensor], Any]) -> None:
        self.call = call
        self.count = 0

    def on_validation_batch_end(  # noqa: PLR0917  (Lightning's signature)
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        network: Any = pl_module.network
        self.call(network, batch)
        self.count += 1


def call_in_validation(
    network: nn.Module, images: Tensor, call: Callable[[nn.Module, Tensor], Any]
) -> int:
    """Number of calls in one validation of ``fit`` and one ``validate``."""
    calls = _Calls(call)
    fit_and_validate(_Bare(copy.deepcopy(network)), images, calls)
    return calls.count


def fit_and_validate(system: LightningModule, batch: Any, *callbacks: Callback) -> None:
    """One training step and one validation inside ``fit``, then ``validate``, on one batch."""
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Lightning's advice on loaders
        trainer = Trainer(
            accelerator="cpu",
            devices=1,
            max_steps=1,
            num_sanity_val_steps=0,
            callbacks=list(callbacks),
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            default_root_dir=folder,
        )
        loader: DataLoader[Any] = DataLoader([batch], batch_size=None)  # type: ignore[arg-type]
        trainer.fit(system, loader, loader)
        trainer.validate(system, loader, verbose=False)
