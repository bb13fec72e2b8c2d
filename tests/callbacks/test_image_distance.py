"""The distance of generated images during a run, in features of our own and of Inception."""

import pytest
import torch
from torch import nn

from interp_train.callbacks import image_distance
from interp_train.callbacks.image_distance import ImageDistance, feature_extractor
from interp_train.evaluation.frechet_distance import frechet_distance
from interp_train.evaluation.image_features import PenultimateFeatures
from tests.learning.infogan.small_gan import Bars, small_gan, trained


def small_classifier():
    torch.manual_seed(1)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 3), nn.ReLU(), nn.Linear(3, 2))


def test_features_are_what_enters_the_last_layer():
    network = small_classifier()
    features = PenultimateFeatures(network, (0.5,), (0.25,))
    images = torch.rand(4, 1, 8, 8)
    expected = network[:3]((images - 0.5) / 0.25)
    assert features.width == 3
    torch.testing.assert_close(features(images), expected)
    with pytest.raises(ValueError, match="`network` must have a linear layer"):
        PenultimateFeatures(nn.Conv2d(1, 1, 1), (0.5,), (0.5,))
    with pytest.raises(ValueError, match="`channels of `images`` must be >= 1 and <= 1, but got 3"):
        features(torch.rand(2, 3, 8, 8))


def test_the_distance_of_a_run(tmp_path, monkeypatch):
    features = PenultimateFeatures(small_classifier(), (0.5,), (0.5,))
    monkeypatch.setattr(image_distance, "feature_extractor", lambda given: features)
    system, data = small_gan(), Bars()
    trainer = trained(system, tmp_path, data=data, callbacks=[ImageDistance("any", "small")])
    whole = data.val.__getitems__(range(7))
    latents = system.draw(whole.sample_ids, 7, epoch=0)
    sides = [whole.images * 0.5 + 0.5, system.pictures(latents)[:, :1]]
    rows = [features(images).detach().double() for images in sides]
    expected = frechet_distance(*((each.mean(0), each.T.cov()) for each in rows))
    found = trainer.callback_metrics["codes/fd_small"]
    torch.testing.assert_close(found.double(), expected, rtol=1e-4, atol=1e-5)


def test_missing_weights_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="inception_v3, but got .*none.pth"):
        feature_extractor(str(tmp_path / "none.pth"))
    with pytest.raises(FileNotFoundError, match="`path` must be a checkpoint file or a run folder"):
        feature_extractor(str(tmp_path))
