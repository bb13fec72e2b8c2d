"""Classes and filters drawn at random, with gradients, as functions of tensors.

See `interp_train.learning.filter_objectives.sampled_filter_classes.module` for the paper. Symbols:
N images, K filters, C classes: the categories and, where it is a class of its own, the background
at the end.
"""

import torch
from torch import Tensor


def class_probabilities(logits: Tensor, background: bool) -> Tensor:
    """Softmax of the logits, ``(N, categories)`` -> ``(N, C)``.

    Args:
        logits: of the categories.
        background: whether the background is a class of its own. Its logit is 0, so that with one
            category the probability of that is the sigmoid of its logit.
    """
    if background:
        logits = torch.cat([logits, torch.zeros_like(logits[:, :1])], dim=1)
    return logits.softmax(1)


def class_indices(labels: Tensor, num_categories: int) -> Tensor:
    """Place of each label ``(N,)`` among the classes; the background is behind the categories."""
    return torch.where(labels < 0, num_categories, labels)


def drawn_classes(probabilities: Tensor, uniform: Tensor) -> Tensor:
    """One class per image, drawn by its probability, long ``(N,)``.

    Args:
        probabilities: ``(N, C)``.
        uniform: numbers in [0, 1), ``(N,)``.
    """
    passed = probabilities.detach().cumsum(1) <= uniform[:, None]
    return passed.sum(1).clamp(max=probabilities.shape[1] - 1)


def straight_through(drawn: Tensor, expected: Tensor) -> Tensor:
    """What was drawn, with the gradient of its expectation; of one shape, in that dtype."""
    return drawn.to(expected.dtype) + (expected - expected.detach())


def drawn_filters(
    assignment: Tensor, probabilities: Tensor, classes: Tensor, uniform: Tensor
) -> Tensor:
    """Which filters each image keeps, 0 or 1, drawn by their probability for its class.

    The gradient is that of ``probabilities @ assignment.T``, the chance of a filter under the
    network's own uncertainty, where the classes are drawn from the probabilities.

    Args:
        assignment: probability of each class to own a filter, ``(K, C)``.
        probabilities: of the classes, ``(N, C)``.
        classes: drawn from them, ``(N,)``.
        uniform: numbers in [0, 1), ``(N, K)``.

    Returns:
        ``(N, K)``.
    """
    chosen = torch.nn.functional.one_hot(classes, probabilities.shape[1])
    chance = straight_through(chosen, probabilities) @ assignment.T
    return straight_through(uniform < assignment.detach().T[classes], chance)
