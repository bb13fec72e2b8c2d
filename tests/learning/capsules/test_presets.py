"""Parameters of every YAML of the group, with its trunk, and of the twins without capsules."""

import pytest
import torch

from interp_train.composition import compose_config
from interp_train.structures import DataInfo
from interp_train.study import planned_runs
from interp_train.systems import build_system

DECODER = 1_411_344
# name -> trunk, further settings, parameters beside the decoder
PRESETS = {
    "capsnet": (["backbone=capsule_trunk"], 6_804_224),
    "capsnet_official": (["backbone=capsule_trunk", "backbone.initial_std=0.05"], 6_804_384),
    "efficient_capsnet": (["backbone=efficient_capsule_trunk"], 161_824),
}


def system_of(*overrides, names=tuple("0123456789"), channels=1, size=28, weights=True):
    config = compose_config(
        "train", [*overrides, "data=mnist", f"data.image_size={size}",
                  "filter_objective=none", "callbacks=none"],
    )  # fmt: skip
    zeros, ones = (0.0,) * channels, (1.0,) * channels
    info = DataInfo("any", names, (), {}, (), size, channels, zeros, ones, "", "")
    return build_system(config, info, weights=weights)


def count(module):
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.mark.parametrize("name", list(PRESETS))
def test_networks_have_the_published_numbers_of_parameters(name):
    overrides, number = PRESETS[name]
    system = system_of(f"learning={name}", *overrides)
    assert count(system.network) == number
    assert count(system.decoder) == DECODER
    images = torch.rand(2, 1, 28, 28)
    reading = system.read(images)
    assert reading.capsules.shape == (2, 10, 16)
    assert reading.activity.shape == ((2, 16, 1, 1) if "efficient" in name else (2, 32, 6, 6))
    rates = system.configure_optimizers()
    interval = rates["lr_scheduler"]["interval"]
    assert interval == ("epoch" if "efficient" in name else "step")
    assert system.reconstruction_weight == (0.01 if "official" in name else 0.0005)


def test_the_weights_of_a_mean_and_of_a_sum_over_pixels_agree():
    """The paper's 0.0005 of a sum over the pixels of MNIST is 0.392 of their mean."""
    assert system_of("learning=capsnet", "backbone=capsule_trunk").reconstruction_weight * (
        28 * 28
    ) == pytest.approx(0.392)


def test_a_head_over_a_deep_backbone_shares_its_weights():
    system = system_of(
        "learning=capsule_head", "backbone=small_cnn", channels=3, size=96, names=("a", "b", "c")
    )
    head = system.network.head
    assert head.grid == (6, 6)
    assert head.categories.weights.shape == (32, 8, 3, 16)
    assert system.read(torch.rand(2, 3, 96, 96)).lengths.shape == (2, 3)


@pytest.mark.parametrize("name", ["capsnet_mnist", "efficient_capsnet_mnist", "class_capsules"])
def test_experiments_compose(name):
    config = compose_config("train", [f"experiment={name}"])
    assert config["learning"]["_target_"].endswith("CapsNet")
    assert "capsule_panels" in config["callbacks"]
    assert config["data"]["shift"] == 2


@pytest.mark.parametrize("trunk", ["efficient_capsule_trunk", "small_cnn"])
def test_a_network_is_built_for_the_weights_of_a_checkpoint(trunk):
    """With a trunk that has weights of its own, and with one that always starts afresh."""
    name = "efficient_capsnet" if trunk.startswith("efficient") else "capsule_head"
    channels, size = (1, 28) if trunk.startswith("efficient") else (3, 96)
    options = {"channels": channels, "size": size}
    one, other = (
        system_of(f"learning={name}", f"backbone={trunk}", **options, weights=weights)
        for weights in (True, False)
    )
    other.load_state_dict(one.state_dict())
    images = torch.rand(2, channels, size, size)
    torch.testing.assert_close(one.eval()(images), other.eval()(images))


# study -> side of the images, parameters of capsules (with their decoder) and of the other network
STUDIES = {
    "capsules_affine": (
        40, [13_475_648, 13_492_762], [4_059_392, 4_060_695], [180_256, 179_355]
    ),
    "capsules_overlapping": (
        36, [11_361_808, 11_353_974], [3_297_232, 3_296_007], [173_088, 174_540]
    ),
}  # fmt: skip


def system_from(config):
    names, size = tuple("0123456789"), config["data"]["image_size"]
    return build_system(config, DataInfo("any", names, (), {}, (), size, 1, (0.0,), (1.0,), "", ""))


def training_of(config):
    """What two networks that are trained alike have in common."""
    learning, optimizer = config["learning"], config["learning"]["optimizer"]
    assert optimizer.get("weight_decay", 0.0) == 0.0
    return {
        "optimizer": (optimizer["_target_"], optimizer["lr"]),
        **{key: learning[key] for key in ("scheduler", "scheduler_interval")},
        **{key: config[key] for key in ("data", "trainer", "monitor", "seed", "cache")},
    }


def sizes_of(*configs):
    return [count(system_from(config)) for config in configs]


def test_the_convolutional_network_is_as_large_as_capsnet_and_trained_alike():
    capsnet, other = (
        compose_config("train", [f"experiment={name}_mnist"])
        for name in ("capsnet", "convolutional")
    )
    assert training_of(capsnet) == training_of(other)
    assert sizes_of(capsnet, other) == [6_804_224 + DECODER, 8_227_962]


@pytest.mark.parametrize("name", list(STUDIES))
def test_rows_of_a_study_are_equally_large_and_trained_alike(name):
    study = compose_config("study", [f"study={name}"])
    runs = planned_runs(study)
    assert len(runs) == 6 * len(study["seeds"]) == 18
    side, *pairs = STUDIES[name]
    for start, numbers in zip((0, 2, 4), pairs, strict=True):
        chosen = runs[start : start + 2]
        other, capsnet = (compose_config("train", run.overrides) for run in chosen)
        assert training_of(capsnet) == training_of(other)
        data, steps = capsnet["data"], capsnet["learning"]["scheduler"]["steps"]
        assert (data["num_train"], data["num_val"], data["image_size"]) == (20_000, 10_000, side)
        assert data["shift"] == (6.0 if "affine" in name else 4)  # not that of the experiment
        assert steps == data["num_train"] // data["batch_size"]
        assert sizes_of(capsnet, other) == numbers
        assert abs(numbers[1] / numbers[0] - 1) < 0.05


@pytest.mark.parametrize(
    ("name", "number", "most"), [("capsules_mnist", 6, 0.02), ("capsules_hour", 2, 0.07)]
)
def test_studies_of_mnist_compose(name, number, most):
    runs = planned_runs(compose_config("study", [f"study={name}"]))
    assert len({run.config_hash for run in runs}) == number
    for run in runs:
        config = compose_config("train", run.overrides)
        scheduler, last = config["learning"]["scheduler"], config["trainer"]["max_epochs"] - 1
        assert config["learning"]["scheduler_interval"] == "epoch"
        assert scheduler["rate"] ** (last / scheduler["steps"]) < most
        assert config["trainer"]["max_epochs"] % config["trainer"]["check_val_every_n_epoch"] == 0
