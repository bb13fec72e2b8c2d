"""Cascading weight randomisation: does a heatmap change when the network forgets what it learned?

The layers lose their weights from the output down, in stages. After each stage the heatmap is
compared with the original one by rank correlation. A method whose heatmaps stay similar explains
the image (its edges, its centre), not the network.

Reference: J. Adebayo, J. Gilmer, M. Muelly, I. Goodfellow, M. Hardt, B. Kim, "Sanity Checks for
Saliency Maps", NeurIPS 2018.

Deviates from the paper in how weights are lost: the entries of each tensor change places at random,
which keeps their scale, so that any network survives without knowing its initialiser; entries of
a normalisation layer that belong together move together. And in the measure: rank correlation
only, 0 where a heatmap is constant. Where the network that lost weights does not answer with the
unit at all (a ReLU on the logits), its heatmap is zero and says nothing about the method: such a
stage does not count for that image; the share of them is ``silent_stages``.

Baselines: ``random``, the similarity of random heatmaps, which a method that depends on nothing but
the weights, the oracle here, would reach; ``insensitive``, the similarity of the heatmap to itself
when asked again, which a method that does not look at the network keeps in every stage.
"""

import copy
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from interp_train.activations import gradients_enabled, unwrapped
from interp_train.checks import check_range
from interp_train.evaluation.heatmap_means import HeatmapMeans, correlation
from interp_train.protocols import HeatmapMethod
from interp_train.structures import Target


def average_ranks(values: Tensor) -> Tensor:
    """Rank of each value in its row from the lowest up, equal values share the mean of theirs.

    Args:
        values: ``(N, V)``.

    Returns:
        float64 ``(N, V)``, from 0.
    """
    ordered = values.sort(1).values
    below = torch.searchsorted(ordered, values.contiguous())
    up_to = torch.searchsorted(ordered, values.contiguous(), right=True)
    return (below + up_to - 1).double() / 2


def rank_correlation(first: Tensor, second: Tensor) -> Tensor:
    """Spearman's rank correlation of each pair of heatmaps, 0 where one is constant.

    Args:
        first: ``(N, 1, H, W)``.
        second: same shape.

    Returns:
        In [-1, 1], ``(N,)``.
    """
    return correlation(average_ranks(first.flatten(1)), average_ranks(second.flatten(1)))


def stage_similarity(original: Tensor, changed: Tensor) -> Tensor:
    """Rank correlation of heatmaps ``(N, 1, H, W)``; NaN where only the changed one is zero."""
    silent = (changed.flatten(1).amax(1) <= 0) & (original.flatten(1).amax(1) > 0)
    return torch.where(silent, torch.nan, rank_correlation(original, changed))


@torch.no_grad()
def shuffle_weights(module: nn.Module, generator: torch.Generator) -> None:
    """Let the entries of each weight and statistic of a layer change places, its children aside.

    Args:
        module: changed in place.
        generator: on the device of the weights.
    """
    orders: dict[int, Tensor] = {}
    for tensor in (*module.parameters(recurse=False), *module.buffers(recurse=False)):
        size = tensor.numel()
        if tensor.is_floating_point() and size > 1:
            if size not in orders:
                orders[size] = torch.randperm(size, generator=generator, device=tensor.device)
            tensor.copy_(tensor.flatten()[orders[size]].view_as(tensor))


def cascade(network: nn.Module, num_stages: int, seed: int) -> Iterator[nn.Module]:
    """A copy of the network after each stage of the loss of its weights, from the output down.

    Layers count in the order in which they were registered; the last stage has lost all weights.

    Args:
        network: left as it is.
        num_stages: of about equally many layers.
        seed: of the new places.

    Yields:
        The same copy each time, further changed.
    """
    # A copy made in inference mode could not be differentiated.
    with torch.inference_mode(False):
        copied = copy.deepcopy(unwrapped(network))
    layers = [module for module in copied.modules() if list(module.parameters(recurse=False))]
    layers.reverse()
    device = next((weight.device for weight in copied.parameters()), torch.device("cpu"))
    generator = torch.Generator(device).manual_seed(seed)
    done = 0
    for stage in range(1, num_stages + 1):
        upto = round(stage * len(layers) / num_stages)
        with torch.inference_mode(False):
            for layer in layers[done:upto]:
                shuffle_weights(layer, generator)
        done = upto
        yield copied


class WeightRandomisationMetric(HeatmapMeans):
    """Similarity of heatmaps before and after the network loses its weights; low is good.

    Args:
        num_stages: in which the weights are lost, from the output down.
        seed: of the new places and of the random heatmaps.
    """

    def __init__(self, num_stages: int = 4, *, seed: int = 0) -> None:
        check_range("num_stages", num_stages, 1)
        names = [f"randomisation_similarity_stage_{stage + 1}" for stage in range(num_stages)]
        suffixes = ("", "_all", "_random", "_insensitive")
        super().__init__(
            [
                *(f"randomisation_similarity{suffix}" for suffix in suffixes), *names,
                "zero_heatmaps", "silent_stages",
            ]
        )  # fmt: skip
        self.num_stages, self.seed = num_stages, seed

    def update(
        self, method: HeatmapMethod, network: nn.Module, images: Tensor, target: Target
    ) -> None:
        """Add a batch: one heatmap of the network, one more, and one per stage.

        Args:
            method: what is checked.
            network: left as it is.
            images: network input, ``(N, channels, H, W)``.
            target: the unit of each image.
        """
        with gradients_enabled():
            images = images.detach().clone()
            original = method(network, images, target)
            again = method(network, images, target)
            stages = [
                stage_similarity(original, method(changed, images, target))
                for changed in cascade(network, self.num_stages, self.seed)
            ]
        generator = torch.Generator(images.device).manual_seed(self.seed)
        draws = torch.rand(original.shape, generator=generator, device=images.device)
        name = "randomisation_similarity"
        self.add({f"{name}_stage_{index}": found for index, found in enumerate(stages, 1)})
        self.add(
            {
                name: torch.stack(stages).nanmean(0),
                f"{name}_all": stages[-1],
                f"{name}_random": rank_correlation(original, draws),
                f"{name}_insensitive": rank_correlation(original, again),
                "silent_stages": torch.stack(stages).isnan().double().mean(0),
                "zero_heatmaps": (original.flatten(1).amax(1) <= 0).double(),
            }
        )
