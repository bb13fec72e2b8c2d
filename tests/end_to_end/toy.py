"""A training of seconds: bright and dark squares, a network of two layers, dropout, a schedule."""

import functools
import os
import signal
import time
from typing import ClassVar

import lightning.pytorch
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset

from interp_train.backbones.backbone import Backbone
from interp_train.structures import ConceptBatch, DataInfo, ImageBatch
from interp_train.systems import LearnedSystem

EMPTY = torch.zeros(0, 0, 0)


class Squares(Dataset):
    """Sample i is bright in its middle if its label is 1; noise depends on i only."""

    def __init__(self, first, count):
        self.first, self.count = first, count

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        sample = self.first + index
        label = sample % 2
        image = torch.randn(3, 8, 8, generator=torch.Generator().manual_seed(sample))
        image[:, 2:6, 2:6] += 2.0 * label
        box = torch.tensor([2.0, 2.0, 5.0, 5.0])
        return ImageBatch(image, torch.tensor(label), torch.tensor(sample), box, EMPTY)


class EpochShuffle(torch.utils.data.Sampler):
    """Order and shard depend on seed, epoch and process."""

    def __init__(self, count, seed):
        self.count, self.seed, self.epoch = count, seed, 0

    def set_epoch(self, epoch):
        self.epoch = epoch

    def __iter__(self):
        generator = torch.Generator().manual_seed(1000 * self.seed + self.epoch)
        order = torch.randperm(self.count, generator=generator).tolist()
        return iter(shard(order))

    def __len__(self):
        return len(shard(list(range(self.count))))


def shard(entries):
    """The entries of this process."""
    if not torch.distributed.is_initialized():
        return entries
    return entries[torch.distributed.get_rank() :: torch.distributed.get_world_size()]


class SquareData(lightning.pytorch.LightningDataModule):
    """24 squares to learn from, 11 to measure on."""

    def __init__(self, seed=0, train_size=24, root=None, image_size=8):
        super().__init__()
        self.seed, self.train_size = seed, train_size
        self.info = DataInfo(
            "squares", ("dark", "bright"), (), {}, (), image_size, 3, (0.0,) * 3, (1.0,) * 3,
            f"squares-{train_size}", "CC0",
        )  # fmt: skip

    def train_dataloader(self):
        sampler = EpochShuffle(self.train_size, self.seed)
        return DataLoader(Squares(0, self.train_size), batch_size=4, sampler=sampler)

    def val_dataloader(self):
        return DataLoader(Squares(1000, 11), batch_size=4, sampler=shard(list(range(11))))


def two_layers(width=4, weights=None, image_size=8):
    """A backbone of one convolution."""
    chain = {"convolution": nn.Conv2d(3, width, 3, padding=1), "relu": nn.ReLU()}
    classifier = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(0.3))
    classifier.append(nn.Linear(width, 2))
    return Backbone(chain, taps={"top": "relu"}, classifier=classifier, image_size=image_size)


