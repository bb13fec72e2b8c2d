import copy

import pytest
import torch
from torch import nn

from interp_train.activations import ActivationTap
from interp_train.counter_random import uniform_numbers
from interp_train.learning.classifier import logistic_losses
from interp_train.learning.filter_objectives.sampled_filter_classes.module import (
    SampledFilterClasses,
)
from interp_train.protocols import FilterObjective, PathObjective
from interp_train.structures import BACKGROUND, ImageBatch
from tests.learning.filter_objectives.class_gates.test_module import (
    CATEGORIES,
    FILTERS,
    LAYER,
    batch_of,
    small_network,
    softmax_losses,
    stripes,
    system_of,
    terms_of,
    trained,
)

NAME = f"{LAYER}/sampled"


def attached(num_categories=CATEGORIES, decided=True, **options):
    torch.manual_seed(3)
    network = small_network(num_categories)
    objective = SampledFilterClasses(**options)
    objective.attach(network, num_categories)
    if decided:
        with torch.no_grad():
            for matrix in objective.matrices:
                matrix.copy_(2 * torch.randn(matrix.shape))
    return network.train(), objective.train()


def test_it_is_an_objective_with_a_second_path():
    assert isinstance(SampledFilterClasses(), FilterObjective)
    assert isinstance(SampledFilterClasses(), PathObjective)


def slow_term(network, objective, batch, logistic, step=0):
    """Image by image: draw a class, draw filters, pool, classify; mean over the right classes."""
    with ActivationTap(network, [LAYER]) as tap, torch.no_grad():
        logits = network(batch.images)
    count = objective.num_categories
    background = objective.matrices[0].shape[1] > count
    linear, losses = network.head.linear, []
    for n, label in enumerate(batch.labels.tolist()):
        key = batch.sample_ids[n : n + 1] + step * 2**40
        numbers = uniform_numbers(key, 1 + FILTERS, objective.seed, 0)[0].tolist()
        powers = logits[n].exp().tolist() + [1.0] * background
        drawn, total = 0, powers[0] / sum(powers)
        while total <= numbers[0] and drawn < len(powers) - 1:
            drawn += 1
            total += powers[drawn] / sum(powers)
        if drawn != (count if label == BACKGROUND else label):
            continue
        scores = linear.bias.clone()
        for k in range(FILTERS):
            own = objective.matrices[0][k].exp()
            if numbers[1 + k] < own[drawn] / own.sum():
                scores = scores + linear.weight[:, k] * tap.activations[LAYER][n, k].mean()
        if logistic:
            signs = [1.0 if c == label else -1.0 for c in range(count)]
            pairs = zip(signs, scores, strict=True)
            losses.append(sum((1 + (-sign * score).exp()).log() for sign, score in pairs))
        else:
            losses.append(scores.exp().sum().log() - scores[label])
    return sum(losses) / max(len(losses), 1), len(losses)


@pytest.mark.parametrize(
    ("num_categories", "labels", "background"),
    [
        (3, [0, 1, 2] * 4, None),
        (3, [0, 1, BACKGROUND, 2] * 4, None),
        (3, [0, 1, BACKGROUND, 2] * 4, True),
        (1, [0, BACKGROUND] * 6, None),
    ],
)
def test_the_term_agrees_with_loops(num_categories, labels, background):
    network, objective = attached(num_categories, background=background, weight=0.7)
    batch, logistic = batch_of(labels), BACKGROUND in labels
    losses = logistic_losses if logistic else softmax_losses
    expected, right = slow_term(network, objective, batch, logistic)
    assert 0 < right < len(labels)
    found = terms_of(network, objective, batch, losses)
    torch.testing.assert_close(found[NAME], 0.7 * expected)
    shares = objective.measurements()
    assert shares[f"{LAYER}/right_classes"].item() == pytest.approx(right / len(labels))
    # The next step draws anew.
    expected, _ = slow_term(network, objective, batch, logistic, step=1)
    torch.testing.assert_close(terms_of(network, objective, batch, losses)[NAME], 0.7 * expected)


def test_filters_that_all_classes_keep_are_the_ordinary_path():
    """One class, sure of itself, owns every filter: the same loss, the same gradient."""
    network, objective = attached(background=False, weight=1.0)
    with torch.no_grad():
        objective.matrices[0].copy_(torch.tensor([0.0, 60.0, 0.0]).expand(FILTERS, 3))
        network.head.linear.bias.copy_(torch.tensor([0.0, 60.0, 0.0]))
    batch = batch_of([1, 1, 1, 1])
    found = terms_of(network, objective, batch)[NAME]
    weights = list(network.parameters())
    ordinary = nn.functional.cross_entropy(network(batch.images), batch.labels)
    torch.testing.assert_close(found, ordinary)
    expected = torch.autograd.grad(ordinary, weights)
    torch.testing.assert_close(torch.autograd.grad(found, weights), expected)


