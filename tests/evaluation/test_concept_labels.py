import numpy as np
import pytest
import torch

from interp_train.evaluation import concept_labels
from interp_train.evaluation.concept_labels import (
    concept_scheme,
    joint_labels,
    labelled_batch,
    thinned,
)
from tests.evaluation.test_concept_overlap import random_labels

NAMES = {"object": ("dog", "cat", "car"), "colour": ("red", "blue")}


def test_label_counts_agree_with_masks():
    scheme, labels = concept_scheme(NAMES), random_labels()
    counts = labelled_batch(torch.from_numpy(labels), scheme).counts
    for concept, (category, label) in enumerate([(0, 1), (0, 2), (0, 3), (1, 1), (1, 2)]):
        masks = labels[:, category] == label
        assert int(counts.pixels[concept]) == masks.sum()
        assert int(counts.images[concept]) == masks.any((1, 2)).sum()
    assert int(counts.seen) == 5 * 256


def test_label_types():
    many = concept_scheme({"object": [str(n) for n in range(256)]})
    assert many.label_type == torch.int16
    assert concept_scheme({"object": [str(n) for n in range(255)]}).label_type == torch.uint8


def test_errors():
    with pytest.raises(ValueError, match=r"`concept_names` must give .*but got \{'object': 0\}"):
        concept_scheme({"object": ()})
    with pytest.raises(ValueError, match="`concept_names` must give at least one"):
        concept_scheme({})
    scheme = concept_scheme(NAMES)
    with pytest.raises(ValueError, match=r"\(N, 2, H, W\), one map for each of object, colour"):
        labelled_batch(torch.zeros(1, 3, 4, 4), scheme)
    labels = torch.zeros(1, 2, 4, 4)
    labels[0, 1, 0, 0] = 3
    with pytest.raises(ValueError, match=r"labels 0 \.\. 2 for the category 'colour', but got 3"):
        labelled_batch(labels, scheme)


def test_layers_that_do_not_fit():
    with pytest.raises(ValueError, match="`concept_layers` must name a category .* got 'parts'"):
        concept_scheme({"part": ["a"]}, {"parts": 2})
    with pytest.raises(ValueError, match=r"`concept_layers\['part'\]` must be >= 1, but got 0"):
        concept_scheme({"part": ["a"]}, {"part": 0})
    scheme = concept_scheme({"part": ["a"], "object": ["b"]}, {"part": 2})
    with pytest.raises(ValueError, match=r"\(N, 3, H, W\), 2 for part and 1 for object, but got"):
        labelled_batch(torch.zeros(1, 2, 4, 4, dtype=torch.uint8), scheme)
    with pytest.raises(ValueError, match="'part' must have each label once per pixel, but two"):
        labelled_batch(torch.ones(1, 3, 4, 4, dtype=torch.uint8), scheme)


@pytest.mark.parametrize(
    ("side", "least", "expected"),
    [(224, 112, 112), (224, None, 224), (96, 112, 96), (230, 112, 115), (225, 112, 225),
     (448, 112, 112), (336, 112, 112)],
)  # fmt: skip
def test_label_maps_are_thinned_to_a_side(side, least, expected):
    labels = torch.arange(side, dtype=torch.int16).expand(1, 2, side, side)
    found = thinned(labels, least)
    assert found.shape == (1, 2, expected, expected)
    step = side // expected
    assert found[0, 0, 0].tolist() == list(range(step // 2, side, step))


@pytest.mark.parametrize("spread", [2**20, 1])
@pytest.mark.parametrize("most", [None, 1024, 60, 1])
@pytest.mark.parametrize("kind", [torch.uint8, torch.int16, torch.long])
def test_joined_labels_are_those_of_the_pixels(most, kind, spread, monkeypatch):
    """Whatever is joined: the combination of a pixel has the labels of its maps."""
    monkeypatch.setattr(concept_labels, "_SPREAD", spread)
    sizes = (30, 2, 4, 3)
    scheme = concept_scheme(
        {name: [str(n) for n in range(size)] for name, size in zip("abcd", sizes, strict=True)},
        {"b": 2},
    )
    maps = [np.random.default_rng(n).integers(0, size + 1, (3, 9, 7)) for n, size in
            enumerate((30, 2, 1, 4, 3))]  # fmt: skip
    labels = torch.from_numpy(np.stack(maps, 1)).to(kind)
    labels[:, 2] = 0
    found = joint_labels(labels, scheme, most)
    assert [category for maps in found for category in maps.categories] == [0, 1, 1, 2, 3]
    assert len(found) == {None: 1, 1024: 1, 60: 2, 1: 5}[most]
    shown = torch.cat([maps.labels[maps.combination.long()] for maps in found], 1)
    assert torch.equal(shown, labels.long().permute(0, 2, 3, 1).flatten(0, 2))
    for maps in found:
        assert len(maps.labels.unique(dim=0)) == len(maps.labels) == len(maps.combination.unique())
        assert len(maps.categories) == 1 or most is None or len(maps.labels) <= most


def test_more_combinations_than_a_number_holds():
    many = concept_scheme({"part": [str(n) for n in range(3)]}, {"part": 40})  # 4**40 > 2**63
    labels = torch.randint(0, 2, (2, 40, 8, 8), generator=torch.Generator().manual_seed(0)) * 3
    (maps,) = joint_labels(labels, many, None)
    assert torch.equal(
        maps.labels[maps.combination.long()], labels.permute(0, 2, 3, 1).flatten(0, 2)
    )


def test_concepts_of_combinations_by_hand():
    scheme = concept_scheme({"part": ("a", "b", "c"), "colour": ("red",)}, {"part": 2})
    labels = torch.tensor([[[[2, 0]], [[3, 0]], [[0, 1]]]])
    (maps,) = joint_labels(labels, scheme)
    assert maps.concepts(scheme)[maps.combination.long()].tolist() == [[0, 1, 1, 0], [0, 0, 0, 1]]
    assert maps.labelled(0)[maps.combination.long()].tolist() == [True, False]
    assert maps.labelled(1)[maps.combination.long()].tolist() == [False, True]
    found = labelled_batch(labels, scheme)
    assert found.per_image.tolist() == [[0, 1, 1, 1]]
    assert found.annotated.tolist() == [[True, True]]


def test_negative_labels_are_refused():
    labels = torch.tensor([[[[0, -1]], [[1, 0]]]])
    with pytest.raises(ValueError, match=r"labels 0 \.\. 3 for the category 'object', but got -1"):
        labelled_batch(labels, concept_scheme(NAMES))


def test_no_image():
    found = labelled_batch(torch.zeros(0, 2, 4, 4, dtype=torch.uint8), concept_scheme(NAMES))
    assert found.per_image.shape == (0, 5)
    assert [int(count.sum()) for count in found.counts] == [0, 0, 0]
