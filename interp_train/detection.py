"""Detect objects in images with a trained detector: the verb `detect`.

Per image: boxes, scores, and the parse tree of each box, as JSON and as a page of pictures.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from interp_train.checks import check_range
from interp_train.data.image_files import image_paths, read_pixels
from interp_train.evaluate import chosen_checkpoint
from interp_train.experiment import recorded_run
from interp_train.explained_images import unique_names
from interp_train.learning.interpretable_rcnn.module import InterpretableRcnn
from interp_train.parse_drawings import Box
from interp_train.report.detection_page import write_detections
from interp_train.report.detection_records import BoxView, DetectionRecord, SceneView
from interp_train.structures import Detections
from interp_train.systems import load_system


def detect(
    source: str | Path,
    images: Sequence[str | Path] | str | Path,
    *,
    least_score: float = 0.5,
    trees_per_image: int = 6,
    checkpoint: str = "best",
    folder: str | Path | None = None,
    output_dir: str | Path = "outputs",
) -> DetectionRecord:
    """Find objects in images, and write boxes, parse trees and pictures.

    Example:
        interp_train.detect("outputs/blood_cells/latest", ["cells.jpg"])

    Args:
        source: run folder or checkpoint of a detector.
        images: files or folders.
        least_score: of the boxes that are listed.
        trees_per_image: boxes per image whose parse tree is drawn.
        checkpoint: ``"best"`` or ``"last"``, of a run folder.
        folder: new folder of the results; None makes one in ``<output_dir>/detect``.
        output_dir: where the folder goes.

    Returns:
        What was found; its `folder` holds detections.html, detections.json and figures.

    Raises:
        FileNotFoundError: if an image or the detector does not exist.
        ValueError: if an image is none, or the checkpoint is not of a detector.
    """
    return _detected(
        {
            "name": "detect", "seed": 0, "output_dir": str(output_dir), "path": str(source),
            "folder": str(folder) if folder is not None else None, "checkpoint": checkpoint,
            "images": [str(path) for path in image_paths(images)], "least_score": least_score,
            "trees_per_image": trees_per_image,
        }
    )  # fmt: skip


def detect_command(config: Mapping[str, Any]) -> int:
    """The verb `detect`."""
    record = _detected(config)
    for scene in record.scenes:
        print(f"{scene.file}: {len(scene.boxes)} {'box' if len(scene.boxes) == 1 else 'boxes'}")
    print(f"detections: {record.folder / 'detections.html'}")
    return 0


def _detected(config: Mapping[str, Any]) -> DetectionRecord:
    """Detect inside a run folder."""
    check_range("least_score", config["least_score"], 0.0, 1.0)
    check_range("trees_per_image", config["trees_per_image"], 0)
    paths = image_paths(config["images"])
    file = chosen_checkpoint(Path(config["path"]).resolve(), config["checkpoint"])
    system = load_system(file)
    if not isinstance(system, InterpretableRcnn):
        raise ValueError(
            f"`path` must lead to a detector, but {str(file)!r} holds a "
            f"{type(system).__name__}. Train one with learning=interpretable_rcnn."
        )
    system.detector.roi_heads.score_thresh = float(config["least_score"])
    with recorded_run({**config, "resume": None}) as run:
        head = system.and_or_head
        record = DetectionRecord(
            folder=run.folder,
            network=str(system.config.get("name", file.stem)),
            source=str(file),
            class_names=system.data_info.class_names,
            graph=head.graph if head is not None else None,
            least_score=float(config["least_score"]),
            scenes=_scenes(system, paths),
        )
        write_detections(record, int(config["trees_per_image"]))
    return record


def _scenes(system: InterpretableRcnn, paths: Sequence[Path]) -> list[SceneView]:
    names = unique_names([str(path) for path in paths])
    scenes = []
    for name, path in zip(names, paths, strict=True):
        pixels = read_pixels(path).float() / 255
        (found,) = system([pixels.to(system.device)])
        boxes = _boxes(found, system.data_info.class_names)
        scenes.append(SceneView(name, str(path), pixels, boxes))
    return scenes


def _boxes(found: Detections, names: Sequence[str]) -> list[BoxView]:
    """The detections of one image as records."""
    trees = found.trees or [None] * len(found.boxes)
    views = []
    for index, label in enumerate(found.labels.tolist()):
        value = None if found.trees == [] else float(found.tree_scores[index])
        box = _corners(found.boxes[index])
        views.append(
            BoxView(box, label, names[label], float(found.scores[index]), trees[index], value)
        )
    return views


def _corners(box: Tensor) -> Box:
    left, top, right, bottom = torch.as_tensor(box).tolist()
    return left, top, right, bottom
