import math

import numpy as np
import pytest
import torch

from interp_train.learning.filter_objectives.interpretable_filter import functional

N, K, SIDE = 6, 3, 5


@pytest.fixture
def maps():
    """Sparse maps as after a ReLU; the last map of filter 0 is empty."""
    maps = torch.rand(N, K, SIDE, SIDE, dtype=torch.double).sub(0.5).relu() * 4
    maps[-1, 0] = 0
    return maps


def slow_template(centre, size, decline_row, decline_column):
    """max(1 - decline * distance, -1), cell by cell."""
    template = np.zeros(size)
    for i in range(size[0]):
        for j in range(size[1]):
            distance = decline_row * abs(i - centre[0]) + decline_column * abs(j - centre[1])
            template[i, j] = max(1 - distance, -1)
    return template


def slow_released_gradient(x, slopes, positive, alpha, w_pos, w_neg):
    """The released programme for one category, with its loops, names and 1-based centres.

    x: (H, W, D, B) with H = W; returns the gradient in the same layout, without the factor of
    the schedule.
    """
    n, _, depth, batch = x.shape
    axis = np.linspace(-1, 1, n)
    mask = np.zeros_like(x)
    for d in range(depth):
        for b in range(batch):
            total = max(x[:, :, d, b].sum(), 1e-9)
            row = sum((r + 1) * x[r, c, d, b] for r in range(n) for c in range(n)) / total
            column = sum((c + 1) * x[r, c, d, b] for r in range(n) for c in range(n)) / total
            row = max(math.floor(row + 0.5), 1)  # MATLAB rounds halves away from zero
            column = max(math.floor(column + 0.5), 1)
            for r in range(n):
                for c in range(n):
                    distance = abs(axis[r] - axis[row - 1]) + abs(axis[c] - axis[column - 1])
                    mask[r, c, d, b] = max(1 - slopes[d] * distance, -1)
    gradient = np.zeros_like(x)
    reversed_mask = mask[:, :, ::-1, ::-1]
    for d in range(depth):
        strength = [np.mean(x[:, :, d, b] * mask[:, :, d, b]) for b in range(batch)]
        pairs = [np.mean(x[:, :, d, b] * reversed_mask[:, :, d, b]) for b in range(batch)]
        minus = [-np.mean(x[:, :, d, b]) for b in range(batch)]
        log_z_positive = alpha * math.log(np.mean([math.exp(v / alpha) for v in pairs]))
        log_z_negative = alpha * math.log(np.mean([math.exp(v / alpha) for v in minus]))
        pull = {
            b: math.exp(strength[b] / alpha) * (strength[b] - log_z_positive + alpha)
            for b in range(batch)
            if positive[b, d]
        }
        push = {
            b: math.exp(minus[b] / alpha) * (minus[b] - log_z_negative + alpha)
            for b in range(batch)
            if not positive[b, d]
        }
        for b, r in pull.items():
            gradient[:, :, d, b] -= mask[:, :, d, b] * r / np.mean(list(pull.values())) * w_pos
        for b, q in push.items():
            gradient[:, :, d, b] += q / np.mean(list(push.values())) * w_neg
    return gradient


def slow_information(x, tau, beta):
    """Eq. 3 of the paper for one filter, x (N, n, n), with loops over templates and images."""
    number, n, _ = x.shape
    alpha = n**2 / (1 + n**2)
    templates = [
        (tau / n**2 * slow_template((i, j), (n, n), beta / n, beta / n), alpha / n**2)
        for i in range(n)
        for j in range(n)
    ]
    templates.append((np.full((n, n), -tau / n**2), 1 - alpha))
    conditional = []
    for template, _ in templates:
        likelihood = [math.exp((x[k] * template).sum()) for k in range(number)]
        conditional.append([v / sum(likelihood) for v in likelihood])
    marginal = [
        sum(p * conditional[t][k] for t, (_, p) in enumerate(templates)) for k in range(number)
    ]
    return sum(
        p * conditional[t][k] * math.log(conditional[t][k] / marginal[k])
        for t, (_, p) in enumerate(templates)
        for k in range(number)
    )


