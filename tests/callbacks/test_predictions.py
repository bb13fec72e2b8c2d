"""Predictions and their confidences."""

import math

import pytest
import torch

from interp_train.callbacks.predictions import predict
from interp_train.structures import BACKGROUND


def slow_predict(row, loss, background):
    """The definition, for one image."""
    if loss == "logistic":
        chances = [1 / (1 + math.exp(-z)) for z in row]
    else:
        total = sum(math.exp(z) for z in row)
        chances = [math.exp(z) / total for z in row]
    best = max(range(len(row)), key=lambda i: row[i])
    if background and row[best] <= 0:
        return BACKGROUND, 1 - chances[best]
    return best, chances[best]


@pytest.mark.parametrize("categories", [1, 3])
@pytest.mark.parametrize("loss", ["logistic", "softmax"])
@pytest.mark.parametrize("background", [None, False, True])
def test_predictions_agree_with_the_definition(categories, loss, background):
    logits = torch.randn(20, categories, dtype=torch.float64)
    predictions, confidences = predict(logits, loss, background)
    allowed = loss == "logistic" if background is None else background
    expected = [slow_predict(row, loss, allowed) for row in logits.tolist()]
    assert predictions.tolist() == [label for label, _ in expected]
    torch.testing.assert_close(
        confidences, torch.tensor([chance for _, chance in expected], dtype=torch.float64)
    )


def test_one_logit_by_hand():
    predictions, confidences = predict(
        torch.tensor([[math.log(3.0)], [-math.log(3.0)]]), "logistic"
    )
    assert predictions.tolist() == [0, BACKGROUND]
    assert confidences.tolist() == pytest.approx([0.75, 0.75])
