"""Pictures of parse trees during the validation of a small detector."""

import numpy as np
import pytest
import torch

from interp_train.callbacks.parse_panels import ParsePanels, _gathered
from interp_train.parse_records import from_arrays
from tests.callbacks.panel_run import ForeignModule, loader, trainer
from tests.learning.interpretable_rcnn.small_detector import data_of, system_of
from tests.learning.interpretable_rcnn.test_module import pytestmark, trainer_of

assert pytestmark  # the warnings that are expected there are expected here


@pytest.fixture(scope="module")
def data():
    return data_of()


def record_of(folder):
    with np.load(folder / "measures" / "panels" / "parses.npz") as arrays:
        return from_arrays(arrays)


def validated(folder, system, data, **options):
    panels = ParsePanels(**{"least_score": 0.0, "num_images": 2, **options})
    run = trainer_of(callbacks=[panels], default_root_dir=folder)
    run.validate(system, datamodule=data, verbose=False)
    return {path.name for path in (folder / "figures").glob("*.png")}


def test_boxes_trees_and_statistics_are_drawn_and_kept(tmp_path, data):
    system = system_of(data.info).eval()
    torch.nn.init.normal_(system.and_or_head.part_biases)  # so that boxes unfold
    files = validated(tmp_path, system, data, indices=[1, 3])
    names = ("detections_1", "detections_2", "and_or_graph", "leaf_sizes", "production_rules")
    assert files == {f"parts_{name}_epoch000.png" for name in names}
    record = record_of(tmp_path)
    assert record.shape == (7, 7, 2, True)
    images = [data.dataset("val")[index].images[0] for index in (1, 3)]
    found = system(images)
    for scene, image, seen in zip(record.scenes, images, found, strict=True):
        torch.testing.assert_close(scene.pixels, image, rtol=0, atol=1 / 255)
        assert [box.tree for box in scene.boxes] == list(seen.trees)
        assert [box.label for box in scene.boxes] == seen.labels.tolist()
    expected = [[], []]
    for batch in data.val_dataloader():
        for seen in system(list(batch.images)):
            for tree, label in zip(seen.trees, seen.labels.tolist(), strict=True):
                expected[label].append(tree)
    assert record.trees == expected


def test_only_sure_boxes_count(tmp_path, data):
    files = validated(tmp_path, system_of(data.info), data, least_score=1.0)
    assert files == {f"parts_detections_{index}_epoch000.png" for index in (1, 2)}
    record = record_of(tmp_path)
    assert record.trees == [[], []]
    assert [len(scene.boxes) for scene in record.scenes] == [0, 0]


def test_of_a_detector_without_trees_the_boxes_are_drawn(tmp_path, data):
    files = validated(tmp_path, system_of(data.info, head="two_layer"), data)
    assert files == {f"parts_detections_{index}_epoch000.png" for index in (1, 2)}
    assert record_of(tmp_path).shape is None


def test_other_systems_are_left_alone(tmp_path):
    run = trainer(tmp_path, [ParsePanels()])
    run.validate(ForeignModule(), loader(), verbose=False)
    assert not (tmp_path / "measures").exists()


def trees_of_share():
    data = data_of()
    system = system_of(data.info).eval()
    panels = ParsePanels(least_score=0.0)
    panels._due = True
    for index, batch in enumerate(data.val_dataloader()):
        panels.on_validation_batch_end(None, system, system.run(batch), batch, index)
    return sorted((label, str(tree)) for label, tree in _gathered(panels._trees))


def test_two_processes_gather_the_trees_of_one(two_processes):
    expected = trees_of_share()
    assert len(expected) > 10
    for found in two_processes(trees_of_share):
        assert found == expected


def test_bad_arguments():
    with pytest.raises(ValueError, match="`num_images` must be >= 1"):
        ParsePanels(num_images=0)
    with pytest.raises(ValueError, match="`least_score` must be >= 0.0 and <= 1.0"):
        ParsePanels(least_score=2)
