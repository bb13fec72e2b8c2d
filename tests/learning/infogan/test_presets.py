"""Every YAML of the group, with the trunk that it names, draws images of the data's size."""

import pytest
import torch

from interp_train.composition import compose_config
from interp_train.structures import DataInfo
from interp_train.study import planned_runs
from interp_train.systems import build_system

TRUNKS = {
    "infogan": ("gan_trunk",),
    "infogan_transformed": ("gan_trunk",),
    "infogan_colour_32": ("gan_trunk_colour_32",),
    "infogan_64": ("gan_trunk_64",),
    "infogan_contrastive": (
        "gan_trunk_64", "backbone.normalisation=none", "backbone.spectral_norm=true",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", list(TRUNKS))
def test_networks_fit_together(name):
    trunk, *more = TRUNKS[name]
    size = {"gan_trunk": 28, "gan_trunk_colour_32": 32}.get(trunk, 64)
    config = compose_config(
        "train",
        [f"learning={name}", f"backbone={trunk}", f"data.image_size={size}", *more,
         "filter_objective=none", "callbacks=none", "seed=3"],
    )  # fmt: skip
    channels = config["backbone"]["in_channels"]
    info = DataInfo(
        "any", ("a", "b"), (), {}, (), size, channels, (0.5,) * channels, (0.5,) * channels, "", ""
    )
    system = build_system(config, info)
    assert system.seed == 3
    latents = system.draw(torch.arange(2), 0)
    assert system.pictures(latents).shape == (2, 3, size, size)
    estimates = system.estimates(torch.zeros(2, channels, size, size))
    assert estimates.shape == (2, len(system.prior.codes))
    assert len(system.configure_optimizers()) == 2 + (system.pair_head is not None)


@pytest.mark.parametrize("name", ["infogan_mnist", "class_infogan"])
def test_experiments_compose(name):
    config = compose_config("train", [f"experiment={name}"])
    assert config["learning"]["_target_"].endswith("InfoGan")
    assert "code_panels" in config["callbacks"]
    if name == "infogan_mnist":  # the paper's 5,000 updates
        trainer = config["trainer"]
        assert trainer["max_epochs"] * trainer["limit_train_batches"] == 5000


@pytest.mark.parametrize(("name", "number"), [("infogan_mnist", 25), ("infogan_sprites", 6)])
def test_studies_compose(name, number):
    runs = planned_runs(compose_config("study", [f"study={name}"]))
    assert len(runs) == number
    assert len({run.config_hash for run in runs}) == number
