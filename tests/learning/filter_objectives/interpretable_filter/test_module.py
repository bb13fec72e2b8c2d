import copy

import pytest
import torch
from torch import nn

from interp_train.activations import ActivationTap
from interp_train.backbones.backbone import Backbone
from interp_train.backbones.heads import ConvolutionalHead
from interp_train.learning.filter_objectives.interpretable_filter import functional
from interp_train.learning.filter_objectives.interpretable_filter.module import (
    LOSSES,
    InterpretableFilter,
    partner_centres,
)
from interp_train.protocols import FilterObjective
from interp_train.structures import BACKGROUND

FILTERS, SIDE, CATEGORIES = 6, 8, 3
TAPS = ("added_1", "added_2")


def small_network(num_outputs=CATEGORIES):
    steps = {"convolution": nn.Conv2d(3, FILTERS, 3, padding=1), "relu": nn.ReLU()}
    network = Backbone(steps, image_size=SIDE)
    head = ConvolutionalHead(
        FILTERS, num_outputs, in_size=(SIDE, SIDE), added_convolutions=2, dropout=0.0
    )
    network.attach_head(head)
    return network


def attached(network=None, num_categories=CATEGORIES, **options):
    network = small_network(num_categories) if network is None else network
    objective = InterpretableFilter(options.pop("taps", TAPS), **options)
    objective.attach(network, num_categories)
    return network.train(), objective.train()


def images_and_labels(number=8, num_categories=CATEGORIES):
    labels = torch.arange(number) % num_categories
    return torch.randn(number, 3, SIDE, SIDE), labels


def step(network, objective, images, labels, *, epoch=1, task=True):
    """One forward and backward pass as in training; returns the terms."""
    with ActivationTap(network, objective.layers) as tap:
        logits = network(images)
        terms = objective.loss_terms(tap.take(), labels, logits, epoch)
    loss = nn.functional.cross_entropy(logits, labels.clamp(min=0)) if task else 0.0
    (loss + sum(terms.values())).backward()
    return terms


def gradients(network):
    return {name: p.grad.clone() for name, p in network.named_parameters() if p.grad is not None}


def recorded(network, images, layer="head.relu_2"):
    with torch.no_grad(), ActivationTap(network, [layer]) as tap:
        network(images)
    return tap.activations[layer]


def test_it_is_a_filter_objective():
    assert isinstance(InterpretableFilter(), FilterObjective)


@pytest.mark.parametrize("center", ["argmax", "centroid"])
def test_the_mask_follows_the_layer_but_the_tap_reads_before_it(center):
    network = small_network()
    ordinary = copy.deepcopy(network)
    network, _ = attached(network, taps=["last"], center=center, slope="fixed")
    images, _ = images_and_labels()
    maps = recorded(network, images)
    torch.testing.assert_close(maps, recorded(ordinary, images))
    seen = []
    handle = network.get_submodule("head.pool").register_forward_pre_hook(
        lambda module, inputs: seen.append(inputs[0])
    )
    network(images)
    handle.remove()
    centres = getattr(functional, f"{center}_centre")(maps)
    declines = functional.paper_declines(4.0, (SIDE, SIDE), maps)
    template = functional.template_maps(centres, declines, (SIDE, SIDE))
    torch.testing.assert_close(seen[0], (maps * template).clamp(min=0))


def test_without_mask_and_weight_it_changes_nothing():
    network = small_network()
    ordinary = copy.deepcopy(network)
    network, objective = attached(network, mask=False, weight=0.0)
    images, labels = images_and_labels()
    step(network, objective, images, labels)
    nn.functional.cross_entropy(ordinary.train()(images), labels).backward()
    for name, parameter in ordinary.named_parameters():
        torch.testing.assert_close(network.get_parameter(name).grad, parameter.grad)


