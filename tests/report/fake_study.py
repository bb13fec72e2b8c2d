"""A study folder as the experiment and its callbacks leave it, with made-up networks.

Creatures are drawn; filters of the ordinary row wander, those of the others follow parts.
"""

import csv
import json
import math

import numpy as np
import torch
import yaml

from interp_train.evaluation.location_instability import location_instability
from interp_train.evaluation.part_scheme import PartScheme
from interp_train.evaluation.part_tracking import baseline_scores, part_tracking, summary
from interp_train.evaluation.peak_table import MapFrame, PeakTable
from interp_train.evaluation.position_baselines import position_baselines
from interp_train.structures import LayerGeometry

LAYER = "head.relu_2"
PARTS = ("head", "beak", "left_wing", "right_wing", "tail", "feet")
GROUPS = {"head": [0, 1], "wings": [2, 3], "tail": [4], "feet": [5]}
SIZE, GRID = 96, 12
FRAME = MapFrame(GRID, GRID, SIZE, SIZE, LayerGeometry(8.0, 3.5, 60.0))


def drawn_images(number, classes=1, seed=0):
    """Pixels ``(N, 3, S, S)`` in [0, 1], landmarks ``(N, P, 2)``, boxes, labels."""
    generator = torch.Generator().manual_seed(seed)
    y, x = torch.meshgrid(torch.arange(SIZE) * 1.0, torch.arange(SIZE) * 1.0, indexing="ij")
    offsets = torch.tensor([[14, -8], [22, -6], [-4, -12], [4, 10], [-22, 4], [2, 18.0]])
    images, places, boxes = [], [], []
    labels = torch.arange(number) % classes
    for index in range(number):
        centre = torch.rand(2, generator=generator) * 30 + 33
        bend = (torch.rand(len(PARTS), 2, generator=generator) - 0.5) * 16
        mirror = 1 if torch.rand((), generator=generator) > 0.5 else -1
        points = centre + offsets * torch.tensor([mirror, 1.0]) + bend
        ground = torch.rand(3, 1, 1, generator=generator) * 0.3 + 0.35
        waves = 0.06 * torch.sin(x / 7 + index) * torch.cos(y / 9 - index)
        picture = (ground + waves).expand(3, -1, -1).clone()
        colours = torch.rand(len(PARTS) + 1, 3, generator=generator)
        spots = [(centre, 13.0), *((point, 5.0) for point in points)]
        for (place, radius), colour in zip(spots, colours, strict=True):
            inside = (((x - place[0]) ** 2 + (y - place[1]) ** 2) < radius**2)[None]
            picture = torch.where(inside, colour[:, None, None], picture)
        images.append(picture)
        places.append(points)
        low, high = points.amin(0) - 6, points.amax(0) + 6
        boxes.append(torch.cat([low, high]))
    return torch.stack(images), torch.stack(places), torch.stack(boxes), labels


def peaks(places, boxes, labels, skill, seed, units=24):
    """A table in which each filter follows a part with weight `skill`."""
    generator = torch.Generator().manual_seed(seed)
    number = len(places)
    parts = torch.arange(units) % len(PARTS)
    wander = torch.rand(number, units, 2, generator=generator) * 60 + 18
    followed = places[:, parts]
    own = skill * (0.55 + 0.45 * torch.rand(units, 1, generator=generator))
    noise = torch.randn(number, units, 2, generator=generator) * 3
    positions = FRAME.snapped(own * followed + (1 - own) * wander + noise)
    values = torch.rand(number, units, generator=generator) + 0.5
    categories = parts % max(int(labels.max()) + 1, 1)
    values = values + (labels[:, None] == categories) * skill
    values[:, -1] = 0  # a dead filter
    ids = torch.arange(number) + 500
    return PeakTable(ids, labels, boxes, places, positions, values)


