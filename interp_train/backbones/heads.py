"""Heads: what is put on a backbone instead of its classifier.

`ConvolutionalHead` follows Zhang, Wu & Zhu, "Interpretable Convolutional Neural Networks",
CVPR 2018, sec. 3: new 3x3 convolutions behind the last convolution of the backbone, pooling, and
fully connected layers. The interpretable network and its ordinary twin have the same head.
"""

from collections.abc import Sequence
from typing import final

from torch import Tensor, nn

from interp_train.checks import check_choice, check_range

_POOLINGS = ("max", "average", "global_max", "none")


@final
class ConvolutionalHead(nn.Module):
    """[standardisation,] [3x3 convolution, ReLU] x n, pooling, dropout, linear layers.

    Layers are called ``norm, convolution_1, relu_1, ..., pool, flatten, dropout, hidden_1, ...,
    linear``.

    Attributes:
        taps: ``added_i`` -> ``relu_i`` for each added convolution, ``last`` -> the last of them.
        in_size: height and width of the map that the head takes.

    Args:
        in_channels: units of the backbone's last map.
        num_outputs: number of logits.
        in_size: height and width of that map.
        added_convolutions: how many; the paper adds one.
        channels: units of each added convolution; None takes `in_channels`, as the paper.
        input_norm: standardise each unit of the backbone's map (batch normalisation without
            weights). Frozen units after a ReLU have large means, along which a loss that lowers
            activations would switch whole filters off.
        pooling: ``"max"`` (2x2, stride 2, the paper's), ``"average"`` or ``"global_max"`` (over the
            whole map), or ``"none"``.
        hidden: sizes of hidden linear layers; the paper has two of 4096.
        dropout: rate before each linear layer; a list has one for each, the readout's last.
        initial_std: standard deviation of the new weights; the released programme uses 0.01. None
            is He's rule, which also learns on backbones that start from scratch.

    Raises:
        ValueError: if an argument is out of range.
    """

    def __init__(
        self,
        in_channels: int,
        num_outputs: int,
        *,
        in_size: tuple[int, int],
        added_convolutions: int = 1,
        channels: int | None = None,
        input_norm: bool = False,
        pooling: str = "max",
        hidden: Sequence[int] = (),
        dropout: float | Sequence[float] = 0.5,
        initial_std: float | None = None,
    ) -> None:
        super().__init__()
        check_choice("pooling", pooling, _POOLINGS)
        check_range("added_convolutions", added_convolutions, low=0)
        check_range("min(in_size)", min(in_size), low=2 if pooling == "max" else 1)
        self.in_size = (int(in_size[0]), int(in_size[1]))
        self.taps: dict[str, str] = {}
        if input_norm:
            self.norm = nn.BatchNorm2d(in_channels, affine=False)
        units = in_channels
        for index in range(1, added_convolutions + 1):
            width = channels or in_channels
            self.add_module(f"convolution_{index}", nn.Conv2d(units, width, 3, padding=1))
            self.add_module(f"relu_{index}", nn.ReLU())
            self.taps[f"added_{index}"] = self.taps["last"] = f"relu_{index}"
            units = width
        self._add_pool(pooling)
        height, width = self._pooled_size(pooling)
        self.flatten = nn.Flatten(1)
        rates = checked_rates(dropout, len(hidden) + 1)
        self._add_linear_layers(units * height * width, hidden, rates, num_outputs)
        self._initialise(initial_std)

    def forward(self, activations: Tensor) -> Tensor:
        """Logits ``(N, num_outputs)`` of the backbone's last map ``(N, in_channels, h, w)``.

        Raises:
            ValueError: if the map does not have the size `in_size`.
        """
        if activations.shape[-2:] != self.in_size:
            raise ValueError(
                f"`activations` must be a map of {self.in_size[0]}x{self.in_size[1]} cells, the "
                f"size the head was built for, but got {tuple(activations.shape)}. Use images of "
                "the size the network was built with."
            )
        for layer in self.children():
            activations = layer(activations)
        return activations

    def _add_pool(self, pooling: str) -> None:
        if pooling == "max":
            self.pool: nn.Module = nn.MaxPool2d(2)
        elif pooling == "average":
            self.pool = nn.AdaptiveAvgPool2d(1)
        elif pooling == "global_max":
            self.pool = nn.AdaptiveMaxPool2d(1)

    def _pooled_size(self, pooling: str) -> tuple[int, int]:
        if pooling in ("average", "global_max"):
            return 1, 1
        divisor = 2 if pooling == "max" else 1
        return self.in_size[0] // divisor, self.in_size[1] // divisor

    def _add_linear_layers(
        self, inputs: int, hidden: Sequence[int], rates: Sequence[float], num_outputs: int
    ) -> None:
        for index, size in enumerate(hidden, 1):
            self.add_module(f"dropout_{index}", nn.Dropout(rates[index - 1]))
            self.add_module(f"hidden_{index}", nn.Linear(inputs, size))
            self.add_module(f"hidden_relu_{index}", nn.ReLU())
            inputs = size
        self.dropout = nn.Dropout(rates[-1])
        self.linear = nn.Linear(inputs, num_outputs)

    def _initialise(self, initial_std: float | None) -> None:
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.zeros_(module.bias)  # type: ignore[arg-type]
                if initial_std is not None:
                    nn.init.normal_(module.weight, std=initial_std)
                elif module is self.linear:
                    nn.init.normal_(module.weight, std=0.01)
                else:
                    nn.init.kaiming_normal_(module.weight, nonlinearity="relu")


def checked_rates(dropout: float | Sequence[float], number: int) -> tuple[float, ...]:
    """A rate of dropout for each of so many linear layers.

    Raises:
        ValueError: if there are fewer or more, or one is no share.
    """
    rates = tuple(dropout) if isinstance(dropout, Sequence) else (dropout,) * number
    if len(rates) != number:
        raise ValueError(
            f"`dropout` must be one rate, or one for each of the {number} linear layers, but got "
            f"{list(rates)}. Give one more than `hidden` has sizes."
        )
    for rate in rates:
        check_range("dropout", rate, low=0, high=1)
    return rates
