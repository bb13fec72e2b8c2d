"""Small folders of photos in the layouts that the data modules read."""

import csv

import numpy as np
from PIL import Image

PART_NAMES = (
    "back", "beak", "belly", "breast", "crown", "forehead", "left eye", "left leg", "left wing",
    "nape", "right eye", "right leg", "right wing", "tail", "throat",
)  # fmt: skip
SIDES = ("xmin", "ymin", "xmax", "ymax")
ANIMAL_COLUMNS = [
    *("file", "wnid", "name", "orig_index", "split", "width", "height"),
    *(prefix + side for prefix in ("", "head_", "legs_") for side in SIDES),
]


def write_photo(path, width=64, height=48, seed=0):
    """A smooth random picture, stored without loss whatever the suffix says."""
    path.parent.mkdir(parents=True, exist_ok=True)
    coarse = np.random.RandomState(seed).randint(0, 256, (4, 4, 3)).astype(np.uint8)
    Image.fromarray(coarse).resize((width, height)).save(path, format="png")


def write_cub(folder, num_classes=2, per_class=4):
    """Birds with a box in the left half; part k is visible in image i unless (i + k) % 5 == 0."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = {name: [] for name in ("images", "image_class_labels", "bounding_boxes",
                                   "train_test_split", "classes")}  # fmt: skip
    locations = []
    for kind in range(num_classes):
        name = f"{kind + 1:03d}.Red_tailed_Bird{kind + 1}"
        lines["classes"].append(f"{kind + 1} {name}")
        for count in range(per_class):
            key = kind * per_class + count + 1
            lines["images"].append(f"{key} {name}/bird_{key}.jpg")
            lines["image_class_labels"].append(f"{key} {kind + 1}")
            lines["bounding_boxes"].append(f"{key} 4.0 {6 + count}.5 24.0 30.0")
            lines["train_test_split"].append(f"{key} {count % 2}")
            write_photo(folder / "images" / name / f"bird_{key}.jpg", seed=key)
            for part in range(15):
                seen = (key + part) % 5 != 0
                place = (5 + part, 10 + 1.5 * part) if seen else (0.0, 0.0)
                locations.append(f"{key} {part + 1} {place[0]:.2f} {place[1]:.2f} {int(seen)}")
    for name, text in lines.items():
        (folder / f"{name}.txt").write_text("\n".join(text) + "\n")
    (folder / "parts").mkdir()
    (folder / "parts" / "part_locs.txt").write_text("\n".join(locations) + "\n")
    parts = [f"{index + 1} {name}" for index, name in enumerate(PART_NAMES)]
    (folder / "parts" / "parts.txt").write_text("\n".join(parts) + "\n")
    return folder


def write_animals(folder, kinds=("dog", "lion"), per_kind=10):
    """Every fourth animal is a test animal; legs are annotated on every second one."""
    rows = []
    for kind in kinds:
        for count in range(per_kind):
            file = f"images/{kind}/{count:05d}.png"
            write_photo(folder / file, seed=len(rows))
            legs = [10, 30, 30, 44] if count % 2 else [""] * 4
            split = "test" if count % 4 == 3 else "train"
            rows.append([file, "n0", kind, count, split, 64, 48, 4, 4.5, 50, 44, 8, 8, 28, 20.5,
                         *legs])  # fmt: skip
    with (folder / "annotations.csv").open("w", newline="") as file:
        csv.writer(file).writerows([ANIMAL_COLUMNS, *rows])
    return folder


def write_folder(folder, counts):
    """Category folders with so many photos each; keys may hold a split, ``"train/cat"``."""
    for index, (name, count) in enumerate(counts.items()):
        for number in range(count):
            write_photo(folder / name / f"{number:03d}.png", seed=100 * index + number)
    return folder


def replace_line(path, number, text):
    """Replace line `number` (1-based) of a text file; None removes it."""
    lines = path.read_text().splitlines()
    lines[number - 1 : number] = [] if text is None else [text]
    path.write_text("\n".join(lines) + "\n")