def measured(table, classes):
    """Numbers and arrays that the callbacks would log and record."""
    scheme = PartScheme(PARTS, {k: tuple(v) for k, v in GROUPS.items()}, (0, 4), classes)
    tracking = part_tracking(table, num_categories=classes)
    numbers = {f"part_tracking_{k}": float(v) for k, v in summary(tracking, scheme).items()}
    instability = location_instability(
        table, FRAME.diagonal(), parts=(0, 4), num_categories=classes
    )
    numbers["location_instability"] = float(instability.best_category.mean())
    for name, baseline in position_baselines(table, FRAME).items():
        for quantity, value in baseline_scores(name, baseline, classes).items():
            numbers[f"part_tracking_{quantity}_{name}"] = float(value)
        scores = location_instability(
            baseline, FRAME.diagonal(), parts=(0, 4), num_categories=classes, top=None
        )
        numbers[f"location_instability_{name}"] = float(scores.best_category.nanmean())
    numbers |= {
        "part_tracking_mean_r2_random_network": -0.31,
        "part_tracking_share_random_network": 0.0,
        "class_selectivity": 0.4,
        "class_selectivity_shuffled_labels": 0.05,
    }
    arrays = {f"part_tracking_{k}": v.numpy() for k, v in tracking._asdict().items()}
    arrays |= {f"location_instability_{k}": v.numpy() for k, v in instability._asdict().items()}
    return numbers, arrays


def write_run(folder, row, seed, skill, *, data="creatures", classes=1, landmarks=True, epochs=6,
              images=None, status="finished"):  # fmt: skip
    """One run folder."""
    (folder / "measures" / "panels").mkdir(parents=True)
    pixels, places, boxes, labels = images or drawn_images(120, classes)
    table = peaks(places, boxes, labels, skill, seed)
    accuracy = 0.97 - 0.02 * skill + 0.004 * seed
    result = {"epoch": epochs - 1.0, "accuracy/top1": accuracy, "loss/validation/task": 0.1}
    if landmarks:
        numbers, arrays = measured(table, classes)
        result |= {f"parts/{LAYER}/{name}": value for name, value in numbers.items()}
        write_layer(folder, table, arrays, classes)
    else:
        reason = (
            "part_tracking needs part_locations; this data set has none, so it is not measured."
        )
        missing = {"part_tracking": {LAYER: reason}}
        (folder / "measures" / "missing.json").write_text(json.dumps(missing))
    write_metrics(folder, result, epochs)
    write_panels(folder, pixels, places, labels, table, skill)
    write_words(folder, row, seed, data, status)
    write_predictions(folder, table, accuracy, seed, classes)
    (folder / "result.json").write_text(json.dumps(result))
    return folder


def write_layer(folder, table, arrays, classes):
    np.savez(
        folder / "measures" / f"{LAYER}.npz",
        **{name: value.numpy() for name, value in table._asdict().items()},
        **arrays, layer=LAYER, grid=[GRID, GRID], image_size=[SIZE, SIZE],
        geometry=list(FRAME.geometry), part_names=list(PARTS), part_groups=json.dumps(GROUPS),
        class_names=[f"species_{index}" for index in range(classes)], instability_parts=[0, 4],
    )  # fmt: skip


