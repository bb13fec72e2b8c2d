import copy
import math

import pytest
import torch

from interp_train.activations import ActivationTap
from interp_train.learning.filter_objectives.equivariant_parts import contrast
from tests.learning.filter_objectives.equivariant_parts.slow_terms import CATEGORIES, SIDE
from tests.learning.filter_objectives.equivariant_parts.test_module import (
    LAYER,
    attached,
    terms_of,
    view_batch,
)


def with_boxes(batch):
    """The same views with boxes of half the image, the last one unknown."""
    boxes = torch.tensor([[1.5, 0.5, 7.5, 5.5], [-0.5, 2.5, 4.5, 9.5]]).repeat(len(batch.labels), 1)
    boxes = boxes[: len(batch.labels)].clone()
    boxes[-1] = torch.nan
    return batch._replace(boxes=boxes)


@pytest.mark.parametrize("margin", [0.0, 0.1, 0.2])  # of 12 cells
def test_cells_outside_boxes_are_not_the_object(margin):
    network, objective = attached(box_share=0.3, box_margin=margin)
    batch = with_boxes(view_batch())
    with torch.no_grad(), ActivationTap(network, ["relu"]) as tap:
        network(batch.images)
    means = contrast.around(tap.activations["relu"])
    logits = copy.deepcopy(objective.attention[0])(means, (SIDE, SIDE)).detach()
    there, elsewhere, around = [], [], []
    for n, label in enumerate(batch.labels.tolist()):
        for category in range(CATEGORIES):
            for cell in range(SIDE * SIDE):
                x, y = cell % SIDE, cell // SIDE
                left, top, right, bottom = batch.boxes[n].tolist()
                outside = max(left - x, x - right, top - y, y - bottom) / SIDE
                logit = float(logits[n, category, cell])
                if category != label:
                    elsewhere.append(math.log1p(math.exp(logit)))
                elif outside > margin:
                    around.append(math.log1p(math.exp(logit)))
                elif not outside > 0:  # where the box is not known, too
                    there.append(math.log1p(math.exp(-logit)))
    assert around
    means = [sum(values) / len(values) for values in (there, elsewhere, around)]
    expected = (means[0] + 0.7 * means[1] + 0.3 * means[2]) / 2
    found = terms_of(network, objective, batch)[f"{LAYER}/attention"]
    assert found.item() == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("share", [0.0, 0.5])
def test_without_boxes_the_labels_tell_where_the_object_is(share):
    network, objective = attached(box_share=share)
    batch = view_batch()
    assert batch.boxes.isnan().all()
    name = f"{LAYER}/attention"
    with ActivationTap(network, objective.taps) as tap:
        logits = network(batch.images)
    plain = objective.loss_terms(tap.take(), batch.labels, logits, 1)[name].item()
    network, objective = attached(box_share=share)
    assert terms_of(network, objective, batch)[name].item() == pytest.approx(plain)


def test_a_resting_step_repeats_what_boxes_told():
    network, objective = attached(every_n_steps=2)
    batch, name = with_boxes(view_batch()), f"{LAYER}/attention"
    first, second = (terms_of(network, objective, batch)[name] for _ in range(2))
    assert second.item() == pytest.approx(first.item())
    second.backward()
    weight = objective.attention[0].score.weight
    assert weight.grad is not None
    assert not weight.grad.any()
    first.backward()
    assert weight.grad.any()
