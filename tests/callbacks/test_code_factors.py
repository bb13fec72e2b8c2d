"""Scores of codes beside their baselines during a run."""

import numpy as np
import pytest

from interp_train.callbacks.code_factors import CodeFactors
from interp_train.data.image_arrays import Arrays, ImageArrays
from interp_train.evaluation.disentanglement import disentanglement_scores
from tests.learning.infogan.small_gan import Bars, small_gan, trained


class Squares(Bars):
    """Validates on squares whose place and brightness are known."""

    def __init__(self):
        super().__init__()
        factors = np.stack(np.meshgrid(range(4), range(3), indexing="ij"), -1).reshape(-1, 2)
        factors = np.tile(factors, (4, 1))
        images = np.zeros((len(factors), 1, 8, 8), np.uint8)
        for image, (place, light) in zip(images, factors, strict=True):
            image[0, 2:4, 2 * place : 2 * place + 2] = 85 * (light + 1)
        labels, ids = factors[:, 0].copy() % 2, np.arange(len(factors))
        self.val = ImageArrays(Arrays(images, labels, ids, factors), (-1.0, 1.0))


def test_scores_are_those_of_the_estimates(tmp_path):
    system, data = small_gan(), Squares()
    trainer = trained(system, tmp_path, data=data, callbacks=[CodeFactors()])
    logged = trainer.callback_metrics
    whole = data.val.__getitems__(range(len(data.val)))
    expected = disentanglement_scores(system.estimates(whole.images), whole.factors)
    for name, value in expected.items():
        assert logged[f"codes/{name}"].item() == pytest.approx(value.item(), abs=1e-6)
        assert f"codes/{name}_random_codes" in logged
    # Two components of four places are no place, but tell more than random numbers.
    informed, blind = (
        logged[f"codes/dci_informativeness_{kind}"] for kind in ("principal_codes", "random_codes")
    )
    assert informed > blind + 0.2


def test_data_without_factors_are_refused(tmp_path):
    with pytest.raises(ValueError, match="data with factors, .* got InfoGan and ImageBatch"):
        trained(small_gan(), tmp_path, callbacks=[CodeFactors()])
