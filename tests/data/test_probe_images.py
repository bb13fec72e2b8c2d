import numpy as np
import pytest

from interp_train.data.probe_images import at_centres, balanced_order, covering, name_hash


def test_every_beginning_is_balanced():
    names = [f"image {number}" for number in range(30)]
    strata = ["often"] * 20 + ["seldom"] * 7 + ["rare"] * 3
    order = balanced_order(names, strata)
    assert sorted(order) == list(range(30))
    for length in range(1, 31):
        shown = [strata[index] for index in order[:length]]
        for name in set(strata):
            lasting = min(strata.count(name), length)
            others = max(shown.count(other) for other in set(strata))
            assert shown.count(name) >= min(lasting, others - 1)
    for name in set(strata):
        members = [index for index in order if strata[index] == name]
        assert members == sorted(members, key=lambda index: name_hash(names[index]))


def test_an_order_stays_when_images_are_added():
    names = [f"image {number}" for number in range(30)]
    strata = [number % 3 for number in range(30)]
    few = [names[index] for index in balanced_order(names[:12], strata[:12])]
    many = [names[index] for index in balanced_order(names, strata)]
    for stratum in range(3):
        old = [name for name in few if names.index(name) % 3 == stratum]
        assert [name for name in many if name in old] == old


def test_covering_serves_rare_concepts_first():
    presence = np.array([[1, 0, 0], [1, 0, 0], [1, 1, 0], [1, 0, 1], [1, 1, 0], [0, 1, 1]]) > 0
    assert covering(presence, 1, 3) == [0, 2, 3]  # 3 for the rarest, which has concept 0 too
    assert covering(presence, 2, 4) == [0, 2, 3, 5]
    assert covering(presence, 9, 6) == [0, 1, 2, 3, 4, 5]
    assert covering(presence, 0, 2) == [0, 1]
    with pytest.raises(ValueError, match="`max_images` must be at least 3 .*`least_per_concept`=2"):
        covering(presence, 2, 2)


def test_centres():
    values = np.arange(12).reshape(3, 4)
    assert at_centres(values, 2).tolist() == [[1, 3], [9, 11]]
    assert at_centres(values, 1).tolist() == [[6]]
