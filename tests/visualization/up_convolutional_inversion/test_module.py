import functools

import pytest
import torch
from torch import nn

from interp_train.contract_runs import fit_and_validate
from interp_train.structures import DataInfo, ImageBatch
from interp_train.visualization.up_convolutional_inversion.layers import UpConvolutionalDecoder
from interp_train.visualization.up_convolutional_inversion.module import UpConvolutionalInversion
from tests.contracts.options import small_network

INFO = DataInfo(
    name="squares", class_names=("a", "b", "c"), part_names=(), part_groups={},
    instability_parts=(), image_size=64, channels=3, mean=(0.5,) * 3, std=(0.25,) * 3,
    fingerprint="", licence="",
)  # fmt: skip
ADAM = functools.partial(torch.optim.Adam, lr=1e-2)


def squares(number, seed=0):
    """A bright square of some colour somewhere on a dark ground."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.full((number, 3, 64, 64), -1.0)
    for image in images:
        top, left = torch.randint(0, 40, (2,), generator=generator).tolist()
        image[:, top : top + 24, left : left + 24] = torch.randn(3, 1, 1, generator=generator)
    return images


def batch_of(images):
    empty = images.new_zeros(len(images), 0, 0, 0)
    labels = torch.zeros(len(images), dtype=torch.long)
    ids = torch.arange(len(images))
    return ImageBatch(images, labels, ids, images.new_full((len(images), 4), torch.nan), empty)


def trained(layer, steps=40, **changes):
    torch.manual_seed(0)
    system = UpConvolutionalInversion(
        small_network(), INFO, layer=layer, widest=16, narrowest=8, optimizer=ADAM, **changes
    )
    system.train()
    system.on_train_epoch_start()
    optimizer = system.configure_optimizers()
    for step in range(steps):
        batch = batch_of(squares(8, seed=step))
        loss = system.loss_terms(system.run(batch), batch)["pixels"]
        parameters = list(system.decoder.parameters())
        for parameter, grad in zip(parameters, torch.autograd.grad(loss, parameters), strict=True):
            parameter.grad = grad
        optimizer.step()
    return system


def pixel_error(system, images):
    return (system.reconstructions(images) - (images * 0.25 + 0.5).clamp(0, 1)).square().mean()


def test_images_come_back_better_from_an_early_layer_than_from_a_late_one():
    images = squares(16, seed=1000)
    pixels = (images * 0.25 + 0.5).clamp(0, 1)
    mean_error = (pixels - pixels.mean((0, 2, 3), keepdim=True)).square().mean()
    early, late = (pixel_error(trained(layer), images) for layer in ("early", "top"))
    assert early < 0.6 * mean_error
    assert early < late


def test_the_network_stays_as_it_was_and_its_statistics_too():
    before = small_network().state_dict()
    torch.manual_seed(0)
    network = small_network()
    network.load_state_dict(before)
    system = UpConvolutionalInversion(network, INFO, widest=16, optimizer=ADAM)
    decoder = [value.clone() for value in system.decoder.parameters()]
    fit_and_validate(system, batch_of(squares(4)))
    for name, value in network.state_dict().items():
        assert torch.equal(value, before[name])
    changed = zip(system.decoder.parameters(), decoder, strict=True)
    assert all(not torch.equal(value, old) for value, old in changed)
    owned = {id(parameter) for parameter in system.decoder.parameters()}
    groups = system.configure_optimizers().param_groups
    assert {id(parameter) for group in groups for parameter in group["params"]} == owned


@pytest.mark.parametrize("shape", [(4, 7, 7), (4, 13, 9), (10,), (4, 64, 64), (300, 1, 1)])
def test_every_shape_is_decoded_to_the_images_size(shape):
    decoder = UpConvolutionalDecoder(shape, (3, 50, 66), widest=16, narrowest=4)
    drawn = decoder(torch.randn(2, *shape))
    assert drawn.shape == (2, 3, 50, 66)
    drawn.sum().backward()
    assert all(parameter.grad is not None for parameter in decoder.parameters())


def test_what_cannot_be_inverted_is_refused():
    with pytest.raises(ValueError, match="`objectives` must be empty"):
        UpConvolutionalInversion(small_network(), INFO, {"a": nn.Identity()}, optimizer=ADAM)
    with pytest.raises(ValueError, match="`layer` must name an alias or a module"):
        UpConvolutionalInversion(small_network(), INFO, layer="nowhere", optimizer=ADAM)
    with pytest.raises(ValueError, match=r"`shape` must be \(K, h, w\) or \(K,\)"):
        UpConvolutionalDecoder((3, 4), (3, 8, 8))
    with pytest.raises(ValueError, match="`widest` must be >= 16"):
        UpConvolutionalDecoder((3,), (3, 8, 8), widest=8)
