"""What a network of ours does where memory runs out: the host has no plan for it."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

OutOfMemory = torch.cuda.OutOfMemoryError  # so called by every torch of our hosts, for any accelerator


def retry_on_oom(network: Callable[[Tensor], Tensor], what: str) -> Callable[[Tensor], Tensor]:
    """Return a network that is asked for one sample after the other where memory does not do for a batch.

    what: the network's name, for the error

    Raises:  torch's own error, after which hosts clean up, with a sentence of ours. By then torch has let go
             of all it only kept for later; what else fills the memory is the model that is being sampled.
    """

    def evaluate(x: Tensor) -> Tensor:
        try:
            return network(x)
        except OutOfMemory:
            pass  # and try below, where no traceback holds the failed call's tensors any more
        try:
            return torch.cat([network(sample) for sample in x.split(1)])
        except OutOfMemory as error:
            raise OutOfMemory(
                f"there is not enough memory for {what}, not even for one sample at a time; sample smaller "
                f"or fewer pictures, or take it off ({error})"
            ) from None

    return evaluate
