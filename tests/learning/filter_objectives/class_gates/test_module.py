import copy
import functools

import pytest
import torch
from torch import nn

from interp_train.activations import ActivationTap
from interp_train.backbones.backbone import Backbone
from interp_train.backbones.heads import ConvolutionalHead
from interp_train.learning.classifier import Classifier, logistic_losses
from interp_train.learning.filter_objectives.class_gates import functional
from interp_train.learning.filter_objectives.class_gates.module import ClassGates
from interp_train.learning.filter_objectives.interpretable_filter.module import (
    InterpretableFilter,
)
from interp_train.learning.objective_terms import SecondPath, objective_terms
from interp_train.protocols import FilterObjective, PathObjective
from interp_train.structures import BACKGROUND, DataInfo, ImageBatch, StepOutputs

FILTERS, SIDE, CATEGORIES = 6, 8, 3
LAYER = "head.relu_1"


def small_network(num_outputs=CATEGORIES, freeze=None):
    steps = {"convolution": nn.Conv2d(3, 4, 3, padding=1), "relu": nn.ReLU()}
    network = Backbone(steps, image_size=SIDE, freeze=freeze)
    head = ConvolutionalHead(
        4, num_outputs, in_size=(SIDE, SIDE), channels=FILTERS, dropout=0.0, pooling="average"
    )
    network.attach_head(head)
    return network


def attached(num_categories=CATEGORIES, random_gates=True, **options):
    torch.manual_seed(3)
    network = small_network(num_categories)
    objective = ClassGates(**options)
    objective.attach(network, num_categories)
    if random_gates:
        with torch.no_grad():
            for matrix in objective.matrices:
                matrix.copy_(functional.normalised_gates(torch.rand(matrix.shape)))
    return network.train(), objective.train()


def batch_of(labels, dtype=torch.float32):
    labels = torch.as_tensor(labels)
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(len(labels), 3, SIDE, SIDE, generator=generator).to(dtype)
    boxes, none = torch.full((len(labels), 4), torch.nan), torch.zeros(len(labels), 0, 0, 0)
    return ImageBatch(images, labels, torch.arange(len(labels)), boxes, none)


def softmax_losses(logits, labels):
    return nn.functional.cross_entropy(logits, labels, reduction="none")


def terms_of(network, objective, batch, losses=softmax_losses, epoch=1):
    with ActivationTap(network, [network.resolve(tap) for tap in objective.taps]) as tap:
        logits = network(batch.images)
    outputs = StepOutputs(logits, tap.take(), {})
    path = SecondPath(network, batch.labels, losses)
    return objective_terms(objective, outputs, batch, path, epoch)


def test_it_is_an_objective_with_a_second_path():
    assert isinstance(ClassGates(), FilterObjective)
    assert isinstance(ClassGates(), PathObjective)


def slow_gated_loss(network, objective, batch, logistic):
    """Image by image, filter by filter: gate the maps, average-pool, classify, take the loss."""
    with ActivationTap(network, [LAYER]) as tap, torch.no_grad():
        network(batch.images)
    gates, linear = objective.matrices[0], network.head.linear
    total = 0.0
    for maps, label in zip(tap.activations[LAYER], batch.labels.tolist(), strict=True):
        scores = linear.bias.clone()
        for k in range(FILTERS):
            own = objective.num_categories if label == BACKGROUND else label
            gate = gates[k, own] if own < gates.shape[1] else 1.0
            scores = scores + linear.weight[:, k] * gate * maps[k].mean()
        if logistic:
            signs = [1.0 if c == label else -1.0 for c in range(len(scores))]
            total += sum((1 + (-s * z).exp()).log() for s, z in zip(signs, scores, strict=True))
        else:
            total -= scores[label] - scores.exp().sum().log()
    return total / len(batch.labels)


