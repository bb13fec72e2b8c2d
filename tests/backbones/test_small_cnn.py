import pytest
import torch
from torch import nn

from interp_train.backbones.small_cnn import small_cnn
from interp_train.backbones.weights import save_weights
from interp_train.data.synthetic import SyntheticData


def multiplications(network, images):
    """Multiplications and additions of all convolutions, counted while running."""
    total = 0

    def count(module, inputs, output):
        nonlocal total
        total += 2 * output[0].numel() * module.weight[0].numel()

    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_hook(count)
    network(images)
    return total


def test_size_of_the_map_and_cost():
    network = small_cnn()
    network.resize_classifier(2)
    assert network.feature_shape(96) == (96, 12, 12)
    assert network.feature_shape(64) == (96, 8, 8)
    assert 50e6 < multiplications(network, torch.zeros(1, 3, 96, 96)) < 90e6


def test_with_and_without_normalisation():
    assert "features.norm_2" in small_cnn().chain
    plain = small_cnn(widths=[4, 4, 8], batch_norm=False, in_channels=1)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in plain.modules())
    assert plain.features.convolution_1.bias is not None
    assert plain.forward_chain(torch.zeros(1, 1, 64, 64)).shape == (1, 8, 8, 8)


def test_weights_are_read_before_the_cut(tmp_path):
    network = small_cnn()
    torch.save(network.state_dict(), tmp_path / "weights.pth")
    other = small_cnn(weights=str(tmp_path / "weights.pth"), cut="mid", freeze="features.pool_2")
    assert other.chain[-1] == "features.relu_3"
    assert torch.equal(other.features.convolution_3.weight, network.features.convolution_3.weight)


def test_two_widths_are_too_few():
    with pytest.raises(ValueError, match=r"`len\(widths\)` must be >= 3, but got 2"):
        small_cnn(widths=[4, 4])


def test_learns_from_scratch():
    torch.manual_seed(0)
    network = small_cnn(widths=[8, 8, 16, 16], image_size=32)
    network.resize_classifier(2)
    images, labels = torch.randn(32, 3, 32, 32), torch.arange(32) % 2
    images[labels == 1, 0] += 0.5
    optimiser = torch.optim.Adam(network.parameter_groups(0.01), lr=0.01)
    for _ in range(15):
        loss = nn.functional.cross_entropy(network(images), labels)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert loss < 0.2


def test_saved_weights_come_back_in_half_precision_without_the_classifier(tmp_path):
    network = small_cnn()
    network.resize_classifier(3)
    save_weights(network, tmp_path / "trunk.pt")
    other = small_cnn(weights=str(tmp_path / "trunk.pt"))
    for name, tensor in other.state_dict().items():
        expected = network.state_dict()[name]
        torch.testing.assert_close(tensor, expected, rtol=1e-3, atol=1e-6)
    assert other.features.convolution_1.weight.dtype == torch.float32
    assert (tmp_path / "trunk.pt").stat().st_size < 2.4 * sum(
        parameter.numel() for parameter in other.parameters()
    )


def test_packaged_weights_see_more_than_random_ones():
    """A linear readout of their maps tells species apart that random weights mix up."""
    data = SyntheticData(num_train=160, num_val=80, num_classes=2, num_distractors=[0, 0])
    data.setup("fit")
    scores = {}
    for weights in ("creatures", None):
        torch.manual_seed(0)
        network = small_cnn(weights=weights).eval()
        found = []
        for split in ("train", "val"):
            batch = data.dataset(split).__getitems__(range(len(data.dataset(split))))
            with torch.no_grad():
                found.append((network.forward_chain(batch.images).mean((2, 3)), batch.labels))
        (x, y), (x_val, y_val) = found
        mean, std = x.mean(0), x.std(0) + 1e-6
        design = torch.cat([(x - mean) / std, torch.ones(len(x), 1)], 1).double()
        ridge = design.T @ design + 10 * torch.eye(design.shape[1])
        weight = torch.linalg.solve(ridge, design.T @ (2.0 * y - 1).double())
        design_val = torch.cat([(x_val - mean) / std, torch.ones(len(x_val), 1)], 1).double()
        scores[weights] = ((design_val @ weight > 0) == (y_val > 0)).float().mean().item()
    assert scores["creatures"] > 0.9
    assert scores["creatures"] > scores[None] + 0.1
