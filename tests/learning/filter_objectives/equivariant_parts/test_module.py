import copy

import numpy as np
import pytest
import torch
from torch import nn

from interp_train.activations import ActivationTap
from interp_train.backbones.backbone import Backbone
from interp_train.backbones.heads import ConvolutionalHead
from interp_train.data.views import View
from interp_train.learning.filter_objectives.equivariant_parts import functional
from interp_train.learning.filter_objectives.equivariant_parts.module import EquivariantParts
from interp_train.learning.filter_objectives.equivariant_parts.read_layers import read_by
from interp_train.protocols import FilterObjective, ViewObjective
from interp_train.structures import BACKGROUND, ViewBatch
from tests.learning.filter_objectives.equivariant_parts.slow_terms import (
    CATEGORIES,
    FILTERS,
    SIDE,
    slow_object_terms,
    slow_territory,
)

LAYER = "head.convolution_2"
NEED_OBJECT = ("object", "territory", "coverage")
WEIGHTS = ("equivariance", "concentration", "agreement", *NEED_OBJECT)


def small_network(num_outputs=CATEGORIES):
    steps = {"convolution": nn.Conv2d(3, 4, 3, padding=1), "relu": nn.ReLU()}
    network = Backbone(steps, image_size=SIDE)
    head = ConvolutionalHead(
        4, num_outputs, in_size=(SIDE, SIDE), added_convolutions=2, channels=FILTERS, dropout=0.0
    )
    network.attach_head(head)
    return network


def attached(num_categories=CATEGORIES, **options):
    torch.manual_seed(3)
    network = small_network(num_categories)
    defaults = {"sharpness": 20.0, "num_groups": 4, "every_n_steps": 1}
    objective = EquivariantParts(**{**defaults, **options})
    objective.attach(network, num_categories)
    for attention in objective.attention:
        nn.init.normal_(attention.score.weight)
    return network.train(), objective.train()


