"""Which data a trained network is measured on."""

import pytest

from interp_train.evaluate import evaluated_data

TRAINED = {"_target_": "interp_train.data.animal_part.AnimalPartData", "margin": 0.1}


def test_keys_of_the_run_and_of_its_data_set_may_change():
    found = evaluated_data(TRAINED, {"margin": 0.3, "augment_validation": True})  # a newer key
    assert found == {**TRAINED, "margin": 0.3, "augment_validation": True}
    assert evaluated_data(TRAINED, {}) == TRAINED


def test_another_data_set_replaces_that_of_the_run():
    other = {"_target_": "interp_train.data.cub.CubData", "split": "tuning"}
    assert evaluated_data(TRAINED, other) == other


def test_unknown_keys_are_refused():
    with pytest.raises(ValueError, match=r"`data.margn` must name a key of the run's data.*margin"):
        evaluated_data(TRAINED, {"margn": 0.3})
    with pytest.raises(ValueError, match=r"`data.margin` must name a key of the run's data"):
        evaluated_data({}, {"margin": 0.3})
