"""A run whose filters are known: red and green spots, and a network that sees colours."""

from typing import NamedTuple

import lightning.pytorch as lightning
import torch
from lightning.pytorch.overrides.distributed import UnrepeatedDistributedSampler
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from interp_train.backbones.backbone import Backbone
from interp_train.structures import DataInfo, PartBatch
from interp_train.systems import LearnedSystem

SIZE = 48
INFO = DataInfo(
    name="spots",
    class_names=("left", "right"),
    part_names=("red", "green"),
    part_groups={},
    instability_parts=(0,),
    image_size=SIZE,
    channels=3,
    mean=(0.0,) * 3,
    std=(1.0,) * 3,
    fingerprint="",
    licence="",
)


class Spots(NamedTuple):
    """A foreign batch: it has other fields than ours."""

    pixels: Tensor
    target: Tensor
    landmarks: Tensor
    number: Tensor


def spots(count, seed=0):
    """Images with a red spot at landmark 0 and a green one at landmark 1."""
    generator = torch.Generator().manual_seed(seed)
    landmarks = torch.rand(count, 2, 2, generator=generator) * (SIZE - 16) + 8
    y, x = torch.arange(SIZE)[:, None].float(), torch.arange(SIZE).float()
    pixels = torch.zeros(count, 3, SIZE, SIZE)
    for part in range(2):
        a, b = landmarks[:, part, :, None, None].unbind(1)
        pixels[:, part] = torch.exp(-((x - a) ** 2 + (y - b) ** 2) / 32)
    labels = (landmarks[:, 0, 0] > SIZE / 2).long()
    return Spots(pixels, labels, landmarks, torch.arange(count) * 3 + 1)


def as_part_batch(batch):
    """What a user writes for `to_batch`."""
    count = len(batch.target)
    nothing = batch.pixels.new_zeros(count, 0, 0, 0)
    boxes = batch.pixels.new_tensor([0.0, 0.0, SIZE - 1, SIZE - 1]).expand(count, 4)
    around = torch.cat((batch.landmarks - 6, batch.landmarks + 6), -1)
    return PartBatch(
        batch.pixels, batch.target, batch.number, boxes, nothing, batch.landmarks, around,
        nothing.bool(),
    )  # fmt: skip


class Rows(torch.utils.data.Dataset):
    """A tuple of tensors as a data set of its rows."""

    def __init__(self, batch):
        self.batch = batch

    def __len__(self):
        return len(self.batch[0])

    def __getitem__(self, index):
        return type(self.batch)(*(field[index] for field in self.batch))


def loader(batch, batch_size=7):
    """An un-padded shard of the rows of `batch`, in order."""
    sampler = None
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        sampler = UnrepeatedDistributedSampler(Rows(batch), shuffle=False)
    return torch.utils.data.DataLoader(Rows(batch), batch_size=batch_size, sampler=sampler)


def colour_network():
    """Cells of 4 x 4 pixels: brightness of red and green, and two random filters."""
    colours = nn.Conv2d(3, 4, 4, 4)
    with torch.no_grad():
        colours.weight[:2] = 0
        colours.bias[:2] = 0
        colours.weight[0, 0] = colours.weight[1, 1] = 1 / 16
    return {"colours": colours, "relu": nn.ReLU()}


class ForeignModule(lightning.LightningModule):
    """What a user of Lightning has: no class of ours anywhere."""

    def __init__(self):
        super().__init__()
        self.model = nn.Sequential()
        for name, module in colour_network().items():
            self.model.add_module(name, module)
        self.head = nn.Linear(4, 2)
        self.forward_calls = 0

    def forward(self, images):
        self.forward_calls += 1
        return self.head(self.model(images).amax((-2, -1)))

    def training_step(self, batch, batch_idx):
        return F.cross_entropy(self(batch[0]), batch[1])

    def validation_step(self, batch, batch_idx):
        self.log("loss/validation", F.cross_entropy(self(batch[0]), batch[1]))

    def configure_optimizers(self):
        # Only the head learns, so that the filters stay what they are.
        return torch.optim.SGD(self.head.parameters(), lr=0.1)


class PoolAndClassify(nn.Module):
    """Global maximum, then a linear layer."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 2)

    def forward(self, maps):
        return self.linear(maps.amax((-2, -1)))


class SpotSystem(LearnedSystem):
    """The same network as a learning system."""

    def __init__(self):
        network = Backbone(
            colour_network(), classifier=PoolAndClassify(), taps={"top": "relu"}, image_size=SIZE
        )
        super().__init__(network, INFO)

    def loss_terms(self, outputs, batch):
        return {"task": F.cross_entropy(outputs.logits, batch.labels)}

    def configure_optimizers(self):
        return torch.optim.SGD(self.network.classifier.parameters(), lr=0.1)


class SpotData(lightning.LightningDataModule):
    """Spots in our own batches."""

    def __init__(self, count=41, batch_size=7):
        super().__init__()
        self.info, self.count, self.batch_size = INFO, count, batch_size

    def train_dataloader(self):
        return loader(as_part_batch(spots(14, seed=1)))

    def val_dataloader(self):
        return loader(as_part_batch(spots(self.count)), self.batch_size)


def trainer(folder, **arguments):
    """A quiet trainer on the CPU that writes to `folder` only."""
    settings = {
        "max_epochs": 2, "logger": False, "enable_checkpointing": False, "accelerator": "cpu",
        "enable_progress_bar": False, "enable_model_summary": False, "num_sanity_val_steps": 2,
        "use_distributed_sampler": False, "devices": 1, "default_root_dir": str(folder),
    }  # fmt: skip
    return lightning.Trainer(**{**settings, **arguments})
