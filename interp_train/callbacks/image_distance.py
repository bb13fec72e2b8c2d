"""Distance of generated to real images; see `interp_train.evaluation.frechet_distance`."""

from pathlib import Path
from typing import Any, final

from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, nn

from interp_train.callbacks.layer_metrics import measures_now
from interp_train.checks import check_range
from interp_train.evaluation.frechet_distance import FrechetDistance
from interp_train.evaluation.image_features import PenultimateFeatures, inception_features
from interp_train.figures import unnormalised
from interp_train.learning.infogan.module import InfoGan
from interp_train.stopwatch import stopwatch_of
from interp_train.systems import load_system

_FOR_DISTANCE = 7  # what the latents are drawn for; beside those of the system and of pictures


@final
class ImageDistance(Callback):
    """Logs ``codes/fd_<name>``, from as many generated as validation images.

    Args:
        extractor: run folder or checkpoint of a classifier of ours on the same data, or a file of
            torchvision's Inception v3 (``.pth``).
        name: of the extractor, part of the quantity's name.
        every_n_epochs: measures in every n-th epoch of a fit, in its last, and in every `validate`.
    """

    def __init__(
        self, extractor: str, name: str = "classifier", *, every_n_epochs: int = 1
    ) -> None:
        check_range("every_n_epochs", every_n_epochs, 1)
        self.extractor, self.name, self.every_n_epochs = extractor, name, every_n_epochs
        self._features: PenultimateFeatures | None = None
        self._metric: FrechetDistance | None = None

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Load the extractor once, and start anew."""
        if self._features is None:
            self._features = feature_extractor(self.extractor)
            self._metric = FrechetDistance(self._features, self._features.width, self.name)
        assert self._metric is not None
        self._features.to(pl_module.device)
        self._metric.to(pl_module.device).reset()

    def on_validation_batch_end(  # noqa: PLR0917  # Lightning's signature
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Add the real images of one batch, and as many generated ones.

        Raises:
            ValueError: if the system generates no images.
        """
        if not measures_now(trainer, self.every_n_epochs):
            return
        if not isinstance(pl_module, InfoGan):
            raise ValueError(
                f"`callbacks.image_distance` must watch a system that generates images, such as "
                f"learning=infogan, but got {type(pl_module).__name__}. Leave the callback out."
            )
        assert self._metric is not None
        with stopwatch_of(trainer).measure("image_distance"):
            latents = pl_module.draw(batch.sample_ids, _FOR_DISTANCE, epoch=0)
            info = pl_module.data_info
            real = unnormalised(batch.images, info.mean, info.std)
            for images, is_real in ((real, True), (pl_module.pictures(latents), False)):
                self._metric.update(self._channels(images, info.channels), real=is_real)

    def _channels(self, images: Tensor, of_data: int) -> Tensor:
        """Grey images as the extractor wants them."""
        assert self._features is not None
        wanted = len(self._features.mean)
        return images[:, :1] if wanted == 1 and of_data == 1 else images

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log the distance; every process computes the same."""
        if measures_now(trainer, self.every_n_epochs) and self._metric is not None:
            distance = self._metric.compute().float()
            pl_module.log(f"codes/{self._metric.name}", distance)


def feature_extractor(given: str) -> PenultimateFeatures:
    """The features of a checkpoint of ours, or of Inception weights.

    Raises:
        FileNotFoundError: if `given` leads to neither.
        ValueError: if the checkpoint's network has no linear layer.
    """
    if Path(given).suffix == ".pth":
        return inception_features(given)
    system = load_system(given)
    network: nn.Module = system.network
    return PenultimateFeatures(network, system.data_info.mean, system.data_info.std)
