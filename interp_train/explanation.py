"""Explain what a trained network says about single images: the verb `explain`.

Per image: prediction and confidence, heatmaps, and the units that contribute most to the answer,
with their concept, the images that excite them most, and where they fire here.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from interp_train.checks import check_name, check_shape
from interp_train.data.image_files import image_paths, read_images
from interp_train.diagnosis.heatmaps.grad_cam import GradCam
from interp_train.evaluate import validation_loader_of
from interp_train.experiment import recorded_run
from interp_train.explained_images import ExplanationSettings, Question, explanation_of
from interp_train.protocols import HeatmapMethod
from interp_train.report.explanation_page import write_explanation
from interp_train.report.explanation_records import Explanation
from interp_train.structures import DataInfo
from interp_train.targets import build_entries
from interp_train.trained_network import TrainedNetwork, configured_network, trained_network


def explain(
    source: str | Path | nn.Module,
    images: Sequence[str | Path] | str | Path | Tensor,
    *,
    methods: Mapping[str, HeatmapMethod] | None = None,
    data: Any = None,
    info: DataInfo | None = None,
    folder: str | Path | None = None,
    output_dir: str | Path = "outputs",
    **settings: Any,
) -> Explanation:
    """Explain what a network says about some images, and write it as a page.

    Example:
        interp_train.explain("outputs/run/latest", ["bird.jpg"])
        interp_train.explain(my_network, images, layer="layer4", data=val_loader)

    Args:
        source: run folder, checkpoint, or any network that puts out logits ``(N, C)``.
        images: files or folders, or network input ``(N, channels, H, W)``.
        methods: name -> heatmap method; None is Grad-CAM at the layer of the units.
        data: where typical images come from: a loader, or a data module with its validation data;
            None takes the validation data of the run, else the explained images.
        info: of the network's input and categories; None takes what the source knows, else 224
            pixels with the normalisation of ImageNet (`interp_train.trained_network.input_info`).
        folder: new folder of the results; None makes one in ``<output_dir>/explain``.
        output_dir: where the folder goes.
        settings: fields of `ExplanationSettings`.

    Returns:
        The explanation, whose `folder` holds explanation.html, explanation.json and figures.

    Raises:
        FileNotFoundError: if an image or the network does not exist.
        ValueError: if an image is none, or for an unknown layer, category or setting.
    """
    for name in settings:
        known = [entry.name for entry in fields(ExplanationSettings)]
        check_name("settings", name, known, "a setting of an explanation")
    chosen = ExplanationSettings(**settings)
    subject = trained_network(source, info)
    if methods is None:
        methods = {"grad_cam": GradCam(chosen.layer)}
    values, files = _network_input(images, subject, chosen)
    loader, said = data, "the data that were given"
    if hasattr(data, "val_dataloader"):
        data.setup("validate")
        loader = data.val_dataloader()
    elif data is None:
        loader, said = validation_loader_of(subject.config.get("data"), {})
    question = Question(subject, values, files, methods, chosen, loader, said)
    path = source if isinstance(source, str | Path) else subject.source
    record = {
        "name": "explain", "seed": 0, "output_dir": str(output_dir), "path": str(path),
        "folder": str(folder) if folder is not None else None, "images": list(files),
        "heatmaps": {name: repr(method) for name, method in methods.items()}, **asdict(chosen),
    }  # fmt: skip
    return _explained(record, question)


def explain_command(config: Mapping[str, Any]) -> int:
    """The verb `explain`."""
    names = [entry.name for entry in fields(ExplanationSettings)]
    settings = ExplanationSettings(**{name: config[name] for name in names})
    listed = config["images"]
    paths = image_paths(listed)
    methods = build_entries(config.get("heatmaps"), "heatmaps")
    subject = configured_network(config)
    values, files = _network_input(paths, subject, settings)
    loader, said = validation_loader_of(subject.config.get("data"), config.get("data") or {})
    question = Question(subject, values, files, methods, settings, loader, said)
    explanation = _explained(dict(config), question)
    for view in explanation.images:
        print(f"{view.file}: {view.predicted_name} ({view.confidence:.3f})")
    print(f"explanation: {explanation.folder / 'explanation.html'}")
    return 0


def _network_input(
    images: Any, subject: TrainedNetwork, settings: ExplanationSettings
) -> tuple[Tensor, list[str]]:
    """Network input and the files it comes from."""
    if isinstance(images, Tensor):
        check_shape("images", images, ("N", subject.info.channels, "H", "W"))
        return images.detach().cpu(), ["" for _ in images]
    paths = image_paths(images)
    return read_images(paths, subject.info, settings.fit), [str(path) for path in paths]


def _explained(record: Mapping[str, Any], question: Question) -> Explanation:
    """Explain inside a run folder."""
    with recorded_run({**record, "resume": None}) as run:
        explanation = explanation_of(question, run.folder)
        write_explanation(explanation)
    return explanation
