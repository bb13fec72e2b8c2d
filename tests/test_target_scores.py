import pytest
import torch
from torch import nn

from interp_train.structures import Target
from interp_train.target_scores import (
    evaluation_mode,
    gradient_of,
    resolved_layer,
    scores_of_target,
    variant_chunks,
)
from tests.contracts.options import small_network


def network():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(inplace=True), nn.Dropout(0.5),
        nn.Flatten(), nn.Linear(4 * 36, 3),
    )  # fmt: skip


IMAGES = torch.randn(5, 3, 6, 6, generator=torch.Generator().manual_seed(1))
UNITS = torch.tensor([2, 0, 1, 1, 2])


def logits(net, images):
    with torch.no_grad():
        return net.eval()(images)


def test_the_score_is_the_logit_of_each_image_s_unit():
    net = network()
    with scores_of_target(net, IMAGES, Target(None, UNITS)) as scores:
        found = scores()
        torch.testing.assert_close(scores(IMAGES[1:3], slice(1, 3)), found[1:3])
    expected = logits(net, IMAGES)
    for row, unit in enumerate(UNITS.tolist()):
        torch.testing.assert_close(found[row].detach(), expected[row, unit])


def test_the_score_of_a_layer_is_its_highest_activation():
    net = network()
    with scores_of_target(net, IMAGES, Target("1", UNITS)) as scores:
        found = scores().detach()
    maps = logits(net[:2], IMAGES)  # before the ReLU changes them in place
    for row, unit in enumerate(UNITS.tolist()):
        torch.testing.assert_close(found[row], maps[row, unit].max())


def test_a_link_turns_logits_into_what_is_scored():
    net = network()
    target = Target(None, UNITS)
    with scores_of_target(net, IMAGES, target, lambda values: values.softmax(1)) as scores:
        found = scores().detach()
    expected = logits(net, IMAGES).softmax(1)[torch.arange(5), UNITS]
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("batch_size", [1, 2, 3, 7, 100])
def test_variants_are_scored_for_the_unit_of_their_image(batch_size):
    net, factors = network(), torch.tensor([0.5, 1.0, -1.0, 2.0])

    def variants(rows, chosen):
        made = IMAGES[rows, None] * factors[chosen, None, None, None]
        assert made.shape[0] * made.shape[1] <= batch_size
        return made

    with scores_of_target(net, IMAGES, Target(None, UNITS)) as scores:
        found = scores.of_variants(variants, 4, batch_size)
        gradients = scores.mean_gradients(variants, 4, batch_size)
    for row, unit in enumerate(UNITS.tolist()):
        copies = (IMAGES[row] * factors[:, None, None, None]).requires_grad_()
        expected = net.eval()(copies)[:, unit]
        torch.testing.assert_close(found[row], expected.detach(), atol=1e-5, rtol=1e-5)
        (each,) = torch.autograd.grad(expected.sum(), copies)
        torch.testing.assert_close(gradients[row], each.mean(0), atol=1e-6, rtol=1e-5)


def test_chunks_cover_every_pair_once():
    for number, count, size in [(5, 4, 3), (2, 9, 7), (1, 1, 1), (7, 2, 20)]:
        seen = torch.zeros(number, count)
        for rows, chosen in variant_chunks(number, count, size):
            seen[rows, chosen] += 1
            assert (rows.stop - rows.start) * (chosen.stop - chosen.start) <= size
        assert (seen == 1).all()
    with pytest.raises(ValueError, match="`batch_size` must be >= 1, but got 0"):
        list(variant_chunks(1, 1, 0))


def test_what_lies_above_a_layer_depends_on_the_layer_alone():
    net = network()
    with scores_of_target(net, IMAGES, Target(None, UNITS)) as scores:
        maps, found = scores.above("0")
        gradients = gradient_of(found, maps, "0", "")
    torch.testing.assert_close(maps.detach(), logits(net[0], IMAGES))
    leaf = maps.detach().requires_grad_()
    expected = net.eval()[1:](leaf.clone())[torch.arange(5), UNITS].sum()
    torch.testing.assert_close(gradients, torch.autograd.grad(expected, leaf)[0])


@pytest.mark.parametrize("mode", [torch.enable_grad, torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_under_autocast_it_leaves_no_cast_behind(mode, dtype):
    net, target = network(), Target(None, UNITS)
    expected = logits(net, IMAGES)[torch.arange(5), UNITS]
    with scores_of_target(net, IMAGES, target) as scores:
        exact = scores.gradients()
    net.train()
    with torch.autocast("cpu", dtype):
        with mode(), scores_of_target(net, IMAGES.clone(), target) as scores:
            found = scores.of_variants(lambda rows, chosen: IMAGES[rows, None], 1, 3)[:, 0]
            gradients = scores.gradients()
            assert (IMAGES[0, 0] @ IMAGES[0, 0]).dtype == torch.float32
        # A weight cast above, without gradients, must not be used for training.
        net(IMAGES).float().sum().backward()
    assert net[0].weight.grad.abs().sum() > 0
    assert found.dtype == torch.float32
    assert 0 < (found - expected).abs().max() < 0.05  # it did run in reduced precision
    assert (gradients - exact).norm() < 0.05 * exact.norm()


def test_modes_come_back_also_after_an_error():
    net = network()
    net[1].eval()
    before = [module.training for module in net.modules()]
    with evaluation_mode(net):
        assert not any(module.training for module in net.modules())
    assert [module.training for module in net.modules()] == before
    with pytest.raises(RuntimeError), evaluation_mode(net):
        raise RuntimeError
    assert [module.training for module in net.modules()] == before


def test_layers_go_by_name_alias_or_the_last_tap():
    net = small_network()
    assert resolved_layer(net, None) == resolved_layer(net, "top") == net.taps["top"]
    assert resolved_layer(net, "features.relu_1") == "features.relu_1"
    with pytest.raises(ValueError, match="`layer` must be given for a network without taps"):
        resolved_layer(network(), None)
    with pytest.raises(ValueError, match="`layer` must name a module of the network, but got 'x'"):
        resolved_layer(net, "x")


class Idle(nn.Module):
    """Has a layer that it does not call."""

    def __init__(self):
        super().__init__()
        self.used, self.idle = nn.Conv2d(3, 2, 3), nn.Conv2d(3, 2, 3)

    def forward(self, images):
        return self.used(images).mean((-2, -1))


def test_errors():
    units = torch.zeros(5, dtype=torch.long)
    with (
        pytest.raises(ValueError, match="`target.layer` must run in the forward pass, but 'idle'"),
        scores_of_target(Idle(), IMAGES, Target("idle", units)) as scores,
    ):
        scores()
    with scores_of_target(Idle(), IMAGES, Target(None, units)) as scores:
        with pytest.raises(ValueError, match="`layer` must run in the forward pass, but 'idle'"):
            scores.above("idle")
        with pytest.raises(ValueError, match=r"does not depend on 'maps'. Look above."):
            gradient_of(scores(), torch.zeros(1, requires_grad=True), "maps", "Look above.")
    with (
        pytest.raises(ValueError, match=r"`target.units` must be >= 0 and < 2, but got \[-1"),
        scores_of_target(Idle(), IMAGES, Target(None, units - 1)) as scores,
    ):
        scores()
    with (
        pytest.raises(ValueError, match=r"`images` must have shape \(N, channels, H, W\)"),
        scores_of_target(Idle(), IMAGES[0], Target(None, units)),
    ):
        pass
