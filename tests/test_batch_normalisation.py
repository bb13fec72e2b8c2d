"""Statistics of the whole batch, on one process and on two."""

import pytest
import torch

from interp_train.batch_normalisation import WholeBatchNorm


def normalised(shape):
    """Output, gradients and statistics of two steps in float64; a rank gets half of the rows."""
    torch.manual_seed(3)
    layer = WholeBatchNorm(shape[1]).double()
    torch.nn.init.normal_(layer.weight)
    values, factors = torch.randn(*shape).double(), torch.randn(*shape).double()
    parts = 1
    if torch.distributed.is_initialized():
        parts, rank = 2, torch.distributed.get_rank()
        values, factors = (t.chunk(2)[rank] for t in (values, factors))
    values = (3 + 2 * values).requires_grad_()
    for _ in range(2):
        output = layer(values)
    loss = (output.square() * factors).flatten(1).sum(1).mean()
    gradients = torch.autograd.grad(loss, [layer.weight, layer.bias, values])
    return (
        output.detach(),
        [g.detach() for g in gradients[:2]],
        gradients[2] / parts,
        layer.state_dict(),
    )


@pytest.mark.parametrize("shape", [(8, 3), (6, 2, 3, 4)])
def test_two_processes_normalise_as_one(two_processes, shape):
    output, gradients, at_input, state = normalised(shape)
    found = two_processes(normalised, shape)
    torch.testing.assert_close(torch.cat([each[0] for each in found]), output)
    torch.testing.assert_close(torch.cat([each[2] for each in found]), at_input)
    for place, gradient in enumerate(gradients):
        torch.testing.assert_close(sum(each[1][place] for each in found) / 2, gradient)
    for each in found:
        for name, value in state.items():
            torch.testing.assert_close(each[3][name], value)


def test_it_is_torchs_on_one_process_and_in_evaluation():
    torch.manual_seed(0)
    ours, theirs = WholeBatchNorm(3), torch.nn.BatchNorm1d(3)
    values = torch.randn(5, 3)
    assert torch.equal(ours(values), theirs(values))
    assert torch.equal(ours.eval()(values), theirs.eval()(values))
    with pytest.raises(ValueError, match=r"`input` must be \(N, K\) or \(N, K, H, W\)"):
        ours.train()(torch.zeros(2, 3, 4))
