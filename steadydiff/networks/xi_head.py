"""MDSS's second output: a copy of the last layer's shape, beside it and on the same input.

Trainers build `TwoHeads`; hosts listen to the last layer of their own network and apply the head's weights
to what it read, so that the first output is the base model's to the bit.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch.nn.functional as F
from torch import Tensor, nn

from .lora import Lora

LAYER = "out.2"
"""The last layer of the UNets of SD1.5, SD2, SDXL and of the tiny world, by its name inside the network."""


def last_layer(network: nn.Module) -> nn.Module | None:
    """Return the layer whose output is the network's answer; None in a network of a kind we do not know."""
    try:
        layer = network.get_submodule(LAYER)
    except AttributeError:
        return None
    return layer if getattr(getattr(layer, "weight", None), "ndim", 0) == 4 else None


@contextmanager
def listening(layer: nn.Module) -> Iterator[list[Tensor]]:
    """Collect what a layer reads while this is open."""
    heard: list[Tensor] = []
    handle = layer.register_forward_pre_hook(lambda layer, inputs: heard.append(inputs[0]))
    try:
        yield heard
    finally:
        handle.remove()


def apply_head(seen: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Return the second output for what the last layer read, in the head's own precision.

    Shapes:  seen [B, D, H, W]; weight [C, D, k, k] with k odd; bias [C]; result [B, C, H, W].
    """
    return F.conv2d(seen.to(weight.dtype), weight, bias, padding=weight.shape[-1] // 2)


class XiHead(nn.Module):
    """The second last layer; zero, so that an untrained one changes nothing."""

    def __init__(self, layer: nn.Conv2d) -> None:
        super().__init__()
        self.weight = nn.Parameter(layer.weight.detach().new_zeros(layer.weight.shape))
        self.bias = nn.Parameter(layer.weight.detach().new_zeros(layer.out_channels))

    def forward(self, seen: Tensor) -> Tensor:
        return apply_head(seen, self.weight, self.bias)


class _Shared:
    """Holds a module without registering it, and is not copied with its owner."""

    def __init__(self, module: nn.Module) -> None:
        self.module = module

    def __deepcopy__(self, memo: dict) -> _Shared:
        return self


class TwoHeads(nn.Module):
    """A network with a second output: (*inputs) -> (its own output, the second one or None).

    Its parameters are what is trained: the network's own, or with a `rank` low-rank additions to a frozen
    network, which act while `attached` is open; and the head's, unless `xi` is false.
    """

    def __init__(self, network: nn.Module, xi: bool = True, rank: int = 0) -> None:
        super().__init__()
        layer = last_layer(network)
        assert isinstance(layer, nn.Conv2d)
        self.xi = XiHead(layer) if xi else None
        self.lora = Lora(network, rank) if rank else None
        self.base = None if rank else network
        self._frozen = _Shared(network.requires_grad_(False)) if rank else None

    @property
    def network(self) -> nn.Module:
        network = self._frozen.module if self._frozen else self.base
        assert network is not None
        return network

    def attached(self) -> AbstractContextManager:
        """While this is open a rank's additions act; the backward pass may need them too."""
        return self.lora.on(self.network) if self.lora else nullcontext()

    def forward(self, *inputs: Tensor) -> tuple[Tensor, Tensor | None]:
        layer = last_layer(self.network)
        assert layer is not None
        with listening(layer) as heard:
            answer = self.network(*inputs)
        return answer, None if self.xi is None else self.xi(heard[-1])
