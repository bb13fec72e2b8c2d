"""Faithfulness of heatmaps: does the network's score follow what the heatmap says matters?

Deletion: the pixels are blanked from the highest heatmap value down; a faithful heatmap makes the
score fall fast (a small area under the curve). Insertion: they are brought back into a blurred
image; the score should rise fast (a large area). Sensitivity-n: random sets of n blocks are
blanked; the fall of the score should be proportional to the heatmap's sum over the set (correlation
1).

References: V. Petsiuk, A. Das, K. Saenko, "RISE: Randomized Input Sampling for Explanation of
Black-box Models", BMVC 2018; M. Ancona, E. Ceolini, C. Öztireli, M. Gross, "Towards
better understanding of gradient-based attribution methods for deep neural networks", ICLR 2018.

Deviations: equal pixels are taken in a random order, so that a heatmap that is zero everywhere gets
the random baseline; fewer steps than pixels by default; sensitivity-n takes sets of square blocks
instead of pixels, because no network notices a few random pixels, and heatmaps carry no sign.

Baselines: ``random``, a random order (deletion, insertion) or random heatmap (sensitivity);
``oracle``, the mask of the object, which is right only as far as the network uses the object.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torchvision.transforms.functional import gaussian_blur

from interp_train.checks import check_choice, check_range, check_shape
from interp_train.evaluation.heatmap_means import HeatmapMeans, correlation
from interp_train.structures import Target
from interp_train.target_scores import TargetScores, scores_of_target

Scale = Literal["softmax", "sigmoid", "logit"]
SCORES = ("deletion_auc", "insertion_auc", "sensitivity")
_LINKS: dict[str, Callable[[Tensor], Tensor] | None] = {
    "softmax": functools.partial(torch.softmax, dim=1),
    "sigmoid": torch.sigmoid,
    "logit": None,
}


def link_of(scale: str) -> Callable[[Tensor], Tensor] | None:
    """From logits ``(N, C)`` to scores on a scale; None leaves them.

    Raises:
        ValueError: for an unknown scale.
    """
    check_choice("scale", scale, tuple(_LINKS))
    return _LINKS[scale]


def ranks_of(values: Tensor, ties: Tensor) -> Tensor:
    """Place of each value in the order from the highest down, long, 0 for the highest, ``(N, P)``.

    Args:
        values: ``(N, P)``.
        ties: places in the order in which equal values follow one another, ``(N, P)``.
    """
    order = values.gather(1, ties).argsort(dim=1, descending=True, stable=True)
    order = ties.gather(1, order)
    places = torch.arange(values.shape[1], device=values.device).expand_as(order)
    return torch.empty_like(order).scatter(1, order, places)


def pixel_ranks(heatmaps: Tensor, seed: int) -> Tensor:
    """Place of each pixel in the order from the highest value down, equal ones in random order.

    Args:
        heatmaps: ``(N, 1, H, W)``.
        seed: of the order of equal values.

    Returns:
        Long, 0 for the highest, ``(N, 1, H, W)``.
    """
    values = heatmaps.flatten(1)
    generator = torch.Generator(values.device).manual_seed(seed)
    shuffle = torch.randperm(values.shape[1], generator=generator, device=values.device)
    return ranks_of(values, shuffle.expand_as(values)).view_as(heatmaps)


def exchange_auc(
    scores: TargetScores,
    ranks: Tensor,
    after: Tensor,
    num_steps: int,
    batch_size: int,
    *,
    share: float = 1.0,
) -> Tensor:
    """Area under the score while pixels are exchanged in the order of their ranks.

    Args:
        scores: of the images before the exchange.
        ranks: see `pixel_ranks`.
        after: what the images become, ``(N, channels, H, W)``.
        num_steps: of equal numbers of pixels.
        batch_size: images in one forward pass, at most.
        share: of the pixels that are exchanged in the end.

    Returns:
        Mean score on the way, by the trapezoidal rule, ``(N,)``.
    """
    pixels = ranks[0].numel()
    steps = torch.arange(num_steps + 1, device=ranks.device)
    exchanged = (steps * (share * pixels) / num_steps).round().view(-1, 1, 1, 1)

    def partly(rows: slice, chosen: slice) -> Tensor:
        done = ranks[rows, None] < exchanged[chosen]
        return torch.where(done, after[rows, None], scores.images[rows, None])

    curve = scores.of_variants(partly, num_steps + 1, batch_size)
    return torch.trapezoid(curve, dim=1) / num_steps


def random_blocks(
    size: tuple[int, int],
    block_size: int,
    share: float,
    *,
    num_sets: int,
    generator: torch.Generator,
) -> Tensor:
    """Random sets of square blocks, all of the same number of blocks.

    Args:
        size: height and width of the image.
        block_size: side of a block, in pixels; the last ones may be cut off.
        share: of the blocks in a set.
        num_sets: how many sets.
        generator: where the draws come from.

    Returns:
        Bool ``(num_sets, 1, H, W)``.
    """
    rows, columns = (-(-side // block_size) for side in size)
    number = max(1, round(share * rows * columns))
    draws = torch.rand(num_sets, rows * columns, generator=generator, device=generator.device)
    chosen = draws.argsort(1).argsort(1) < number
    blocks = chosen.view(num_sets, 1, rows, columns)
    whole = blocks.repeat_interleave(block_size, 2).repeat_interleave(block_size, 3)
    return whole[..., : size[0], : size[1]]


class HeatmapFaithfulnessMetric(HeatmapMeans):
    """Deletion and insertion AUC and sensitivity-n, beside their baselines.

    Args:
        num_steps: of deletion and insertion.
        fill: value of blanked pixels, in units of the network's input.
        blur: standard deviation of the blur where insertion begins, in pixels.
        scale: of the score in deletion and insertion: the unit's share in a softmax, a sigmoid, or
            the logit itself (also for units of an inner layer). Sensitivity takes the logit.
        num_sets: of blocks for sensitivity-n.
        block_size: side of a block, in pixels.
        block_share: share of the blocks in a set (n of sensitivity-n).
        batch_size: images in one forward pass, at most.
        scores: which of ``"deletion_auc"``, ``"insertion_auc"`` and ``"sensitivity"``.
        baselines: False leaves random and oracle out, for a method beside others: they do not
            depend on it.
        seed: of random orders, heatmaps and sets.
    """

    def __init__(
        self,
        num_steps: int = 32,
        *,
        fill: float = 0.0,
        blur: float = 5.0,
        scale: Scale = "softmax",
        num_sets: int = 32,
        block_size: int = 8,
        block_share: float = 0.2,
        batch_size: int = 32,
        scores: Sequence[str] = SCORES,
        baselines: bool = True,
        seed: int = 0,
    ) -> None:
        check_range("num_steps", num_steps, 1)
        check_range("blur", blur, 0.1)
        link_of(scale)  # checks it
        check_range("num_sets", num_sets, 2)
        check_range("block_size", block_size, 1)
        check_range("block_share", block_share, 0, 1)
        check_range("batch_size", batch_size, 1)
        for score in scores:
            check_choice("scores", score, SCORES)
        suffixes = ("", "_random", "_oracle") if baselines else ("",)
        names = [f"{name}{suffix}" for name in scores for suffix in suffixes]
        super().__init__([*names, "zero_heatmaps"])
        self.num_steps, self.fill, self.blur, self.scale = num_steps, fill, blur, scale
        self.num_sets, self.block_size, self.block_share = num_sets, block_size, block_share
        self.batch_size, self.baselines, self.seed = batch_size, baselines, seed
        self.scores = tuple(scores)

    def update(
        self, network: nn.Module, images: Tensor, target: Target, heatmaps: Tensor, masks: Tensor
    ) -> None:
        """Add a batch.

        Args:
            network: puts out logits ``(N, C)``; left as it is.
            images: network input, ``(N, channels, H, W)``.
            target: what the heatmaps are about.
            heatmaps: ``(N, 1, H, W)`` >= 0.
            masks: of the object, bool ``(N, 1, H, W)``; ``(N, 0, 0, 0)`` without an oracle.

        Raises:
            ValueError: if shapes or units do not fit.
        """
        check_shape("heatmaps", heatmaps, (len(images), 1, *images.shape[-2:]))
        generator = torch.Generator(images.device).manual_seed(self.seed)
        maps = {"": heatmaps.detach().float()}
        draws = torch.rand(heatmaps.shape[1:], generator=generator, device=images.device)
        if self.baselines:
            maps["_random"] = draws.expand_as(heatmaps)
        if self.baselines and masks.numel():
            check_shape("masks", masks, tuple(heatmaps.shape))
            maps["_oracle"] = masks.float()
        with scores_of_target(network, images, target, link_of(self.scale)) as scores:
            for suffix, values in maps.items():
                self.add(self._areas(scores, values, suffix))
        if "sensitivity" in self.scores:
            with scores_of_target(network, images, target) as scores:
                self.add(self._sensitivities(scores, maps, generator))
        self.add({"zero_heatmaps": (heatmaps.flatten(1).amax(1) <= 0).double()})

    def _areas(self, scores: TargetScores, heatmaps: Tensor, suffix: str) -> dict[str, Tensor]:
        ranks = pixel_ranks(heatmaps, self.seed)
        # Inserting from the highest is the way back of blurring from the lowest.
        lowest_first = ranks[0].numel() - 1 - ranks
        ways = {
            "deletion_auc": (ranks, self._blank),
            "insertion_auc": (lowest_first, self._blurred),
        }
        return {
            f"{name}{suffix}": exchange_auc(
                scores, order, after(scores.images), self.num_steps, self.batch_size
            )
            for name, (order, after) in ways.items()
            if name in self.scores
        }

    def _blank(self, images: Tensor) -> Tensor:
        return torch.full_like(images, self.fill)

    def _blurred(self, images: Tensor) -> Tensor:
        side = 2 * int(2 * self.blur + 0.5) + 1
        largest = 2 * min(images.shape[-2:]) - 1  # the blur reflects the image at its border
        kernel = [min(side, largest)] * 2
        blurred: Tensor = gaussian_blur(images, kernel, [self.blur, self.blur])
        return blurred

    def _sensitivities(
        self, scores: TargetScores, maps: dict[str, Tensor], generator: torch.Generator
    ) -> dict[str, Tensor]:
        height, width = scores.images.shape[-2:]
        sets = random_blocks(
            (height, width), self.block_size, self.block_share, num_sets=self.num_sets,
            generator=generator,
        )  # fmt: skip

        def blanked(rows: slice, chosen: slice) -> Tensor:
            return torch.where(sets[chosen], self.fill, scores.images[rows, None])

        with torch.no_grad():
            falls = scores()[:, None] - scores.of_variants(blanked, self.num_sets, self.batch_size)
            sums = {
                suffix: values.flatten(1) @ sets.flatten(1).float().T
                for suffix, values in maps.items()
            }
        return {f"sensitivity{suffix}": correlation(falls, found) for suffix, found in sums.items()}
