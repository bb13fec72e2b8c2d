"""Which accuracies are told, when counting starts anew, and one against two processes."""

import pytest
import torch

from interp_train.evaluation.answer_measures import AnswerMeasures
from interp_train.structures import BACKGROUND, ImageBatch, OverlapBatch

LOGITS = torch.tensor([[3.0, 2.0, 1.0], [3.0, 1.0, 2.0], [1.0, 2.0, 3.0], [2.0, 3.0, 1.0]])
PREDICTED = torch.tensor([0, BACKGROUND, 2, 1])
ONE = torch.tensor([0, BACKGROUND, 1, 1])
TWO = torch.tensor([[1, 0], [0, 1], [1, 2], [2, 0]])


def single(part=slice(None)):
    number = len(ONE[part])
    empty = torch.zeros(number, 0, 0, 0)
    return ImageBatch(
        torch.zeros(number, 1, 2, 2), ONE[part], torch.arange(number), torch.zeros(number, 4), empty
    )


def double(part=slice(None)):
    batch = single(part)._replace(labels=TWO[part, 0])
    return OverlapBatch(*batch, TWO[part], torch.zeros(len(batch.labels), 2, 1, 2, 2))


def told(found):
    return {name: value.item() for name, value in found.items()}


def test_one_object_per_image_by_hand():
    measures = AnswerMeasures(3, ("task", "other"))
    measures.count_validation(LOGITS, PREDICTED, single(), {"task": torch.tensor(2.0)})
    few = slice(0, 1)
    measures.count_validation(LOGITS[few], ONE[:1], single(few), {"task": torch.tensor(7.0)})
    assert told(measures.validation_summary()) == {
        "accuracy/top1": pytest.approx(4 / 5),
        "accuracy/per_category_mean": pytest.approx((1 + 1 / 2 + 1) / 3),
        "loss/validation/task": pytest.approx((4 * 2 + 7) / 5),
    }
    assert measures.validation_summary() == {}
    measures.count_training(LOGITS, PREDICTED, single())
    assert told(measures.training_summary()) == {"accuracy/train": 0.75}
    assert measures.training_summary() == {}


def test_several_objects_are_read_from_the_logits():
    measures = AnswerMeasures(3, ("task",))
    measures.count_training(LOGITS, PREDICTED, double())
    measures.count_validation(LOGITS, PREDICTED, double(), {})
    # Both, the first, the second and the third, the second.
    assert told(measures.training_summary()) == {"accuracy/train": pytest.approx(6 / 8)}
    assert told(measures.validation_summary()) == {
        "accuracy/all_objects": pytest.approx(2 / 4),
        "accuracy/objects": pytest.approx(6 / 8),
    }


def share():
    part = slice(0, 1) if torch.distributed.get_rank() == 0 else slice(1, None)
    measures = AnswerMeasures(3, ("task",))
    terms = {"task": torch.tensor(float(len(ONE[part])))}
    measures.count_validation(LOGITS[part], PREDICTED[part], double(part), terms)
    return told(measures.validation_summary())


def test_two_processes_count_what_one_counts(two_processes):
    for found in two_processes(share):
        assert found == {
            "accuracy/all_objects": pytest.approx(2 / 4),
            "accuracy/objects": pytest.approx(6 / 8),
            "loss/validation/task": pytest.approx((1 * 1 + 3 * 3) / 4),
        }