def scores_of(maps, tau=40.0, beta=4.0):
    templates = functional.filter_templates((SIDE, SIDE), tau, beta, maps)
    prior = functional.template_prior(SIDE**2, None, maps)
    return maps.flatten(2) @ templates.flatten(1).T, templates, prior


@pytest.mark.parametrize("position", [(0, 0), (2, 4), (4, 4)])
def test_templates_agree_with_the_paper_cell_by_cell(position):
    size = (5, 7)
    templates = functional.filter_templates(size, 0.5, 4.0, torch.empty(0, dtype=torch.double))
    index = position[0] * size[1] + position[1]
    expected = 0.5 / 35 * slow_template(position, size, 4 / 5, 4 / 7)
    np.testing.assert_allclose(templates[index].numpy(), expected, atol=1e-15)


def test_templates_have_the_values_of_the_paper():
    # n = 14: tau = .5 / 196; the floor -tau is reached from distance 2 n / beta = 7 on.
    templates = functional.filter_templates((14, 14), 0.5, 4.0)
    tau = 0.5 / 196
    assert templates.shape == (197, 14, 14)
    centre = templates[5 * 14 + 5]
    assert centre[5, 5].item() == pytest.approx(tau)
    assert centre[5, 6].item() == pytest.approx(tau * (1 - 4 / 14))
    assert centre[12, 5].item() == pytest.approx(-tau)
    assert centre.min().item() == pytest.approx(-tau)
    torch.testing.assert_close(templates[-1], torch.full((14, 14), -tau))


def test_prior_gives_every_template_of_the_paper_the_same_probability():
    prior = functional.template_prior(9, None, torch.empty(0))
    torch.testing.assert_close(prior, torch.full((10,), 0.1))
    assert functional.template_prior(4, 0.8, torch.empty(0)).tolist() == pytest.approx(
        [0.2, 0.2, 0.2, 0.2, 0.2]
    )


def test_centres_of_known_maps():
    maps = torch.zeros(1, 3, 4, 5)
    maps[0, 0, 1, 3] = 2.0  # one cell
    maps[0, 1, 0, 0] = 1.0  # half way between row 0 and row 1: halves round up
    maps[0, 1, 1, 0] = 1.0
    assert functional.argmax_centre(maps)[0].tolist() == [[1, 3], [0, 0], [0, 0]]
    assert functional.centroid_centre(maps)[0].tolist() == [[1, 3], [1, 0], [0, 0]]


def test_mask_is_the_positive_part_and_leaves_the_centre_alone(maps):
    centres = functional.argmax_centre(maps)
    declines = functional.paper_declines(4.0, (SIDE, SIDE), maps)
    masks = functional.mask_maps(centres, declines, (SIDE, SIDE))
    templates = functional.template_maps(centres, declines, (SIDE, SIDE))
    torch.testing.assert_close(maps * masks, (maps * templates).clamp(min=0))
    torch.testing.assert_close((maps * masks).amax((2, 3)), maps.amax((2, 3)))


def test_learned_slope_of_two_is_close_to_the_paper_on_large_maps():
    like = torch.empty(0)
    learned = functional.learned_declines(torch.tensor([2.0]), (101, 101))[0]
    paper = functional.paper_declines(4.0, (100, 100), like)[0]
    assert learned.item() == pytest.approx(paper.item())


def test_information_agrees_with_loops_over_templates_and_images(maps):
    scores, _, prior = scores_of(maps, tau=40.0)
    information = functional.mutual_information(scores, prior)
    expected = [slow_information(maps[:, k].numpy(), 40.0, 4.0) for k in range(K)]
    np.testing.assert_allclose(information.numpy(), expected, rtol=1e-12)


