"""Measures that ask linear classifiers: SAP, and the score of the beta-VAE.

References: A. Kumar, P. Sattigeri, A. Balakrishnan, "Variational Inference of Disentangled Latent
Concepts from Unlabeled Observations", ICLR 2018 (separated attribute predictability); I. Higgins et
al., "beta-VAE: Learning Basic Visual Concepts with a Constrained Variational Framework", ICLR 2017.

Deviates from both in the classifier: a softmax regression with a small ridge, solved to its unique
optimum, instead of a support vector machine or a network trained by gradient descent.
"""

import torch
from torch import Tensor
from torch.nn import functional

from interp_train.checks import check_range, check_shape
from interp_train.evaluation.factor_groups import FactorGroups

_RIDGE = 1e-4


def linear_classifiers(inputs: Tensor, labels: Tensor, classes: int) -> Tensor:
    """Weights of G softmax regressions on the same labels.

    Args:
        inputs: ``(G, N, P)``, best standardised.
        labels: long ``(N,)``.
        classes: V.

    Returns:
        float64 ``(G, P + 1, V)``, biases last.
    """
    given = functional.pad(inputs.double(), (0, 1), value=1.0)
    truth = functional.one_hot(labels, classes).double()
    weights = given.new_zeros(given.shape[0], given.shape[2], classes)
    ridge = torch.full_like(weights[:, :, :1], _RIDGE)
    ridge[:, -1] = 0  # not on the biases
    optimizer = torch.optim.LBFGS(
        [weights], max_iter=200, tolerance_change=1e-12, line_search_fn="strong_wolfe"
    )

    def loss() -> Tensor:
        """The gradient is written out: measures also run where autograd does not."""
        logits = given @ weights
        slopes = (logits.softmax(2) - truth) / len(labels)
        weights.grad = given.transpose(1, 2) @ slopes + 2 * ridge * weights
        likelihood = (logits.log_softmax(2) * truth).sum() / len(labels)
        return (ridge * weights.square()).sum() - likelihood

    optimizer.step(loss)  # type: ignore[no-untyped-call]
    return weights


def linear_accuracies(weights: Tensor, inputs: Tensor, labels: Tensor) -> Tensor:
    """Share of right answers of each classifier; see `linear_classifiers`; ``(G,)``."""
    given = functional.pad(inputs.double(), (0, 1), value=1.0)
    return ((given @ weights).argmax(2) == labels).double().mean(1)


def standardised(train: Tensor, test: Tensor) -> tuple[Tensor, Tensor]:
    """Both, column by column, with mean and deviation of the first."""
    mean, deviation = train.mean(0), train.std(0)
    scale = torch.where(deviation > 0, deviation, 1)
    return (train - mean) / scale, (test - mean) / scale


def separated_predictability(codes: Tensor, factors: Tensor, *, seed: int = 0) -> Tensor:
    """SAP: how much better the best single code predicts a factor than the second best, in [0, 1].

    Args:
        codes: ``(N, D)``.
        factors: whole numbers >= 0, ``(N, F)``; treated as categories.
        seed: of the halves for learning and counting.

    Returns:
        Mean over factors of the gap in accuracy.
    """
    check_shape("factors", factors, (len(codes), "F"))
    check_range("number of codes", codes.shape[1], 2)
    first, second = halves(len(codes), seed)
    train, test = standardised(codes[first], codes[second])
    gaps = []
    for factor in factors.unbind(1):
        single = train.T[:, :, None]
        weights = linear_classifiers(single, factor[first], int(factor.max()) + 1)
        best = linear_accuracies(weights, test.T[:, :, None], factor[second]).topk(2).values
        gaps.append(best[0] - best[1])
    return torch.stack(gaps).mean()


def beta_vae_score(
    codes: Tensor, factors: Tensor, *, pairs: int = 64, batches: int = 2000, seed: int = 0
) -> Tensor:
    """Accuracy of a linear classifier that says which factor pairs of images share.

    Each input is the mean over `pairs` pairs of the absolute difference of their codes.

    Args:
        codes: ``(N, D)``.
        factors: whole numbers >= 0, ``(N, F)``.
        pairs: per input.
        batches: inputs to learn from, and half as many to count on.
        seed: of what is drawn.
    """
    groups, generator = FactorGroups(factors), torch.Generator().manual_seed(seed)
    total = batches + batches // 2
    which = torch.randint(factors.shape[1], (total,), generator=generator)
    kept = which[:, None].expand(-1, pairs).flatten()
    first = torch.randint(len(codes), (total * pairs,), generator=generator)
    second = groups.with_same(kept, first, generator)
    differences = (codes[first] - codes[second]).abs().view(total, pairs, -1).mean(1)
    train, test = standardised(differences[:batches], differences[batches:])
    weights = linear_classifiers(train[None], which[:batches], factors.shape[1])
    return linear_accuracies(weights, test[None], which[batches:])[0]


def halves(number: int, seed: int) -> tuple[Tensor, Tensor]:
    """Two random halves of 0 .. `number` - 1."""
    order = torch.randperm(number, generator=torch.Generator().manual_seed(seed))
    return order[: number // 2], order[number // 2 :]
