"""Processes that train one network together: what `accelerate launch` starts, or one process alone.

Every process draws a batch of its own, their gradients are averaged, and the first one writes the files.
"""

from __future__ import annotations

import atexit
import importlib
import os
from collections.abc import Iterable
from functools import cache
from typing import Any

import torch
from torch import Tensor

from ..errors import SettingsError


class SingleProcess:
    """One process, on the device its caller chose."""

    rank, size = 0, 1

    @property
    def device(self) -> torch.device:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")

    def average(self, tensors: Iterable[Tensor]) -> None:
        """Nothing, as there is nobody else."""

    def gathered(self, number: int) -> list[int]:
        """Return every process's number; here the one."""
        return [number]

    def wait(self) -> None:
        """Nothing, as there is nobody else."""

    def leave(self) -> None:
        """Nothing, as there is nobody else."""


class Distributed:
    """One of several processes of `accelerate launch`."""

    def __init__(self, accelerator: Any) -> None:
        self._accelerator = accelerator
        self.rank, self.size = accelerator.process_index, accelerator.num_processes
        self.device: torch.device = accelerator.device

    def average(self, tensors: Iterable[Tensor]) -> None:
        """Put the mean over the processes into each tensor; one exchange for all of them."""
        tensors = list(tensors)
        flat = self._accelerator.reduce(torch.cat([t.reshape(-1) for t in tensors]), "mean")
        for tensor, mean in zip(tensors, flat.split([t.numel() for t in tensors]), strict=True):
            tensor.copy_(mean.view_as(tensor))

    def gathered(self, number: int) -> list[int]:
        """Return every process's number, the first one's first."""
        return self._accelerator.gather(torch.tensor([number], device=self.device)).tolist()

    def wait(self) -> None:
        """Return when every process has come here."""
        self._accelerator.wait_for_everyone()

    def leave(self) -> None:
        """Part when every process has come here: one that ends while others talk to it may abort them."""
        self.wait()
        self._accelerator.end_training()


@cache
def team() -> SingleProcess | Distributed:
    """Return what this process belongs to; the launcher says so in WORLD_SIZE.

    Raises:  SettingsError if it is one of several and accelerate is missing.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) < 2:
        return SingleProcess()
    try:
        from accelerate import Accelerator
    except ImportError:
        raise SettingsError(
            "several processes train together with accelerate, which is not installed; pip install accelerate"
        ) from None
    # An optimizer imports it; imported while there is a process group, it keeps that group's threads alive
    # after the group is destroyed, and one that still runs when Python ends may abort the process.
    importlib.import_module("torch._dynamo")
    accelerator = Accelerator(cpu=not torch.cuda.is_available())
    atexit.register(accelerator.end_training)
    return Distributed(accelerator)
