"""Scenes in the layout of COCO: one JSON file with the labelled boxes of all photos."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, final

from interp_train.data.detection_data import DetectionData, SceneCollection, chosen_categories
from interp_train.data.photo_data import IMAGENET_MEAN, IMAGENET_STD, SPLITS
from interp_train.data.scenes import Annotation, Scene, photo_of, scene_of
from interp_train.data.voc_detection import found_folder


@final
class CocoDetectionData(DetectionData):
    """Photos in one folder per split, boxes in one JSON file per split.

    Crowds are neither learned nor counted. A photo may have no object.

    Args:
        root: folder of the data; a relative one is also looked for below ``$INTERP_TRAIN_DATA``;
            None is ``coco`` there.
        train_images: folder of the training photos, relative to `root`.
        train_annotations: their JSON file.
        val_images: folder of the validation photos.
        val_annotations: their JSON file.
        categories: see `DetectionData`; None takes all, in the order of their numbers.
        other_categories: see `DetectionData`.
        image_size: see `DetectionData`.
        batch_size: see `DetectionData`.
        num_workers: see `DetectionData`.
        seed: see `DetectionData`.
        flip: see `DetectionData`.
        mean: see `DetectionData`.
        std: see `DetectionData`.
        in_memory: see `DetectionData`.
        on_error: see `DetectionData`.

    Raises:
        FileNotFoundError: for a missing folder or file.
        ValueError: for a mistake in a file; names it.
    """

    def __init__(
        self,
        root: str | None = None,
        *,
        train_images: str = "train2017",
        train_annotations: str = "annotations/instances_train2017.json",
        val_images: str = "val2017",
        val_annotations: str = "annotations/instances_val2017.json",
        categories: Sequence[str] | None = None,
        other_categories: str = "raise",
        image_size: int = 800,
        batch_size: int = 2,
        num_workers: int = 0,
        seed: int = 0,
        flip: bool = True,
        mean: Sequence[float] = IMAGENET_MEAN,
        std: Sequence[float] = IMAGENET_STD,
        in_memory: bool = False,
        on_error: str = "raise",
    ) -> None:
        super().__init__(
            categories=categories,
            other_categories=other_categories,
            image_size=image_size,
            batch_size=batch_size,
            num_workers=num_workers,
            seed=seed,
            flip=flip,
            mean=mean,
            std=std,
            in_memory=in_memory,
            on_error=on_error,
        )
        self.root = root
        self.images = {"train": train_images, "val": val_images}
        self.annotations = {"train": train_annotations, "val": val_annotations}

    def read(self) -> SceneCollection:
        """Read the JSON files."""
        folder = found_folder(self.root, "coco")
        contents = {split: read_json_file(folder / self.annotations[split]) for split in SPLITS}
        found = _names(contents["train"], str(folder / self.annotations["train"]))
        names = chosen_categories(self.categories, list(found.values()))
        splits = {split: self._scenes(contents[split], folder, split, names) for split in SPLITS}
        return SceneCollection(folder.name, splits, names)

    def _scenes(
        self, content: dict[str, Any], folder: Path, split: str, names: Sequence[str]
    ) -> list[Scene]:
        file = str(folder / self.annotations[split])
        kinds = _names(content, file)
        listed: dict[int, list[Annotation]] = {int(image["id"]): [] for image in content["images"]}
        for entry in content["annotations"]:
            with self.mistakes.noted():
                image_id, annotation = _annotation(entry, kinds, file)
                if image_id not in listed:
                    raise ValueError(
                        f"each annotation must belong to an image of its file, but annotation "
                        f"{entry.get('id')} of {file} names image {image_id}. Correct it."
                    )
                listed[image_id].append(annotation)
        scenes = []
        for image in content["images"]:
            key, path = int(image["id"]), folder / self.images[split] / str(image["file_name"])
            photo = photo_of(path, key, f"image {key} of {file}")
            scenes.append(scene_of(photo, listed[key], names, self.leave_out, self.mistakes))
        return scenes


def read_json_file(path: Path) -> dict[str, Any]:
    """The content of an annotation file.

    Raises:
        FileNotFoundError: if it is missing.
        ValueError: if it is no JSON, or lacks images, annotations or categories.
    """
    if not path.is_file():
        raise FileNotFoundError(
            f"the annotations must exist, but {str(path)!r} is missing. Complete the folder, or "
            f"set data.root, data.train_annotations and data.val_annotations."
        )
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(
            f"annotations must be JSON, but {path} is not: {error}. Replace the file."
        ) from error
    for key in ("images", "annotations", "categories"):
        if not isinstance(content, dict) or not isinstance(content.get(key), list):
            raise ValueError(
                f"COCO annotations must hold the lists images, annotations and categories, but "
                f"{path} has no {key!r}. Check the file."
            )
    found: dict[str, Any] = content
    return found


def _names(content: dict[str, Any], file: str) -> dict[int, str]:
    """Number of each category -> its name, in the order of the numbers."""
    names = {int(entry["id"]): str(entry["name"]) for entry in content["categories"]}
    if len(set(names.values())) < len(content["categories"]):
        raise ValueError(
            f"each category must have a number and a name of its own, but those of {file} repeat. "
            f"Rename them."
        )
    return dict(sorted(names.items()))


def _annotation(entry: dict[str, Any], kinds: dict[int, str], file: str) -> tuple[int, Annotation]:
    """The image of an object, and the object."""
    where = f"annotation {entry.get('id')} of {file}"
    box, kind = entry.get("bbox"), entry.get("category_id")
    numbers = isinstance(box, list) and all(isinstance(side, int | float) for side in box)
    if not numbers or len(box or ()) != 4 or "image_id" not in entry:
        raise ValueError(
            f"each annotation must have an image_id and a bbox of four numbers, but {where} has "
            f"not. Correct it."
        )
    if kind not in kinds:
        raise ValueError(
            f"each annotation must name a category of its file, but {where} names {kind!r}. "
            f"Correct it."
        )
    assert isinstance(box, list)
    left, top, width, height = map(float, box)
    crowd = bool(entry.get("iscrowd", 0))
    corners = (left, top, left + width, top + height)
    return int(entry["image_id"]), Annotation(kinds[kind], corners, crowd)
