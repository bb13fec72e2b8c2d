"""Up-convolutional inversion: a network that learns to draw the image from what a layer knows.

The drawn image is the mean of all images that the layer cannot tell apart, so what is blurred has
been forgotten. One system is trained per layer, on a network that does not change.

Reference: A. Dosovitskiy, T. Brox, "Inverting Visual Representations with Convolutional Networks",
CVPR 2016.

Deviates from the paper in the number of blocks and their units, which follow from the size of the
layer's maps, and in standardising each unit before it is decoded.
"""

from collections.abc import Callable, Mapping
from typing import final

import torch
from torch import Tensor
from torchmetrics import MeanMetric

from interp_train.activations import ActivationTap
from interp_train.backbones.backbone import Backbone
from interp_train.figures import unnormalised
from interp_train.protocols import FilterObjective
from interp_train.structures import Batch, DataInfo, StepOutputs
from interp_train.systems import LearnedSystem
from interp_train.target_scores import evaluation_mode
from interp_train.visualization.up_convolutional_inversion.functional import squared_errors
from interp_train.visualization.up_convolutional_inversion.layers import UpConvolutionalDecoder


@final
class UpConvolutionalInversion(LearnedSystem):
    """Trains a decoder of one layer with the squared error of the pixels; the network is fixed.

    Logs ``loss/train/pixels`` and on the validation data ``loss/validation/pixels``, both in
    normalised pixels, and ``loss/validation/relative``: the error over that of the mean colour, 1
    if nothing is known.

    Args:
        network: fixed; without a classifier it gets an untrained one, whose logits nobody reads.
        data_info: gives image size and normalisation.
        objectives: must be empty; a fixed network has no filters to train.
        layer: dotted name or tap alias of what is inverted.
        convolutions: see `UpConvolutionalDecoder`.
        widest: see `UpConvolutionalDecoder`.
        narrowest: see `UpConvolutionalDecoder`.
        optimizer: partial of a torch optimiser, called with the decoder's parameters.

    Raises:
        ValueError: if there are objectives, or no such layer.
    """

    def __init__(
        self,
        network: Backbone,
        data_info: DataInfo,
        objectives: Mapping[str, FilterObjective] | None = None,
        *,
        layer: str = "top",
        convolutions: int = 2,
        widest: int = 256,
        narrowest: int = 16,
        optimizer: Callable[..., torch.optim.Optimizer],
    ) -> None:
        super().__init__(network, data_info)
        if objectives:
            raise ValueError(
                f"`objectives` must be empty for an inversion, whose network is fixed, but got "
                f"{sorted(objectives)}. Set filter_objective=none."
            )
        if not (network.readout or network.has_head):  # a step has logits; nobody reads these
            network.resize_classifier(max(1, len(data_info.class_names)))
        self.network.requires_grad_(False)
        (self.layer,) = self.request_layers([layer])
        image_shape = (data_info.channels, data_info.image_size, data_info.image_size)
        self.decoder = UpConvolutionalDecoder(
            self._layer_shape(image_shape),
            image_shape,
            convolutions=convolutions,
            widest=widest,
            narrowest=narrowest,
        )
        self.make_optimizer = optimizer
        self.validation_error, self.validation_reference = MeanMetric(), MeanMetric()

    def _layer_shape(self, image_shape: tuple[int, int, int]) -> tuple[int, ...]:
        device = next(self.network.parameters()).device
        with torch.no_grad(), evaluation_mode(self.network):
            return tuple(self._activations(torch.zeros(1, *image_shape, device=device)).shape[1:])

    def _activations(self, images: Tensor) -> Tensor:
        with ActivationTap(self.network, [self.layer]) as tap:
            self.network(images)
        return tap.activations[self.layer]

    def loss_terms(self, outputs: StepOutputs, batch: Batch) -> dict[str, Tensor]:
        """``pixels``: mean squared error, in normalised pixels."""
        drawn = self.decoder(outputs.activations[self.layer].detach())
        return {"pixels": squared_errors(drawn, batch.images).mean()}

    def reconstructions(self, images: Tensor) -> Tensor:
        """What the layer gives back of normalised images, in [0, 1], ``(N, 3, H, W)``."""
        with torch.no_grad(), evaluation_mode(self):
            drawn = self.decoder(self._activations(images))
        return unnormalised(drawn, self.data_info.mean, self.data_info.std)

    def on_train_epoch_start(self) -> None:
        """Keep the fixed network in evaluation mode, whatever Lightning set."""
        self.network.eval()

    def validation_step(  # type: ignore[override]  # callbacks read the outputs
        self, batch: Batch, batch_idx: int
    ) -> StepOutputs:
        """See `LearnedSystem`; also adds up the errors."""
        outputs = super().validation_step(batch, batch_idx)
        number, zeros = len(batch.images), torch.zeros_like(batch.images)
        self.validation_error.update(outputs.loss_terms["pixels"], number)
        self.validation_reference.update(squared_errors(zeros, batch.images).mean(), number)
        return outputs

    def on_validation_epoch_end(self) -> None:
        """Log the errors on the validation data."""
        error = self.validation_error.compute()
        reference = self.validation_reference.compute()
        self.log("loss/validation/pixels", error)
        self.log("loss/validation/relative", error / reference)
        self.validation_error.reset()
        self.validation_reference.reset()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Optimiser over the decoder alone."""
        return self.make_optimizer(self.decoder.parameters())
