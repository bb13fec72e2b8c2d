"""InfoGAN: a generator whose latent codes a second network can read back from its images.

The codes therefore mean something: categories of the data, and directions in which images change.

Reference: X. Chen, Y. Duan, R. Houthooft, J. Schulman, I. Sutskever, P. Abbeel, "InfoGAN:
Interpretable Representation Learning by Information Maximizing Generative Adversarial Nets", NIPS
2016, and its released code, whose order of updates is ``update="official"``. The contrastive
term is that of Z. Lin, K. Thekumparampil, G. Fanti, S. Oh, "InfoGAN-CR and ModelCentrality", ICML
2020.

`transforms` are ours: discrete codes are then read in images under random affine transforms, so
that they mean what no slant, size or place changes. Ojha, Singh, Hsieh & Lee, "Elastic-InfoGAN",
NeurIPS 2020, want the like of Q on real images.

Deviates from InfoGAN-CR in drawing the codes that a pair does not share independently, without the
gap that shrinks during training.
"""

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any, final

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from interp_train.affine_transforms import drawn_transforms, transformed
from interp_train.backbones.backbone import Backbone
from interp_train.batch_normalisation import WholeBatchNorm
from interp_train.checks import check_choice, check_range
from interp_train.figures import unnormalised
from interp_train.learning.infogan import functional
from interp_train.learning.infogan.layers import CodeHead, Generator, PairHead, Scores
from interp_train.learning.infogan.measures import CodeMeasures
from interp_train.learning.infogan.settings import (
    TRANSFORMS,
    WEIGHTS,
    check_trainer,
    checked_transforms,
    checked_weights,
)
from interp_train.learning.infogan.steps import UPDATES, descend, follow, learners
from interp_train.protocols import FilterObjective
from interp_train.structures import Batch, DataInfo, StepOutputs
from interp_train.systems import LearnedSystem
from interp_train.target_scores import evaluation_mode

# What latents are drawn for: the last entry of their key.
_FOR_DISCRIMINATOR, _FOR_GENERATOR, _FOR_INFORMATION, _FOR_PARTNERS, _FOR_VALIDATION = range(5)