class SquareClassifier(LearnedSystem):
    """Cross-entropy; can be told to misbehave at a step.

    Args:
        network: of the system.
        data_info: of the data.
        objectives: none.
        lr: learning rate.
        misbehave: ``"infinite"``, ``"SIGTERM"``, ``"SIGINT"``, ``"SIGKILL"``, ``"error"`` or
            ``"disk"``.
        at_step: when.
        only_once: file that, if it exists, stops the misbehaviour.
    """

    def __init__(
        self, network, data_info, objectives=None, *, lr=0.05, misbehave=None, at_step=9,
        only_once=None, seconds=0.0,
    ):  # fmt: skip
        super().__init__(network, data_info)
        self.lr, self.misbehave, self.at_step = lr, misbehave, at_step
        self.only_once, self.seconds, self.loss = only_once, seconds, "softmax"
        self.correct = [0, 0]

    def loss_terms(self, outputs, batch):
        terms = {"task": nn.functional.cross_entropy(outputs.logits, batch.labels)}
        if self.training:
            time.sleep(self.seconds)
            poison = self.trouble() if self.global_step == self.at_step else 1.0
            terms["extra"] = 0.01 * outputs.logits.square().mean() * poison
        return terms

    def trouble(self):
        """Do what was asked for."""
        if self.only_once and os.path.exists(self.only_once):  # noqa: PTH110
            return 1.0
        if self.only_once:
            open(self.only_once, "w").close()  # noqa: PTH123
        if self.misbehave == "infinite":
            return float("inf")
        if self.misbehave == "error":
            raise RuntimeError("the toy breaks")
        if self.misbehave == "disk":
            raise OSError(28, "No space left on device")
        if self.misbehave:
            os.kill(os.getpid(), getattr(signal, self.misbehave))
            time.sleep(0.5)
        return 1.0

    def validation_step(self, batch, batch_idx):
        outputs = super().validation_step(batch, batch_idx)
        self.correct[0] += int((outputs.logits.argmax(1) == batch.labels).sum())
        self.correct[1] += len(batch.labels)
        return outputs

    def on_validation_epoch_end(self):
        counts = torch.tensor(self.correct, dtype=torch.float64)
        if torch.distributed.is_initialized():
            torch.distributed.all_reduce(counts)
        self.log("accuracy/top1", (counts[0] / counts[1]).float())
        self.correct = [0, 0]

    def configure_optimizers(self):
        optimizer = torch.optim.Adam(self.parameters(), lr=self.lr)
        return [optimizer], [torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.8)]


class Draws(lightning.pytorch.Callback):
    """Draws random numbers between epochs."""

    def on_validation_end(self, trainer, pl_module):
        torch.rand(5)


def toy_config(output, **changes):
    """Plain configuration of a run of four epochs."""
    config = {
        "name": "toy",
        "seed": 0,
        "output_dir": str(output),
        "report": False,
        "data": {"_target_": "tests.end_to_end.toy.SquareData", "seed": 0},
        "backbone": {"_target_": "tests.end_to_end.toy.two_layers", "width": 4},
        "learning": {"_target_": "tests.end_to_end.toy.SquareClassifier", "lr": 0.05},
        "callbacks": {
            "finite_loss": {"_target_": "interp_train.callbacks.finite_loss.FiniteLoss"},
            "predictions": {"_target_": "interp_train.callbacks.predictions.Predictions"},
        },
        "logger": {"metrics": {"_target_": "interp_train.loggers.MetricsTable"}},
        "trainer": {
            "_target_": "lightning.pytorch.Trainer",
            "accelerator": "cpu",
            "devices": 1,
            "max_epochs": 4,
            "log_every_n_steps": 1,
            "num_sanity_val_steps": 1,
            "enable_model_summary": False,
            "use_distributed_sampler": False,
        },
    }
    return functools.reduce(set_key, changes.items(), config)


def set_key(config, change):
    """Set the key ``a__b`` (for ``a.b``) of a nested mapping."""
    *parents, last = change[0].split("__")
    node = config
    for parent in parents:
        node = node.setdefault(parent, {})
    node[last] = change[1]
    return config


class SquareProbe:
    """Squares as a probe set: the square in the middle, and whether it is bright.

    Args:
        number: of images.
        image_size: side.
        mean: taken from the run.
    """

    concept_names: ClassVar = {"object": ("square",), "scene": ("dark", "bright")}

    def __init__(self, number=12, image_size=4, mean=(0.5,) * 3):
        assert image_size == 8, "the size of the network"
        self.number, self.mean, self.std = number, mean, (1.0,) * 3

    def __len__(self):
        return self.number

    def __getitem__(self, index):
        sample = Squares(1000, self.number)[index]
        maps = torch.zeros(2, 8, 8, dtype=torch.uint8)
        maps[0, 2:6, 2:6] = 1
        maps[1] = 1 + sample.labels
        return ConceptBatch(sample.images, sample.labels, sample.sample_ids, maps)

    def concept_dataloader(self):
        return DataLoader(self, batch_size=5)
