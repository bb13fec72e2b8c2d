import functools

import pytest
import torch

from interp_train.optimisation import learning_rate_of, with_scheduler


def test_the_rate_is_that_of_the_partial():
    assert learning_rate_of(functools.partial(torch.optim.SGD, lr=0.3, momentum=0.9)) == 0.3
    for wrong in (torch.optim.SGD, functools.partial(torch.optim.SGD, momentum=0.9)):
        with pytest.raises(ValueError, match="`optimizer` must be a partial with a learning rate"):
            learning_rate_of(wrong)


def test_a_scheduler_steps_at_its_interval_and_none_leaves_the_optimiser_alone():
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    assert with_scheduler(optimizer, None, "step") is optimizer
    make = functools.partial(torch.optim.lr_scheduler.ConstantLR, factor=0.5)
    found = with_scheduler(optimizer, make, "epoch")
    assert found["optimizer"] is optimizer
    assert found["lr_scheduler"]["interval"] == "epoch"
    assert found["lr_scheduler"]["scheduler"].get_last_lr() == [0.5]