def test_gradients_reach_the_matrix_and_the_network():
    network, objective = attached()
    terms_of(network, objective, batch_of([0, 1, 2] * 4))[NAME].backward()
    assert objective.matrices[0].grad.abs().sum() > 0
    assert network.convolution.weight.grad.abs().sum() > 0


def test_images_without_a_class_have_no_part():
    network, objective = attached()
    batch = batch_of([BACKGROUND] * 6)
    term = terms_of(network, objective, batch, logistic_losses)[NAME]
    term.backward()
    assert term.item() == 0.0
    assert objective.matrices[0].grad.eq(0).all()  # it has one, as distributed training needs


def test_draws_follow_from_seed_step_and_sample():
    batch = batch_of([0, 1, 2] * 4)
    network, objective = attached()
    first = terms_of(network, objective, batch)
    torch.manual_seed(99)  # draws do not know torch's random state
    same = terms_of(*attached(), batch)
    assert torch.equal(first[NAME], same[NAME])
    assert not torch.equal(first[NAME], terms_of(*attached(seed=1), batch)[NAME])
    order = torch.randperm(12)
    turned = ImageBatch(*(field[order] for field in batch))
    torch.testing.assert_close(terms_of(*attached(), turned)[NAME], first[NAME])
    objective.eval()
    resting = [terms_of(network, objective, batch)[NAME] for _ in range(2)]
    assert torch.equal(*resting)
    assert objective.step.item() == 1


def test_a_resumed_run_draws_what_it_would_have_drawn():
    torch.manual_seed(0)
    system = system_of({"classes": SampledFilterClasses(rate_factor=2.0)})
    trained(system, 3)
    resumed = system_of({"classes": SampledFilterClasses(rate_factor=2.0)})
    resumed.load_state_dict(copy.deepcopy(system.state_dict()))
    assert resumed.objectives["classes"].step.item() == 3
    batch = stripes([0, 1, 2] * 4)
    terms = [s.train().loss_terms(s.run(batch), batch) for s in (system, resumed)]
    torch.testing.assert_close(terms[0], terms[1])


def test_filters_become_clusters_of_classes():
    """A matrix that is sure of itself; one category may be told by silence."""
    torch.manual_seed(0)
    objective = SampledFilterClasses(rate_factor=5.0)
    system = system_of({"classes": objective})
    trained(system, 150)
    found = objective.measurements()
    assert found[f"{LAYER}/certainty"] > 0.8
    assert len(objective.filter_categories(LAYER).unique()) >= CATEGORIES - 1
    batch = stripes([0, 1, 2] * 10, seed=1000)
    assert system.predict(system.eval()(batch.images)).eq(batch.labels).all()


def test_matrix_and_categories_by_hand():
    _, objective = attached(1)
    with torch.no_grad():
        objective.matrices[0].copy_(torch.tensor([[1.0, 1.0]] * 4 + [[0.0, 3.0], [1.0, 0.0]]).log())
    expected = torch.tensor([[0.5, 0.5]] * 4 + [[0.0, 1.0], [1.0, 0.0]])
    torch.testing.assert_close(objective.assignment(LAYER), expected)
    assert objective.filter_categories(LAYER)[4:].tolist() == [BACKGROUND, 0]


def test_it_starts_undecided():
    _, objective = attached(decided=False)
    assignment = objective.assignment(LAYER)
    torch.testing.assert_close(assignment, torch.full_like(assignment, 1 / 3), rtol=0, atol=0.1)
    assert len(assignment.unique()) > FILTERS  # but not the same for all


def test_it_is_safe_under_autocast():
    network, objective = attached()
    with torch.autocast("cpu", torch.bfloat16):
        found = terms_of(network, objective, batch_of([0, 1, 2] * 4))
    assert all(value.dtype == torch.float32 and value.isfinite() for value in found.values())


def step_of_share(number):
    """Gradients after float64 steps on this process's images; all of them for one."""
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
        terms_of(network, objective, batch, logistic_losses)[NAME].backward()
        if ranked:
            for parameter in both.parameters():
                torch.distributed.all_reduce(parameter.grad)
                parameter.grad /= 2
        optimizer.step()
    return {name: p.grad.clone() for name, p in both.named_parameters()}


def test_two_processes_learn_what_one_learns(two_processes):
    expected = step_of_share(12)
    assert expected["1.matrices.0"].abs().sum() > 0
    for found in two_processes(step_of_share, 12):
        for name, gradient in expected.items():
            torch.testing.assert_close(found[name], gradient, rtol=0, atol=1e-10)


def test_what_it_refuses():
    with pytest.raises(ValueError, match="`taps` must name at least one layer"):
        SampledFilterClasses(taps=[])
    with pytest.raises(ValueError, match="`weight` must be >= 0.0"):
        SampledFilterClasses(weight=-1.0)
    with pytest.raises(TypeError, match="`network` must be a Backbone"):
        SampledFilterClasses().attach(nn.Linear(2, 2), 1)
    network, objective = attached()
    with pytest.raises(ValueError, match="`attach` must be called once"):
        objective.attach(network, CATEGORIES)
