"""Small pictures of heatmaps and unit visualizers for the method table, in docs/methods.

``python -m tests.guards.method_thumbnails outputs/<run of the quickstart>``, then ``make table``.
"""

import sys
from pathlib import Path

import torch
from PIL import Image

import interp_train
from interp_train.activations import gradients_enabled
from interp_train.experiment import build_data
from interp_train.figures import common_high, overlay, unnormalised
from interp_train.structures import Target
from interp_train.trained_network import trained_network
from interp_train.typical_images import loader_batches
from interp_train.visualization.unit_gallery import (
    image_gallery,
    most_active_units,
    normalised_like,
    unit_gallery,
)
from tests.contracts.options import built, options
from tests.guards.method_table import THUMBNAILS
from tests.guards.sources import REPOSITORY

SIZE = 112
AMONG = 24  # of the first images the brightest has heatmaps
NUM_IMAGES = 256
FEW = {"measured_receptive_field": {"num_occluded": 9, "stride": 6}}


def main(path):
    """Draw every option of the two groups."""
    subject = trained_network(path)
    data = build_data(subject.config["data"])
    data.setup("validate")
    batches = list(loader_batches(data.val_dataloader(), NUM_IMAGES))
    images = torch.cat([images for images, _ in batches])
    network, info = subject.network.eval(), subject.info
    layer = network.resolve("last")
    place = int(images[:AMONG].mean((1, 2, 3)).argmax())
    image = images[place : place + 1]
    label = subject.logits(image).argmax(1)
    for name in options("heatmap"):
        with gradients_enabled():
            heatmap = built("heatmap", name)(network, image.clone(), Target(None, label))
        pixels = unnormalised(image, info.mean, info.std)
        save("heatmap", name, overlay(pixels, heatmap, high=common_high(heatmap))[0])
    unit = most_active_units(network, layer, images, 2)[1]
    statistics = {"mean": info.mean, "std": info.std}
    for name in options("unit_visualizer"):
        method = {name: normalised_like(built("unit_visualizer", name, **FEW.get(name, {})),
                                        **statistics)}  # fmt: skip
        gallery = unit_gallery(network, layer, [unit], images, method, size=2 * SIZE)
        if gallery is None:  # it pictures images: of the first layer that forgets something
            early = network.resolve("early")
            gallery = image_gallery(network, early, image, method, **statistics, size=2 * SIZE)
        save("unit_visualizer", name, gallery.pictures[0, -1])


def save(group, name, picture):
    """A picture ``(3, H, W)`` in [0, 1] as a small file of 128 colours."""
    pixels = (picture.detach().clamp(0, 1) * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()
    drawn = Image.fromarray(pixels).resize((2 * SIZE, 2 * SIZE), Image.Resampling.LANCZOS)
    folder = REPOSITORY / THUMBNAILS
    folder.mkdir(parents=True, exist_ok=True)
    drawn.quantize(128).save(folder / f"{group}_{name}.png", optimize=True)
    print(folder / f"{group}_{name}.png")


if __name__ == "__main__":
    print(f"interp_train {interp_train.__version__}")
    main(Path(sys.argv[1]))
