"""How far codes and known factors of variation correspond one to one: eight scores in [0, 1].

Of mutual information: MIG and modularity (`factor_information`). Of votes: the FactorVAE score
(`factor_groups`). Of linear classifiers: SAP and the beta-VAE score (`linear_probes`). Of boosted
trees: disentanglement, completeness and informativeness of C. Eastwood, C. Williams, "A Framework
for the Quantitative Evaluation of Disentangled Representations", ICLR 2018 (DCI, below).

All but informativeness compare codes with each other, so they are read beside those of random codes
and of principal components (`random_codes`, `principal_codes`).
"""

from typing import NamedTuple, final

import torch
from torch import Tensor
from torchmetrics import Metric

from interp_train.checks import check_range, check_shape
from interp_train.counter_random import normal_numbers
from interp_train.evaluation.boosted_trees import boosted_trees, quantile_bins
from interp_train.evaluation.factor_groups import factor_vae_score
from interp_train.evaluation.factor_information import (
    binned,
    entropies,
    modularity,
    mutual_information,
    mutual_information_gap,
)
from interp_train.evaluation.linear_probes import beta_vae_score, halves, separated_predictability
from interp_train.evaluation.peak_table import first_rows, joined
from interp_train.evaluation.row_gathering import gather_rows


class Dci(NamedTuple):
    """Scores of Eastwood & Williams 2018, float64 scalars in [0, 1].

    Attributes:
        disentanglement: how far each code matters for one factor only, codes weighted by how much
            they matter.
        completeness: how far each factor is told by one code only.
        informativeness: accuracy with which all codes together tell a factor, mean over factors.
    """

    disentanglement: Tensor
    completeness: Tensor
    informativeness: Tensor


def concentration(importances: Tensor) -> Tensor:
    """One minus the entropy of each row as a share of the largest possible, ``(A, B)`` -> ``(A,)``.

    A row of zeros, which matters for nothing, counts 0.
    """
    check_range("number of columns", importances.shape[1], 2)
    total = importances.sum(1, keepdim=True)
    shares = importances / total.clamp(min=1e-300)
    entropy = -torch.special.xlogy(shares, shares).sum(1)
    largest = torch.log(torch.tensor(importances.shape[1], dtype=entropy.dtype))
    return torch.where(total[:, 0] > 0, 1 - entropy / largest, 0)


def dci_of_importances(importances: Tensor) -> tuple[Tensor, Tensor]:
    """Disentanglement and completeness.

    Args:
        importances: of code i for factor j, >= 0, ``(D, F)``, D and F >= 2.
    """
    weights = importances.sum(1) / importances.sum().clamp(min=1e-300)
    disentanglement = (weights * concentration(importances)).sum()
    weights = importances.sum(0) / importances.sum().clamp(min=1e-300)
    return disentanglement, (weights * concentration(importances.T)).sum()


def dci(codes: Tensor, factors: Tensor, *, seed: int = 0, rounds: int = 20) -> Dci:
    """DCI with boosted trees: importances are shares of their gain, learned on one half.

    Args:
        codes: ``(N, D)``.
        factors: whole numbers >= 0, ``(N, F)``.
        seed: of the halves.
        rounds: see `boosted_trees`.
    """
    check_shape("factors", factors, (len(codes), "F"))
    first, second = halves(len(codes), seed)
    train, test = quantile_bins(codes[first], codes[second])
    columns, right = [], []
    for factor in factors.unbind(1):
        classes = int(factor.max()) + 1
        found = boosted_trees(train, factor[first], test, classes=classes, rounds=rounds)
        columns.append(found.importances)
        right.append((found.logits.argmax(1) == factor[second]).double().mean())
    disentanglement, completeness = dci_of_importances(torch.stack(columns, 1))
    return Dci(disentanglement, completeness, torch.stack(right).mean())


def disentanglement_scores(codes: Tensor, factors: Tensor, *, seed: int = 0) -> dict[str, Tensor]:
    """All scores of a table of codes and factors.

    Args:
        codes: ``(N, D)``, D >= 2; a categorical code is one column, its category.
        factors: whole numbers >= 0, ``(N, F)``, F >= 2.
        seed: of what is drawn.

    Returns:
        ``mig``, ``modularity``, ``factor_vae``, ``sap``, ``beta_vae``, ``dci_disentanglement``,
        ``dci_completeness``, ``dci_informativeness``; float64 scalars on the CPU.
    """
    check_shape("codes", codes, ("N", "D"))
    codes, factors = codes.detach().double().cpu(), factors.detach().long().cpu()
    information = mutual_information(binned(codes), factors)
    trees = dci(codes, factors, seed=seed)
    return {
        "mig": mutual_information_gap(information, entropies(factors)),
        "modularity": modularity(information),
        "factor_vae": factor_vae_score(codes, factors, seed=seed),
        "sap": separated_predictability(codes, factors, seed=seed),
        "beta_vae": beta_vae_score(codes, factors, seed=seed),
        **{f"dci_{name}": value for name, value in trees._asdict().items()},
    }


def random_codes(sample_ids: Tensor, count: int, seed: int = 0) -> Tensor:
    """Codes that know nothing: normal numbers of the sample ids ``(N,)``, ``(N, count)``."""
    return normal_numbers(sample_ids, count, seed)


def principal_codes(images: Tensor, count: int) -> Tensor:
    """The first principal components of images ``(N, ...)``, ``(N, count)``.

    Their signs are fixed: the largest weight of each is positive.
    """
    rows = images.flatten(1).double()
    check_range("count", count, 1, min(rows.shape))
    centred = rows - rows.mean(0)
    _, directions = torch.linalg.eigh(centred.T @ centred)
    chosen = directions.flip(1)[:, :count]
    largest = chosen.abs().argmax(0, keepdim=True)
    codes: Tensor = centred @ (chosen * chosen.gather(0, largest).sign())
    return codes


@final
class Disentanglement(Metric):
    """`disentanglement_scores` of streamed codes, equal over any number of processes.

    Args:
        seed: of what is drawn.
    """

    full_state_update = False
    codes: list[Tensor]
    factors: list[Tensor]
    sample_ids: list[Tensor]

    def __init__(self, seed: int = 0) -> None:
        super().__init__(dist_sync_fn=gather_rows)
        self.seed = seed
        for name in ("codes", "factors", "sample_ids"):
            self.add_state(name, [], "cat")

    def update(self, codes: Tensor, factors: Tensor, sample_ids: Tensor) -> None:
        """Add samples: codes ``(N, D)``, factors ``(N, F)`` and their ids ``(N,)``."""
        self.codes.append(codes.detach().float())
        self.factors.append(factors)
        self.sample_ids.append(sample_ids)

    def table(self) -> tuple[Tensor, Tensor, Tensor]:
        """Codes, factors and ids on the CPU, each sample once, in the order of the ids."""
        codes, factors, ids = map(joined, (self.codes, self.factors, self.sample_ids))
        kept = first_rows(ids)
        return codes[kept], factors[kept], ids[kept]

    def compute(self) -> dict[str, Tensor]:
        """See `disentanglement_scores`."""
        codes, factors, _ = self.table()
        return disentanglement_scores(codes, factors, seed=self.seed)
