import pytest

from interp_train.structures import DataInfo
from interp_train.systems import data_info_from, plain_data_info
from tests.callbacks import spot_run
from tests.callbacks.spot_run import SpotData, SpotSystem


@pytest.mark.parametrize(("every", "expected"), [(3, [1, 2, 3]), (1, [0, 1, 2, 3]), (50, [1, 3])])
def test_losses_are_logged_when_they_are_written_and_at_the_end_of_an_epoch(
    tmp_path, monkeypatch, every, expected
):
    system, logged = SpotSystem(), []
    log_dict = system.log_dict

    def noted(values, **options):
        if "loss/train/task" in values:
            logged.append(system.global_step)
            assert values == system.training_terms
        log_dict(values, **options)

    monkeypatch.setattr(system, "log_dict", noted)
    run = spot_run.trainer(tmp_path, max_epochs=2, log_every_n_steps=every)
    run.fit(system, SpotData())
    assert logged == expected
    assert run.callback_metrics["loss/train/task"] == system.training_terms["loss/train/task"]


def test_data_info_survives_the_way_through_plain_values():
    info = DataInfo(
        name="toy",
        class_names=("bird",),
        part_names=("beak", "tail"),
        part_groups={"head": (0,), "tail": (1,)},
        instability_parts=(0, 1),
        image_size=96,
        channels=3,
        mean=(0.5, 0.4, 0.3),
        std=(0.2, 0.2, 0.2),
        fingerprint="abc",
        licence="CC0",
    )
    plain = plain_data_info(info)
    assert plain["class_names"] == ["bird"]
    assert plain["part_groups"] == {"head": [0], "tail": [1]}
    assert data_info_from(plain) == info
