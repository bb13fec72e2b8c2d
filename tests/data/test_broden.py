import csv

import numpy as np
import pytest
import torch
import torch.distributed
from PIL import Image

from interp_train.callbacks.dissection import ProbeSet
from interp_train.data.broden import Broden
from interp_train.evaluation.concept_labels import concept_scheme, labelled_batch
from tests.data.fake_photos import replace_line, write_photo

# Number -> name; 300 needs the green channel, 7 occurs in two categories.
NAMES = {1: "red", 5: "dog", 7: "grass", 9: "wheel", 11: "rim", 300: "car", 400: "dotted",
         401: "striped", 500: "street"}  # fmt: skip
CATEGORIES = {"color": (1,), "object": (5, 7, 300), "part": (9, 11), "material": (7,),
              "scene": (500,), "texture": (400, 401)}  # fmt: skip
SMALL = {"image_size": 32, "label_size": 8, "batch_size": 3}


def write_table(path, header, rows):
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([header, *rows])


def write_map(path, numbers):
    numbers = np.asarray(numbers)
    pixels = np.stack([numbers % 256, numbers // 256, np.zeros_like(numbers)], 2)
    Image.fromarray(pixels.astype(np.uint8)).save(path)


def write_broden(folder, scenes=5, textures=3):
    """Street scenes with an upper half of car; textures that are whole images."""
    images = folder / "images"
    (images / "maps").mkdir(parents=True)
    rows = []
    for number in range(scenes):
        write_photo(images / f"ade/{number}.jpg", seed=number)
        values = np.full((16, 16), 5 if number == 3 else 7)
        values[:8] = 300
        write_map(images / f"maps/{number}_object.png", values)
        wheel, rim = np.zeros((2, 16, 16), dtype=int)
        wheel[:8, :8], rim[2:6, 2:6] = 9, 11
        rim[:2, :2] = 9  # says again what the first map says
        write_map(images / f"maps/{number}_part.png", wheel)
        write_map(images / f"maps/{number}_part2.png", rim)
        parts = f"maps/{number}_part.png;maps/{number}_part2.png"
        split = "train" if number < 3 else "val"
        rows.append([f"ade/{number}.jpg", split, 32, 32, 16, 16, "", f"maps/{number}_object.png",
                     parts, f"maps/{number}_object.png", "500", ""])  # fmt: skip
    for number in range(textures):
        write_photo(images / f"dtd/{number}.jpg", seed=50 + number)
        shown = "400;401" if number == 1 else "401"
        rows.append([f"dtd/{number}.jpg", "train", 32, 32, 16, 16, *[""] * 5, shown])
    header = ["image", "split", "ih", "iw", "sh", "sw", *CATEGORIES]
    write_table(folder / "index.csv", [*header[:6], "color", "object", "part", "material", "scene",
                                       "texture"], rows)  # fmt: skip
    write_table(folder / "category.csv", ["name", "first", "last", "count", "frequency"],
                [[name, min(n), max(n), len(n), 1] for name, n in CATEGORIES.items()])  # fmt: skip
    frequency = {"object": 9, "material": 4}
    labels = []
    for number, name in NAMES.items():
        where = [category for category, members in CATEGORIES.items() if number in members]
        listed = ";".join(f"{category}({frequency.get(category, 3)})" for category in where)
        labels.append([number, name, listed, 1, 1, name])
    write_table(folder / "label.csv", ["number", "name", "category", "frequency", "coverage",
                                       "syns"], labels)  # fmt: skip
    for category, members in CATEGORIES.items():
        listed = [[code, number, NAMES[number], 1, 1] for code, number in enumerate(members, 1)]
        if category == "material":  # the map of objects serves materials, too
            listed += [[2, 300, "paint", 1, 1], [3, 5, "fur", 1, 1]]
        write_table(folder / f"c_{category}.csv",
                    ["code", "number", "name", "frequency", "coverage"], listed)  # fmt: skip
    return str(folder)


def everything(probe):
    batches = list(probe.concept_dataloader())
    return [torch.cat(field) for field in zip(*batches, strict=True)]


def test_labels_of_every_category(tmp_path):
    probe = Broden(write_broden(tmp_path), primary_only=False, **SMALL)
    assert isinstance(probe, ProbeSet)
    assert probe.concept_names == {
        "color": ("red",), "object": ("dog", "grass", "car"), "part": ("wheel", "rim"),
        "material": ("grass", "paint", "fur"), "scene": ("street",),
        "texture": ("dotted", "striped"),
    }  # fmt: skip
    layers = {"color": 1, "object": 1, "part": 2, "material": 1, "scene": 1, "texture": 2}
    assert probe.concept_layers == layers
    images, labels, ids, maps = everything(probe)
    assert images.shape == (8, 3, 32, 32)
    assert (labels == -1).all()
    assert len(ids.unique()) == 8
    scheme = concept_scheme(probe.concept_names, probe.concept_layers)
    counts = labelled_batch(maps, scheme).counts
    found = dict(zip(scheme.names, counts.pixels.tolist(), strict=True))
    half, whole = 32, 64
    expected = {"red": 0, "dog": half, "car": 5 * half, "wheel": 5 * 16, "rim": 5 * 4,
                "paint": 5 * half, "fur": half, "street": 5 * whole, "dotted": whole,
                "striped": 3 * whole}  # fmt: skip
    assert {name: found[name] for name in expected} == expected
    assert counts.images[list(scheme.names).index("grass")] == 4
    by_name = {entry.image: probe[index] for index, entry in enumerate(probe.entries)}
    texture = by_name["dtd/1.jpg"].concept_maps[0]
    assert texture[-2:, 0, 0].tolist() == [1, 2]  # both, in the whole image
    assert not texture[:-2].any()
    part = by_name["ade/0.jpg"].concept_maps[0, 2:4]
    assert part[:, 1, 1].tolist() == [1, 2]
    assert part[:, 0, 0].tolist() == [1, 0]  # not twice


def test_a_concept_counts_where_it_is_most_frequent(tmp_path):
    write_broden(tmp_path)
    probe = Broden(str(tmp_path), categories=["material", "object"], **SMALL)
    assert probe.concept_names == {"object": ("dog", "grass", "car")}
    materials = [*(tmp_path / "c_material.csv").read_text().splitlines(), "4,501,wood,1,1"]
    (tmp_path / "c_material.csv").write_text("\n".join(materials))
    labels = [*(tmp_path / "label.csv").read_text().splitlines(), "501,wood,material(3),1,1,wood"]
    (tmp_path / "label.csv").write_text("\n".join(labels))
    probe = Broden(str(tmp_path), categories=["material", "object"], **SMALL)
    assert probe.concept_names == {"material": ("wood",), "object": ("dog", "grass", "car")}
    assert not everything(probe)[3][:, 0].any()


def test_choices(tmp_path):
    root = write_broden(tmp_path, scenes=9, textures=4)
    assert len(Broden(root, split="val", **SMALL)) == 6
    few = Broden(root, max_images=6, **SMALL)
    kinds = [entry.image.split("/")[0] for entry in few.entries]
    assert kinds.count("ade") == kinds.count("dtd") == 3
    more = Broden(root, max_images=8, **SMALL)
    assert more.entries[:6] == few.entries
    covering = Broden(root, max_images=6, least_per_concept=1, **SMALL)
    shown = {entry.image for entry in covering.entries}
    assert {"ade/3.jpg", "dtd/1.jpg"} <= shown  # the only dog, the only dots
    scheme = concept_scheme(covering.concept_names, covering.concept_layers)
    counts = labelled_batch(everything(covering)[3], scheme).counts
    assert (counts.images > 0).tolist() == [False] + [True] * 8


def shares(root):
    """Which images this process is shown."""
    return everything(Broden(root, **SMALL))[2].tolist()


def test_two_processes_share_the_images(two_processes, tmp_path):
    root = write_broden(tmp_path)
    alone = shares(root)
    first, second = two_processes(shares, root)
    assert [first, second] == [alone[::2], alone[1::2]]


def test_errors(tmp_path):
    root = write_broden(tmp_path)
    with pytest.raises(ValueError, match="`categories` must name a category .* got 'objects'"):
        Broden(root, categories=["objects"])
    with pytest.raises(ValueError, match="`split` must name a split of index.csv, but got 'test'"):
        Broden(root, split="test")
    replace_line(tmp_path / "c_object.csv", 4, None)
    with pytest.raises(ValueError, match=r"'object' must have a name .* but 'maps/.* has \[300\]"):
        everything(Broden(root))
    replace_line(tmp_path / "label.csv", 2, "1,red,color,1,1,red")
    with pytest.raises(ValueError, match=r"'object\(12\);part\(3\)', but 'red' has 'color'"):
        Broden(root)
    (tmp_path / "label.csv").unlink()
    with pytest.raises(FileNotFoundError, match="must hold 'label.csv', but .* is missing"):
        Broden(root)
    replace_line(tmp_path / "index.csv", 1, "image,split,object")
    with pytest.raises(ValueError, match="index.csv must name the columns .*, but lacks color, pa"):
        Broden(root, primary_only=False)
