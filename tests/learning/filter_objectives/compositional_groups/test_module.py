import copy

import pytest
import torch
import torch.distributed
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from interp_train.activations import ActivationTap
from interp_train.backbones.backbone import Backbone
from interp_train.backbones.heads import ConvolutionalHead
from interp_train.learning.filter_objectives.compositional_groups.module import CompositionalGroups
from interp_train.protocols import FilterObjective
from interp_train.spectral_clustering import spectral_groups
from interp_train.structures import BACKGROUND
from tests.learning.filter_objectives.compositional_groups.test_functional import (
    slow_compactness,
)

FILTERS, SIDE, CATEGORIES = 6, 8, 3
LAYER = "head.relu_1"


def small_network(num_outputs=CATEGORIES, in_size=SIDE):
    steps = {"convolution": nn.Conv2d(3, 4, 3, padding=1), "relu": nn.ReLU()}
    network = Backbone(steps, image_size=in_size)
    head = ConvolutionalHead(
        4, num_outputs, in_size=(in_size, in_size), channels=FILTERS, dropout=0.0
    )
    network.attach_head(head)
    return network


def attached(num_categories=CATEGORIES, **options):
    torch.manual_seed(3)
    network = small_network(num_categories)
    objective = CompositionalGroups(
        **{"num_groups": 3, "start_epoch": 1, "regroup_every": 2, **options}
    )
    objective.attach(network, num_categories)
    return network.train(), objective.train()


