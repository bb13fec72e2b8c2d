"""Adapters run foreign networks of known shape, and leave no trace."""

import json
import sys

import pytest
import torch

from interp_train.capsule_peers import PEERS, PeerStep, foreign_module

GRAM_AI = """
import sys
sys.setrecursionlimit(15000)
import torch
from torch import nn
NUM_ROUTING_ITERATIONS = 9
class Capsules(nn.Module):
    def __init__(self):
        super().__init__()
        self.weights = nn.Parameter(0.01 * torch.ones(784, 40))
    def forward(self, x):
        return (x.flatten(1) @ self.weights).view(-1, 10, 4).transpose(0, 1)[:, :, None, None]
class CapsuleNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.digit_capsules = Capsules()
        self.decoder = nn.Linear(40, 784)
    def forward(self, x, y=None):
        x = self.digit_capsules(x).squeeze().transpose(0, 1)
        y = Variable(y).cuda()
        return (x ** 2).sum(-1) ** 0.5, self.decoder((x * y[:, :, None]).view(x.size(0), -1))
class CapsuleLoss(nn.Module):
    def __init__(self):
        super().__init__()
        self.reconstruction_loss = nn.MSELoss(size_average=False)
    def forward(self, images, labels, classes, reconstructions):
        assert labels.sum(1).eq(1).all()
        error = self.reconstruction_loss(reconstructions, images.view(images.size(0), -1))
        return (labels * (0.9 - classes) ** 2).sum() + error
"""
LAYERS = """
import torch
from torch import nn
class DenseCapsule(nn.Module):
    def __init__(self, routings):
        super().__init__()
        self.routings, self.linear = routings, nn.Linear(784, 10)
    def forward(self, x):
        assert self.routings == 3
        return self.linear(x.flatten(1)) + torch.zeros(len(x), 10).cuda()
"""
NET = """
from torch import nn
from capsulelayers import DenseCapsule
class CapsuleNet(nn.Module):
    def __init__(self, input_size, classes, routings):
        super().__init__()
        assert (input_size, classes) == ([1, 28, 28], 10)
        self.capsules = DenseCapsule(routings)
    def forward(self, x, y=None):
        return self.capsules(x), x
def caps_loss(y_true, y_pred, x, x_recon, lam_recon):
    return ((y_true - y_pred) ** 2).mean() + lam_recon * ((x - x_recon) ** 2).mean()
"""
BROKEN = "from torch.autograd import NothingOfThisName\n"
NOTEBOOK = [
    "import torch\nfrom torch import nn\nUSE_CUDA = True",
    "class Capsules(nn.Linear):\n    pass",
    """class CapsNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.capsules = Capsules(784, 10)
    def forward(self, data):
        found = self.capsules(data.flatten(1))
        return (found.cuda() if USE_CUDA else found), data, None
    def loss(self, data, x, target, reconstructions):
        return ((x - target) ** 2).sum(1).mean()""",
    'for epoch in range(30):\n    print "a statement of Python 2"',
]


@pytest.fixture
def clones(tmp_path):
    cells = [{"cell_type": "code", "source": text.splitlines(keepends=True)} for text in NOTEBOOK]
    files = {
        "gram-ai/capsule_network.py": GRAM_AI, "adambielski/net.py": BROKEN,
        "XifengGuo/capsulelayers.py": LAYERS, "XifengGuo/capsulenet.py": NET,
        "higgsfield/Capsule Network.ipynb": json.dumps({"cells": cells}),
    }  # fmt: skip
    for name, text in files.items():
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    return tmp_path


@pytest.mark.parametrize("name", ["gram-ai", "XifengGuo", "higgsfield"])
def test_a_step_updates_the_foreign_network_and_leaves_no_trace(clones, name):
    traces = (list(sys.path), set(sys.modules), sys.getrecursionlimit(), torch.Tensor.cuda)
    step = PeerStep(name, clones, 4)
    before = [parameter.clone() for parameter in step.network.parameters()]
    for _ in range(2):
        wall, processor = step()
        assert wall > 0
        assert processor >= 0
    after = list(step.network.parameters())
    assert any(not torch.equal(a, b) for a, b in zip(before, after, strict=True))
    assert traces[0] == sys.path
    foreign = {"capsule_network", "capsulenet", "capsulelayers"}
    assert foreign.isdisjoint(set(sys.modules) - traces[1])
    assert traces[2:] == (sys.getrecursionlimit(), torch.Tensor.cuda)
    assert not list(clones.rglob("__pycache__"))


def test_code_that_does_not_run_raises_and_leaves_no_trace(clones):
    path = list(sys.path)
    with pytest.raises(ImportError, match="NothingOfThisName"):
        PeerStep("adambielski", clones, 2)
    assert path == sys.path
    with pytest.raises(ModuleNotFoundError, match="nowhere"):
        foreign_module(clones / "XifengGuo", "nowhere")


def test_a_missing_clone_and_an_unknown_name_are_said(tmp_path):
    with pytest.raises(FileNotFoundError, match="has no folder 'gram-ai'"):
        PeerStep("gram-ai", tmp_path, 2)
    with pytest.raises(ValueError, match="`name` must name a public implementation"):
        PeerStep("gram_ai", tmp_path, 2)
    assert list(PEERS) == ["gram-ai", "adambielski", "XifengGuo", "higgsfield"]
