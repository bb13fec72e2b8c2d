"""Numbers in a precision that sums, roots and exponentials can take."""

import torch
from torch import Tensor


def at_least_float32(values: Tensor) -> Tensor:
    """Half precision as float32, the rest as it is."""
    return values.to(torch.promote_types(values.dtype, torch.float32))
