import pytest
import torch

from interp_train.diagnosis.heatmaps.eigen_cam import EigenCam, eigen_cam, first_singular_vector
from tests.diagnosis.heatmaps.networks import labels, random_images, small_network


def slow_cam(maps):
    """By the decomposition itself; the sign that makes the sum positive."""
    cells = maps.flatten(1).T
    _, _, right = torch.linalg.svd(cells, full_matrices=False)
    projections = cells @ right[0]
    if projections.sum() < 0:
        projections = -projections
    return projections.clamp(min=0).view(maps.shape[1:])


@pytest.mark.parametrize("layer", ["0", "1", "3"])
def test_agrees_with_a_singular_value_decomposition(layer):
    network, images = small_network(inplace=False), random_images(3)
    found = EigenCam(layer)(network, images, labels(2, 0, 1))
    for image, heatmap in zip(images, found, strict=True):
        with torch.no_grad():
            expected = slow_cam(network[: int(layer) + 1](image[None])[0])
        torch.testing.assert_close(heatmap[0, ::2, ::2].double(), expected, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("shape", [(49, 64), (64, 20)])
def test_the_vector_agrees_in_single_precision(shape):
    rows = torch.randn(4, *shape).relu()
    found = first_singular_vector(rows)
    _, _, right = torch.linalg.svd(rows.double(), full_matrices=False)
    agreement = (found.double() * right[:, 0]).sum(-1).abs()
    torch.testing.assert_close(agreement, torch.ones(4, dtype=torch.float64), atol=1e-5, rtol=0)


def test_hand_number():
    # Cells (3, 4) and (6, 8) lie on the line (3, 4) / 5, at 5 and 10.
    activations = torch.tensor([[[[3.0, 6.0]], [[4.0, 8.0]]]])
    torch.testing.assert_close(eigen_cam(activations), torch.tensor([[[[5.0, 10.0]]]]))
    torch.testing.assert_close(eigen_cam(-activations), torch.tensor([[[[5.0, 10.0]]]]))


def test_of_one_map_it_is_the_map_and_of_none_nothing():
    maps = torch.rand(2, 1, 3, 4)
    torch.testing.assert_close(eigen_cam(maps), maps)
    assert torch.equal(eigen_cam(torch.zeros(1, 4, 3, 3)), torch.zeros(1, 1, 3, 3))


@pytest.mark.parametrize("factor", [1e-15, 1e15])
def test_it_scales_with_the_activations(factor):
    maps = torch.rand(2, 5, 3, 4)
    torch.testing.assert_close(
        eigen_cam(maps * factor), eigen_cam(maps) * factor, atol=0, rtol=1e-5
    )


def test_it_is_the_same_for_every_unit():
    network, images = small_network(), random_images(2)
    found = EigenCam("3")(network, images, labels(0, 1))
    assert torch.equal(found, EigenCam("3")(network, images, labels(2, 2)))


def test_errors():
    with pytest.raises(ValueError, match=r"`activations` must have shape \(N, K, h, w\)"):
        eigen_cam(torch.zeros(3, 3))
    with pytest.raises(ValueError, match="`target.units` must be >= 0 and < 3, but got"):
        EigenCam("3")(small_network(), random_images(1), labels(3))
    with pytest.raises(ValueError, match="`layer` must put out maps"):
        EigenCam("5")(small_network(), random_images(1), labels(0))