@final
class InfoGan(LearnedSystem):
    """Trains trunk, heads and generator; `network` is the trunk of discriminator and Q.

    In each batch the discriminator takes a step on new images, then the generator on others. Who
    learns from the likelihood of the codes ("information") is the `update`:

    * ``"official"``: trunk and Q's head in the discriminator's step, the generator in its own;
    * ``"generator_and_q"``: generator and Q's head in the generator's step, the trunk never;
    * ``"separate_step"``: generator, trunk and Q's head in a third step;
    * ``"untied"``: Q's head alone in a third step: an ordinary GAN, whose codes mean nothing.

    Latents follow from (seed, epoch, sample id) of the batch's images. Gradients are averaged over
    processes here, so a plain data-parallel strategy will do, and `global_step` counts batches.

    Logs ``loss/train/<term>`` and ``loss/watched/information/<code>``, L_I in nats; on the
    validation data ``loss/validation/information/<code>``, and of all discrete codes together
    ``loss/validation/information`` beside its maximum, H(c), ``information_maximum``; and
    ``accuracy/clustering``: the first categorical code as classifier, matched one-to-one with the
    categories on the training images of the latest epoch.

    Args:
        network: see `interp_train.backbones.gan_trunk`; puts out features.
        data_info: gives size, channels and normalisation.
        objectives: must be empty.
        codes: ``"categorical_<K>"``, ``"uniform"`` (on (-1, 1)), ``"bernoulli"``, in order.
        noise_size: entries of the generator's input that mean nothing.
        noise: ``"uniform"`` on (-1, 1), or ``"normal"``.
        generator: partial of `Generator`, or of what takes the same arguments.
        code_units: of Q's hidden layer.
        slope: of Q's leaky ReLU.
        fixed_deviation: Q's standard deviation of uniform codes is 1, as in the released code;
            False learns it.
        weights: see `Weights`; missing ones are those of `WEIGHTS`.
        transforms: `AffineRanges` of random transforms of the generated images in which categorical
            and Bernoulli codes are read in training; the discriminator sees none. Missing ones are
            those of `TRANSFORMS`, which leave images as they are.
        update: who learns from what; see above.
        contrastive_start: batches before the contrastive term begins.
        average_decay: of the moving average of the generator's weights, from which pictures and
            measures are made; None takes the weights themselves.
        gradient_clip_norm: largest norm of the gradient of each step; None is no limit.
        seed: of the latents.
        discriminator_optimizer: partial of a torch optimiser; also learns the contrastive head.
        generator_optimizer: partial of a torch optimiser; also takes the third step.

    Raises:
        ValueError: for arguments that are out of range or do not fit each other or the data.
    """

    def __init__(
        self,
        network: Backbone,
        data_info: DataInfo,
        objectives: Mapping[str, FilterObjective] | None = None,
        *,
        codes: Sequence[str] = ("categorical_10", "uniform", "uniform"),
        noise_size: int = 62,
        noise: str = "uniform",
        generator: Callable[..., nn.Module] = Generator,
        code_units: int = 128,
        slope: float = 0.01,
        fixed_deviation: bool = True,
        weights: Mapping[str, float] = WEIGHTS,
        transforms: Mapping[str, Any] = TRANSFORMS,
        update: str = "official",
        contrastive_start: int = 0,
        average_decay: float | None = None,
        gradient_clip_norm: float | None = None,
        seed: int = 0,
        discriminator_optimizer: Callable[..., torch.optim.Optimizer],
        generator_optimizer: Callable[..., torch.optim.Optimizer],
    ) -> None:
        super().__init__(network, data_info)
        self.automatic_optimization = False
        parsed = functional.parsed_codes(codes, fixed_deviation=fixed_deviation)
        self.prior = functional.Prior(parsed, noise_size, noise)
        check_choice("update", update, UPDATES)
        self.update, self.seed, self.contrastive_start = update, seed, contrastive_start
        self.average_decay, self.gradient_clip_norm = average_decay, gradient_clip_norm
        self.weights = checked_weights(weights)
        self.ranges = checked_transforms(transforms, parsed)
        self._check(objectives)
        self._make_networks(generator, code_units, slope)
        self.make_optimizers = (discriminator_optimizer, generator_optimizer)

    # -- construction ----------------------------------------------------------------------

    def _check(self, objectives: Mapping[str, FilterObjective] | None) -> None:
        if objectives:
            raise ValueError(
                f"`objectives` must be empty for an InfoGAN, but got {sorted(objectives)}. Set "
                f"filter_objective=none."
            )
        check_choice("noise", self.prior.noise, ("uniform", "normal"))
        check_range("noise_size", self.prior.noise_size, 0)
        for name in ("average_decay", "gradient_clip_norm"):
            if getattr(self, name) is not None:
                check_range(
                    name, getattr(self, name), 0.0, 1.0 if name == "average_decay" else None
                )
        info, network = self.data_info, self.network
        given = (network.in_channels, network.image_size)
        if given != (info.channels, info.image_size):
            raise ValueError(
                f"`network` must take the data's images, {info.channels} channels of "
                f"{info.image_size} pixels, but was made for {given[0]} of {given[1]}. Set "
                f"backbone.in_channels and backbone.image_size."
            )
        if self.weights.contrastive and len(self.prior.codes) < 2:
            raise ValueError(
                f"`codes` must hold at least two codes for the contrastive term, but got "
                f"{len(self.prior.codes)}. Set learning.weights.contrastive=0."
            )
        if self.weights.r1 and any(isinstance(m, WholeBatchNorm) for m in network.modules()):
            raise ValueError(
                f"`weights.r1` must be 0 for a trunk with batch normalisation, whose images "
                f"influence each other, but got {self.weights.r1}. Set "
                f"backbone.normalisation=instance."
            )

    def _make_networks(
        self, generator: Callable[..., nn.Module], code_units: int, slope: float
    ) -> None:
        info, codes = self.data_info, self.prior.codes
        shape = (info.channels, info.image_size, info.image_size)
        with torch.no_grad(), evaluation_mode(self.network):
            features = self.network(torch.zeros(1, *shape)).shape[1]
        spectral = any(parametrize.is_parametrized(module) for module in self.network.modules())
        self.scores = Scores(features, spectral_norm=spectral)
        outputs = sum(code.outputs for code in codes)
        norm = any(isinstance(module, WholeBatchNorm) for module in self.network.modules())
        self.code_head = CodeHead(features, outputs, units=code_units, slope=slope, batch_norm=norm)
        self.generator = generator(
            inputs=self.prior.size, image_shape=shape, mean=info.mean, std=info.std
        )
        self.average: nn.Module | None = None
        if self.average_decay is not None:
            self.average = copy.deepcopy(self.generator).requires_grad_(False)
        self.pair_head: PairHead | None = None
        if self.weights.contrastive:
            self.pair_head = PairHead(shape, len(codes), units=code_units, slope=slope)
        discrete, continuous = self.weights.discrete, self.weights.continuous
        factors = [continuous if code.kind == "uniform" else discrete for code in codes]
        black = torch.tensor([-mean / std for mean, std in zip(info.mean, info.std, strict=True)])
        values = {
            "code_weights": torch.tensor(factors),
            "is_discrete": torch.tensor([code.kind != "uniform" for code in codes]),
            "black": black[:, None, None],
        }
        for name, value in values.items():
            self.register_buffer(name, value, persistent=False)
        self.measures = CodeMeasures(codes, len(info.class_names))

    code_weights: Tensor
    is_discrete: Tensor
    black: Tensor

    # -- images and codes ------------------------------------------------------------------

    def draw(self, ids: Tensor, purpose: int, epoch: int | None = None) -> functional.Latents:
        """Latents of sample ids ``(N,)`` for a purpose, in this epoch or another."""
        now = self.current_epoch if epoch is None else epoch
        return functional.drawn_latents(self.prior, ids, self.seed, now, purpose)

    def pictures(self, latents: functional.Latents) -> Tensor:
        """Images in [0, 1] of the generator or its moving average, ``(N, 3, H, W)``."""
        with torch.no_grad(), evaluation_mode(self):
            return unnormalised(self._sampled(latents), self.data_info.mean, self.data_info.std)

    def estimates(self, images: Tensor) -> Tensor:
        """What Q reads in normalised images, one column per code; see `code_estimates`."""
        with torch.no_grad(), evaluation_mode(self):
            return functional.code_estimates(self.code_head(self.network(images)), self.prior.codes)

    def _sampled(self, latents: functional.Latents) -> Tensor:
        source = self.generator if self.average is None else self.average
        images: Tensor = source(functional.generator_input(latents, self.prior.codes))
        return images

    def _generated(self, latents: functional.Latents) -> Tensor:
        images: Tensor = self.generator(functional.generator_input(latents, self.prior.codes))
        return images

    # -- training --------------------------------------------------------------------------

    def on_fit_start(self) -> None:
        """Refuse a trainer that this way of taking steps does not support; see `check_trainer`."""
        check_trainer(self.trainer.precision, self.trainer.strategy)

    def configure_optimizers(self) -> list[torch.optim.Optimizer]:
        """One optimiser per entry of `learners`."""
        for_discriminator, for_generator = self.make_optimizers
        made = []
        for name, modules in self._learners().items():
            make = for_discriminator if name in ("discriminator", "contrastive") else for_generator
            made.append(make([weight for module in modules for weight in module.parameters()]))
        return made

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """The steps of one batch; returns the sum of the terms for those who watch it."""
        terms = self.discriminator_step(batch) | self.generator_step(batch)
        if self._third_step:
            terms |= self.information_step(batch)
        if self.average is not None:
            follow(self.average, self.generator, self.average_decay or 0.0)
        return self.loss_of(terms)

    def discriminator_step(self, batch: Batch) -> dict[str, Tensor]:
        """Trunk and score learn to tell real from generated images; officially Q, too."""
        latents = self.draw(batch.sample_ids, _FOR_DISCRIMINATOR)
        with torch.no_grad():
            generated = self._generated(latents)
        images = batch.images.detach().requires_grad_(self.weights.r1 > 0)
        real_features = self.network(images)
        self._count_clusters(real_features.detach(), batch.labels)
        real, features = self.scores(real_features), self.network(generated)
        terms = {"discriminator": functional.discriminator_loss(real, self.scores(features))}
        if self.weights.r1:
            terms["r1"] = self.weights.r1 * functional.gradient_penalty(real, images)
        if self.update == "official":
            moved = self._moved_features(generated, batch.sample_ids, _FOR_DISCRIMINATOR)
            terms["discriminator_information"] = self._information(latents, features, moved)
        return self._descend(terms, "discriminator")

    def generator_step(self, batch: Batch) -> dict[str, Tensor]:
        """The generator learns to pass for real, and to show its codes."""
        latents = self.draw(batch.sample_ids, _FOR_GENERATOR)
        generated = self._generated(latents)
        features = self.network(generated)
        terms = {"generator": functional.generator_loss(self.scores(features))}
        names = ["generator"]
        if self.update in ("official", "generator_and_q"):
            moved = self._moved_features(generated, batch.sample_ids, _FOR_GENERATOR)
            terms["generator_information"] = self._information(latents, features, moved)
        if self.pair_head is not None and self.global_step >= self.contrastive_start:
            terms["contrastive"] = self._contrastive(self.pair_head, latents, generated, batch)
            names.append("contrastive")
        return self._descend(terms, *names, counted=not self._third_step)

    def information_step(self, batch: Batch) -> dict[str, Tensor]:
        """A step on the codes alone."""
        latents = self.draw(batch.sample_ids, _FOR_INFORMATION)
        with torch.set_grad_enabled(self.update != "untied"):
            generated = self._generated(latents)
            features = self.network(generated)
            moved = self._moved_features(generated, batch.sample_ids, _FOR_INFORMATION)
        terms = {"information": self._information(latents, features, moved)}
        return self._descend(terms, "information", counted=True)

    @property
    def _third_step(self) -> bool:
        return self.update in ("separate_step", "untied")

    def _learners(self) -> dict[str, list[nn.Module]]:
        parts: dict[str, nn.Module] = {
            "trunk": self.network,
            "scores": self.scores,
            "codes": self.code_head,
            "generator": self.generator,
        }
        if self.pair_head is not None:
            parts["pairs"] = self.pair_head
        return learners(self.update, parts)

    def _descend(
        self, terms: dict[str, Tensor], *names: str, counted: bool = False
    ) -> dict[str, Tensor]:
        made: Any = self.optimizers()
        optimizers = dict(zip(self._learners(), made, strict=True))
        chosen = [optimizers[name] for name in names]
        return descend(terms, chosen, counted=counted, largest_norm=self.gradient_clip_norm)

    def _moved_features(self, images: Tensor, ids: Tensor, purpose: int) -> Tensor | None:
        """Features of images under random transforms; None if there are to be none."""
        if self.ranges is None:
            return None
        key = (self.seed, self.current_epoch, purpose, 1 + len(self.prior.codes))
        transforms = drawn_transforms(ids, self.ranges, *key)
        moved = transformed(images - self.black, transforms) + self.black
        features: Tensor = self.network(moved)
        return features

    def _information(
        self, latents: functional.Latents, features: Tensor, moved: Tensor | None
    ) -> Tensor:
        """Weighted cross-entropy of the codes, discrete ones read in `moved`; also logs L_I."""
        codes = self.prior.codes
        likelihoods = functional.log_likelihoods(self.code_head(features), latents.values, codes)
        if moved is not None:
            read = functional.log_likelihoods(self.code_head(moved), latents.values, codes)
            likelihoods = torch.where(self.is_discrete, read, likelihoods)
        if self.writes_now():
            bounds = functional.information_bounds(likelihoods.detach(), codes)
            for code, bound in zip(codes, bounds, strict=True):
                self.log(f"loss/watched/information/{code.name}", bound)
        return -(likelihoods.mean(0) * self.code_weights).sum()

    def _contrastive(
        self, head: PairHead, latents: functional.Latents, generated: Tensor, batch: Batch
    ) -> Tensor:
        ids, key = batch.sample_ids, (self.seed, self.current_epoch, _FOR_PARTNERS)
        shared = functional.shared_codes(ids, len(self.prior.codes), *key)
        others = functional.partners(latents, self.draw(ids, _FOR_PARTNERS), shared)
        logits = head(generated, self._generated(others))
        return self.weights.contrastive * nn.functional.cross_entropy(logits, shared)

    def _count_clusters(self, features: Tensor, labels: Tensor) -> None:
        """In evaluation mode, so that real images leave no trace in Q's statistics."""
        with torch.no_grad(), evaluation_mode(self.code_head):
            self.measures.count(self.code_head(features), labels)

    # -- validation ------------------------------------------------------------------------

    def loss_terms(self, outputs: StepOutputs, batch: Batch) -> dict[str, Tensor]:
        """``information``: minus the weighted L_I of images that the generator makes."""
        bounds = self._validation_bounds(batch.sample_ids)
        return {"information": -(bounds * self.code_weights).sum()}

    def _validation_bounds(self, ids: Tensor) -> Tensor:
        latents = self.draw(ids, _FOR_VALIDATION, epoch=0)
        said = self.code_head(self.network(self._sampled(latents)))
        likelihoods = functional.log_likelihoods(said, latents.values, self.prior.codes)
        return functional.information_bounds(likelihoods, self.prior.codes)

    def validation_step(  # type: ignore[override]  # callbacks read the outputs
        self, batch: Batch, batch_idx: int
    ) -> StepOutputs:
        """Outputs whose logits are those of each category's cluster, without one the features."""
        outputs = self.run(batch)
        said, bounds = self.code_head(outputs.logits), self._validation_bounds(batch.sample_ids)
        self.measures.count(said, batch.labels)
        self.measures.add_information(bounds, len(batch.labels))
        if self.measures.place is not None:
            outputs = outputs._replace(logits=self.measures.category_logits(said))
        return outputs._replace(loss_terms={"information": -(bounds * self.code_weights).sum()})

    def on_train_epoch_start(self) -> None:
        """Clusters are matched on the training images of one epoch."""
        super().on_train_epoch_start()
        self.measures.training_counts.reset()

    def on_validation_epoch_start(self) -> None:
        """Match clusters and categories on the training images."""
        self.measures.match()

    def on_validation_epoch_end(self) -> None:
        """Log the measures of the codes."""
        self.log_dict(self.measures.summary())
