from interp_train.structures import DataInfo
from interp_train.systems import data_info_from, plain_data_info


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
