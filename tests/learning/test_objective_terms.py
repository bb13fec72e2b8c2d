import pytest
import torch
from torch import nn

from interp_train.backbones.backbone import Backbone
from interp_train.backbones.heads import ConvolutionalHead
from interp_train.learning.classifier import logistic_losses
from interp_train.learning.objective_terms import SecondPath, objective_groups, objective_terms
from interp_train.structures import ImageBatch, StepOutputs, ViewBatch

SIDE = 4


def small_network():
    steps = {"convolution": nn.Conv2d(3, 2, 1), "relu": nn.ReLU()}
    network = Backbone(steps, image_size=SIDE)
    network.attach_head(ConvolutionalHead(2, 2, in_size=(SIDE, SIDE), dropout=0.5))
    return network


class Recorder(nn.Module):
    """An objective that says what it was given."""

    taps = ("relu",)

    def __init__(self, size=0, rate_factor=None):
        super().__init__()
        self.numbers = nn.Parameter(torch.zeros(size)) if size else None
        if rate_factor is not None:
            self.rate_factor = rate_factor

    def attach(self, network, num_categories): ...

    def loss_terms(self, activations, labels, logits, epoch):
        return {"batch": logits.sum() + epoch}

    def measurements(self):
        return {}


class WithViews(Recorder):
    def view_terms(self, activations, batch, epoch):
        return {"views": batch.view_transforms.sum()}


class WithPath(Recorder):
    def path_terms(self, outputs, batch, second_path, epoch):
        losses = second_path("relu", 2 * outputs.activations["relu"])
        return {"path": (losses * batch.sample_ids).sum()}


class WithBoth(WithViews, WithPath):
    pass


def batches():
    labels, none = torch.tensor([1, -1]), torch.zeros(2, 0, 0, 0)
    plain = ImageBatch(none, labels, torch.tensor([3, 5]), torch.zeros(2, 4), none)
    return plain, ViewBatch(*plain, torch.ones(2, 2, 3))


@pytest.mark.parametrize(
    ("kind", "of_views", "expected"),
    [
        (Recorder, True, {"batch"}),
        (WithViews, False, {"batch"}),
        (WithViews, True, {"batch", "views"}),
        (WithPath, False, {"batch", "path"}),
        (WithBoth, True, {"batch", "views", "path"}),
    ],
)
def test_an_objective_is_asked_for_what_it_can_tell(kind, of_views, expected):
    network, batch = small_network().eval(), batches()[of_views]
    maps, logits = torch.rand(2, 2, SIDE, SIDE), torch.ones(2, 2)
    outputs = StepOutputs(logits, {"relu": maps}, {})
    path = SecondPath(network, batch.labels, logistic_losses)
    found = objective_terms(kind(), outputs, batch, path, 7)
    assert set(found) == expected
    assert found["batch"].item() == 4 + 7
    if "path" in expected:
        logits = network.head(2 * maps)
        signs = torch.tensor([[-1.0, 1.0], [-1.0, -1.0]])
        losses = (1 + (-signs * logits).exp()).log().sum(1)
        torch.testing.assert_close(found["path"], 3 * losses[0] + 5 * losses[1])


def test_losses_of_half_precision_are_taken_in_float32():
    network = small_network().to(torch.bfloat16)
    path = SecondPath(network, torch.tensor([0]), logistic_losses)
    assert path("relu", torch.rand(1, 2, SIDE, SIDE, dtype=torch.bfloat16)).dtype == torch.float32


def test_objectives_share_a_group_unless_they_ask_for_a_rate():
    made = {"a": Recorder(2), "b": Recorder(3, 4.0), "c": Recorder(), "d": Recorder(5, 1.0)}
    made["e"] = Recorder(0, 9.0)
    groups = objective_groups(nn.ModuleDict(made), 0.1)
    found = [(g["name"], g["lr"], [len(p) for p in g["params"]]) for g in groups]
    assert found == [("objectives", 0.1, [2, 5]), ("objectives.b", 0.4, [3])]
    assert objective_groups(nn.ModuleDict(), 0.1) == []
