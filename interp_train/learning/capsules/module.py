"""Capsule networks: a category is present if its capsule is long, and its direction says how.

Primary capsules, which read small regions, send what they see to the capsules of the categories
that agree with it. A decoder draws the image from one capsule alone, so that each of its atoms can
be varied and seen.

Reference: S. Sabour, N. Frosst, G. Hinton, "Dynamic Routing Between Capsules", NIPS 2017.

Deviates from the released programme, where it differs from the paper, in the weight of the
reconstruction and in that category capsules have no bias; ``learning=capsnet_official`` does not.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, final

import torch
from torch import Tensor

from interp_train.activations import ActivationTap
from interp_train.backbones.backbone import Backbone
from interp_train.checks import check_choice, check_name, check_range
from interp_train.evaluation.answer_measures import AnswerMeasures
from interp_train.figures import unnormalised
from interp_train.label_counts import membership_of
from interp_train.learning.capsules import functional
from interp_train.learning.capsules.heads import CapsuleDecoder, CapsuleHead
from interp_train.optimisation import learning_rate_of, with_scheduler
from interp_train.precision import at_least_float32
from interp_train.protocols import FilterObjective
from interp_train.structures import Batch, DataInfo, OverlapBatch, StepOutputs
from interp_train.systems import LearnedSystem
from interp_train.target_scores import evaluation_mode

MARGINS = {"present": 0.9, "absent": 0.1, "down": 0.5, "first": 0.2, "last": 0.9, "rise": 10000}


class Margins(NamedTuple):
    """Margins of the losses; they are `MARGINS` by default.

    Attributes:
        present: length that the capsule of a present category should exceed (margin loss).
        absent: length that that of an absent one should stay below (margin loss).
        down: weight of absent categories (margin loss).
        first: margin at the start (spread loss).
        last: margin at the end (spread loss).
        rise: batches from the one to the other (spread loss).
    """

    present: float
    absent: float
    down: float
    first: float
    last: float
    rise: float


class Reading(NamedTuple):
    """What capsules say about images.

    Attributes:
        capsules: of the categories, ``(N, J, O)``.
        lengths: of these, ``(N, J)``.
        activity: lengths of the primary capsules, ``(N, T, h, w)``.
        coupling: coefficients of the routing, ``(N, T h w, J)``.
    """

    capsules: Tensor
    lengths: Tensor
    activity: Tensor
    coupling: Tensor


@final
class CapsNet(LearnedSystem):
    """Trains a backbone with a head of capsules, and a decoder that draws from them.

    Logs ``loss/train/<loss>``, ``loss/train/reconstruction``, ``accuracy/train``, and on the
    validation data ``accuracy/top1``, ``accuracy/per_category_mean`` and
    ``loss/validation/<term>``, means over images. On images of overlapping objects
    (`OverlapBatch`) the accuracies are ``accuracy/all_objects`` and ``accuracy/objects``, and each
    object is drawn from its capsule alone. Losses draw from the capsule of the true category, as
    the authors' programme does.

    Args:
        network: built once by the caller; its classifier is replaced by `head`.
        data_info: names the categories, gives size, channels and normalisation.
        objectives: must be empty.
        head: partial of `CapsuleHead`.
        loss: ``"margin"`` (Sabour et al.) or ``"spread"`` (Hinton et al. 2018).
        margins: see `Margins`; missing ones are those of `MARGINS`.
        reconstruction_weight: of the squared error, summed over the pixels of an image: 0.0005 in
            the paper (0.392 of a mean over the pixels of MNIST); the programme's loss amounts to
            0.01. 0 leaves the decoder out.
        hidden: units of the decoder's hidden layers.
        optimizer: partial of a torch optimiser with an ``lr``; called with parameter groups.
        scheduler: partial of a torch scheduler, called with the optimiser; None for a constant
            learning rate.
        scheduler_interval: whether the scheduler steps per ``"step"`` or per ``"epoch"``.
        compile: whether training and validation run a compiled network.

    Raises:
        ValueError: for arguments that are out of range or do not fit each other or the data.
    """

    # For callbacks: a logit's sigmoid is the length of a capsule, and none need be long.
    loss = "logistic"
    background = False

    def __init__(
        self,
        network: Backbone,
        data_info: DataInfo,
        objectives: Mapping[str, FilterObjective] | None = None,
        *,
        head: Callable[..., CapsuleHead] = CapsuleHead,
        loss: str = "margin",
        margins: Mapping[str, float] = MARGINS,
        reconstruction_weight: float = 0.0005,
        hidden: Sequence[int] = (512, 1024),
        optimizer: Callable[..., torch.optim.Optimizer],
        scheduler: Callable[..., Any] | None = None,
        scheduler_interval: str = "step",
        compile: bool = False,
    ) -> None:
        super().__init__(network, data_info)
        check_choice("loss", loss, ("margin", "spread"))
        check_choice("scheduler_interval", scheduler_interval, ("step", "epoch"))
        check_range("reconstruction_weight", reconstruction_weight, 0.0)
        self.term, self.margins = loss, checked_margins(margins)
        self.reconstruction_weight = reconstruction_weight
        self.make_optimizer, self.make_scheduler = optimizer, scheduler
        self.scheduler_interval = scheduler_interval
        self._check(objectives)
        self._attach(head, hidden)
        self.measures = AnswerMeasures(len(data_info.class_names), (loss, "reconstruction"))
        if compile:
            # The bound method: as a module it would double every key of the state dict.
            compiled: Any = torch.compile(network)
            self.compiled_forward = compiled.__call__

    # -- construction ----------------------------------------------------------------------

    def _check(self, objectives: Mapping[str, FilterObjective] | None) -> None:
        if objectives:
            raise ValueError(
                f"`objectives` must be empty for a capsule network, but got {sorted(objectives)}. "
                f"Set filter_objective=none."
            )
        if self.network.in_channels != self.data_info.channels:
            raise ValueError(
                f"`network` must take the data's images, {self.data_info.channels} channels, but "
                f"was made for {self.network.in_channels}. Set backbone.in_channels."
            )

    def _attach(self, head: Callable[..., CapsuleHead], hidden: Sequence[int]) -> None:
        info, network = self.data_info, self.network
        channels, *size = network.feature_shape(info.image_size)
        number = len(info.class_names)
        network.attach_head(head(in_channels=channels, num_outputs=number, in_size=tuple(size)))
        self.layers = self.request_layers(["capsules"])
        self.decoder: CapsuleDecoder | None = None
        if self.reconstruction_weight:
            atoms = network.get_submodule(self.layers[0]).get_parameter("weights").shape[3]
            shape = (info.channels, info.image_size, info.image_size)
            self.decoder = CapsuleDecoder(number, atoms, shape, hidden)
        for name, values in (("mean", info.mean), ("std", info.std)):
            self.register_buffer(name, torch.tensor(values)[:, None, None], persistent=False)

    mean: Tensor
    std: Tensor

    # -- losses ----------------------------------------------------------------------------

    def loss_terms(self, outputs: StepOutputs, batch: Batch) -> dict[str, Tensor]:
        """``margin`` or ``spread``, and ``reconstruction``."""
        capsules = outputs.activations[self.layers[0]]
        found = functional.lengths(capsules)
        members = self._members(batch, found)
        present = members.sum(1)
        if self.term == "margin":
            wanted = {key: getattr(self.margins, key) for key in ("present", "absent", "down")}
            terms = {"margin": functional.margin_loss(found, present, **wanted)}
        else:
            labels = batch.labels
            terms = {"spread": functional.spread_loss(found, labels, self.current_margin())}
        if self.decoder is not None:
            error = self._reconstruction_error(self.decoder, capsules, members, batch)
            terms["reconstruction"] = self.reconstruction_weight * error
        return terms

    def current_margin(self) -> float:
        """Margin of the spread loss in the current batch."""
        first, last, rise = self.margins.first, self.margins.last, self.margins.rise
        return first + (last - first) * min(1.0, self.global_step / max(1, rise))

    def _members(self, batch: Batch, like: Tensor) -> Tensor:
        """1 for the category of each object, ``(N, M, C)``; all 0 for the background."""
        labels = batch.labels[:, None]
        if isinstance(batch, OverlapBatch):
            if self.term == "spread":
                raise ValueError(
                    "`loss` must be 'margin' for images of several objects, but got 'spread'. "
                    "Set learning.loss=margin."
                )
            labels = batch.object_labels
        number, categories = labels.shape[1], like.shape[1]
        return membership_of(labels.flatten(), categories, like).view(-1, number, categories)

    def _reconstruction_error(
        self, decoder: CapsuleDecoder, capsules: Tensor, members: Tensor, batch: Batch
    ) -> Tensor:
        """Sum over pixels and objects, mean over images; the background is not drawn."""
        objects = batch.images[:, None]
        if isinstance(batch, OverlapBatch):
            objects = batch.object_images
        number = members.shape[1]
        drawn = decoder(capsules.repeat_interleave(number, 0), members.flatten(0, 1))
        pixels = at_least_float32(objects.flatten(0, 1)) * self.std + self.mean
        errors: Tensor = (drawn.to(pixels) - pixels).square().flatten(1).sum(1)
        return (errors * members.sum(2).flatten()).sum() / len(members)

    # -- steps -----------------------------------------------------------------------------

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """See `LearnedSystem`; also counts the right answers."""
        outputs = self.run(batch)
        terms = self.loss_terms(outputs, batch)
        logits = outputs.logits.detach()
        self.measures.count_training(logits, logits.argmax(1), batch)
        return self.loss_of(terms)

    def validation_step(  # type: ignore[override]  # callbacks read the outputs
        self, batch: Batch, batch_idx: int
    ) -> StepOutputs:
        """See `LearnedSystem`; also counts the right answers."""
        outputs = super().validation_step(batch, batch_idx)
        logits, terms = outputs.logits, outputs.loss_terms
        self.measures.count_validation(logits, logits.argmax(1), batch, terms)
        return outputs

    def on_train_epoch_end(self) -> None:
        """Log the accuracy on the training batches, under augmentation."""
        self.log_dict(self.measures.training_summary())

    def on_validation_epoch_end(self) -> None:
        """Log losses and accuracies on the validation data."""
        self.log_dict(self.measures.validation_summary())

    def configure_optimizers(self) -> Any:
        """Optimiser over the network's groups and the decoder; scheduler."""
        rate = learning_rate_of(self.make_optimizer)
        groups = self.network.parameter_groups(rate)
        if self.decoder is not None:
            own = list(self.decoder.parameters())
            groups.append({"params": own, "lr": rate, "name": "decoder"})
        optimizer = self.make_optimizer(groups)
        return with_scheduler(optimizer, self.make_scheduler, self.scheduler_interval)

    # -- for pictures ----------------------------------------------------------------------

    def read(self, images: Tensor) -> Reading:
        """What the capsules say about normalised images ``(N, channels, H, W)``."""
        names = [self.network.resolve(alias) for alias in ("capsules", "primary")]
        names.append(f"{names[0]}.coupling")
        with torch.no_grad(), evaluation_mode(self), ActivationTap(self.network, names) as tap:
            self.network(images)
            capsules, activity, coupling = map(tap.activations.__getitem__, names)
        return Reading(capsules, functional.lengths(capsules), activity, coupling)

    def drawn(self, capsules: Tensor, categories: Tensor) -> Tensor:
        """Images in [0, 1], ``(N, 3, H, W)``, from the capsule of one category each.

        Args:
            capsules: ``(N, J, O)``.
            categories: ``(N,)``.

        Raises:
            ValueError: if there is no decoder.
        """
        if self.decoder is None:
            raise ValueError(
                "`reconstruction_weight` must be positive to draw from capsules, but is 0."
            )
        with torch.no_grad(), evaluation_mode(self):
            chosen = membership_of(categories, capsules.shape[1], capsules)
            images = self.decoder(capsules, chosen).float()
        return unnormalised(images, (0.0,) * images.shape[1], (1.0,) * images.shape[1])


def checked_margins(given: Mapping[str, float]) -> Margins:
    """`MARGINS` with those that are given.

    Raises:
        ValueError: for a name that is none, or a margin out of range.
    """
    for name, value in given.items():
        check_name("margins", name, MARGINS, "a margin of the loss")
        check_range(f"margins.{name}", value, 0.0, None if name in ("down", "rise") else 1.0)
    return Margins(**{**MARGINS, **given})
