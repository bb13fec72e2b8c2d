"""What network dissection costs beside a plain forward pass over the probe set.

Every variant makes a pass of its own over the same random images: the network alone, the network
with dissection in one pass or in two, and the procedure of NetDissect-Lite (B. Zhou et al., 2018),
written anew after its description: maps in double precision on the disk, then a loop over images
and units that resizes one map at a time.
"""

import functools
import json
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from interp_train.activations import ActivationTap
from interp_train.atomic_files import write_json
from interp_train.backbones.backbone import Backbone
from interp_train.backbones.torchvision_backbone import torchvision_backbone
from interp_train.benchmark_timing import (
    interleaved,
    peak_in_process,
    resident_peak,
    time_ratios,
    timed,
)
from interp_train.checks import check_range
from interp_train.evaluation.dissection import DissectionMetric
from interp_train.structures import ConceptBatch

LABEL_SIZE = 112  # Broden's: half of 224
_CATEGORIES = 4
_MEMORY_UNITS, _MEMORY_CELLS, _MEMORY_BATCH = 512, 7, 25
_QUANTILE, _LEAST_IOU = 0.005, 0.04


class ProbeImages:
    """Random images and label maps of blocks; the first labels of each category are the largest.

    Args:
        num_images: N.
        image_size: side of the images, in pixels.
        batch_size: images at a time.
        num_concepts: over four categories.
    """

    def __init__(
        self, num_images: int, image_size: int, batch_size: int, num_concepts: int
    ) -> None:
        generator = torch.Generator().manual_seed(0)
        self.batch_size = batch_size
        self.labels = block_labels(num_images, num_concepts // _CATEGORIES, generator)
        colours = torch.randn(num_concepts // _CATEGORIES + 1, 3, generator=generator)
        painted = colours[self.labels[:, 0].long()].permute(0, 3, 1, 2)
        noise = torch.randn(num_images, 3, image_size, image_size, generator=generator)
        self.images = nn.functional.interpolate(painted, (image_size, image_size)) + 0.5 * noise

    def __len__(self) -> int:
        """Number of images."""
        return len(self.images)

    def batches(self) -> list[ConceptBatch]:
        """All images."""
        ids = torch.arange(len(self.images))
        everything = (self.images, ids, ids, self.labels)
        fields = (torch.split(field, self.batch_size) for field in everything)
        return [ConceptBatch(*batch) for batch in zip(*fields, strict=True)]


def block_labels(number: int, labels: int, generator: torch.Generator) -> Tensor:
    """Label maps uint8 ``(N, 4, 112, 112)`` of blocks of 14 pixels; a third has no label."""
    cells = LABEL_SIZE // 14
    drawn = torch.rand(number, _CATEGORIES, cells, cells, generator=generator)
    blocks = ((1.5 * drawn.square() * (labels + 1)).long()).clamp(max=2 * labels)
    blocks = torch.where(blocks > labels, 0, blocks).to(torch.uint8)
    return blocks.repeat_interleave(14, 2).repeat_interleave(14, 3)


def concept_names(num_concepts: int) -> dict[str, list[str]]:
    """Names of the concepts of each category."""
    share = num_concepts // _CATEGORIES
    return {f"category {m}": [f"concept {m}.{c}" for c in range(share)] for m in range(_CATEGORIES)}


def plain_pass(network: nn.Module, probe: ProbeImages) -> None:
    """The network alone."""
    with torch.no_grad():
        for batch in probe.batches():
            network(batch.images)


def dissected_pass(
    network: Backbone, probe: ProbeImages, layers: Sequence[str], names: Any, **options: Any
) -> dict[str, dict[str, Tensor]]:
    """The network with dissection of some layers; the numbers of each."""
    metrics = {
        layer: DissectionMetric(
            network.geometry(layer), names, num_images=len(probe), quantiles=(_QUANTILE,), **options
        )
        for layer in layers
    }

    def show(shown: Mapping[str, DissectionMetric]) -> None:
        with torch.no_grad(), ActivationTap(network, shown) as tap:
            for batch in probe.batches():
                network(batch.images)
                maps = tap.take()
                for layer, metric in shown.items():
                    metric.update(maps[layer], batch)

    show(metrics)
    again = {layer: metric for layer, metric in metrics.items() if metric.start_second_pass()}
    if again:
        show(again)
    return {layer: metric.compute() for layer, metric in metrics.items()}


def lite_pass(network: nn.Module, probe: ProbeImages, layer: str) -> NDArray[np.float64]:
    """The procedure of NetDissect-Lite; IoU of units and labels, ``(K, C)``.

    Its union runs over the images in which a unit meets a label of the category.
    """
    with tempfile.TemporaryDirectory() as folder:
        stored = _stored_maps(network, probe, layer, Path(folder) / "maps.mmap")
        values = np.sort(stored.transpose(1, 0, 2, 3).reshape(stored.shape[1], -1), axis=1)
        place = (1 - _QUANTILE) * (values.shape[1] - 1)
        thresholds = values[:, int(place)]
        labels = probe.labels.numpy()
        size = int(labels.max()) + 1
        both = np.zeros((stored.shape[1], _CATEGORIES, size))
        active = np.zeros((stored.shape[1], _CATEGORIES))
        for image, maps in enumerate(stored):
            for unit, found in enumerate(maps):
                if found.max() <= thresholds[unit]:
                    continue
                resized = Image.fromarray(found.astype(np.float32), mode="F").resize(
                    (LABEL_SIZE, LABEL_SIZE), Image.Resampling.BILINEAR
                )
                rows, columns = np.nonzero(np.asarray(resized) > thresholds[unit])
                for category in range(_CATEGORIES):
                    counts = np.bincount(labels[image, category, rows, columns], minlength=size)
                    both[unit, category] += counts
                    active[unit, category] += len(rows) * bool(counts[1:].any())
        seen = np.stack([np.bincount(maps.ravel(), minlength=size) for maps in
                         labels.transpose(1, 0, 2, 3)])  # fmt: skip
        union = active[:, :, None] + seen[None] - both
        found = both / np.maximum(union, 1)
    iou: NDArray[np.float64] = found[:, :, 1:].reshape(len(found), -1)
    return iou


def _stored_maps(network: nn.Module, probe: ProbeImages, layer: str, path: Path) -> Any:
    stored: Any = None
    begin = 0
    with torch.no_grad(), ActivationTap(network, [layer]) as tap:
        for batch in probe.batches():
            network(batch.images)
            maps = tap.take()[layer].double().numpy()
            if stored is None:
                shape = (len(probe), *maps.shape[1:])
                stored = np.memmap(path, dtype=np.float64, mode="w+", shape=shape)
            stored[begin : begin + len(maps)] = maps
            begin += len(maps)
    return stored


def variants(backbone: str, probe: ProbeImages, num_concepts: int) -> dict[str, Callable[[], Any]]:
    """Name -> a pass over the probe set."""
    torch.manual_seed(0)
    network = torchvision_backbone(backbone, image_size=probe.images.shape[-1]).eval()
    names = concept_names(num_concepts)
    last = network.resolve("top")
    early, middle = network.resolve("early"), network.resolve("mid")
    run = functools.partial(dissected_pass, network, probe, names=names)
    alone = {"rotated_basis": False, "shuffled_masks": False}
    return {
        "plain forward pass": lambda: plain_pass(network, probe),
        f"cached, {last}": lambda: run([last]),
        f"cached, {last}, without baselines": lambda: run([last], **alone),
        f"cached, {middle} and {last}": lambda: run([middle, last]),
        f"cached, {early}": lambda: run([early]),
        f"cached, {early}, without baselines": lambda: run([early], **alone),
        f"two passes, {last}": lambda: run([last], cache_bytes=0),
        f"NetDissect-Lite procedure, {last}": lambda: lite_pass(network, probe, last),
    }


def benchmark_dissection(
    *,
    backbone: str = "resnet18",
    image_size: int = 224,
    batch_size: int = 16,
    repetitions: int = 10,
    num_images: int = 200,
    num_concepts: int = 20,
    memory_images: Sequence[int] = (1000, 10000),
    output: str | None = None,
) -> dict[str, Any]:
    """Time of dissection over that of a plain forward pass, and memory of its two-pass mode.

    Args:
        backbone: torchvision's name.
        image_size: side of the images, in pixels.
        batch_size: images per step.
        repetitions: rounds; in each round every variant makes one pass, in turn.
        num_images: of the probe set.
        num_concepts: over four categories, on label maps of 112 pixels.
        memory_images: numbers of images between which memory is compared; empty leaves it out.
        output: JSON file to write; None writes none.

    Returns:
        ``rows`` as in `interp_train.benchmark.benchmark_objective`, and ``setting``.
    """
    check_range("repetitions", repetitions, 2)
    check_range("num_images", num_images, 1)
    check_range("num_concepts", num_concepts, _CATEGORIES)
    probe = ProbeImages(num_images, image_size, batch_size, num_concepts)
    passes = variants(backbone, probe, num_concepts)
    measured = interleaved(
        {name: functools.partial(timed, work) for name, work in passes.items()},
        repetitions,
        warm_up=1,
    )
    plain = measured["plain forward pass"]
    rows: list[dict[str, Any]] = [
        {"variant": name, **time_ratios(found, plain)} for name, found in measured.items()
    ]
    result = {
        "rows": rows,
        "memory": memory_rows(memory_images),
        "setting": {
            "torch": torch.__version__, "threads": torch.get_num_threads(), "backbone": backbone,
            "image_size": image_size, "batch_size": batch_size, "repetitions": repetitions,
            "num_images": num_images, "num_concepts": num_concepts,
        },
    }  # fmt: skip
    if output is not None:
        write_json(Path(output), result)
    return result


def memory_rows(numbers: Sequence[int]) -> list[dict[str, Any]]:
    """Peak memory of a process that dissects so many random maps in two passes."""
    found = [peak_of(number) for number in numbers]
    return [
        {"images": number, "peak_mib": peak / 2**20, "ratio_to_first": peak / found[0]}
        for number, peak in zip(numbers, found, strict=True)
    ]


def peak_of(num_images: int) -> int:
    """Largest resident size of a process of its own, in bytes."""
    return peak_in_process(__name__, json.dumps(num_images))


def print_peak(task: str) -> None:
    """Body of the process of `peak_of`: maps are drawn anew in each pass, never kept."""
    number = json.loads(task)
    metric = DissectionMetric(
        None, concept_names(20), quantiles=(_QUANTILE,), cache_bytes=0, num_images=number,
        shuffled_masks=False, least_iou=_LEAST_IOU,
    )  # fmt: skip
    for _ in range(2):
        generator = torch.Generator().manual_seed(0)
        for begin in range(0, number, _MEMORY_BATCH):
            size = min(_MEMORY_BATCH, number - begin)
            shape = (size, _MEMORY_UNITS, _MEMORY_CELLS, _MEMORY_CELLS)
            maps = torch.randn(shape, generator=generator).relu()
            labels = block_labels(size, 20 // _CATEGORIES, generator)
            images = torch.zeros(size, 1, 2 * LABEL_SIZE, 2 * LABEL_SIZE)
            ids = torch.arange(begin, begin + size)
            metric.update(maps, ConceptBatch(images, ids, ids, labels))
        metric.start_second_pass()
    metric.compute()
    print(resident_peak())
