"""A tiny run for the callbacks that draw: a foreign module on images with parts."""

import torch
from lightning.pytorch import LightningModule, Trainer
from torch import nn
from torch.utils.data import DataLoader, Dataset

from interp_train.structures import PartBatch


class BlobImages(Dataset):
    """Images with one bright blob; its centre is part 0, a fixed place is part 1."""

    def __init__(self, length=12, size=32, background_every=0):
        self.length, self.size, self.background_every = length, size, background_every

    def __len__(self):
        return self.length

    def __getitem__(self, index):
        generator = torch.Generator().manual_seed(index)
        x, y = (torch.rand(2, generator=generator) * (self.size - 12) + 6).tolist()
        cells = torch.arange(self.size, dtype=torch.float32)
        blob = torch.exp(-((cells[None] - x) ** 2 + (cells[:, None] - y) ** 2) / 12)
        is_background = self.background_every and index % self.background_every == 0
        nowhere = torch.empty(0, 0, 0)
        return PartBatch(
            images=blob.expand(3, -1, -1) * 2 - 1,
            labels=torch.tensor(-1 if is_background else index % 2),
            sample_ids=torch.tensor(1000 + index),
            boxes=torch.tensor([0.0, 0.0, self.size - 1.0, self.size - 1.0]),
            prefix_activations=nowhere,
            part_locations=torch.tensor([[x, y], [x + 3, y]]),
            part_boxes=torch.full((2, 4), torch.nan),
            part_masks=nowhere,
        )


class ForeignModule(LightningModule):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Sequential(
            nn.Conv2d(3, 6, 5, stride=2, padding=2), nn.BatchNorm2d(6), nn.ReLU(inplace=True),
            nn.Conv2d(6, 8, 3, stride=2, padding=1), nn.ReLU(inplace=True),
        )  # fmt: skip
        self.head = nn.Linear(8, 2)

    def forward(self, images):
        return self.head(self.body(images).mean((-2, -1)))

    def training_step(self, batch, batch_idx):
        return nn.functional.cross_entropy(self(batch.images), batch.labels.clamp(min=0))

    def validation_step(self, batch, batch_idx):
        self.log("accuracy/top1", (self(batch.images).argmax(1) == batch.labels).float().mean())

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)


def loader(length=12, **options):
    return DataLoader(BlobImages(length, **options), batch_size=4)


def trainer(folder, callbacks, **options):
    settings = {
        "max_epochs": 1, "accelerator": "cpu", "enable_progress_bar": False, "logger": False,
        "enable_model_summary": False, "enable_checkpointing": False, "log_every_n_steps": 1,
    }  # fmt: skip
    return Trainer(default_root_dir=folder, callbacks=callbacks, **{**settings, **options})
