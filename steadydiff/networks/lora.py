"""Low-rank additions to a frozen network, under the names by which hosts know LoRA files."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import torch
from torch import Tensor, nn


class Lora(nn.Module):
    """Adds up(down(x)) to every convolution and linear layer of a network; nothing at first.

    rank: width of the additions, at most the layer's own
    """

    def __init__(self, network: nn.Module, rank: int) -> None:
        super().__init__()
        self.rank = rank
        self.names = [name for name, layer in network.named_modules() if _is_known(layer)]
        self.down, self.up = nn.ModuleDict(), nn.ModuleDict()
        for name in self.names:
            key = name.replace(".", "_")
            self.down[key], self.up[key] = _pair(network.get_submodule(name), rank)

    @contextmanager
    def on(self, network: nn.Module) -> Iterator[None]:
        """Add to this network's layers while open."""
        handles = []
        for name in self.names:
            key = name.replace(".", "_")
            hook = partial(_add, self.down[key], self.up[key])
            handles.append(network.get_submodule(name).register_forward_hook(hook))
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def tensors(self, prefix: str = "lora_unet_") -> dict[str, Tensor]:
        """What a LoRA file holds: for each layer its two factors and their rank as alpha."""
        found = {}
        for key, down in self.down.items():
            found[f"{prefix}{key}.lora_down.weight"] = down.get_parameter("weight").detach()
            found[f"{prefix}{key}.lora_up.weight"] = self.up[key].get_parameter("weight").detach()
            found[f"{prefix}{key}.alpha"] = torch.tensor(float(down.get_parameter("weight").shape[0]))
        return found


def _is_known(layer: nn.Module) -> bool:
    return isinstance(layer, nn.Linear) or (isinstance(layer, nn.Conv2d) and layer.groups == 1)


def _pair(layer: nn.Module, rank: int) -> tuple[nn.Module, nn.Module]:
    """Down as the layer itself but narrower, up by a plain product that begins at zero."""
    if isinstance(layer, nn.Linear):
        rank = min(rank, layer.in_features, layer.out_features)
        down = nn.Linear(layer.in_features, rank, bias=False)
        up = nn.Linear(rank, layer.out_features, bias=False)
    else:
        assert isinstance(layer, nn.Conv2d)
        rank = min(rank, layer.in_channels, layer.out_channels)
        size = {"kernel_size": layer.kernel_size, "stride": layer.stride, "padding": layer.padding}
        down = nn.Conv2d(layer.in_channels, rank, **size, dilation=layer.dilation, bias=False)  # pyright: ignore[reportArgumentType]
        up = nn.Conv2d(rank, layer.out_channels, 1, bias=False)
    nn.init.zeros_(up.weight)
    device = layer.weight.device  # in single precision, whatever the layer's own
    return down.to(device), up.to(device)


def _add(
    down: nn.Module, up: nn.Module, layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor
) -> Tensor:
    return output + up(down(inputs[0]))
