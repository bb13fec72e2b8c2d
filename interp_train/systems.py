"""The abstract learning system, and loading one from a checkpoint.

A `LearnedSystem` is the only owner of its network. It opens one activation tap, runs one
forward pass per step, and returns `StepOutputs`, from which losses, metrics and callbacks read.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, final

import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor, nn

import interp_train
from interp_train.activations import ActivationTap
from interp_train.backbones.backbone import Backbone
from interp_train.structures import Batch, DataInfo, StepOutputs
from interp_train.targets import build, build_entries

SCHEMA_VERSION = 1


class LearnedSystem(LightningModule, ABC):
    """A network that learns: batch -> `StepOutputs` -> named loss terms -> their sum.

    Args:
        network: built once by the caller, owned from here on.
        data_info: what is known about the data; travels in the checkpoint.
    """

    def __init__(self, network: Backbone, data_info: DataInfo) -> None:
        super().__init__()
        self.network = network
        self.data_info = data_info
        self.config: dict[str, Any] = {}  # resolved, plain values; set by the experiment
        self.compiled_forward: Any = None  # a compiled `network`, never a submodule
        self.training_terms: dict[str, Tensor] = {}  # of the last batch, as they are logged
        self._tap: ActivationTap | None = None
        self._layers: dict[str, None] = {}

    @abstractmethod
    def loss_terms(self, outputs: StepOutputs, batch: Batch) -> dict[str, Tensor]:
        """Named scalars whose sum is minimised."""

    @final
    def request_layers(self, layers: Iterable[str]) -> list[str]:
        """Have the activations of `layers` (aliases or dotted names) recorded in every step.

        Returns:
            The dotted names, in the same order.
        """
        names = [self.network.resolve(layer) for layer in layers]
        missing = [name for name in names if name not in self._layers]
        self._layers.update(dict.fromkeys(missing))
        if missing and self._tap is not None:
            self._tap.close()
            self._tap = None
        return names

    def run(self, batch: Batch) -> StepOutputs:
        """One forward pass, from pixels or from cached prefix activations.

        A system whose batches are no `ImageBatch` overrides it and takes what was recorded from
        `opened_tap`.
        """
        tap = self.opened_tap()
        if batch.prefix_activations.numel():
            logits = self.network.forward_suffix(batch.prefix_activations)
        else:
            logits = (self.compiled_forward or self.network)(batch.images)
        return StepOutputs(logits, tap.take(), {})

    @final
    def opened_tap(self) -> ActivationTap:
        """The tap that records the requested layers."""
        if self._tap is None:
            self._tap = ActivationTap(self.network, self._layers).open()
        return self._tap

    def forward(self, images: Tensor) -> Tensor:
        """Logits ``(N, C)`` of normalised images ``(N, channels, H, W)``."""
        logits: Tensor = self.network(images)
        return logits

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Sum of the loss terms; each is logged as ``loss/train/<term>``."""
        outputs = self.run(batch)
        terms = self.loss_terms(outputs, batch)
        return self.loss_of(terms)

    @final
    def loss_of(self, terms: Mapping[str, Tensor]) -> Tensor:
        """The sum of a training step's terms, which are kept for callbacks, and logged."""
        self.training_terms = {f"loss/train/{name}": term.detach() for name, term in terms.items()}
        if self.writes_now():
            self.log_dict(self.training_terms)
        return torch.stack(tuple(terms.values())).sum()

    @final
    def writes_now(self) -> bool:
        """Whether anyone reads what this training batch logs: Lightning's writer or an epoch's end.

        To log ten numbers took a third of a step of an InfoGAN with small layers. The batches that
        made a step are counted as Lightning's writer counts them: with several optimisers
        `global_step` may have moved on within the batch.
        """
        trainer = self._trainer
        if trainer is None:
            return False
        every: int = getattr(trainer, "log_every_n_steps", 1)
        return trainer.is_last_batch or (every > 0 and (_steps_of(trainer) + 1) % every == 0)

    def validation_step(  # type: ignore[override]  # a NamedTuple passes through Lightning
        self, batch: Batch, batch_idx: int
    ) -> StepOutputs:
        """Outputs for the callbacks; the system's own measures are updated on the way."""
        outputs = self.run(batch)
        return outputs._replace(loss_terms=self.loss_terms(outputs, batch))

    @final
    def test_step(  # type: ignore[override]
        self, batch: Batch, batch_idx: int
    ) -> StepOutputs:
        """A test is a validation on other data."""
        return self.validation_step(batch, batch_idx)

    @final
    def on_test_epoch_end(self) -> None:
        """Log the measures on the test data."""
        self.on_validation_epoch_end()

    def on_train_epoch_start(self) -> None:
        """Keep a frozen prefix in evaluation mode, whatever Lightning set."""
        self.network.freeze_statistics()

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Make the checkpoint self-describing, in plain values only."""
        checkpoint["interp_train"] = {
            "schema_version": SCHEMA_VERSION,
            "package_version": interp_train.__version__,
            "config": self.config,
            "data": plain_data_info(self.data_info),
            "taps": dict(self.network.taps),
        }


def _steps_of(trainer: Trainer) -> int:
    """Batches of this training that made a step; Lightning has no public name for them."""
    return trainer.fit_loop.epoch_loop._batches_that_stepped


def plain_data_info(info: DataInfo) -> dict[str, Any]:
    """`info` as lists, dicts, strings and numbers, so that it loads with `weights_only`."""
    groups = {name: list(parts) for name, parts in info.part_groups.items()}
    plain = {key: list(v) if isinstance(v, tuple) else v for key, v in info._asdict().items()}
    return {**plain, "part_groups": groups}


def data_info_from(plain: Mapping[str, Any]) -> DataInfo:
    """The inverse of `plain_data_info`."""
    values: dict[str, Any] = {
        key: tuple(value) if isinstance(value, list) else value for key, value in plain.items()
    }
    values["part_groups"] = {name: tuple(p) for name, p in plain["part_groups"].items()}
    return DataInfo(**values)


def checkpoint_path(path: str | Path) -> Path:
    """The checkpoint file of a run folder (best, else last), or `path` itself.

    Raises:
        FileNotFoundError: if there is none; names what was looked for.
    """
    given = Path(path)
    if given.is_file():
        return given
    folder = given / "checkpoints"
    for name in ("best.ckpt", "last.ckpt"):
        if (folder / name).is_file():
            return folder / name
    raise FileNotFoundError(
        f"`path` must be a checkpoint file or a run folder that holds checkpoints/best.ckpt or "
        f"checkpoints/last.ckpt, but got {str(path)!r}."
    )


def build_system(
    config: Mapping[str, Any], data_info: DataInfo, weights: bool = True
) -> LearnedSystem:
    """Build network, objectives and system from a resolved configuration.

    Args:
        config: plain values with the nodes `backbone`, `learning` and `filter_objectives`.
        data_info: of the data that the system sees.
        weights: False leaves out the backbone's own weights (they come from a checkpoint).
    """
    has_weights = "weights" in config["backbone"]  # a trunk that always starts afresh has none
    overrides: dict[str, Any] = {"weights": None} if has_weights and not weights else {}
    network: nn.Module = build(config["backbone"], "backbone", **overrides)
    objectives = build_entries(config.get("filter_objectives"), "filter_objectives")
    system: LearnedSystem = build(
        config["learning"],
        "learning",
        network=network,
        data_info=data_info,
        objectives=objectives,
    )
    system.config = dict(config)
    return system


def load_system(path: str | Path, map_location: str | torch.device = "cpu") -> LearnedSystem:
    """The trained system of a run folder or checkpoint file, in evaluation mode.

    Only plain values and tensors are read (``weights_only=True``), and only constructors of
    trusted packages are called (`interp_train.targets.trust`).

    Raises:
        FileNotFoundError: if `path` leads to no checkpoint.
        ValueError: if the checkpoint was not written by interp_train, or by a newer version.
    """
    file = checkpoint_path(path)
    checkpoint = torch.load(file, map_location=map_location, weights_only=True)
    described = checkpoint.get("interp_train")
    if not described:
        raise ValueError(
            f"`path` must lead to a checkpoint written by interp_train, but {str(file)!r} has no "
            f"entry 'interp_train'. Load it with torch.load and your own network instead."
        )
    if described["schema_version"] > SCHEMA_VERSION:
        raise ValueError(
            f"`path` must hold a checkpoint of schema <= {SCHEMA_VERSION}, but {str(file)!r} has "
            f"schema {described['schema_version']} (interp_train "
            f"{described['package_version']}). Update interp_train."
        )
    system = build_system(described["config"], data_info_from(described["data"]), weights=False)
    system.load_state_dict(checkpoint["state_dict"])
    return system.to(map_location).eval()


__all__ = [
    "SCHEMA_VERSION",
    "LearnedSystem",
    "build_system",
    "checkpoint_path",
    "data_info_from",
    "load_system",
    "plain_data_info",
]
