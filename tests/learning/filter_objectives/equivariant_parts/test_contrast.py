import torch

from interp_train.learning.filter_objectives.equivariant_parts.contrast import (
    around,
    distinct_cells,
    local_contrast,
)


def test_contrast_agrees_with_loops():
    maps = torch.randn(2, 3, 4, 5).double()
    found = local_contrast(maps, around(maps))
    for n in range(2):
        for i in range(4):
            for j in range(5):
                near = maps[n, :, max(i - 1, 0) : i + 2, max(j - 1, 0) : j + 2].mean((1, 2))
                expected = (maps[n, :, i, j] - near).square().mean()
                torch.testing.assert_close(found[n, i, j], expected)


def test_distinct_cells_by_hand():
    attention = torch.tensor([[1.0, 1.0, 0.5, 0.0]])
    contrast = torch.tensor([[1.0, 3.0, 2.0, 9.0]])
    # The mean is (1 + 3 + 1) / 2.5 = 2, so that a contrast of 3 is enough.
    found = distinct_cells(attention, contrast)
    torch.testing.assert_close(found, torch.tensor([[1 / 3, 1.0, 1 / 3, 0.0]]))


def test_an_object_without_contrast_has_no_distinct_cells():
    assert torch.equal(distinct_cells(torch.ones(1, 4), torch.zeros(1, 4)), torch.zeros(1, 4))
    assert torch.equal(distinct_cells(torch.zeros(1, 4), torch.ones(1, 4)), torch.zeros(1, 4))


def test_distinct_cells_do_not_depend_on_the_unit_of_contrast():
    torch.manual_seed(0)
    attention, contrast = torch.rand(3, 20), torch.rand(3, 20)
    found = distinct_cells(attention, contrast)
    torch.testing.assert_close(distinct_cells(attention, 100 * contrast), found)
    assert (found <= attention).all()
