"""MDSS's second output: a copy of the last layer's shape, beside it and on the same input.

Trainers build `TwoHeads`; hosts record the last layer of their own network and apply the head's weights
to what it read, so that the first output is the base model's to the bit.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from ..memory import retry_on_oom
from .lora import Lora

LAYER = "out.2"
"""The last layer of the UNets of SD1.5, SD2, SDXL and of the tiny world, by its name inside the network."""


class Tokens(NamedTuple):
    """How a transformer's last layer answers: a token for each patch of p times q latents of c channels.

    order: of the values of a token
    last:  whether the picture's tokens come after all others, padded to a multiple of the network's
           `pad_tokens_multiple`, instead of before
    sign:  the network's output is so many times the picture
    """

    order: str
    last: bool = False
    sign: int = 1


TOKENS = {  # by ComfyUI's names for their classes
    "OpenAISignatureMMDITWrapper": Tokens("p q c"),  # SD3
    "Flux": Tokens("c p q"),
    "Chroma": Tokens("c p q"),
    "NextDiT": Tokens("p q c", last=True, sign=-1),  # Lumina 2 and Z-Image
}

TOKEN_LAYER = "final_layer.linear"
"""Their last layer; many others have one of this name and arrange its tokens in other ways."""

KNOWN = (
    "UNets as in SD1.5, SD2 and SDXL, and in ComfyUI the transformers of "
    "SD3, Flux, Chroma, Lumina 2 and Z-Image"
)


def last_layer(network: nn.Module) -> nn.Module | None:
    """Return the layer whose output is the network's output; None in a network of a kind we do not know."""
    tokens = TOKENS.get(type(network).__name__)
    if tokens and tokens.last and not hasattr(network, "pad_tokens_multiple"):
        return None  # of an older host, which pads in another way
    try:
        layer = network.get_submodule(TOKEN_LAYER if tokens else LAYER)
    except AttributeError:
        return None
    return layer if getattr(getattr(layer, "weight", None), "ndim", 0) == (2 if tokens else 4) else None


def patch_of(network: nn.Module) -> int:
    """Return how many latents along a side one output of the last layer stands for."""
    return int(getattr(network, "patch_size", 1)) if type(network).__name__ in TOKENS else 1


@contextmanager
def capture(layer: nn.Module) -> Iterator[list[Tensor]]:
    """Collect what a layer reads while this is open."""
    captured: list[Tensor] = []
    handle = layer.register_forward_pre_hook(lambda layer, inputs: captured.append(inputs[0]))
    try:
        yield captured
    finally:
        handle.remove()


def apply_head(seen: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Return the second output for what the last layer read, in the head's own precision.

    Shapes:  seen [B, D, H, W]; weight [C, D, k, k] with k odd; bias [C]; result [B, C, H, W]. Of transformers
             seen [B, L, D]; weight [E, D]; bias [E]; result [B, L, E], for `to_latent`.
    """

    def apply(seen: Tensor) -> Tensor:
        if weight.ndim == 2:
            return F.linear(seen.to(weight.dtype), weight, bias)
        return F.conv2d(seen.to(weight.dtype), weight, bias, padding=weight.shape[-1] // 2)

    return retry_on_oom(apply, "MDSS's second head")(seen)


def to_latent(network: nn.Module, output: Tensor, size: Sequence[int]) -> Tensor:
    """Arrange a head's output as the network arranges its own last layer's; a UNet's stays as it is.

    Tokens of anything but the latent (a prompt, a reference picture) are left out.

    Shapes:  output [B, C, H, W], or [B, L, E] with E = C times the patch's area; size (H, W); result
             [B, C, H, W].
    """
    if output.ndim == 4:
        return output
    p, (order, last, sign) = patch_of(network), TOKENS[type(network).__name__]
    h, w = (math.ceil(side / p) for side in size)
    multiple = getattr(network, "pad_tokens_multiple", None) or 1
    first = output.shape[1] - math.ceil(h * w / multiple) * multiple if last else 0
    picture = sign * output[:, first : first + h * w]
    return rearrange(picture, f"b (h w) ({order}) -> b c (h p) (w q)", h=h, w=w, p=p, q=p)[
        ..., : size[0], : size[1]
    ]


class XiHead(nn.Module):
    """The second last layer; zero, so that an untrained one changes nothing."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        own = layer.get_parameter("weight")
        self.weight = nn.Parameter(torch.zeros_like(own, dtype=torch.float32))
        self.bias = nn.Parameter(torch.zeros(len(own), device=own.device))

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
        layer = last_layer(network.requires_grad_(not rank))
        assert layer is not None
        self.xi = XiHead(layer) if xi else None
        self.lora = Lora(network, rank) if rank else None
        self.base = None if rank else network
        self._frozen = _Shared(network) if rank else None

    @property
    def network(self) -> nn.Module:
        network = self._frozen.module if self._frozen else self.base
        assert network is not None
        return network

    def attached(self) -> AbstractContextManager:
        """While this is open a rank's additions act; the backward pass may need them too."""
        return self.lora.on(self.network) if self.lora else nullcontext()

    def forward(
        self, *inputs: Any, evaluate: Callable[..., Tensor] | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """Both outputs; `evaluate` calls the network in another's way, a host's for example."""
        layer = last_layer(self.network)
        assert layer is not None
        with capture(layer) as captured:
            output = (evaluate or self.network)(*inputs)
        if self.xi is None:
            return output, None
        return output, to_latent(self.network, self.xi(captured[-1]), output.shape[-2:])
