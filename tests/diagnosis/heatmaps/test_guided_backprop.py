import pytest
import torch
from torch import nn
from torch.nn import functional

from interp_train.diagnosis.heatmaps.guided_backprop import GuidedBackprop, guided_gradients
from interp_train.diagnosis.heatmaps.saliency import Saliency
from interp_train.structures import Target
from interp_train.target_scores import scores_of_target
from tests.diagnosis.heatmaps.networks import labels, pixel_network, random_images, small_network


def gradients_of(network, images, target):
    with scores_of_target(network, images, target) as scores:
        return guided_gradients(scores)


def slow_guided(network, image, unit):
    """The rule, layer by layer from the logits down, for convolutions, ReLUs and a linear layer."""
    with torch.no_grad():
        inputs = [image[None]]
        for layer in network:
            inputs.append(layer(inputs[-1].clone()))
        gradient = torch.zeros_like(inputs[-1])
        gradient[0, unit] = 1.0
        for layer, value in zip(reversed(network), reversed(inputs[:-1]), strict=True):
            if isinstance(layer, nn.Linear):
                gradient = gradient @ layer.weight
            elif isinstance(layer, nn.Flatten):
                gradient = gradient.view(value.shape)
            elif isinstance(layer, nn.ReLU):
                for index in range(gradient.numel()):
                    if value.view(-1)[index] <= 0 or gradient.view(-1)[index] <= 0:
                        gradient.view(-1)[index] = 0
            else:
                gradient = nn.grad.conv2d_input(
                    value.shape, layer.weight, gradient, layer.stride, layer.padding
                )
    return gradient[0]


@pytest.mark.parametrize("inplace", [False, True])
def test_agrees_with_the_rule_applied_layer_by_layer(inplace):
    network, images = small_network(inplace=inplace), random_images(2)
    found = gradients_of(network, images, labels(2, 0))
    for image, gradient, unit in zip(images, found, (2, 0), strict=True):
        torch.testing.assert_close(gradient, slow_guided(network, image, unit))


@pytest.mark.filterwarnings("ignore:.*backward hooks:UserWarning")
def test_agrees_with_captum():
    attr = pytest.importorskip("captum.attr")
    network, images, units = small_network(1, inplace=False), random_images(3), [0, 1, 2]
    expected = attr.GuidedBackprop(network).attribute(
        images.clone().requires_grad_(), torch.tensor(units)
    )
    torch.testing.assert_close(gradients_of(network, images, labels(*units)), expected)


def two_weights(first, second):
    network = nn.Sequential(
        nn.Conv2d(1, 1, 1, bias=False), nn.ReLU(), nn.Flatten(), nn.Linear(2, 1, bias=False)
    )
    with torch.no_grad():
        network[0].weight.fill_(2.0)
        network[3].weight.copy_(torch.tensor([[first, second]]))
    return network


def test_hand_number():
    # Both inputs are positive; only the positive gradient 3 comes back, times 2.
    images = torch.ones(1, 1, 1, 2)
    assert gradients_of(two_weights(3.0, -5.0), images, labels(0)).tolist() == [[[[6.0, 0.0]]]]
    assert GuidedBackprop()(two_weights(3.0, -5.0), images, labels(0)).amax() == 6.0


def test_with_positive_weights_it_is_the_gradient():
    network, images = pixel_network(), random_images(2, 2, 5)
    for parameter in network.parameters():
        parameter.data.abs_()
    found = GuidedBackprop()(network, images, labels(0, 1))
    torch.testing.assert_close(found, Saliency()(network, images, labels(0, 1)))


def test_a_relu_module_used_twice_is_guided_twice():
    class Twice(nn.Module):
        def __init__(self, shared):
            super().__init__()
            self.first, self.second = nn.ReLU(inplace=True), nn.ReLU(inplace=True)
            self.second = self.first if shared else self.second
            torch.manual_seed(0)
            self.below, self.above = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 2, 3)

        def forward(self, images):
            return self.second(self.above(self.first(self.below(images)))).mean((-2, -1))

    images = torch.randn(1, 3, 8, 8)
    once, twice = (gradients_of(Twice(shared), images, labels(1)) for shared in (False, True))
    assert torch.equal(once, twice)
    assert once.abs().sum() > 0


def test_a_unit_of_a_layer_is_a_target():
    network, images = pixel_network(), random_images(1, 2, 5)
    upper = nn.Sequential(network[:3], nn.AdaptiveMaxPool2d(1), nn.Flatten())
    expected = gradients_of(upper, images, labels(4))
    torch.testing.assert_close(
        gradients_of(network, images, Target("2", torch.tensor([4]))), expected
    )


class Functional(nn.Module):
    def __init__(self, relu, module):
        super().__init__()
        self.body, self.relu, self.module = nn.Conv2d(3, 2, 3), relu, module

    def forward(self, images):
        return self.module(self.relu(self.body(images))).mean((-2, -1))


@pytest.mark.parametrize(
    "relu", [functional.relu, torch.relu, torch.Tensor.relu, torch.relu_, functional.relu6]
)
@pytest.mark.parametrize("module", [nn.Identity(), nn.ReLU()])
def test_functional_relus_are_refused(relu, module):
    with pytest.raises(ValueError, match=r"1 are function calls and [01] are .* `nn.ReLU` modules"):
        GuidedBackprop()(Functional(relu, module), torch.randn(1, 3, 6, 6), labels(0))


def test_a_network_without_relus_is_refused_and_left_as_it_was():
    network = Functional(functional.gelu, nn.Identity())
    with pytest.raises(ValueError, match="0 are function calls and 0 are modules"):
        GuidedBackprop()(network, torch.randn(1, 3, 6, 6), labels(0))
    relu = Functional(functional.relu, nn.ReLU())
    with pytest.raises(ValueError, match="must apply its ReLUs as modules"):
        GuidedBackprop()(relu, torch.randn(1, 3, 6, 6), labels(0))
    assert not relu.module._forward_hooks
    assert not relu.module._forward_pre_hooks


def test_relu6_modules_are_guided():
    network = two_weights(3.0, -5.0)
    network[1] = nn.ReLU6()
    found = gradients_of(network, torch.tensor([[[[1.0, 1.0]]]]), labels(0))
    assert found.tolist() == [[[[6.0, 0.0]]]]