def test_the_mask_is_constant_in_the_backward_pass():
    network, _ = attached(taps=["last"], weight=0.0)
    maps = torch.rand(2, FILTERS, SIDE, SIDE, requires_grad=True)
    relu = network.get_submodule("head.relu_2")
    masked = relu(maps)
    masked.sum().backward()
    torch.testing.assert_close(maps.grad * maps.detach(), masked.detach())


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("scale_free", [True, False])
def test_gradient_at_the_map_is_that_of_the_functional(loss, scale_free):
    network, objective = attached(
        taps=["last"], loss=loss, weight=2.0, schedule="inverse_epoch", tau=2.0, kappa=3.0,
        balance=True, scale_free=scale_free,
    )  # fmt: skip
    images, labels = images_and_labels()
    maps = recorded(network, images).requires_grad_()
    logits = torch.zeros(len(labels), CATEGORIES)
    (term,) = objective.loss_terms({"head.relu_2": maps}, labels, logits, 4).values()
    term.backward()
    scale = 3.0 / maps.detach().amax((2, 3)).mean()
    scaled = (maps.detach() * scale).requires_grad_()
    templates = functional.filter_templates((SIDE, SIDE), 2.0, 4.0)
    prior = functional.template_prior(SIDE**2, None, templates)
    scores = scaled.flatten(2) @ templates.flatten(1).T
    positive = labels[:, None] == objective.filter_categories("head.relu_2")
    if loss == "exact_mutual_information":
        value = -functional.mutual_information(scores, prior).sum()
        (expected,) = torch.autograd.grad(value, scaled)
        torch.testing.assert_close(term.detach(), 2.0 / 4 * value.detach())
    else:
        assert term.item() == 0.0  # a gradient without a value must not be read as a loss
        centres = functional.centroid_centre(scaled.detach())
        rare = torch.full((FILTERS,), 1.0)
        shares = torch.bincount(labels, minlength=CATEGORIES) / len(labels)
        share = shares[objective.filter_categories("head.relu_2")]
        weights = (0.5 / share * rare, 0.5 / (1 - share) * rare)
        own = centres[..., 0] * SIDE + centres[..., 1]
        chosen = torch.where(positive, own.long(), SIDE**2)
        declines = functional.paper_declines(4.0, (SIDE, SIDE), scaled)
        if loss == "paper_approximation":
            expected = functional.paper_gradient(scores.detach(), prior, templates, chosen)
            expected = expected * torch.where(positive, *weights)[..., None, None]
        else:
            partners = partner_centres(centres, scaled.detach())
            expected = functional.released_gradient(
                scaled.detach(),
                functional.template_maps(centres, declines, (SIDE, SIDE)),
                functional.template_maps(partners, declines, (SIDE, SIDE)),
                positive,
                tau=2.0,
                weights=weights,
            ) / len(labels)
    if scale_free:
        expected = functional.without_growth(expected, scaled.detach())
    torch.testing.assert_close(maps.grad, 2.0 / 4 * scale * expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("loss", LOSSES)
def test_one_small_step_raises_the_mutual_information(loss):
    network, objective = attached(
        num_categories=1, taps=["last"], loss=loss, kappa=20.0, tau=0.5, center="argmax",
        schedule="constant", weight=1.0, slope="fixed", normalisation="filter",
    )  # fmt: skip
    maps = torch.rand(16, FILTERS, SIDE, SIDE).sub(0.7).relu().requires_grad_()
    logits, labels = torch.zeros(16, 1), torch.zeros(16, dtype=torch.long)
    (term,) = objective.loss_terms({"head.relu_2": maps}, labels, logits, 1).values()
    before = objective.measurements()["head.relu_2/mutual_information"]
    (gradient,) = torch.autograd.grad(term, maps)
    moved = maps.detach() - 0.01 * gradient / gradient.norm() * maps.detach().norm()
    objective.loss_terms({"head.relu_2": moved.requires_grad_()}, labels, logits, 1)
    assert objective.measurements()["head.relu_2/mutual_information"] > before


def test_schedule_of_the_paper_is_the_mean_largest_activation_over_the_epoch():
    images, labels = images_and_labels()
    found = {}
    for schedule in ("paper", "constant"):
        torch.manual_seed(1)
        network, objective = attached(taps=["last"], schedule=schedule)
        step(network, objective, images, labels, epoch=5, task=False)
        found[schedule] = gradients(network)["head.convolution_2.weight"]
        scale = recorded(network, images).amax((2, 3)).mean()
    torch.testing.assert_close(found["paper"], found["constant"] * scale / 5)


def test_unseen_scale_does_not_matter_for_the_direction():
    torch.manual_seed(2)
    maps = torch.rand(8, FILTERS, SIDE, SIDE)
    labels = images_and_labels()[1]
    directions = []
    for factor in (1.0, 50.0):
        _, objective = attached(taps=["last"], schedule="constant")
        leaf = (maps * factor).requires_grad_()
        (term,) = objective.loss_terms(
            {"head.relu_2": leaf}, labels, torch.zeros(8, CATEGORIES), 1
        ).values()
        directions.append(torch.autograd.grad(term, leaf)[0] * factor)
    torch.testing.assert_close(*directions)


def test_relative_weight_is_the_ratio_of_the_gradient_norms_at_the_map():
    network, objective = attached(taps=["last"], relative_to_task=True, slope="fixed", weight=0.5)
    images, labels = images_and_labels()
    first = step(network, objective, images, labels)
    assert objective.measurements()["head.relu_2/gradient_ratio"] == 0.0
    assert first["head.relu_2"].grad_fn is not None
    step(network, objective, images, labels, epoch=1)
    # The second step's task gradient is the first's: no weight has moved.
    ratio = objective.measurements()["head.relu_2/gradient_ratio"]
    assert ratio.item() == pytest.approx(0.5, rel=1e-5)


def test_relative_weight_ignores_a_factor_on_the_whole_loss():
    images, labels = images_and_labels()
    norms = []
    for factor in (1.0, 64.0):
        torch.manual_seed(3)
        network, objective = attached(taps=["last"], relative_to_task=True)
        with ActivationTap(network, objective.layers) as tap:
            logits = network(images)
            terms = objective.loss_terms(tap.take(), labels, logits, 1)
        loss = nn.functional.cross_entropy(logits, labels) + sum(terms.values())
        (factor * loss).backward()
        norms.append(objective.filter_layers[0].task_gradient)
    torch.testing.assert_close(*norms)


def test_filters_belong_to_the_category_that_excites_them_most():
    _, objective = attached(taps=["last"], assignment="sum")
    maps = torch.full((6, FILTERS, SIDE, SIDE), 0.1)
    labels = torch.tensor([0, 0, 1, 1, 2, BACKGROUND])
    for unit in range(FILTERS):
        maps[labels == unit % CATEGORIES, unit] = 1.0
    maps[5] = 5.0  # the background names no category
    logits = torch.zeros(6, CATEGORIES)
    objective.loss_terms({"head.relu_2": maps.requires_grad_()}, labels, logits, 1)
    assert objective.filter_categories("head.relu_2").tolist() == [0, 1, 2, 0, 1, 2]


def test_strengths_are_an_exponential_mean_over_batches_of_the_category():
    _, objective = attached(taps=["last"], momentum=0.75, assignment="max")
    logits = torch.zeros(2, CATEGORIES)
    for level, label in ((1.0, 0), (2.0, 0), (4.0, 1)):
        maps = torch.full((2, FILTERS, SIDE, SIDE), level)
        objective.loss_terms({"head.relu_2": maps}, torch.tensor([label, -1]), logits, 1)
    strength = objective.filter_layers[0].strength[0]
    assert strength.tolist() == pytest.approx([0.75 * 1 + 0.25 * 2, 4.0, 0.0])
    # The scale averages over all images: 1, then 1.25, then 1.9375.
    assert objective.filter_layers[0].activation_scale[0].item() == pytest.approx(1.9375)


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("labels", [[BACKGROUND] * 4, [0] * 4, [BACKGROUND, 0, 0, 0]])
def test_batches_of_one_kind_of_image_are_no_accident(loss, labels):
    network, objective = attached(num_categories=1, loss=loss)
    images = torch.randn(4, 3, SIDE, SIDE)
    terms = step(network, objective, images, torch.tensor(labels), task=False)
    assert all(term.grad_fn is not None for term in terms.values())
    assert all(gradient.isfinite().all() for gradient in gradients(network).values())
    counted = objective.measurements()["head.relu_2/batches_without_positives"]
    assert counted == float(max(labels) == BACKGROUND)


@pytest.mark.parametrize("loss", LOSSES)
def test_dead_filters_and_a_single_image_stay_finite(loss):
    network, objective = attached(loss=loss, normalisation="filter", weight=1.0)
    with torch.no_grad():
        network.get_submodule("head.convolution_2").bias[:3] = -100.0
    step(network, objective, torch.randn(1, 3, SIDE, SIDE), torch.tensor([0]))
    assert all(gradient.isfinite().all() for gradient in gradients(network).values())
    assert objective.measurements()["head.relu_2/dead_filters"] >= 0.5


@pytest.mark.parametrize("loss", LOSSES)
def test_bfloat16_autocast_gives_nearly_the_same_gradient(loss):
    images, labels = images_and_labels()
    found = []
    for enabled in (False, True):
        torch.manual_seed(4)
        network, objective = attached(taps=["last"], loss=loss, slope="fixed", tau=2.0)
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            terms = step(network, objective, images, labels, task=False)
        assert terms["head.relu_2"].dtype == torch.float32
        found.append(gradients(network)["head.convolution_2.weight"].flatten())
    assert torch.cosine_similarity(*found, dim=0) > 0.9


def test_a_learned_slope_moves_towards_its_target_and_shapes_the_mask():
    network, objective = attached(
        num_categories=1, taps=["last"], loss="released_gradient", slope="learned", slope_rate=0.5
    )
    maps = torch.zeros(1, FILTERS, SIDE, SIDE)
    maps[..., 3, 3] = 1.0  # no spread: the target is the upper end, 3
    logits = torch.zeros(1, 1)
    objective.loss_terms({"head.relu_2": maps.requires_grad_()}, torch.tensor([0]), logits, 1)
    slopes = objective.filter_layers[0].slopes
    torch.testing.assert_close(slopes, torch.full((FILTERS,), 2.5))
    masked = network.get_submodule("head.relu_2")(torch.ones(1, FILTERS, SIDE, SIDE))
    # Centroid of a uniform map is 3.5, rounded to 4; one cell away: 1 - 2.5 * 2 / 7.
    assert masked[0, 0, 4, 5].item() == pytest.approx(1 - 5 / 7)


def test_evaluation_changes_no_state_and_needs_no_gradient():
    network, objective = attached(loss="exact_mutual_information")
    images, labels = images_and_labels()
    step(network, objective, images, labels)
    before = copy.deepcopy(objective.state_dict())
    network.eval(), objective.eval()
    with torch.inference_mode(), ActivationTap(network, objective.layers) as tap:
        logits = network(images)
        terms = objective.loss_terms(tap.take(), labels, logits, 1)
    assert all(term < 0 for term in terms.values())
    assert objective.measurements() == {}
    for name, value in objective.state_dict().items():
        torch.testing.assert_close(value, before[name])


def test_state_survives_a_checkpoint():
    network, objective = attached(loss="released_gradient", slope="learned")
    step(network, objective, *images_and_labels())
    other = InterpretableFilter(TAPS)  # the learned slopes are part of the state
    other.attach(small_network(), CATEGORIES)
    other.load_state_dict(objective.state_dict())
    torch.testing.assert_close(other.state_dict(), objective.state_dict())


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")  # torch looks at it itself
def test_a_compiled_network_learns_the_same():
    images, labels = images_and_labels()
    found = []
    for compiled in (False, True):
        torch.manual_seed(5)
        network, objective = attached(taps=["last"])
        with ActivationTap(network, objective.layers) as tap:
            forward = torch.compile(network, backend="aot_eager") if compiled else network
            logits = forward(images)
            terms = objective.loss_terms(tap.take(), labels, logits, 1)
        (nn.functional.cross_entropy(logits, labels) + sum(terms.values())).backward()
        found.append(gradients(network))
        found[-1]["task"] = objective.filter_layers[0].task_gradient
    assert found[0].keys() == found[1].keys()
    for name, gradient in found[0].items():
        torch.testing.assert_close(found[1][name], gradient)


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("taps", (), "`taps` must name at least one layer"),
        ("loss", "exact", "`loss` must be one of 'exact_mutual_information'"),
        ("schedule", "linear", "`schedule` must be one of"),
        ("center", "middle", "`center` must be one of 'argmax', 'centroid'"),
        ("slope", "steep", "`slope` must be one of"),
        ("normalisation", "batch", "`normalisation` must be one of"),
        ("assignment", "mean", "`assignment` must be one of"),
        ("weight", -1.0, "`weight` must be >= 0.0"),
        ("alpha", 1.5, "`alpha` must be >= 0.0 and <= 1.0, but got 1.5"),
        ("momentum", float("nan"), "`momentum` must be"),
    ],
)
def test_wrong_options_are_named(option, value, message):
    with pytest.raises(ValueError, match=message):
        InterpretableFilter(**{option: value})


def test_wrong_networks_and_layers_are_named():
    with pytest.raises(TypeError, match="`network` must be a Backbone, but got Linear"):
        InterpretableFilter().attach(nn.Linear(2, 2), 1)
    with pytest.raises(ValueError, match=r"`layer` must name .* 'added_3'.*'added_"):
        attached(taps=["added_3"])
    network, objective = attached()
    with pytest.raises(ValueError, match="`attach` must be called once"):
        objective.attach(network, CATEGORIES)