def view_batch(photos=4, num_categories=CATEGORIES, seed=0):
    """Two random views of each photo, which are drawn independently: only transforms matter."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.arange(photos).repeat_interleave(2)
    views = [View(3 * n % 5, n % 3, 20 + n, 25 - n, flip=n % 3 == 0) for n in range(2 * photos)]
    transforms = np.stack([view.transform(SIDE) for view in views])
    labels = (torch.arange(photos) % (num_categories + 1)).repeat_interleave(2) - 1
    return ViewBatch(
        torch.randn(2 * photos, 3, SIDE, SIDE, generator=generator),
        labels,
        ids,
        torch.full((2 * photos, 4), torch.nan),
        torch.zeros(2 * photos, 0, 0, 0),
        torch.tensor(transforms),
    )


def terms_of(network, objective, batch, epoch=1):
    with ActivationTap(network, objective.taps) as tap:
        logits = network(batch.images)
    activations = tap.take()
    terms = objective.loss_terms(activations, batch.labels, logits, epoch)
    return {**terms, **objective.view_terms(activations, batch, epoch)}


def test_it_is_an_objective_that_sees_views():
    assert isinstance(EquivariantParts(), FilterObjective)
    assert isinstance(EquivariantParts(), ViewObjective)


def test_it_reads_what_the_relu_takes():
    network, objective = attached()
    assert objective.taps == (LAYER, "relu")  # and what tells the object
    other = EquivariantParts(taps=["head.pool"])
    other.attach(small_network(), CATEGORIES)
    assert other.taps == ("head.pool", "relu")
    first = EquivariantParts(taps=["relu"])  # on its own, not in a sequence
    first.attach(small_network(), CATEGORIES)
    assert first.taps == ("relu",)


def slow_terms(network, objective, batch):
    """All terms from their definitions, with loops over images, filters and groups."""
    with torch.no_grad(), ActivationTap(network, [LAYER, "relu"]) as tap:
        network(batch.images)
    maps = tap.activations[LAYER]
    cells = functional.cell_positions((SIDE, SIDE), network.geometry(LAYER), SIDE, maps)
    member = torch.tensor([[float(label >= 0)] * FILTERS for label in batch.labels])
    ranges = functional.response_range(maps, member)
    weights = functional.cell_weights(maps, ranges, 20.0)
    u, spread = functional.soft_positions(weights, cells)
    groups = torch.stack([(u[:, g] + u[:, g + 4]) / 2 for g in range(4)], dim=1)
    rows = range(len(batch.labels))
    own = [(n, k) for n in rows for k in range(FILTERS) if member[n, k]]
    found = {
        "concentration": sum(spread[n, k] for n, k in own) / len(own),
        "agreement": sum((u[n, k] - groups[n, k % 4]).square().sum() for n, k in own) / len(own),
    }
    before = tap.activations["relu"]
    found |= slow_object_terms(objective, before, batch.labels, weights, groups)
    found["territory"] = slow_territory(objective, maps, ranges, before, batch.labels, weights)
    errors = []
    for first in range(0, len(batch.labels), 2):
        for start, end in ((first, first + 1), (first + 1, first)):
            change = batch.view_transforms.double()
            for k in range(FILTERS):
                if not member[start, k]:
                    continue
                pixel = u[start, k].double() * SIDE - 0.5
                photo = torch.linalg.solve(change[start, :, :2], pixel - change[start, :, 2])
                target = (change[end, :, :2] @ photo + change[end, :, 2] + 0.5) / SIDE
                if ((target >= 0) & (target <= 1)).all():
                    mine = u[member[:, k] > 0, k]
                    variance = (mine - mine.mean(0)).square().sum() / len(mine)
                    error = (target - u[end, k]).square().sum() / (variance + 0.005)
                    errors.append(error)
    found["equivariance"] = sum(errors) / len(errors)
    return {f"{LAYER}/{name}": value for name, value in found.items()}


def test_terms_agree_with_loops():
    network, objective = attached()
    batch = view_batch()
    expected, found = slow_terms(network, objective, batch), terms_of(network, objective, batch)
    assert {name.rsplit("/")[-1] for name in found} == {*WEIGHTS, "attention"}
    for name, value in found.items():
        weight = objective.weights.get(name.rsplit("/")[-1], 1.0)
        assert value.item() == pytest.approx(weight * float(expected[name]), rel=2e-5), name
    assert found[f"{LAYER}/equivariance"] > 0


def test_terms_of_views_take_over_what_the_others_found(monkeypatch):
    network, objective = attached()
    batch = view_batch()
    with ActivationTap(network, objective.taps) as tap:
        logits = network(batch.images)
    activations = tap.take()
    calls, weigh = [], functional.cell_weights
    monkeypatch.setattr(functional, "cell_weights", lambda *a: calls.append(1) or weigh(*a))
    objective.loss_terms(activations, batch.labels, logits, 1)
    found = objective.view_terms(activations, batch, 1)
    assert len(calls) == 1
    again = objective.view_terms(activations, batch, 1)  # nothing is kept after the step
    assert len(calls) == 2
    objective.loss_terms({n: a + 1 for n, a in activations.items()}, batch.labels, logits, 1)
    other = objective.view_terms(activations, batch, 1)  # what belongs to others is not taken
    assert len(calls) == 4
    assert set(found) == {f"{LAYER}/equivariance", f"{LAYER}/attention"}
    for name, value in again.items():
        torch.testing.assert_close(found[name], value)
        torch.testing.assert_close(other[name], value)


@pytest.mark.parametrize("name", WEIGHTS)
def test_a_term_of_weight_zero_is_left_out(name):
    network, objective = attached(**{f"{name}_weight": 0.0})
    found = {key.rsplit("/")[-1] for key in terms_of(network, objective, view_batch())}
    assert found == {*WEIGHTS, "attention"} - {name}


def test_without_the_terms_that_need_it_nothing_is_learned_beside_the_network():
    network, objective = attached(**{f"{name}_weight": 0.0 for name in NEED_OBJECT})
    assert objective.taps == (LAYER,)
    assert not list(objective.parameters())
    found = {key.rsplit("/")[-1] for key in terms_of(network, objective, view_batch())}
    assert found == set(WEIGHTS) - set(NEED_OBJECT)


def test_it_finds_the_map_that_tells_the_object():
    network = small_network()
    assert read_by(network, "head.convolution_2") == "relu"  # the chain's last step
    assert read_by(network, "head.convolution_1") == "relu"
    steps = {"convolution": nn.Conv2d(3, 4, 3, padding=1), "relu": nn.ReLU()}
    standardised = Backbone(steps, image_size=SIDE)
    standardised.attach_head(ConvolutionalHead(4, 1, in_size=(SIDE, SIDE), input_norm=True))
    assert read_by(standardised, "head.convolution_1") == "head.norm"
    frozen = Backbone(
        {"convolution": nn.Conv2d(3, 4, 3, padding=1), "relu": nn.ReLU()}, image_size=SIDE,
        freeze="relu",
    )  # fmt: skip
    frozen.attach_head(ConvolutionalHead(4, 1, in_size=(SIDE, SIDE)))
    assert read_by(frozen, "head.convolution_1") == "head.convolution_1"


def test_views_without_partner_or_transform_have_no_equivariance():
    network, objective = attached()
    batch = view_batch()
    alone = batch._replace(sample_ids=torch.arange(len(batch.labels)))
    unknown = batch._replace(view_transforms=torch.full_like(batch.view_transforms, torch.nan))
    for changed in (alone, unknown):
        found = terms_of(network, objective, changed)
        assert found[f"{LAYER}/equivariance"].item() == 0
        sum(found.values()).backward()
        assert all(p.grad.isfinite().all() for p in network.head.convolution_2.parameters())
        network.zero_grad()
    half = batch.view_transforms.clone()
    half[:2] = torch.nan
    some = terms_of(network, objective, batch._replace(view_transforms=half))
    assert some[f"{LAYER}/equivariance"] > 0


def test_filters_learn_to_follow_a_dot():
    """A dot at a random place; every view shows the whole photo, shifted: R2 rises towards 1."""
    torch.manual_seed(0)
    off = {f"{name}_weight": 0.0 for name in NEED_OBJECT}
    network, objective = attached(num_categories=1, **off)
    optimizer = torch.optim.Adam(network.parameters(), lr=0.01)
    for step in range(40):
        batch, _ = dots(step)
        optimizer.zero_grad()
        sum(terms_of(network, objective, batch).values()).backward()
        optimizer.step()
    batch, places = dots(1000)
    with torch.no_grad(), ActivationTap(network, [LAYER]) as tap:
        network(batch.images)
    shown = batch.labels == 0
    peaks = tap.activations[LAYER][shown].flatten(2).argmax(2)
    found = torch.stack([peaks % SIDE, peaks // SIDE], dim=2).float()
    errors = found - places[shown][:, None].float()
    spread = places[shown].float().var(0).sum()
    r2 = 1 - errors.var(0).sum(1) / spread
    assert r2.median() > 0.9


def dots(seed, photos=16):
    """Photos twice as large as a view; the views of a photo are shifted crops of it."""
    generator = np.random.RandomState(seed)
    images, transforms, labels, places = [], [], [], []
    for photo in range(photos):
        canvas = torch.from_numpy(generator.randn(3, 24, 24)).float() * 0.2
        dot = generator.randint(9, 15, size=2)
        if photo % 4:
            canvas[:, dot[1], dot[0]] = 3.0
        for _ in range(2):
            left, top = (int(n) for n in generator.randint(4, 9, size=2))
            images.append(canvas[:, top : top + SIDE, left : left + SIDE])
            transforms.append(View(left, top, SIDE, SIDE).transform(SIDE))
            labels.append(0 if photo % 4 else BACKGROUND)
            places.append([dot[0] - left, dot[1] - top])
    ids = torch.arange(photos).repeat_interleave(2)
    nowhere = torch.full((len(ids), 4), torch.nan)
    batch = ViewBatch(
        torch.stack(images), torch.tensor(labels), ids, nowhere, torch.zeros(len(ids), 0, 0, 0),
        torch.tensor(np.stack(transforms)),
    )  # fmt: skip
    return batch, torch.tensor(np.array(places))


def gradients_of(network, objective, terms):
    weights = [*network.parameters(), *objective.parameters()]
    found = torch.autograd.grad(sum(terms.values()), weights, allow_unused=True)
    return [torch.zeros_like(w) if g is None else g for w, g in zip(weights, found, strict=True)]


def test_the_terms_of_some_steps_have_the_gradients_of_all():
    network, objective = attached(every_n_steps=3)
    every = attached(every_n_steps=1)
    first, once = (terms_of(*pair, view_batch()) for pair in ((network, objective), every))
    gradients = gradients_of(network, objective, first), gradients_of(*every, once)
    for gradient, expected in zip(*gradients, strict=True):
        torch.testing.assert_close(gradient, 3 * expected, rtol=1e-4, atol=1e-4)
    for seed in (1, 2):  # resting steps repeat the values
        found = terms_of(network, objective, view_batch(seed=seed))
        assert found.keys() == once.keys()
        assert all(torch.equal(found[name], once[name]) for name in once)
    found = terms_of(network, objective, view_batch(seed=3))
    assert not torch.equal(found[f"{LAYER}/concentration"], once[f"{LAYER}/concentration"])
    assert gradients_of(network, objective, found)[0].abs().sum() > 0


def test_a_resting_step_has_a_gradient_of_zero_for_what_ddp_waits_for():
    network, objective = attached(every_n_steps=2)
    terms_of(network, objective, view_batch())
    found = terms_of(network, objective, view_batch(seed=1))
    gradients = torch.autograd.grad(sum(found.values()), [*objective.parameters()])
    assert all(gradient.abs().sum() == 0 for gradient in gradients)


def test_each_epoch_starts_with_a_step_of_terms_and_evaluation_has_them_always():
    network, objective = attached(every_n_steps=2)
    terms_of(network, objective, view_batch())
    first = terms_of(network, objective, view_batch(seed=1), epoch=2)
    assert first[f"{LAYER}/concentration"].requires_grad
    objective.eval()
    seen = terms_of(network, objective, view_batch(seed=2), epoch=2)
    assert seen[f"{LAYER}/concentration"] != first[f"{LAYER}/concentration"]
    objective.train()
    rest = terms_of(network, objective, view_batch(seed=2), epoch=2)
    assert rest[f"{LAYER}/concentration"] == first[f"{LAYER}/concentration"]
    assert not rest[f"{LAYER}/concentration"].requires_grad


def test_it_is_safe_under_autocast():
    network, objective = attached()
    batch = view_batch()
    with torch.autocast("cpu", torch.bfloat16):
        found = terms_of(network, objective, batch)
    assert all(value.dtype == torch.float32 and value.isfinite() for value in found.values())


def test_measurements_by_hand():
    _, objective = attached(num_categories=1, **{f"{name}_weight": 0.0 for name in NEED_OBJECT})
    maps = torch.full((2, FILTERS, SIDE, SIDE), -50.0)
    maps[0, :, 2, 3] = 50.0  # 1/12 of the side per cell
    maps[1, :, 2, 9] = 50.0
    maps[1, 1] -= 90.0
    labels = torch.zeros(2, dtype=torch.long)
    objective.loss_terms({LAYER: maps}, labels, torch.zeros(2, 1), 1)
    found = objective.measurements()
    assert found[f"{LAYER}/variance"].item() == pytest.approx((3 / 12) ** 2, rel=1e-4)
    assert found[f"{LAYER}/spread"].item() == pytest.approx(0, abs=1e-3)
    assert found[f"{LAYER}/detected"].item() == pytest.approx((2 * FILTERS - 1) / (2 * FILTERS))


def step_of_share(number, views):
    """Gradients of one float64 step on this process's photos; the whole batch for one."""
    network, objective = attached(num_categories=2)
    network.double(), objective.double()
    batch = view_batch(photos=number)
    ranked = torch.distributed.is_initialized()
    half = len(batch.labels) // 2
    first = torch.distributed.get_rank() * half if ranked else 0
    share = slice(first, first + half) if ranked else slice(None)
    if views:
        batch = batch._replace(boxes=torch.tensor([[1.5, 0.5, 7.5, 5.5]]).expand(len(batch[1]), 4))
    batch = ViewBatch(*(field[share] for field in batch))
    batch = batch._replace(images=batch.images.double())
    trained = nn.parallel.DistributedDataParallel(network) if ranked else network
    with ActivationTap(network, objective.taps) as tap:
        logits = trained(batch.images)
    activations = tap.take()
    terms = objective.loss_terms(activations, batch.labels, logits, 1)
    if views:
        terms |= objective.view_terms(activations, batch, 1)
    (logits.sum() * 0 + sum(terms.values())).backward()
    gradients = {name: p.grad.clone() for name, p in network.named_parameters()}
    return gradients, {name: value.detach() for name, value in terms.items()}


