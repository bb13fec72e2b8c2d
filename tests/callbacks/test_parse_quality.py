"""Quality of parse trees during a validation of a small detector."""

import pytest
import torch

from interp_train.callbacks.parse_quality import ParseQuality
from interp_train.evaluation.part_layouts import layout_agreement, mirrored_leaves
from interp_train.learning.interpretable_rcnn.detector import parses_at, probabilities_at
from tests.learning.interpretable_rcnn.small_detector import data_of, system_of
from tests.learning.interpretable_rcnn.test_module import pytestmark, trainer_of

assert pytestmark  # the warnings that are expected there are expected here


@pytest.fixture(scope="module")
def data():
    return data_of()


def measured(system, data, **options):
    trainer = trainer_of(callbacks=[ParseQuality(least_score=0.0, **options)])
    (found,) = trainer.validate(system, datamodule=data, verbose=False)
    return {k.removeprefix("parts/"): v for k, v in found.items() if k.startswith("parts/")}


def test_measures_are_those_of_trees_parsed_one_by_one(data):
    system = system_of(data.info).eval()
    torch.nn.init.normal_(system.and_or_head.part_biases)  # so that boxes unfold
    found = measured(system, data, deletion_every=2)
    agreements = []
    for batch in data.val_dataloader():
        for image in batch.images:
            (seen,) = system([image])
            left, top, right, bottom = seen.boxes.unbind(1)
            boxes = torch.stack([48 - right, top, 48 - left, bottom], 1)
            turned = parses_at(system.detector, image.flip(-1), boxes, seen.labels)
            agreements += [
                layout_agreement(tree.leaves(), mirrored_leaves(parse.tree, 7))
                for tree, parse in zip(seen.trees, turned, strict=True)
            ]
    assert found["layout_consistency"] == pytest.approx(sum(agreements) / len(agreements), abs=1e-5)
    assert found["part_recovery"] <= found["part_recovery_oracle"]
    assert {"layout_consistency_random", "part_recovery_random", "part_recovery_grid"} <= set(found)
    assert {"deletion_most_first", "deletion_random", "deletion_least_first"} <= set(found)
    assert "deletion_random" not in measured(system, data)


def test_detectors_without_trees_are_left_alone(data):
    assert measured(system_of(data.info, head="two_layer"), data) == {}


def test_contributions_of_the_leaves_sum_to_the_score_of_the_tree(data):
    system = system_of(data.info).eval()
    image = data.dataset("val")[1].images[0]
    (seen,) = system([image])
    parses = parses_at(system.detector, image, seen.boxes, seen.labels)
    assert [parse.tree for parse in parses] == list(seen.trees)
    sums = torch.tensor([sum(parse.contributions) for parse in parses])
    torch.testing.assert_close(sums, seen.tree_scores, rtol=1e-3, atol=1e-3)
    chances = probabilities_at(system.detector, image, seen.boxes, seen.labels)
    assert chances.shape == (len(seen.boxes),)
    assert bool(((chances > 0) & (chances < 1)).all())