@pytest.mark.parametrize(
    ("num_categories", "labels", "background"),
    [
        (3, [0, 1, 2, 2, 0], None),
        (3, [0, 1, BACKGROUND, 2], None),
        (3, [0, 1, BACKGROUND, 2], True),
        (1, [0, BACKGROUND, BACKGROUND, 0], None),
    ],
)
def test_terms_agree_with_loops(num_categories, labels, background):
    network, objective = attached(
        num_categories, background=background, weight=0.7, density_weight=0.3, density=0.1
    )
    batch, logistic = batch_of(labels), BACKGROUND in labels
    losses = logistic_losses if logistic else softmax_losses
    found = terms_of(network, objective, batch, losses)
    assert set(found) == {f"{LAYER}/density", f"{LAYER}/gated"}
    expected = slow_gated_loss(network, objective, batch, logistic)
    torch.testing.assert_close(found[f"{LAYER}/gated"], 0.7 * expected)
    entries = [abs(entry) for row in objective.matrices[0].tolist() for entry in row]
    excess = sum(entries) - 0.1 * len(entries)
    assert found[f"{LAYER}/density"].item() == pytest.approx(0.3 * excess, rel=1e-5)


def test_open_gates_are_the_ordinary_path():
    """At the start: the same loss, and the same gradient at the weights."""
    network, objective = attached(random_gates=False, density=1.0)
    batch = batch_of([0, 1, 2, 0])
    found = terms_of(network, objective, batch)
    ordinary = nn.functional.cross_entropy(network(batch.images), batch.labels)
    torch.testing.assert_close(found[f"{LAYER}/gated"], ordinary)
    assert found[f"{LAYER}/density"].item() == 0.0
    weights = list(network.parameters())
    expected = torch.autograd.grad(ordinary, weights)
    torch.testing.assert_close(torch.autograd.grad(found[f"{LAYER}/gated"], weights), expected)


def test_nothing_is_gated_where_the_network_is_used():
    network, objective = attached()
    images = batch_of([0, 1, 2]).images
    expected = small_network()
    expected.load_state_dict(network.state_dict())
    assert torch.equal(network(images), expected(images))
    assert not any(module._forward_hooks for module in network.modules())
    assert objective.matrices[0].shape == (FILTERS, CATEGORIES)


def test_gradient_of_gates_and_weights_in_float64():
    network, objective = attached()
    network.double(), objective.double()
    batch = batch_of([0, 1, 2, 1], torch.double)
    matrix = objective.matrices[0]
    terms = terms_of(network, objective, batch)
    leaves = [matrix, network.head.convolution_1.weight]
    gradients = torch.autograd.grad(sum(terms.values()), leaves)
    objective.eval()  # projects what it reads, instead of the matrix in place
    for leaf, gradient in zip(leaves, gradients, strict=True):
        inner = (leaf < 0.999).nonzero()  # the gates that are free to move both ways
        for place in inner[torch.randperm(len(inner))[:5]].tolist():
            values = []
            for step in (1e-6, -1e-6):
                with torch.no_grad():
                    leaf[tuple(place)] += step
                    values.append(sum(terms_of(network, objective, batch).values()).item())
                    leaf[tuple(place)] -= step
            slope = (values[0] - values[1]) / 2e-6
            assert gradient[tuple(place)].item() == pytest.approx(slope, rel=1e-5, abs=1e-8)


def test_a_training_step_projects_what_the_optimiser_left():
    network, objective = attached()
    moved = torch.tensor([[0.5, 0.25, -0.1]]).repeat(FILTERS, 1)
    with torch.no_grad():
        objective.matrices[0].copy_(moved)
    expected = torch.tensor([[1.0, 0.5, 0.0]]).repeat(FILTERS, 1)
    torch.testing.assert_close(objective.gates(LAYER), expected)
    objective.eval()
    batch = batch_of([0, 1, 2])
    resting = terms_of(network, objective, batch)
    assert torch.equal(objective.matrices[0], moved)  # nothing is learned in evaluation
    learning = terms_of(network, objective.train(), batch)
    torch.testing.assert_close(objective.matrices[0].detach(), expected)
    torch.testing.assert_close(resting, learning)  # whoever reads sees the projected matrix


