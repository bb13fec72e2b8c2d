"""An InfoGAN of 8-pixel images whose steps take milliseconds, and a trainer for it."""

import functools
import warnings

import numpy as np
import torch
from lightning.pytorch import LightningDataModule, Trainer
from torch.utils.data import DataLoader

from interp_train.backbones.gan_trunk import gan_trunk
from interp_train.data.image_arrays import Arrays, ImageArrays
from interp_train.data.samplers import ShardedTrainSampler, ShardedValidationSampler
from interp_train.data.split_loaders import whole_batch
from interp_train.learning.infogan.layers import Generator
from interp_train.learning.infogan.module import InfoGan
from interp_train.structures import DataInfo

INFO = DataInfo(
    name="bars", class_names=("top", "left"), part_names=(), part_groups={},
    instability_parts=(), image_size=8, channels=1, mean=(0.5,), std=(0.5,), fingerprint="",
    licence="",
)  # fmt: skip
CODES = ("categorical_2", "uniform")
SMALL_GENERATOR = functools.partial(Generator, hidden=(12,), widths=(8, 6))


def bars(number, first):
    """Bars of random length and brightness at the top or the left, with sample ids."""
    source = np.random.default_rng(first)
    labels = np.arange(number) % 2
    images = np.zeros((number, 1, 8, 8), np.uint8)
    for image, label in zip(images, labels, strict=True):
        image[0, :3, : source.integers(5, 9)] = source.integers(120, 256)
        if label:
            image[0] = image[0].T.copy()
    none = np.zeros((number, 0), np.int64)
    return ImageArrays(Arrays(images, labels, first + np.arange(number), none), (-1.0, 1.0))


class Bars(LightningDataModule):
    """16 images to learn from and 7 to measure on."""

    def __init__(self, batch_size=8, number=16):
        super().__init__()
        self.batch_size, self.train, self.val = batch_size, bars(number, 0), bars(7, 1000)

    def train_dataloader(self):
        sampler = ShardedTrainSampler(self.train, self.batch_size)
        return self._loader(self.train, sampler)

    def val_dataloader(self):
        return self._loader(self.val, ShardedValidationSampler(self.val))

    def _loader(self, dataset, sampler):
        return DataLoader(
            dataset, batch_size=self.batch_size, sampler=sampler, collate_fn=whole_batch
        )


def small_gan(*, trunk=None, make=torch.optim.Adam, lr=2e-3, **changes):
    """Always the same first weights."""
    torch.manual_seed(5)
    network = gan_trunk((6, 8), 10, image_size=8, **(trunk or {}))
    options = {"codes": CODES, "noise_size": 3, "generator": SMALL_GENERATOR, "code_units": 7}
    return InfoGan(
        network,
        INFO,
        **{**options, **changes},
        discriminator_optimizer=functools.partial(make, lr=lr),
        generator_optimizer=functools.partial(make, lr=2 * lr),
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
