"""A capsule network of 12-pixel images whose steps take milliseconds, data, and a trainer."""

import functools
import warnings

import numpy as np
import torch
from lightning.pytorch import LightningDataModule, Trainer
from torch.utils.data import DataLoader

from interp_train.backbones.capsule_trunk import capsule_trunk
from interp_train.data.image_arrays import Arrays, ImageArrays
from interp_train.data.multi_mnist import OverlappingImages
from interp_train.data.samplers import ShardedTrainSampler, ShardedValidationSampler
from interp_train.data.split_loaders import whole_batch
from interp_train.learning.capsules.heads import CapsuleHead
from interp_train.learning.capsules.layers import CategoryCapsules, PrimaryCapsules
from interp_train.learning.capsules.module import CapsNet
from interp_train.structures import DataInfo

INFO = DataInfo(
    name="bars", class_names=("top", "left", "cross"), part_names=(), part_groups={},
    instability_parts=(), image_size=12, channels=1, mean=(0.5,), std=(0.25,), fingerprint="",
    licence="",
)  # fmt: skip


def bars(number, first):
    """Bars of random length and brightness, horizontal, vertical or both, with sample ids."""
    source = np.random.default_rng(first)
    labels = np.arange(number) % 3
    images = np.zeros((number, 1, 12, 12), np.uint8)
    for image, label in zip(images, labels, strict=True):
        row, column = source.integers(2, 9, 2)
        bright = source.integers(150, 256)
        if label != 1:
            image[0, row : row + 2, 1 : source.integers(8, 12)] = bright
        if label != 0:
            image[0, 1 : source.integers(8, 12), column : column + 2] = bright
    none = np.zeros((number, 0), np.int64)
    return ImageArrays(Arrays(images, labels, first + np.arange(number), none), (-2.0, 2.0))


class Bars(LightningDataModule):
    """18 images to learn from and 7 to measure on, alone or on top of each other."""

    def __init__(self, batch_size=6, number=18, *, overlapping=False):
        super().__init__()
        self.batch_size = batch_size
        self.train, self.val = bars(number, 0), bars(7, 1000)
        if overlapping:
            self.train, self.val = (OverlappingImages(d, 1) for d in (self.train, self.val))

    def train_dataloader(self):
        return self._loader(self.train, ShardedTrainSampler(self.train, self.batch_size))

    def val_dataloader(self):
        return self._loader(self.val, ShardedValidationSampler(self.val))

    def _loader(self, dataset, sampler):
        return DataLoader(
            dataset, batch_size=self.batch_size, sampler=sampler, collate_fn=whole_batch
        )


def small_head(*, shared=False, primary=None, **categories):
    """Partial of a head of 2 types of 4 atoms on a map of 3x3 positions."""
    options = {"num_types": 2, "atoms": 4, "kernel_size": 3, "stride": 2, **(primary or {})}
    return functools.partial(
        CapsuleHead,
        primary=functools.partial(PrimaryCapsules, **options),
        categories=functools.partial(CategoryCapsules, **{"out_atoms": 5, **categories}),
        shared=shared,
    )


def small_capsnet(*, trunk=None, head=None, make=torch.optim.Adam, lr=5e-3, **changes):
    """Always the same first weights."""
    torch.manual_seed(5)
    network = capsule_trunk([6], [5], [1], **{"image_size": 12, **(trunk or {})})
    return CapsNet(
        network,
        INFO,
        head=head or small_head(),
        optimizer=functools.partial(make, lr=lr),
        **{"hidden": (8,), **changes},
    )


def trained(system, folder, epochs=1, data=None, ckpt_path=None, **options):
    """The trainer after fitting."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Lightning's advice on loaders
        trainer = Trainer(
            accelerator="cpu",
            max_epochs=epochs,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            use_distributed_sampler=False,
            num_sanity_val_steps=0,
            default_root_dir=str(folder),
            **{"devices": 1, **options},
        )
        trainer.fit(system, datamodule=data or Bars(), ckpt_path=ckpt_path)
    return trainer