def test_epochs_without_gates_touch_the_matrix_but_move_nothing():
    network, objective = attached(start_epoch=4, period=3)
    batch = batch_of([0, 1, 2])
    gated = [
        epoch
        for epoch in range(1, 13)
        if f"{LAYER}/gated" in terms_of(network, objective, batch, epoch=epoch)
    ]
    assert gated == [6, 9, 12]
    (term,) = terms_of(network, objective, batch, epoch=5).values()
    term.backward()  # a parameter without a gradient would stop distributed training
    assert term.item() == 0.0
    assert objective.matrices[0].grad.eq(0).all()


def test_measurements_and_categories_by_hand():
    _, objective = attached(1)
    with torch.no_grad():
        objective.matrices[0].copy_(torch.tensor([[1.0, 0.0]] * 4 + [[0.5, 1.0], [1.0, 0.75]]))
    found = {name: value.item() for name, value in objective.measurements().items()}
    assert found[f"{LAYER}/density"] == pytest.approx((4 + 1.5 + 1.75) / 12)
    assert found[f"{LAYER}/single_class_filters"] == pytest.approx(5 / 6)
    assert objective.filter_categories(LAYER).tolist() == [0, 0, 0, 0, BACKGROUND, 0]


def stripes(labels, seed=0):
    """Category 0 has vertical stripes, 1 horizontal, 2 dots."""
    batch = batch_of(labels)
    generator = torch.Generator().manual_seed(seed)
    images = 0.3 * torch.randn(batch.images.shape, generator=generator)
    images[batch.labels == 0, :, :, ::2] += 1.0
    images[batch.labels == 1, :, ::2] += 1.0
    images[batch.labels == 2, :, ::2, ::2] += 3.0
    return batch._replace(images=images)


def system_of(objectives, num_categories=CATEGORIES, loss="softmax", freeze=None):
    names = tuple(f"category {number}" for number in range(num_categories))
    info = DataInfo("drawn", names, (), {}, (), SIDE, 3, (0.0,) * 3, (1.0,) * 3, "0", "none")
    head = functools.partial(ConvolutionalHead, channels=FILTERS, dropout=0.0, pooling="average")
    network = Backbone(
        {"convolution": nn.Conv2d(3, 4, 3, padding=1), "relu": nn.ReLU()},
        image_size=SIDE,
        freeze=freeze,
    )
    adam = functools.partial(torch.optim.Adam, lr=1e-2)
    return Classifier(network, info, objectives, loss=loss, head=head, optimizer=adam)


def trained(system, steps):
    optimizer = system.configure_optimizers()
    optimizer = optimizer["optimizer"] if isinstance(optimizer, dict) else optimizer
    system.train()
    for step in range(steps):
        batch = stripes([0, 1, 2] * 4, seed=step)
        terms = system.loss_terms(system.run(batch), batch)
        optimizer.zero_grad()
        sum(terms.values()).backward()
        optimizer.step()
    return terms


def test_filters_become_class_specific():
    """Sparse gates; categories with filters of their own, but one may be told by silence."""
    torch.manual_seed(0)
    objective = ClassGates(density=0.4, density_weight=0.02, rate_factor=2.0)
    system = system_of({"gates": objective})
    terms = trained(system, 150)
    gates = objective.gates(LAYER)
    assert functional.density(gates) < 0.5  # of all open gates
    assert len(objective.filter_categories(LAYER).unique()) >= CATEGORIES - 1
    batch = stripes([0, 1, 2] * 10, seed=1000)
    assert system.predict(system.eval()(batch.images)).eq(batch.labels).all()
    assert terms[f"gates/{LAYER}/gated"] < 0.3


def test_the_classifier_uses_its_own_loss_and_forgets_the_second_path():
    torch.manual_seed(0)
    objectives = {"gates": ClassGates(taps=["relu"]), "filters": InterpretableFilter()}
    system = system_of(objectives, 1, loss="logistic")
    batch = batch_of([0, BACKGROUND, 0, BACKGROUND])
    terms = system.loss_terms(system.run(batch), batch)
    torch.testing.assert_close(terms["gates/relu/gated"], terms["task"])  # all gates are open
    assert system.opened_tap().activations == {}