def random_maps(number=8, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(number, FILTERS, SIDE, SIDE, generator=generator).relu()


def terms_of(objective, maps, labels, epoch=1):
    logits = torch.zeros(len(labels), objective.num_categories)
    return objective.loss_terms({LAYER: maps}, labels, logits, epoch)


def step(network, objective, images, labels, epoch=1):
    """One forward pass as in training; returns the terms."""
    with ActivationTap(network, objective.layers) as tap:
        logits = network(images)
    return objective.loss_terms(tap.take(), labels, logits, epoch)


def images_and_labels(number=8, seed=0, num_categories=CATEGORIES):
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(number) % (num_categories + 1) - 1
    return torch.randn(number, 3, SIDE, SIDE, generator=generator), labels


def test_it_is_a_filter_objective():
    assert isinstance(CompositionalGroups(), FilterObjective)


def slow_correlations(maps, mean, labels):
    """Sum over images of a category of the correlation of two filters; how many images."""
    total, number = torch.zeros(FILTERS, FILTERS), 0
    for image, label in zip(maps, labels.tolist(), strict=True):
        if label == BACKGROUND:
            continue
        number += 1
        for i in range(FILTERS):
            for j in range(FILTERS):
                a, b = (image[i] - mean[i]).flatten(), (image[j] - mean[j]).flatten()
                total[i, j] += a @ b / a.norm() / b.norm()
    return total, number


def test_terms_agree_with_loops_over_epochs():
    """Nothing in epoch 1, groups of all images so far in epoch 2, the same groups in epoch 3."""
    _, objective = attached(start_epoch=2, weight=0.5, momentum=0.9)
    labels = torch.tensor([0, 1, -1, 2])
    mean, collected, number, groups = None, torch.zeros(FILTERS, FILTERS), 0, None
    for seed, epoch in enumerate([1, 1, 2, 2, 3]):
        maps = random_maps(4, seed)
        latest = maps.mean(0)
        mean = latest if mean is None else 0.9 * mean + 0.1 * latest
        here, images = slow_correlations(maps, mean, labels)
        collected, number = collected + here, number + images
        found = terms_of(objective, maps, labels, epoch)
        if epoch == 1:
            assert found[f"{LAYER}/grouping"] == found[f"{LAYER}/discrimination"] == 0
            assert objective.filter_group_numbers(LAYER).tolist() == [-1] * FILTERS
            assert objective.measurements() == {}
            continue
        if groups is None:
            groups = spectral_groups(collected / number + 1, 3)
        assert torch.equal(objective.filter_group_numbers(LAYER), groups)
        expected = slow_compactness(here / images + 1, groups.tolist())
        assert found[f"{LAYER}/grouping"].item() == pytest.approx(-0.5 * expected, rel=1e-5)


def planted_maps(number=12, seed=0, groups=(0, 1, 2, 1, 0, 2)):
    """Filters of a group respond around one place, which differs from image to image."""
    generator = torch.Generator().manual_seed(seed)
    places = torch.randint(SIDE, (number, 3, 2), generator=generator)
    rows, columns = torch.arange(SIDE)[:, None], torch.arange(SIDE)
    maps = torch.rand(number, FILTERS, SIDE, SIDE, generator=generator) * 0.3
    for n in range(number):
        for k, group in enumerate(groups):
            y, x = places[n, group].tolist()
            maps[n, k] += (1 + k) * (-((rows - y) ** 2 + (columns - x) ** 2) / 4).exp()
    return maps


def test_planted_groups_are_found():
    _, objective = attached()
    maps, labels = planted_maps(), torch.zeros(12, dtype=torch.long)
    terms_of(objective, maps, labels)
    assert objective.filter_group_numbers(LAYER).tolist() == [0, 1, 2, 1, 0, 2]
    measured = objective.measurements()
    assert measured[f"{LAYER}/similarity_within"] > 1.8
    assert measured[f"{LAYER}/similarity_between"] < 1.2
    assert measured[f"{LAYER}/largest_group"] == pytest.approx(1 / 3)


def test_filters_learn_to_share_regions():
    network, objective = attached(num_categories=1, weight=1.0)
    optimizer = torch.optim.Adam(network.parameters(), lr=0.01)
    watched = []
    for number in range(40):
        images, labels = images_and_labels(16, number, num_categories=1)
        terms = step(network, objective, images, labels.clamp(min=0))
        watched.append(objective.measurements())
        optimizer.zero_grad()
        sum(terms.values()).backward()
        optimizer.step()
    first, last = watched[0], watched[-1]
    assert last[f"{LAYER}/similarity_within"] > first[f"{LAYER}/similarity_within"] + 0.3
    assert last[f"{LAYER}/similarity_between"] < first[f"{LAYER}/similarity_between"] - 0.1


def test_groups_of_images_of_a_category_learn_to_resemble():
    """The term alone raises the cosines within a category over those with the others."""
    network, objective = attached(weight=0.0, discrimination_weight=1.0)
    optimizer = torch.optim.Adam(network.parameters(), lr=0.01)
    images, labels = images_and_labels(12)
    for category in range(CATEGORIES):
        images[labels == category, category] += 2
    values = []
    for _ in range(40):
        terms = step(network, objective, images, labels)
        values.append(-terms[f"{LAYER}/discrimination"].item())
        optimizer.zero_grad()
        sum(terms.values()).backward()
        optimizer.step()
    assert values[-1] > values[0] + 0.3


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"start_epoch": 2, "regroup_every": 2, "freeze_epoch": 6}, [0, 2, 2, 4, 4, 6, 6, 6]),
        ({"start_epoch": 1, "regroup_every": 3, "freeze_epoch": 200}, [1, 1, 1, 4, 4, 4, 7, 7]),
        ({"start_epoch": 3, "regroup_every": 1, "freeze_epoch": 1}, [0, 0, 3, 3, 3, 3, 3, 3]),
    ],
)
def test_filters_are_grouped_again_until_they_are_frozen(options, expected):
    _, objective = attached(**options)
    state = objective.filter_groups[0]
    labels = torch.zeros(4, dtype=torch.long)
    found = []
    for epoch in range(1, 9):
        for _ in range(2):  # only the first step of an epoch groups
            terms_of(objective, random_maps(4, epoch), labels, epoch)
        found.append(int(state.grouped_in))
    assert found == expected
    collected = int(state.number)
    terms_of(objective, random_maps(4), labels, 9)
    assert int(state.number) == collected + (4 if options["freeze_epoch"] > 9 else 0)