def write_metrics(folder, result, epochs):
    names = [name for name in result if name != "epoch"]
    with (folder / "metrics.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, ["step", "epoch", "loss/train/task", *names])
        writer.writeheader()
        for epoch in range(epochs):
            writer.writerow(
                {"step": 10 * epoch + 5, "epoch": epoch, "loss/train/task": 1 / (epoch + 1)}
            )
            share = 1 - math.exp(-(epoch + 1)) if epoch < epochs - 1 else 1.0
            values = {name: result[name] * share for name in names}
            writer.writerow({"step": 10 * epoch + 9, "epoch": epoch, **values})


def write_panels(folder, pixels, places, labels, table, skill):
    chosen = torch.linspace(0, len(pixels) - 1, 8).long()
    shown = (pixels[chosen] * 255).byte().numpy()
    panels = folder / "measures" / "panels"
    np.savez_compressed(
        panels / "pinned.npz", images=shown, sample_ids=table.sample_ids[chosen].numpy(),
        labels=labels[chosen].numpy(), boxes=table.boxes[chosen].numpy(),
        part_locations=places[chosen].numpy(),
    )  # fmt: skip
    y, x = torch.meshgrid(torch.arange(SIZE) * 1.0, torch.arange(SIZE) * 1.0, indexing="ij")
    centre = places[chosen, 0][:, :, None, None]
    heat = torch.exp(-((x - centre[:, 0]) ** 2 + (y - centre[:, 1]) ** 2) / (900 - 600 * skill))
    np.savez_compressed(
        panels / "heatmaps_grad_cam.npz", images=shown, heatmaps=(heat[:, None] * 3).half().numpy(),
        titles=[f"species {label} (.9{n})" for n, label in enumerate(labels[chosen].tolist())],
        labels=labels[chosen].numpy(), sample_ids=table.sample_ids[chosen].numpy(), epoch=5,
    )  # fmt: skip
    top = torch.arange(24).view(4, 6) % len(pixels)
    np.savez_compressed(
        panels / f"units_{LAYER}.npz", pictures=(pixels[top] * 255).byte().numpy(),
        values=np.random.default_rng(0).random((4, 6)), units=np.arange(4), epoch=5,
        captions=[f"unit {unit}\n{PARTS[unit]}  R² 0.{60 + unit}" for unit in range(4)],
        sample_ids=table.sample_ids[top].numpy(),
    )  # fmt: skip


def write_words(folder, row, seed, data, status):
    config = {
        "name": f"study_{row}", "seed": seed, "output_dir": "outputs",
        "data": {"_target_": f"interp_train.data.{data}.Data", "image_size": SIZE},
        "learning": {"loss": "softmax"}, "source": "https://example.org/<data>?a=1&b=2",
    }  # fmt: skip
    (folder / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    words = {
        "status": status, "started": "2026-01-05T10:00:00.000+00:00", "seed": seed,
        "ended": "2026-01-05T10:02:00.000+00:00", "seconds": 120.0 + seed, "error": None,
        "config_hash": "0123456789abcdef", "commit": "a" * 40, "data_fingerprint": "feedc0de",
        "data_licence": "CC BY 4.0", "versions": {"python": "3.11.9", "torch": "2.9.0"},
        "cost": {"part_tracking": 3.2, "heatmaps": 1.1, "panels": 2.0}, "command": "interp-train",
    }  # fmt: skip
    (folder / "status.json").write_text(json.dumps(words))


def write_predictions(folder, table, accuracy, seed, classes):
    random = np.random.default_rng(seed + 7)
    labels = table.labels.numpy()
    right = random.random(len(labels)) < accuracy
    np.savez_compressed(
        folder / "measures" / "predictions.npz", sample_ids=table.sample_ids.numpy(),
        labels=labels, predictions=np.where(right, labels, (labels + 1) % max(classes, 2)),
        confidences=np.full(len(labels), 0.9),
    )  # fmt: skip


def write_study(folder, *, rows=("ordinary", "interpretable"), seeds=(0, 1), data=("creatures",),
                failed=(), missing=(), **options):  # fmt: skip
    """A study folder with its runs beside it; returns the folder."""
    study = folder / "studies" / "demo"
    study.mkdir(parents=True)
    runs = []
    for name in data:
        for row_number, row in enumerate(rows):
            for seed in seeds:
                run = {"row": row, "data": name, "seed": seed, "status": "finished"}
                place = folder / f"demo_{row}_{name}" / f"run_{seed}"
                if (row, seed) in missing:
                    run |= {"folder": None, "status": "waiting"}
                elif (row, seed) in failed:
                    place.mkdir(parents=True)
                    words = {"status": "failed", "error": "Traceback ...\nValueError: <no> images"}
                    (place / "status.json").write_text(json.dumps(words))
                    run |= {"folder": f"../../{place.relative_to(folder)}", "status": "failed"}
                else:
                    skill = 0.05 if row == "ordinary" else 0.75 + 0.05 * row_number
                    write_run(place, row, seed, skill, data=name, **options)
                    run["folder"] = f"../../{place.relative_to(folder)}"
                runs.append(run)
    described = {
        "name": "demo", "rows": list(rows), "data": list(data), "seeds": list(seeds),
        "ordinary_row": "ordinary" if "ordinary" in rows else None, "runs": runs,
        "command": "interp-train study study=demo",
    }  # fmt: skip
    (study / "study.json").write_text(json.dumps(described))
    return study