def test_information_of_one_image_is_zero_and_of_perfect_filters_near_its_bound(maps):
    scores, _, prior = scores_of(maps[:1])
    torch.testing.assert_close(
        functional.mutual_information(scores, prior), torch.zeros(K, dtype=torch.double)
    )
    # Two images, two templates of the same probability, each certain of another image: log 2.
    scores = torch.tensor([[[50.0, 0.0]], [[0.0, 50.0]]], dtype=torch.double)
    information = functional.mutual_information(scores, torch.tensor([0.5, 0.5]).double())
    assert information.item() == pytest.approx(math.log(2))


def test_information_passes_gradcheck(maps):
    def information(leaf):
        scores, _, prior = scores_of(leaf)
        return functional.mutual_information(scores, prior)

    assert torch.autograd.gradcheck(information, (maps.requires_grad_(),))


def closed_form(maps, scores, templates, prior, baseline):
    """-sum_T p(T) q_T(k) { log[q_T(k) / p(x_k)] - KL(q_T || p) } T; without KL if not baseline."""
    likelihood = scores.softmax(0)
    marginal = likelihood @ prior
    log_ratio = (likelihood / marginal[..., None]).log()
    divergence = (likelihood * log_ratio).sum(0) if baseline else 0.0
    weights = prior * likelihood * (log_ratio - divergence)
    return -torch.einsum("nkt,thw->nkhw", weights, templates)


def test_autograd_equals_the_closed_form_with_the_divergence_as_baseline(maps):
    leaf = maps.clone().requires_grad_()
    scores, templates, prior = scores_of(leaf)
    loss = -functional.mutual_information(scores, prior).sum()
    (gradient,) = torch.autograd.grad(loss, leaf)
    expected = closed_form(maps, scores.detach(), templates, prior, baseline=True)
    torch.testing.assert_close(gradient, expected, rtol=0, atol=1e-14)


def test_printed_equation_points_uphill_and_its_negative_downhill():
    maps = torch.rand(40, K, SIDE, SIDE, dtype=torch.double).sub(0.5).relu() * 4
    scores, templates, prior = scores_of(maps, tau=0.5)
    true = closed_form(maps, scores, templates, prior, baseline=True).flatten()
    printed = -closed_form(maps, scores, templates, prior, baseline=False).flatten()
    assert torch.cosine_similarity(-printed, true, dim=0) > 0.5
    assert torch.cosine_similarity(printed, true, dim=0) < -0.5


def test_paper_gradient_agrees_with_loops_and_descends(maps):
    maps = maps[:-1]
    scores, templates, prior = scores_of(maps)
    chosen = scores.argmax(2)
    gradient = functional.paper_gradient(scores, prior, templates, chosen)
    q = scores.softmax(0).numpy()
    for n in range(len(maps)):
        for k in range(K):
            t = chosen[n, k].item()
            log_z = math.log(sum(math.exp(scores[m, k, t]) for m in range(len(maps))))
            p_x = sum(prior[s].item() * q[n, k, s] for s in range(len(prior)))
            bracket = scores[n, k, t].item() - log_z - math.log(p_x)
            factor = prior[t].item() / math.exp(log_z) * math.exp(scores[n, k, t]) * bracket
            expected = -factor * templates[t].numpy()
            np.testing.assert_allclose(gradient[n, k].numpy(), expected, atol=1e-15)
    true = closed_form(maps, scores, templates, prior, baseline=True)
    assert torch.cosine_similarity(gradient.flatten(), true.flatten(), dim=0) > 0


@pytest.mark.parametrize("weights", [(1.0, 1.0), (2.5, 0.625)])
def test_released_gradient_agrees_with_the_programme(maps, weights):
    slopes = torch.tensor([2.0, 1.5, 2.7], dtype=torch.double)
    positive = torch.tensor([[1, 1, 0], [1, 0, 1], [0, 1, 0], [1, 1, 0], [0, 0, 0], [1, 0, 1]])
    positive = positive.bool()
    size = (SIDE, SIDE)
    centres = functional.centroid_centre(maps)
    templates = functional.template_maps(centres, functional.learned_declines(slopes, size), size)
    gradient = functional.released_gradient(
        maps,
        templates,
        templates.flip((0, 1)),
        positive,
        tau=2.0,
        weights=tuple(torch.full((K,), w, dtype=torch.double) for w in weights),
    )
    x = maps.permute(2, 3, 1, 0).numpy()
    expected = slow_released_gradient(x, slopes.numpy(), positive.numpy(), 0.5, *weights)
    np.testing.assert_allclose(gradient.numpy(), expected.transpose(3, 2, 0, 1), atol=1e-12)