def test_new_groups_follow_what_was_seen_since_the_old_ones():
    _, objective = attached(regroup_every=1)
    labels = torch.zeros(12, dtype=torch.long)
    first, second = (0, 1, 2, 1, 0, 2), (0, 0, 1, 1, 2, 2)
    terms_of(objective, planted_maps(groups=first), labels, 1)
    assert objective.filter_group_numbers(LAYER).tolist() == list(first)
    for seed in range(3):
        terms_of(objective, planted_maps(seed=seed, groups=second), labels, 1)
    assert objective.filter_group_numbers(LAYER).tolist() == list(first)
    terms_of(objective, planted_maps(seed=3, groups=second), labels, 2)
    assert objective.filter_group_numbers(LAYER).tolist() == list(second)


def test_background_images_do_not_count():
    _, objective = attached(num_categories=1)
    _, other = attached(num_categories=1)
    maps = random_maps()
    labels = torch.tensor([0, 0, -1, 0, -1, 0, 0, -1])
    moved = maps.clone()
    moved[labels < 0] = maps[labels < 0].flip(0)  # the mean map stays
    found, expected = (terms_of(o, m, labels) for o, m in ((objective, moved), (other, maps)))
    assert list(found) == [f"{LAYER}/grouping"]  # one category has no discrimination
    torch.testing.assert_close(found, expected)
    nothing = terms_of(objective, maps, torch.full((8,), BACKGROUND), 2)
    assert nothing[f"{LAYER}/grouping"].item() == pytest.approx(-0.1)  # all similarities are 1


def test_usual_numbers_of_groups():
    for num_categories, expected in ((1, 5), (3, FILTERS)):  # 16, but there are fewer filters
        objective = CompositionalGroups()
        objective.attach(small_network(num_categories), num_categories)
        assert objective.filter_groups[0].num_groups == expected


def test_a_weight_of_zero_leaves_discrimination_out():
    network, objective = attached(discrimination_weight=0.0)
    assert list(step(network, objective, *images_and_labels())) == [f"{LAYER}/grouping"]


def test_evaluation_changes_no_state():
    network, objective = attached()
    images, labels = images_and_labels()
    objective.eval()
    before = step(network, objective, images, labels)
    assert all(term == 0 for term in before.values())  # no groups yet
    objective.train()
    step(network, objective, images, labels)
    saved = copy.deepcopy(objective.state_dict())
    objective.eval()
    with torch.inference_mode():
        terms = step(network, objective, images, labels, epoch=3)
    assert all(term < 0 for term in terms.values())
    assert objective.measurements() == {}
    torch.testing.assert_close(objective.state_dict(), saved, rtol=0, atol=0)


def run(network, objective, epochs):
    """Steps of the given epochs, three each, with learning; returns all terms."""
    optimizer = torch.optim.SGD(network.parameters(), lr=0.05)
    found = []
    for number, epoch in enumerate(epochs):
        terms = step(network, objective, *images_and_labels(seed=number + 10 * epoch), epoch)
        optimizer.zero_grad()
        sum(terms.values()).backward()
        optimizer.step()
        found.append({name: value.detach() for name, value in terms.items()})
    return found


def test_a_resumed_run_goes_on_exactly():
    network, objective = attached(start_epoch=2)
    run(network, objective, [1, 1, 2, 3, 3])
    other_network, other = attached(start_epoch=2)
    other_network.load_state_dict(copy.deepcopy(network.state_dict()))
    other.load_state_dict(copy.deepcopy(objective.state_dict()))
    rest = [3, 4, 4, 5, 6]
    expected, found = run(network, objective, rest), run(other_network, other, rest)
    assert found == expected
    for name, value in objective.state_dict().items():
        assert torch.equal(other.state_dict()[name], value), name
    for name, value in network.state_dict().items():
        assert torch.equal(other_network.state_dict()[name], value), name


class Waiting(TorchDispatchMode):
    """Counts operations that ask a device for a value."""

    asking = ("_local_scalar_dense", "nonzero", "equal", "is_nonzero", "_linalg_eigh")

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.count += function.overloadpacket.__name__ in self.asking
        return function(*args, **(kwargs or {}))


