"""The photos' UNet: works on 2x2-unshuffled pictures and ends in a few convolutions at full resolution.

One class for the trainer and for ComfyUI, which hands in its own kinds of layers as `operations`.
"""

# pyright: reportCallIssue=false, reportArgumentType=false, reportAttributeAccessIssue=false
# (torch types every child of a Module as "Tensor | Module")

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..unet import timestep_embedding

CHANNELS = 3
SIZE_PX = 32
_TIME = 128  #  sinusoids of the timestep
_GROUP = 32  #  GroupNorm's groups


@dataclass(frozen=True)
class PhotoConfig:
    """One residual block per level going down, two going up; attention where a side is 8 or less."""

    widths: tuple[int, ...] = (64, 128, 128)
    embedding: int = 192
    detail: int = 24  # channels that the coarse part hands to the head at full resolution
    head: int = 32  #   channels of that head
    context: int = 64

    def unet_config(self) -> dict:
        """The arguments with which ComfyUI builds a `PhotoNet`."""
        return asdict(self)


class _Residual(nn.Module):
    def __init__(self, c_in: int, c_out: int, embedding: int, ops: Any, place: dict):
        super().__init__()
        self.norm1 = ops.GroupNorm(_GROUP, c_in, **place)
        self.conv1 = ops.Conv2d(c_in, c_out, 3, padding=1, **place)
        self.modulate = ops.Linear(embedding, 2 * c_out, **place)
        self.norm2 = ops.GroupNorm(_GROUP, c_out, **place)
        self.conv2 = ops.Conv2d(c_out, c_out, 3, padding=1, **place)
        self.skip = ops.Conv2d(c_in, c_out, 1, **place) if c_in != c_out else nn.Identity()
        nn.init.zeros_(self.conv2.weight)

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        scale, shift = self.modulate(emb)[:, :, None, None].chunk(2, 1)
        h = self.conv1(F.silu(self.norm1(x)))
        return self.skip(x) + self.conv2(F.silu(self.norm2(h) * (1 + scale) + shift))


class _Attention(nn.Module):
    heads = 4

    def __init__(self, width: int, ops: Any, place: dict):
        super().__init__()
        self.norm = ops.GroupNorm(_GROUP, width, **place)
        self.qkv = ops.Conv2d(width, 3 * width, 1, **place)
        self.out = ops.Conv2d(width, width, 1, **place)
        nn.init.zeros_(self.out.weight)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(self.norm(x)).flatten(2).unflatten(1, (3, self.heads, -1)).mT.unbind(1)
        return x + self.out(F.scaled_dot_product_attention(q, k, v).mT.reshape(x.shape))


class _Stage(nn.Module):
    """A residual block, followed by attention if asked for."""

    def __init__(self, c_in: int, c_out: int, embedding: int, attends: bool, ops: Any, place: dict):
        super().__init__()
        self.residual = _Residual(c_in, c_out, embedding, ops, place)
        self.attention = _Attention(c_out, ops, place) if attends else nn.Identity()

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        return self.attention(self.residual(x, emb))


class PhotoNet(nn.Module):
    """Noised picture, timestep and words to the raw prediction: noise, or velocity in the flow twin.

    The mean of the context's rows stands for the prompt. The last layer is `out.2`, as in SD's UNets.

    Shapes:  x, result [B, 3, H, W], padded inside to multiples of 8; timesteps [B] in 0..1000;
             context [B, T, D].
    """

    def __init__(
        self,
        widths: tuple[int, ...] = PhotoConfig.widths,
        embedding: int = PhotoConfig.embedding,
        detail: int = PhotoConfig.detail,
        head: int = PhotoConfig.head,
        context: int = PhotoConfig.context,
        device: Any = None,
        dtype: torch.dtype | None = None,
        operations: Any = nn,
    ):
        super().__init__()
        ops, place = operations, {"device": device, "dtype": dtype}
        self.dtype = dtype or torch.get_default_dtype()
        self.multiple = 2 ** len(widths)

        def stage(c_in: int, c_out: int, level: int) -> _Stage:
            return _Stage(c_in, c_out, embedding, level > 0, ops, place)

        self.time = nn.Sequential(
            ops.Linear(_TIME, embedding, **place), nn.SiLU(), ops.Linear(embedding, embedding, **place)
        )
        self.words = ops.Linear(context, embedding, **place)
        width = widths[0]
        self.stem = ops.Conv2d(4 * CHANNELS, width, 3, padding=1, **place)
        self.down, self.shrink, skips = nn.ModuleList(), nn.ModuleList(), [width]
        for level, c_out in enumerate(widths):
            if level:
                self.shrink.append(ops.Conv2d(width, width, 3, stride=2, padding=1, **place))
                skips.append(width)
            self.down.append(stage(width, c_out, level))
            skips.append(width := c_out)
        self.middle = nn.ModuleList([stage(width, width, 1), stage(width, width, 0)])
        self.up, self.grow = nn.ModuleList(), nn.ModuleList()
        for level, c_out in reversed(list(enumerate(widths))):
            self.up.append(stage(width + skips.pop(), c_out, level))
            self.up.append(stage(c_out + skips.pop(), c_out, level))
            if level:
                self.grow.append(ops.Conv2d(c_out, c_out, 3, padding=1, **place))
            width = c_out
        self.coarse = nn.Sequential(
            ops.GroupNorm(_GROUP, width, **place),
            nn.SiLU(),
            ops.Conv2d(width, 4 * detail, 3, padding=1, **place),
        )
        self.fine1 = ops.Conv2d(CHANNELS + detail, head, 3, padding=1, **place)
        self.fine2 = ops.Conv2d(head, head, 3, padding=1, **place)
        self.out = nn.Sequential(
            ops.GroupNorm(8, head, **place), nn.SiLU(), ops.Conv2d(head, CHANNELS, 3, padding=1, **place)
        )

    def forward(self, x: Tensor, timesteps: Tensor, context: Tensor, **_kwargs: Any) -> Tensor:
        height, width = x.shape[-2:]
        x = F.pad(x, (0, -width % self.multiple, 0, -height % self.multiple), mode="replicate")
        times = timestep_embedding(timesteps, _TIME).to(x.dtype)
        emb = F.silu(self.time(times) + self.words(context.to(x.dtype).mean(1)))
        h = self.stem(F.pixel_unshuffle(x, 2))
        skips = [h]
        for level, stage in enumerate(self.down):
            if level:
                h = self.shrink[level - 1](h)
                skips.append(h)
            h = stage(h, emb)
            skips.append(h)
        for stage in self.middle:
            h = stage(h, emb)
        for i, stage in enumerate(self.up):
            h = stage(torch.cat([h, skips.pop()], 1), emb)
            if i % 2 and i // 2 < len(self.grow):
                h = self.grow[i // 2](F.interpolate(h, scale_factor=2.0, mode="nearest"))
        h = self.fine1(torch.cat([x, F.pixel_shuffle(self.coarse(h), 2)], 1))
        return self.out(h + self.fine2(F.silu(h)))[..., :height, :width]