@pytest.mark.parametrize("views", [True, False])
def test_two_processes_learn_what_one_learns(two_processes, views):
    expected, terms = step_of_share(6, views)
    for found, found_terms in two_processes(step_of_share, 6, views):
        for name, value in terms.items():
            torch.testing.assert_close(found_terms[name], value, rtol=1e-9, atol=1e-12)
        for name, gradient in expected.items():
            torch.testing.assert_close(found[name], gradient, rtol=1e-8, atol=1e-12)


def test_what_it_refuses():
    with pytest.raises(ValueError, match="`taps` must name at least one layer"):
        EquivariantParts(taps=[])
    with pytest.raises(ValueError, match="`coverage_weight` must be >= 0"):
        EquivariantParts(coverage_weight=-1)
    with pytest.raises(ValueError, match="`num_groups` must be >= 1"):
        EquivariantParts(num_groups=0)
    with pytest.raises(ValueError, match="`every_n_steps` must be >= 1"):
        EquivariantParts(every_n_steps=0)
    with pytest.raises(ValueError, match="`box_share` must be >= 0 and <= 1"):
        EquivariantParts(box_share=1.5)
    with pytest.raises(TypeError, match="`network` must be a Backbone"):
        EquivariantParts().attach(nn.Linear(2, 2), 1)
    _, objective = attached()
    with pytest.raises(ValueError, match="`attach` must be called once"):
        objective.attach(small_network(), CATEGORIES)


def test_copies_learn_alike():
    network, objective = attached()
    twin = copy.deepcopy((network, objective))
    batch = view_batch()
    first, second = terms_of(network, objective, batch), terms_of(*twin, batch)
    assert all(torch.equal(first[name], second[name]) for name in first)