def test_cached_prefix_activations_serve_both_paths():
    torch.manual_seed(0)
    system = system_of({"gates": ClassGates()}, freeze="relu")
    batch = batch_of([0, 1, 2, 0])
    cached = batch._replace(prefix_activations=system.network.forward_prefix(batch.images))
    cached = cached._replace(images=torch.zeros(4, 0, 0, 0))
    expected = system.loss_terms(system.run(batch), batch)
    found = system.loss_terms(system.run(cached), cached)
    torch.testing.assert_close(found, expected)


def test_gates_have_a_rate_of_their_own():
    system = system_of({"gates": ClassGates(rate_factor=5.0)})
    optimizer = system.configure_optimizers()
    optimizer = optimizer["optimizer"] if isinstance(optimizer, dict) else optimizer
    rates = {group["name"]: group["lr"] for group in optimizer.param_groups}
    assert rates["objectives.gates"] == pytest.approx(5e-2)
    assert all(rate == 1e-2 for name, rate in rates.items() if name != "objectives.gates")


def test_a_checkpoint_remembers_the_matrix():
    torch.manual_seed(0)
    system = system_of({"gates": ClassGates(density_weight=0.02, rate_factor=2.0)})
    trained(system, 3)
    resumed = system_of({"gates": ClassGates(density_weight=0.02, rate_factor=2.0)})
    resumed.load_state_dict(copy.deepcopy(system.state_dict()))
    gates = system.objectives["gates"].gates(LAYER)
    assert gates.min() < 1.0
    assert torch.equal(resumed.objectives["gates"].gates(LAYER), gates)
    batch = stripes([0, 1, 2])
    terms = [s.train().loss_terms(s.run(batch), batch) for s in (system, resumed)]
    torch.testing.assert_close(terms[0], terms[1])


def test_it_is_safe_under_autocast():
    network, objective = attached()
    with torch.autocast("cpu", torch.bfloat16):
        found = terms_of(network, objective, batch_of([0, 1, 2]))
    assert all(value.dtype == torch.float32 and value.isfinite() for value in found.values())


def step_of_share(number):
    """Gradients and matrix after float64 steps on this process's images; all of them for one."""
    network, objective = attached()
    network.double(), objective.double()
    labels = torch.arange(number) % (CATEGORIES + 1) - 1
    batch = batch_of(labels, torch.double)
    ranked = torch.distributed.is_initialized()
    share = slice(torch.distributed.get_rank(), None, 2) if ranked else slice(None)
    batch = ImageBatch(*(field[share] for field in batch))
    both = nn.ModuleList([network, objective])
    optimizer = torch.optim.SGD(both.parameters(), lr=0.1)
    for _ in range(3):
        optimizer.zero_grad()
        sum(terms_of(network, objective, batch, logistic_losses).values()).backward()
        if ranked:
            for parameter in both.parameters():
                torch.distributed.all_reduce(parameter.grad)
                parameter.grad /= 2
        optimizer.step()
    gradients = {name: p.grad.clone() for name, p in both.named_parameters()}
    return gradients, objective.gates(LAYER)


def test_two_processes_learn_what_one_learns(two_processes):
    expected, gates = step_of_share(8)
    for found, found_gates in two_processes(step_of_share, 8):
        torch.testing.assert_close(found_gates, gates, rtol=0, atol=1e-10)
        for name, gradient in expected.items():
            torch.testing.assert_close(found[name], gradient, rtol=0, atol=1e-10)


def test_what_it_refuses():
    with pytest.raises(ValueError, match="`taps` must name at least one layer"):
        ClassGates(taps=[])
    with pytest.raises(ValueError, match="`density` must be >= 0.0 and <= 1.0, but got 1.5"):
        ClassGates(density=1.5)
    with pytest.raises(ValueError, match="`weight` must be >= 0.0"):
        ClassGates(weight=-1.0)
    with pytest.raises(ValueError, match="`period` must be >= 1"):
        ClassGates(period=0)
    with pytest.raises(TypeError, match="`network` must be a Backbone"):
        ClassGates().attach(nn.Linear(2, 2), 1)
    network, objective = attached()
    with pytest.raises(ValueError, match="`attach` must be called once"):
        objective.attach(network, CATEGORIES)
