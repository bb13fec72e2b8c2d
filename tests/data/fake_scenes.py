"""Small folders of scenes with boxes, in the layouts that the detection data read."""

import json

from tests.data.fake_photos import write_photo

OBJECT = """<object><name>{name}</name><difficult>{difficult}</difficult>
<part><name>head</name><bndbox><xmin>1</xmin><ymin>1</ymin><xmax>2</xmax><ymax>2</ymax></bndbox>
</part><bndbox><xmin>{0}</xmin><ymin>{1}</ymin><xmax>{2}</xmax><ymax>{3}</ymax></bndbox></object>
"""


def write_voc(folder, scenes, val=()):
    """Scenes: id -> list of (name, four numbers in VOC's counting, difficult)."""
    for index, (key, objects) in enumerate(scenes.items()):
        write_photo(folder / "JPEGImages" / f"{key}.jpg", seed=index)
        write_objects(folder, key, objects)
    lists = folder / "ImageSets" / "Main"
    lists.mkdir(parents=True, exist_ok=True)
    train = [key for key in scenes if key not in val]
    (lists / "train.txt").write_text("\n".join(train) + "\n")
    (lists / "val.txt").write_text("\n".join(val) + "\n")
    return folder


def write_objects(folder, key, objects):
    text = "".join(
        OBJECT.format(*box, name=name, difficult=int(hard)) for name, box, hard in objects
    )
    path = folder / "Annotations" / f"{key}.xml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"<annotation>{text}</annotation>")


def voc_scenes(folder, number=8):
    """Photos of 64 x 48 pixels with a cat, every second one with a dog, the last one empty."""
    scenes = {}
    for index in range(number):
        objects = [("cat", (5 + index, 7, 30 + index, 40), False)]
        if index % 2:
            objects.append(("dog", (1, 1, 20, 20), index == 3))
        scenes[f"scene_{index}"] = objects if index < number - 1 else []
    return write_voc(folder, scenes, val=[f"scene_{index}" for index in (number - 2, number - 1)])


def write_coco(folder, annotations, images=2):
    """The same content for both splits; annotations are COCO's dictionaries."""
    content = {
        "images": [{"id": 10 + index, "file_name": f"{index}.png"} for index in range(images)],
        "categories": [{"id": 7, "name": "dog"}, {"id": 3, "name": "cat"}],
        "annotations": [{"id": index, **entry} for index, entry in enumerate(annotations)],
    }
    (folder / "annotations").mkdir(parents=True, exist_ok=True)
    for split in ("train", "val"):
        for index in range(images):
            write_photo(folder / f"{split}2017" / f"{index}.png", seed=index)
        path = folder / "annotations" / f"instances_{split}2017.json"
        path.write_text(json.dumps(content))
    return folder
