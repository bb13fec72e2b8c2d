"""The head over a backbone, its layers and their places, and the decoder."""

import functools

import pytest
import torch

from interp_train.activations import ActivationTap
from interp_train.learning.capsules.functional import lengths
from interp_train.learning.capsules.heads import CapsuleDecoder, CapsuleHead
from interp_train.learning.capsules.layers import PrimaryCapsules
from interp_train.structures import Target
from tests.contracts.options import built
from tests.learning.capsules.small_capsnet import small_capsnet, small_head


def test_logits_are_those_of_the_lengths():
    network = small_capsnet().network.eval()
    with ActivationTap(network, ["head.categories"]) as tap:
        logits = network(torch.randn(3, 1, 12, 12))
        capsules = tap.take()["head.categories"]
    torch.testing.assert_close(logits.sigmoid(), lengths(capsules), rtol=0, atol=1e-6)
    assert logits.shape == (3, 3)


@pytest.mark.parametrize("squash", ["quadratic", "exponential", "none"])
def test_primary_capsules_have_a_place_in_the_image(squash):
    network = small_capsnet(head=small_head(primary={"squash": squash})).network
    geometry = network.geometry("primary")
    # A 5x5 convolution, then one of 3x3 with stride 2: 7 pixels, centres from 3 on.
    assert (geometry.stride, geometry.offset, geometry.size) == (2.0, 3.0, 7.0)
    assert network.num_channels("primary") == 2
    last = "head.primary.convolution" if squash == "none" else "head.primary.lengths"
    assert network.resolve("last") == last
    assert network.resolve("capsules") == "head.categories"


def test_capsules_stand_on_any_backbone():
    primary = functools.partial(
        PrimaryCapsules, num_types=3, atoms=4, kernel_size=1, stride=1, pool_size=4, input_norm=True
    )
    for name, options in (("small_cnn", {"widths": [4, 6, 8, 8]}), ("squeezenet1_0", {})):
        network = built("backbone", name, image_size=64, **options)
        channels, *size = network.feature_shape(64)
        head = CapsuleHead(channels, 5, in_size=tuple(size), primary=primary, shared=True)
        network.attach_head(head)
        assert head.grid == (4, 4)
        assert head.categories.weights.shape == (3, 4, 5, 16)
        logits = network(torch.randn(2, 3, 64, 64))
        logits.sum().backward()
        assert logits.shape == (2, 5)
        assert head.categories.weights.grad.isfinite().all()


def test_heatmaps_can_be_asked_of_primary_capsules():
    system = small_capsnet()
    images = torch.randn(2, 1, 12, 12)

    for layer in (None, "primary"):
        heatmaps = built("heatmap", "grad_cam", layer=layer)(
            system.network, images, Target(None, torch.tensor([0, 2]))
        )
        assert heatmaps.shape == (2, 1, 12, 12)
        assert heatmaps.isfinite().all()


def test_the_decoder_sees_the_chosen_capsules():
    decoder = CapsuleDecoder(3, 2, (1, 4, 5), hidden=[8])
    capsules, chosen = torch.randn(2, 3, 2), torch.tensor([[1, 0, 0], [0, 0, 1]])
    images = decoder(capsules, chosen)
    assert images.shape == (2, 1, 4, 5)
    assert (images > 0).all()
    assert (images < 1).all()
    other = capsules.clone()
    other[0, 1:], other[1, :2] = 5.0, -5.0
    torch.testing.assert_close(decoder(other, chosen), images)
    other[0, 0] += 1
    assert not torch.equal(decoder(other, chosen)[0], images[0])
    parameters = sum(p.numel() for p in CapsuleDecoder(10, 16, (1, 28, 28)).parameters())
    assert parameters == 1_411_344