def test_only_grouping_asks_the_device():
    _, objective = attached()
    labels = torch.arange(8) % CATEGORIES
    counts = []
    for epoch in (1, 1, 2, 3):
        with Waiting() as waiting:
            terms_of(objective, random_maps(), labels, epoch)
            objective.measurements()
        counts.append(waiting.count)
    assert counts[0] > 0
    assert counts[1:3] == [0, 0]
    assert counts[3] > 0


def test_it_is_safe_under_autocast():
    network, objective = attached()
    for epoch in (1, 3):
        with torch.autocast("cpu", torch.bfloat16):
            found = step(network, objective, *images_and_labels(seed=epoch), epoch)
        assert all(value.dtype == torch.float32 and value.isfinite() for value in found.values())
    sum(found.values()).backward()
    assert network.head.convolution_1.weight.grad.isfinite().all()


def steps_of_share(options, number):
    """Gradients and state after float64 steps on this process's images; all images for one."""
    network, objective = attached(**options)
    network.double(), objective.double()
    ranked = torch.distributed.is_initialized()
    share = slice(torch.distributed.get_rank(), None, 2) if ranked else slice(None)
    trained = nn.parallel.DistributedDataParallel(network) if ranked else network
    for epoch in (1, 2, 2, 3, 4):
        network.zero_grad()
        images, labels = images_and_labels(number, epoch)
        with ActivationTap(network, objective.layers) as tap:
            logits = trained(images[share].double())
        terms = objective.loss_terms(tap.take(), labels[share], logits, epoch)
        (logits.square().mean() + sum(terms.values())).backward()
    gradients = {name: p.grad.clone() for name, p in network.named_parameters()}
    return gradients, dict(objective.state_dict()), objective.measurements()


@pytest.mark.parametrize("options", [{}, {"num_categories": 1, "start_epoch": 2}], ids=str)
def test_two_processes_learn_what_one_learns(two_processes, options):
    expected = steps_of_share(options, 8)
    assert max(gradient.abs().max() for gradient in expected[0].values()) > 1e-3
    for found in two_processes(steps_of_share, options, 8):
        for one, two in zip(expected, found, strict=True):
            torch.testing.assert_close(two, one, rtol=1e-8, atol=1e-12)


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("taps", (), "`taps` must name at least one layer"),
        ("weight", -1.0, "`weight` must be >= 0"),
        ("discrimination_weight", -1.0, "`discrimination_weight` must be >= 0"),
        ("num_groups", 0, "`num_groups` must be >= 1"),
        ("start_epoch", 0, "`start_epoch` must be >= 1"),
        ("regroup_every", 0, "`regroup_every` must be >= 1"),
        ("freeze_epoch", -1, "`freeze_epoch` must be >= 0"),
        ("momentum", 1.5, "`momentum` must be >= 0.0 and <= 1.0"),
        ("seed", -1, "`seed` must be >= 0"),
    ],
)
def test_wrong_options_are_named(option, value, message):
    with pytest.raises(ValueError, match=message):
        CompositionalGroups(**{option: value})


def test_wrong_networks_layers_and_maps_are_named():
    with pytest.raises(TypeError, match="`network` must be a Backbone, but got Linear"):
        CompositionalGroups().attach(nn.Linear(2, 2), 1)
    with pytest.raises(ValueError, match=r"`layer` must name .* 'added_1'"):
        attached(taps=["added_2"])
    network, objective = attached()
    with pytest.raises(ValueError, match="`attach` must be called once"):
        objective.attach(network, CATEGORIES)
    labels = torch.zeros(4, dtype=torch.long)
    terms_of(objective, random_maps(4), labels)
    with pytest.raises(ValueError, match=r"must have maps of one size, .*\(4, 6, 7, 8\)"):
        terms_of(objective, random_maps(4)[:, :, 1:], labels)
    with pytest.raises(ValueError, match=r"`taps` must name layers that put out maps"):
        terms_of(objective, torch.zeros(4, FILTERS), labels)
    with pytest.raises(ValueError, match="the network has diverged"):
        terms_of(objective, random_maps(4) * float("nan"), labels, 3)


def test_copies_learn_alike():
    pair = attached()
    twin = copy.deepcopy(pair)
    batch = images_and_labels()
    assert step(*pair, *batch) == step(*twin, *batch)
