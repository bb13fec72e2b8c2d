"""A trained network with what is known about it, wherever it comes from.

It may be a run folder, a checkpoint, a configured backbone with weights, or any module of the
user's.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from interp_train.activations import unwrapped
from interp_train.data.photo_data import IMAGENET_MEAN, IMAGENET_STD
from interp_train.evaluate import chosen_checkpoint
from interp_train.structures import DataInfo
from interp_train.systems import LearnedSystem, load_system
from interp_train.target_scores import evaluation_mode
from interp_train.targets import build


class TrainedNetwork(NamedTuple):
    """A network to look into.

    Attributes:
        name: for headings.
        network: puts out logits ``(N, C)``; left as it is.
        info: size and normalisation of its input, names of its categories (empty if unknown).
        loss: ``"softmax"`` or ``"logistic"``.
        background: see `interp_train.callbacks.predictions.predict`.
        config: of the run it comes from; empty without one.
        folder: of that run; None without one.
        source: checkpoint file or description.
    """

    name: str
    network: nn.Module
    info: DataInfo
    loss: str
    background: bool | None
    config: Mapping[str, Any]
    folder: Path | None
    source: str

    @property
    def device(self) -> torch.device:
        """Where its weights are."""
        return next((p.device for p in self.network.parameters()), torch.device("cpu"))

    def logits(self, images: Tensor) -> Tensor:
        """Logits ``(N, C)`` in evaluation mode, float32 on the CPU; no trace is left."""
        with torch.no_grad(), evaluation_mode(self.network):
            found: Tensor = self.network(images.to(self.device))
        if found.dim() != 2:
            raise ValueError(
                f"`network` must put out logits (N, C), but put out {tuple(found.shape)}. Give a "
                f"classifier, with its head."
            )
        return found.detach().float().cpu()

    def class_names(self, number: int) -> tuple[str, ...]:
        """One name per output; numbers where the names are unknown."""
        names = self.info.class_names
        return names if len(names) == number else tuple(map(str, range(number)))


def trained_network(
    source: str | Path | nn.Module, info: DataInfo | None = None, checkpoint: str = "best"
) -> TrainedNetwork:
    """The network of a run folder, of a checkpoint, or of a module.

    Args:
        source: folder, file, or a network; a learning system gives its network and `data_info`.
        info: of its input and categories; None takes what is stored, else 224 pixels and the
            normalisation of ImageNet.
        checkpoint: ``"best"`` or ``"last"``, of a run folder.

    Raises:
        FileNotFoundError: if a path leads to no checkpoint.
    """
    if isinstance(source, nn.Module):
        return _of_module(source, info)
    file = chosen_checkpoint(Path(source).resolve(), checkpoint)
    system = load_system(file)
    found = _of_module(system, info)
    folder = file.parent.parent if file.parent.name == "checkpoints" else None
    name = str(system.config.get("name", file.stem))
    return found._replace(name=name, config=system.config, folder=folder, source=str(file))


def configured_network(config: Mapping[str, Any]) -> TrainedNetwork:
    """The network that a verb's configuration names: `path` (with `checkpoint`) or `backbone`.

    Raises:
        ValueError: unless exactly one of the two is given.
    """
    node = config.get("backbone")
    if bool(config.get("path")) == bool(node):
        given = "both" if node else "neither"
        raise ValueError(
            f"Either `path` or `backbone` must be given, but got {given}. Name a run folder or "
            f"checkpoint, or a network with backbone=<name> backbone.weights=<weights>."
        )
    if config.get("path"):
        return trained_network(config["path"], checkpoint=config.get("checkpoint", "best"))
    assert isinstance(node, Mapping)
    return _of_backbone(node)


def input_info(
    class_names: Sequence[str] = (),
    *,
    image_size: int = 224,
    channels: int = 3,
    mean: Sequence[float] = IMAGENET_MEAN,
    std: Sequence[float] = IMAGENET_STD,
) -> DataInfo:
    """What a foreign network's input is like; the defaults are those of ImageNet.

    Args:
        class_names: one per output; empty if unknown.
        image_size: side of the input, in pixels.
        channels: of the input.
        mean: per channel, of images in [0, 1].
        std: per channel.
    """
    return DataInfo(
        "images", tuple(class_names), (), {}, (), image_size, channels, tuple(mean), tuple(std),
        fingerprint="", licence="",
    )  # fmt: skip


def _of_module(module: nn.Module, info: DataInfo | None) -> TrainedNetwork:
    inner = unwrapped(module)
    stored = getattr(inner, "data_info", None)
    info = info or (stored if isinstance(stored, DataInfo) else None) or input_info()
    network = unwrapped(inner.network if isinstance(inner, LearnedSystem) else inner)
    loss = str(getattr(inner, "loss", "softmax"))
    return TrainedNetwork(
        name=type(network).__name__,
        network=network,
        info=info,
        loss=loss if loss in ("softmax", "logistic") else "softmax",
        background=getattr(inner, "background", None),
        config=getattr(inner, "config", {}) if isinstance(inner, LearnedSystem) else {},
        folder=None,
        source=type(inner).__name__,
    )


def _of_backbone(node: Mapping[str, Any]) -> TrainedNetwork:
    network: nn.Module = build(node, "backbone")
    name = str(node.get("name") or node["_target_"].rpartition(".")[2])
    info = input_info(
        _torchvision_categories(node),
        image_size=int(node.get("image_size", getattr(network, "image_size", 224))),
        channels=int(getattr(network, "in_channels", 3)),
    )
    source = f"{name}, weights {node.get('weights') or 'random'}"
    return _of_module(network, info)._replace(name=name, source=source)


def _torchvision_categories(node: Mapping[str, Any]) -> tuple[str, ...]:
    """Names of the categories that torchvision knows for a network's weights."""
    if not node.get("weights") or "torchvision" not in str(node["_target_"]):
        return ()
    from torchvision import models

    weights: Any = models.get_model_weights(str(node["name"]))
    return tuple(str(name) for name in weights.DEFAULT.meta.get("categories", ()))
