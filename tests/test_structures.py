import torch
from torch.utils.data import default_collate

from interp_train.structures import (
    BACKGROUND,
    ConceptBatch,
    FactorBatch,
    ImageBatch,
    LayerGeometry,
    OverlapBatch,
    PartBatch,
)


def image_sample(sample_id):
    return ImageBatch(
        images=torch.full((3, 4, 4), float(sample_id)),
        labels=torch.tensor(BACKGROUND),
        sample_ids=torch.tensor(sample_id),
        boxes=torch.full((4,), torch.nan),
        prefix_activations=torch.zeros(0, 0, 0),
    )


def test_all_batches_begin_alike():
    assert PartBatch._fields[:5] == ImageBatch._fields
    assert FactorBatch._fields[:5] == ImageBatch._fields
    assert OverlapBatch._fields[:5] == ImageBatch._fields
    assert ConceptBatch._fields[:3] == ImageBatch._fields[:3]


def test_samples_collate_to_a_batch_of_the_same_type():
    batch = default_collate([image_sample(3), image_sample(5)])
    assert isinstance(batch, ImageBatch)
    assert batch.sample_ids.tolist() == [3, 5]
    assert batch.images[1].unique().tolist() == [5.0]
    assert batch.labels.tolist() == [-1, -1]
    assert batch.boxes.isnan().all()
    assert batch.prefix_activations.shape == (2, 0, 0, 0)


def test_cell_centre_follows_the_documented_formula():
    geometry = LayerGeometry(stride=16, offset=7.5, size=80)
    centres = [geometry.offset + geometry.stride * i for i in range(3)]
    assert centres == [7.5, 23.5, 39.5]
