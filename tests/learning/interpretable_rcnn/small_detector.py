"""A small system that detects creatures, and its data."""

import functools

import torch

from interp_train.backbones.small_cnn import small_cnn
from interp_train.data.creature_scenes import CreatureScenesData
from interp_train.learning.interpretable_rcnn.detector import DetectorSettings, PartSettings
from interp_train.learning.interpretable_rcnn.module import InterpretableRcnn

SETTINGS = {
    "channels": 8, "num_proposals": 20, "num_sampled": 16, "representation_size": 16,
    "num_detections": 10, "least_score": 0.0, "anchor_scales": (3.0, 6.0),
    "aspect_ratios": (1.0,), "coarser_level": False,
}  # fmt: skip
NODE = {
    "data": {
        "_target_": "interp_train.data.creature_scenes.CreatureScenesData", "num_train": 8,
        "num_val": 6, "image_size": 48, "num_classes": 2, "batch_size": 2,
    },
    "backbone": {
        "_target_": "interp_train.backbones.small_cnn.small_cnn", "widths": [4, 6, 8, 8],
        "image_size": 48,
    },
    "learning": {
        "_target_": "interp_train.learning.interpretable_rcnn.module.InterpretableRcnn",
        "levels": ["features.pool_2", "features.relu_4"],
        "detector": {
            "_target_": "interp_train.learning.interpretable_rcnn.detector.DetectorSettings",
            **SETTINGS,
        },
        "optimizer": {"_target_": "torch.optim.SGD", "_partial_": True, "lr": 0.01},
    },
}  # fmt: skip


def data_of(**options):
    node = {key: value for key, value in NODE["data"].items() if key != "_target_"}
    return CreatureScenesData(**{**node, **options})


def system_of(info, settings=None, parts=None, **options):
    torch.manual_seed(0)
    return InterpretableRcnn(
        small_cnn((4, 6, 8, 8), image_size=48),
        info,
        levels=("features.pool_2", "features.relu_4"),
        detector=DetectorSettings(**{**SETTINGS, **(settings or {})}),
        parts=PartSettings(**{"projection_size": 4, **(parts or {})}),
        optimizer=functools.partial(torch.optim.SGD, lr=0.01),
        **options,
    )