def test_a_filter_without_positive_images_is_only_pushed_down(maps):
    templates = torch.ones_like(maps)
    ones = torch.ones(K, dtype=torch.double)
    for positive in (torch.zeros(N, K).bool(), torch.ones(N, K).bool()):
        gradient = functional.released_gradient(
            maps, templates, templates, positive, tau=2.0, weights=(ones, ones)
        )
        assert gradient.isfinite().all()
        mean = gradient.mean(0)
        torch.testing.assert_close(mean, torch.full_like(mean, -1.0 if positive.any() else 1.0))


def test_slope_target_of_a_hand_made_map():
    # Activation at distance 2 on both sides of the centre: spread 2, target 3 / 2.
    maps = torch.zeros(1, 2, 5, 5)
    maps[0, :, 2, 0] = maps[0, :, 2, 4] = 1.0
    maps[0, 1, 2, 2] = 2.0  # spread sqrt(8 / 4), target 3 / 1.414
    centres = functional.centroid_centre(maps)
    spread = functional.spread_around(maps, centres)
    assert spread[0].tolist() == pytest.approx([2.0, math.sqrt(2)])
    positive = torch.tensor([[True, True]])
    targets = functional.slope_targets(torch.ones(1, 2), spread, positive)
    assert targets.tolist() == pytest.approx([1.5, 3 / math.sqrt(2)])
    assert functional.slope_targets(torch.ones(1, 2), spread, ~positive).isnan().all()


def test_effective_images_counts_equal_gradients():
    gradient = torch.zeros(4, 2, 3, 3)
    gradient[:3, 0] = 1.0
    assert functional.effective_images(gradient).tolist() == pytest.approx([3.0, 0.0])


def halves_of_information(maps):
    rank = torch.distributed.get_rank()
    leaf = maps[rank * 3 : rank * 3 + 3].clone().requires_grad_()
    scores, _, prior = scores_of(leaf)
    information = functional.mutual_information(scores, prior, across=True)
    (gradient,) = torch.autograd.grad(information.sum(), leaf)
    return information.detach(), gradient / 2


def test_information_over_two_processes_equals_that_of_the_whole_batch(maps, two_processes):
    leaf = maps.clone().requires_grad_()
    scores, _, prior = scores_of(leaf)
    information = functional.mutual_information(scores, prior)
    (gradient,) = torch.autograd.grad(information.sum(), leaf)
    first, second = two_processes(halves_of_information, maps)
    torch.testing.assert_close(first[0], information.detach(), rtol=0, atol=1e-13)
    torch.testing.assert_close(torch.cat([first[1], second[1]]), gradient, rtol=0, atol=1e-13)


def test_without_growth_is_orthogonal_to_each_filters_activations(maps):
    gradient = torch.randn(N, K, SIDE, SIDE, dtype=torch.double)
    expected = gradient.clone()
    for k in range(K):
        share = (gradient[:, k] * maps[:, k]).sum() / maps[:, k].square().sum()
        expected[:, k] -= share * maps[:, k]
    found = functional.without_growth(gradient, maps)
    torch.testing.assert_close(found, expected)
    inner = (found * maps).sum((0, 2, 3))
    torch.testing.assert_close(inner, torch.zeros(K, dtype=torch.double), rtol=0, atol=1e-12)
    dead = functional.without_growth(torch.ones(1, 1, 2, 2), torch.zeros(1, 1, 2, 2))
    assert dead.tolist() == torch.ones(1, 1, 2, 2).tolist()
