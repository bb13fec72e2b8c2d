"""Distances of normal distributions whose value is known, and streaming."""

import pytest
import torch

from interp_train.evaluation.frechet_distance import FrechetDistance, frechet_distance


def mean_and_covariance(size, seed):
    generator = torch.Generator().manual_seed(seed)
    root = torch.randn(size, size, generator=generator).double()
    return torch.randn(size, generator=generator).double(), root @ root.T


def test_diagonal_covariances_by_hand():
    first = torch.tensor([1.0, 2.0]).double(), torch.diag(torch.tensor([4.0, 9.0]).double())
    second = torch.tensor([1.0, 5.0]).double(), torch.diag(torch.tensor([1.0, 9.0]).double())
    assert frechet_distance(first, second).item() == pytest.approx(9 + (2 - 1) ** 2)
    assert frechet_distance(first, first).item() == pytest.approx(0, abs=1e-10)


def test_against_the_eigenvalues_of_the_product():
    first, second = mean_and_covariance(6, 0), mean_and_covariance(6, 1)
    mixed = torch.linalg.eigvals(first[1] @ second[1]).sqrt().real.sum()
    expected = (first[0] - second[0]).square().sum()
    expected = expected + (first[1] + second[1]).trace() - 2 * mixed
    torch.testing.assert_close(frechet_distance(first, second), expected)
    torch.testing.assert_close(frechet_distance(second, first), expected)


def three_means(images):
    return torch.stack([images.mean((1, 2, 3)), images.amax((1, 2, 3)), images[:, 0, 0, 0]], 1)


def test_streamed_images_have_the_distance_of_their_features():
    torch.manual_seed(0)
    real, generated = torch.rand(30, 1, 4, 4), torch.rand(25, 1, 4, 4).square()
    metric = FrechetDistance(three_means, 3, "means")
    assert metric.name == "fd_means"
    for start in (0, 10, 20):
        metric.update(real[start : start + 10], real=True)
        metric.update(generated[start : start + 10], real=False)
    sides = [three_means(images).double() for images in (real, generated)]
    expected = frechet_distance(*((rows.mean(0), rows.T.cov()) for rows in sides))
    torch.testing.assert_close(metric.compute(), expected)
    assert metric.float().products.dtype == torch.float64


def shared_distance(real, generated):
    """The distance over both ranks, each of which sees a share."""
    metric = FrechetDistance(three_means, 3, "means")
    parts = [(real, True), (generated, False)]
    if torch.distributed.is_initialized():
        parts = [(x.tensor_split(2)[torch.distributed.get_rank()], kind) for x, kind in parts]
    for images, kind in parts:
        metric.update(images, real=kind)
    return metric.compute()


def test_the_distance_is_equal_over_processes(two_processes):
    torch.manual_seed(0)
    images = torch.rand(9, 1, 4, 4), torch.rand(7, 1, 4, 4).sqrt()
    expected = shared_distance(*images)
    for found in two_processes(shared_distance, *images):
        torch.testing.assert_close(found, expected)


def test_too_few_images_are_refused():
    metric = FrechetDistance(three_means, 3, "means")
    metric.update(torch.rand(3, 1, 4, 4), real=True)
    with pytest.raises(ValueError, match=r"`fd_means` must see at least two .* saw \[3, 0\]"):
        metric.compute()
    with pytest.raises(ValueError, match="`features` must have shape"):
        FrechetDistance(three_means, 4, "means").update(torch.rand(3, 1, 4, 4), real=True)
