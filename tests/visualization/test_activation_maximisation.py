import pytest
import torch
from torch import nn

from interp_train.visualization.activation_maximisation import (
    ActivationMaximisation,
    objective_value,
    style_similarity,
)
from tests.contracts.options import small_network
from tests.visualization.networks import PLAIN, units

HALF = {"mean": (0.5, 0.5, 0.5), "std": (0.25, 0.25, 0.25)}
STILL = {"jitter": 0.0, "zoom": 0.0, "degrees": 0.0}


def photos(number=8, side=32, channels=3, seed=3):
    """Smooth random images, normalised as `HALF` says."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(number, channels, side // 8, side // 8, generator=generator)
    fine = nn.functional.interpolate(coarse, (side, side), mode="bilinear")
    return (fine - 0.5) / 0.25


def fresh_network(seed=0, channels=3):
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(channels, 8, 5, padding=2), nn.ReLU(inplace=True), nn.MaxPool2d(2),
        nn.Conv2d(8, 8, 3, padding=1), nn.ReLU(inplace=True), nn.AdaptiveAvgPool2d(1),
        nn.Flatten(), nn.Linear(8, 3),
    )  # fmt: skip


def responses(network, layer, pictures, normalisation=HALF):
    """Maps of a layer for pictures in [0, 1], ``(n, K, h, w)``."""
    mean, std = normalisation["mean"][0], normalisation["std"][0]
    with torch.no_grad():
        return network[: int(layer) + 1]((pictures - mean) / std)


def test_the_unit_answers_far_more_than_to_any_image():
    network, images = fresh_network(), photos()
    method = ActivationMaximisation(steps=60, **HALF)
    found = method.pictures(network, units("4", 1, 6), images)[:, 0]
    assert found.min() >= 0
    assert found.max() <= 1
    noise = torch.rand(50, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    for picture, unit in zip(found, (1, 6), strict=True):
        reached = responses(network, "4", picture[None])[0, unit].mean()
        data = responses(network, "4", images * 0.25 + 0.5)[:, unit].mean((-2, -1)).max()
        random = responses(network, "4", noise)[:, unit].mean((-2, -1)).max()
        assert reached > 2 * max(data, random)


def test_a_colour_detector_shows_its_colour():
    network = nn.Sequential(nn.Conv2d(3, 1, 1, bias=False), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    with torch.no_grad():
        network[0].weight.copy_(torch.tensor([1.0, -1.0, -1.0]).view(1, 3, 1, 1))
    images = torch.rand(4, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    method = ActivationMaximisation(steps=100, learning_rate=0.2, **STILL, **PLAIN)
    picture = method(network, units("0", 0), images)[0]
    red, *others = picture.flatten(1).median(1).values  # single pixels may be saturated early
    assert red > 0.95
    assert max(others) < 0.05


@pytest.mark.parametrize(("redirected_steps", "rises"), [(16, True), (0, False)])
def test_a_closed_unit_of_a_fresh_network_opens_only_with_redirected_gradients(
    redirected_steps, rises
):
    network, images = fresh_network(), photos()
    with torch.no_grad():
        network[3].bias[2] = -1.0
        assert responses(network, "4", images * 0.25 + 0.5)[:, 2].max() == 0
    method = ActivationMaximisation(
        steps=60, learning_rate=0.1, redirected_steps=redirected_steps, **HALF
    )
    found = method.pictures(network, units("4", 2), images)[:, 0]
    assert (responses(network, "4", found)[0, 2].max() > 0.1) == rises


@pytest.mark.parametrize("side", [32, 64])
def test_categories_and_grey_images_of_any_size_rise(side):
    network, images = fresh_network(channels=1), photos(side=side, channels=1)
    grey = {"mean": (0.5,), "std": (0.25,)}
    picture = ActivationMaximisation(steps=40, **grey)(network, units(None, 2), images)
    assert picture.shape == (1, 3, side, side)
    assert torch.equal(picture[:, 0], picture[:, 2])
    with torch.no_grad():
        reached = network((picture[:, :1] - 0.5) / 0.25)[0, 2]
        assert reached > network(images)[:, 2].max() + network(images)[:, 2].std()


def test_a_picture_does_not_depend_on_the_other_units_asked_for():
    network, images = fresh_network(), photos()
    together = ActivationMaximisation(steps=8, **HALF)(network, units("4", 3, 1, 5), images)
    chunked = ActivationMaximisation(steps=8, batch_size=2, **HALF)
    torch.testing.assert_close(chunked(network, units("4", 3, 1, 5), images), together)
    alone = chunked(network, units("4", 5), images)
    torch.testing.assert_close(alone[0], together[2], atol=1e-4, rtol=1e-4)


def test_seeds_differ_and_repeat():
    network, images = fresh_network(), photos()
    first, again, other = (
        ActivationMaximisation(steps=3, seed=seed, **HALF)(network, units("4", 1), images)
        for seed in (0, 0, 1)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def slow_similarity(pictures):
    total = 0.0
    for first in range(len(pictures)):
        for second in range(len(pictures)):
            if first != second:
                a, b = (
                    torch.einsum("khw,lhw->kl", pictures[i], pictures[i]) for i in (first, second)
                )
                total += (a * b).sum() / (a.norm() * b.norm())
    return total / (len(pictures) * (len(pictures) - 1))


def test_similarity_agrees_with_a_loop_over_pairs():
    maps = torch.randn(2, 3, 4, 5, 6, generator=torch.Generator().manual_seed(0)).double()
    found = style_similarity(maps)
    torch.testing.assert_close(found, torch.stack([slow_similarity(group) for group in maps]))
    torch.testing.assert_close(
        style_similarity(maps[:, :1].expand(2, 3, 4, 5, 6)), torch.ones(2).double()
    )
    assert torch.equal(style_similarity(maps[:, :1]), torch.zeros(2).double())


def test_diversity_pushes_the_pictures_of_a_unit_apart():
    network, images = fresh_network(1), photos()
    alike = []
    for diversity in (0.0, 2.0):
        method = ActivationMaximisation(num_pictures=3, steps=60, diversity=diversity, **HALF)
        found = method.pictures(network, units("4", 1), images)
        assert found.shape == (1, 3, 3, 32, 32)
        alike.append(style_similarity(responses(network, "4", found[0])[None]).item())
    assert alike[1] < alike[0] - 0.02
    assert method(network, units("4", 1), images).shape == (1, 3, 65, 65)  # a grid of 2 x 2


def test_objectives_by_hand():
    maps = torch.tensor([[[0.0, 1.0, 2.0], [3.0, 4.0, 5.0], [6.0, 7.0, 8.0]]])
    values = [objective_value(maps, name).item() for name in ("mean", "peak", "centre")]
    assert values == [4.0, 8.0, 4.0]
    assert objective_value(maps[:, :2, :2], "centre") == 4.0


def test_a_given_covariance_takes_the_place_of_the_sample_s():
    network, images = fresh_network(), photos()
    grey = [[0.04] * 3] * 3
    method = ActivationMaximisation(steps=20, colour_covariance=grey, **HALF)
    picture = method(network, units("4", 1), images)[0]
    assert picture.std() > 0.02
    assert (picture - picture.mean(0)).abs().max() < 1e-3


def test_batch_norm_networks_are_asked_in_evaluation_mode():
    network = small_network().train()
    images = photos(side=64)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    first = ActivationMaximisation(steps=2)(network, units("top", 1), images)
    assert network.training
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert torch.equal(
        first, ActivationMaximisation(steps=2)(network.eval(), units("top", 1), images)
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"objective": "sum"}, "`objective` must be one of 'mean', 'peak', 'centre'"),
        ({"num_pictures": 0}, "`num_pictures` must be >= 1"),
        ({"batch_size": 0}, "`batch_size` must be >= 1"),
        ({"steps": -1}, "`steps` must be >= 0"),
        ({"diversity": -0.1}, "`diversity` must be >= 0"),
        ({"zoom": 1.0}, "`zoom` must be >= 0 and <= 0.9"),
        ({"seed": -1}, "`seed` must be >= 0"),
    ],
)
def test_numbers_out_of_range_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        ActivationMaximisation(**change)
