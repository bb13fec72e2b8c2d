import pytest
import torch
from torch import nn
from torch.nn import functional

from interp_train.backbones.heads import ConvolutionalHead


def slow_head(head, maps):
    """The paper's order written out: two added convolutions, pooling, one hidden layer."""
    for convolution in (head.convolution_1, head.convolution_2):
        maps = functional.conv2d(maps, convolution.weight, convolution.bias, padding=1).clamp(min=0)
    n, k, h, w = maps.shape
    pooled = torch.zeros(n, k, h // 2, w // 2)
    for row in range(h // 2):
        for column in range(w // 2):
            window = maps[:, :, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2]
            pooled[:, :, row, column] = window.amax((2, 3))
    hidden = (pooled.reshape(n, -1) @ head.hidden_1.weight.T + head.hidden_1.bias).clamp(min=0)
    return hidden @ head.linear.weight.T + head.linear.bias


def test_agrees_with_the_layers_written_out():
    head = ConvolutionalHead(
        3, 4, in_size=(7, 5), added_convolutions=2, channels=6, hidden=[8], dropout=0.9
    ).eval()
    maps = torch.randn(2, 3, 7, 5)
    torch.testing.assert_close(head(maps), slow_head(head, maps))
    assert head.taps == {"added_1": "relu_1", "added_2": "relu_2", "last": "relu_2"}


@pytest.mark.parametrize(
    ("pooling", "reduce"),
    [("average", lambda maps: maps.mean((2, 3))), ("global_max", lambda maps: maps.amax((2, 3)))],
)
def test_pooling_the_whole_map_without_added_layers_is_a_linear_model(pooling, reduce):
    head = ConvolutionalHead(3, 2, in_size=(4, 4), added_convolutions=0, pooling=pooling).eval()
    maps = torch.randn(2, 3, 4, 4)
    expected = reduce(maps) @ head.linear.weight.T + head.linear.bias
    torch.testing.assert_close(head(maps), expected)
    assert head.taps == {}


def test_without_pooling_every_cell_has_its_weight():
    head = ConvolutionalHead(3, 2, in_size=(4, 5), pooling="none", channels=7)
    assert head.linear.in_features == 7 * 4 * 5


def test_the_norm_standardises_the_units_of_the_backbone():
    head = ConvolutionalHead(3, 2, in_size=(4, 4), input_norm=True, dropout=0.0).train()
    maps = 5 + 2 * torch.randn(8, 3, 4, 4)
    mean = maps.mean((0, 2, 3), keepdim=True)
    deviation = maps.var((0, 2, 3), keepdim=True, unbiased=False).sqrt()
    plain = ConvolutionalHead(3, 2, in_size=(4, 4), dropout=0.0)
    plain.load_state_dict({k: v for k, v in head.state_dict().items() if "norm" not in k})
    torch.testing.assert_close(head(maps), plain((maps - mean) / deviation), atol=1e-4, rtol=1e-4)
    assert not list(head.norm.parameters())


def test_each_linear_layer_may_have_a_rate_of_its_own():
    maps = torch.randn(2, 3, 4, 4)
    options = {"in_size": (4, 4), "added_convolutions": 0, "pooling": "none", "hidden": [5, 6]}
    head = ConvolutionalHead(3, 2, dropout=[0.0, 0.0, 1.0], **options).train()
    torch.testing.assert_close(head(maps), head.linear.bias.expand(2, 2))
    for rates in ([1.0, 0.0, 0.0], [0.0, 1.0, 0.0]):
        silenced = ConvolutionalHead(3, 2, dropout=rates, **options).train()
        silenced.load_state_dict(head.state_dict())
        torch.testing.assert_close(silenced(maps)[0], silenced(maps)[1])  # of biases alone
    rates = [layer.p for layer in head.children() if isinstance(layer, nn.Dropout)]
    assert rates == [0.0, 0.0, 1.0]


@pytest.mark.parametrize(("std", "expected"), [(0.01, 0.01), (None, (2 / (64 * 9)) ** 0.5)])
def test_initial_weights(std, expected):
    head = ConvolutionalHead(64, 2, in_size=(4, 4), initial_std=std)
    assert head.convolution_1.weight.std().item() == pytest.approx(expected, rel=0.02)
    assert not any(module.bias.any() for module in head.modules() if isinstance(module, nn.Conv2d))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"pooling": "min"}, r"`pooling` must be one of 'max', .*'none', but got 'min'"),
        ({"dropout": 1.5}, r"`dropout` must be >= 0 and <= 1, but got 1.5"),
        ({"dropout": [0.5, -1]}, r"`dropout` must be .* one for each of the 1 linear layers, but"),
        ({"dropout": [0.5, -1], "hidden": [4]}, r"`dropout` must be >= 0 and <= 1, but got -1"),
        ({"added_convolutions": -1}, r"`added_convolutions` must be >= 0"),
        ({"in_size": (1, 4)}, r"`min\(in_size\)` must be >= 2"),
    ],
)
def test_arguments_are_checked(options, message):
    with pytest.raises(ValueError, match=message):
        ConvolutionalHead(3, 2, **{"in_size": (4, 4), **options})


def test_a_map_of_another_size_is_refused():
    with pytest.raises(ValueError, match=r"`activations` must be a map of 4x4 cells"):
        ConvolutionalHead(3, 2, in_size=(4, 4))(torch.zeros(1, 3, 5, 4))
