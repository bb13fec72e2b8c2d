import functools

import pytest
import torch
from torch import nn

from interp_train.backbones.backbone import Backbone
from interp_train.backbones.heads import ConvolutionalHead
from interp_train.callbacks.cluster_accuracy import ClusterAccuracy
from interp_train.learning.classifier import Classifier
from interp_train.learning.filter_objectives.class_gates.module import ClassGates
from tests.callbacks.spot_run import (
    INFO,
    SIZE,
    ForeignModule,
    SpotData,
    as_part_batch,
    loader,
    spots,
    trainer,
)

QUANTITY = "accuracy/head.relu_1/cluster_accuracy"


def system_of(objectives):
    """Active filters name the first class, silent ones the second."""
    steps = {"convolution": nn.Conv2d(3, 4, 1), "relu": nn.ReLU(), "pool": nn.AvgPool2d(SIZE // 2)}
    head = functools.partial(ConvolutionalHead, channels=4, pooling="none", dropout=0.0)
    sgd = functools.partial(torch.optim.SGD, lr=0.0)
    network = Backbone(steps, image_size=SIZE)
    system = Classifier(network, INFO, objectives, head=head, optimizer=sgd)
    with torch.no_grad():
        network.head.convolution_1.bias.fill_(5.0)
        network.head.linear.weight.zero_()[0] = 5.0
        network.head.linear.bias.copy_(torch.tensor([0.0, 1.0]))
    return system


def logged(run):
    found = run.callback_metrics.items()
    return {name: float(value) for name, value in found if "cluster_accuracy" in name}


@pytest.mark.parametrize("owner", [0, 1])
def test_it_logs_the_accuracies_of_clusters(tmp_path, owner):
    objective = ClassGates()
    system = system_of({"gates": objective})
    with torch.no_grad():  # all filters belong to one class
        objective.matrices[0].copy_(torch.eye(2)[owner].expand(4, 2))
    run = trainer(tmp_path, callbacks=[ClusterAccuracy(["last"])])
    run.validate(system, datamodule=SpotData(41), verbose=False)
    share = (spots(41).target == 0).float().mean().item()
    assert share == pytest.approx(float(run.callback_metrics["accuracy/top1"]))
    # Named is the first class; with the filters of that alone: the same, or silence. Without
    # those of the true class: silence in the images of the owner, which names the second class.
    expected = {"all": share, "own": share if owner == 0 else 1 - share}
    expected["others"] = 0.0 if owner == 0 else 1.0
    found = {name.removeprefix(f"{QUANTITY}_"): value for name, value in logged(run).items()}
    assert found == pytest.approx(expected)


def test_what_it_needs_is_said(tmp_path):
    callback = ClusterAccuracy(["last"])
    run = trainer(tmp_path, callbacks=[callback])
    run.validate(system_of({}), datamodule=SpotData(41), verbose=False)
    foreign = ClusterAccuracy(["relu"])
    foreign.to_batch = as_part_batch
    other = trainer(tmp_path, callbacks=[foreign])
    other.validate(ForeignModule(), loader(spots(41)), verbose=False)
    for found, made in ((logged(run), callback), (logged(other), foreign)):
        assert found == {}
        (text,) = made.missing.values()
        assert "needs an objective that assigns filters to categories; this run has none" in text
