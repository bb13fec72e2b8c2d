import numpy as np
import pytest
import torch

from interp_train.learning.filter_objectives.class_gates import functional
from interp_train.structures import BACKGROUND

N, K, C = 6, 5, 3


@pytest.fixture
def gates():
    """Entries outside [0, 1] too; row 3 has fallen below 0."""
    drawn = torch.randn(K, C, dtype=torch.double)
    drawn[3] = torch.tensor([-0.4, -0.1, -0.3])
    return drawn


def slow_normalised(gates):
    """Row by row, entry by entry."""
    result = np.zeros(gates.shape)
    for k, row in enumerate(gates.tolist()):
        largest = max(row)
        for c, value in enumerate(row):
            if largest > 1e-6:
                result[k, c] = min(max(value / largest, 0.0), 1.0)
            else:
                result[k, c] = float(c == row.index(largest))
    return torch.tensor(result)


def test_normalised_gates_agree_with_loops(gates):
    torch.testing.assert_close(functional.normalised_gates(gates), slow_normalised(gates))


def test_normalised_gates_by_hand():
    rows = torch.tensor([[0.5, 0.25, -0.1], [2.0, 1.0, 2.0], [-0.2, -0.1, -0.5], [0.0, 0.0, 0.0]])
    expected = [[1.0, 0.5, 0.0], [1.0, 0.5, 1.0], [0.0, 1.0, 0.0], [1.0, 0.0, 0.0]]
    assert functional.normalised_gates(rows).tolist() == expected


def test_normalising_twice_is_normalising_once(gates):
    once = functional.normalised_gates(gates)
    assert torch.equal(functional.normalised_gates(once), once)
    assert once.amax(1).eq(1).all()
    assert ((once >= 0) & (once <= 1)).all()


@pytest.mark.parametrize("background", [True, False])
def test_gates_of_images_agree_with_loops(gates, background):
    count = C - 1 if background else C
    labels = torch.tensor([0, BACKGROUND, 1, count - 1, 0, BACKGROUND])
    found = functional.gates_of_images(gates, labels, background)
    for n, label in enumerate(labels.tolist()):
        for k in range(K):
            no_gate = gates[k, C - 1].item() if background else 1.0
            expected = no_gate if label == BACKGROUND else gates[k, label].item()
            assert found[n, k].item() == expected


def test_gated_maps_agree_with_loops():
    maps, own = torch.randn(N, K, 2, 3), torch.rand(N, K, dtype=torch.double)
    found = functional.gated(maps, own)
    assert found.dtype == maps.dtype
    for n in range(N):
        for k in range(K):
            torch.testing.assert_close(found[n, k], maps[n, k] * own[n, k].float())


def test_densities_by_hand():
    gates = torch.tensor([[1.0, 0.5], [-0.25, 1.0]])
    assert functional.density(gates).item() == 2.75 / 4
    assert functional.density_excess(gates, 0.2).item() == pytest.approx(2.75 - 0.2 * 4)


def test_a_matrix_below_the_bound_costs_nothing():
    gates = torch.eye(4, requires_grad=True)  # density 0.25
    excess = functional.density_excess(gates, 0.3)
    assert excess.item() == 0.0
    excess.backward()
    assert gates.grad.eq(0).all()


def test_the_penalty_alone_cannot_close_all_gates():
    """Gradient steps and projections: each filter keeps its widest gate."""
    gates = torch.tensor([[1.0, 0.9, 0.8], [0.7, 1.0, 0.9]])
    for _ in range(200):
        leaf = gates.clone().requires_grad_()
        functional.density_excess(leaf, 0.0).backward()
        gates = functional.normalised_gates(leaf.detach() - 0.05 * leaf.grad)
    assert gates.tolist() == [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]


def test_gradients_through_gates():
    maps = torch.randn(N, K, 2, 2, dtype=torch.double, requires_grad=True)
    gates = torch.rand(K, C, dtype=torch.double, requires_grad=True)
    labels = torch.tensor([0, 1, 2, BACKGROUND, 0, 1])

    def path(maps, gates):
        own = functional.gates_of_images(gates, labels, background=False)
        return functional.gated(maps, own).sum((2, 3)), functional.density_excess(gates, 0.1)

    assert torch.autograd.gradcheck(path, (maps, gates))
