"""The anti-bias prompt network: the NCSN++ U-Net of EDM without its time embedding (Zhang et al., ICLR 2025).

Trained by `..training.antibias`, called by `..methods.antibias_prompt`.
"""

# pyright: reportCallIssue=false, reportGeneralTypeIssues=false
# (torch types every child of a Module as "Tensor | Module")

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import SettingsError, ShapeError

SKIP_SCALE = 0.5**0.5  # a sum of two signals of equal strength keeps that strength


@dataclass(frozen=True)
class PromptConfig:
    """The network's size; the defaults are the paper's model for 32x32 (3.25 M parameters).

    latent_channels:  of the base model: 4 for SD1 and SDXL, 16 for newer ones
    channels:         width before `channel_mult`; the paper has 32 up to 64x64, 64 at 256x256, 16 "small"
    channel_mult:     one per resolution, each half as large as the one before
    blocks:           residual blocks per resolution
    attention_levels: which resolutions attend besides the smallest, counted from 0; `attention_at` says which
                      one is 16x16, the paper's
    """

    latent_channels: int = 4
    channels: int = 32
    channel_mult: tuple[int, ...] = (2, 2, 2)
    blocks: int = 4
    attention_levels: tuple[int, ...] = (1,)

    def __post_init__(self) -> None:
        for name in ("channel_mult", "attention_levels"):
            object.__setattr__(self, name, tuple(getattr(self, name)))  # JSON has lists
        levels = len(self.channel_mult)
        sizes = [(self.latent_channels, 4096), (self.channels, 4096), (self.blocks, 32), (levels, 8)]
        sizes += [(mult, 64) for mult in self.channel_mult]
        if not all(type(size) is int and 0 < size <= most for size, most in sizes):
            raise SettingsError(
                f"a network has up to 4096 channels, 32 blocks per resolution and 8 resolutions, each up to "
                f"64 times as wide, in whole numbers above 0; got {self}"
            )
        if not set(self.attention_levels) <= set(range(levels)):
            raise SettingsError(f"attention_levels are of 0 to {levels - 1}; got {self.attention_levels}")

    @classmethod
    def for_latents(
        cls, shape: Sequence[int], channels: int, mult: tuple[int, ...] = channel_mult, **more: Any
    ) -> PromptConfig:
        """Return the network for latents of the shape [C, *S]; it attends at 16x16, if it comes there."""
        return cls(
            shape[0], channels, mult, attention_levels=attention_at(max(shape[-2:]), len(mult)), **more
        )


def attention_at(size: int, levels: int, attended: int = 16) -> tuple[int, ...]:
    """Return which of the resolutions of `size` latent pixels and its halves is `attended`."""
    return tuple(level for level in range(levels) if size >> level == attended)


class PromptNetwork(nn.Module):
    """A state as the base model's network sees it to the correction that is added to it, in the same units.

    Shapes:  x, result [B, C, L], [B, C, H, W] or [B, C, T, H, W] of any size; frames are taken one by one.
    Units:   the base model's own input scaling, about unit variance; the network is not told the noise level.
    Source:  Zhang et al., ICLR 2025, section 4 and appendix B; Karras et al., 2022, arXiv 2206.00364,
             appendix F.2 ("NCSN++"). Differs in: no dropout; the last convolution of every block and of the
             network begins at 0, so that an untrained network corrects nothing.

    `ops` names where convolutions and norms come from, so that a host may bring its own.
    """

    def __init__(self, config: PromptConfig | None = None, ops: ModuleType | Any = nn):
        super().__init__()
        self.config = config = config or PromptConfig()
        widths = [config.channels * mult for mult in config.channel_mult]
        last = len(widths) - 1

        def block(c_in: int, c_out: int, attend: bool = False, resample: str = "") -> _Block:
            return _Block(ops, c_in, c_out, attend, resample)

        self.stem = ops.Conv2d(config.latent_channels, config.channels, 3, padding=1)
        self.encoder, self.down, self.residual = nn.ModuleList(), nn.ModuleList(), nn.ModuleList()
        width, skips, seen = config.channels, [config.channels], config.latent_channels
        for level, c_out in enumerate(widths):
            if level:
                self.down.append(block(width, width, resample="down"))
                self.residual.append(ops.Conv2d(seen, width, 3, padding=1))
                skips.append(width)
                seen = width
            stage = nn.ModuleList()
            for _ in range(config.blocks):
                stage.append(block(width, c_out, level in config.attention_levels))
                skips.append(width := c_out)
            self.encoder.append(stage)
        self.middle = nn.Sequential(block(width, width, True), block(width, width))
        self.decoder, self.up = nn.ModuleList(), nn.ModuleList()
        for level, c_out in reversed(list(enumerate(widths))):
            if level < last:
                self.up.append(block(width, width, resample="up"))
            stage = nn.ModuleList()
            for i in range(config.blocks + 1):
                attend = i == config.blocks and level in config.attention_levels
                stage.append(block(width + skips.pop(), c_out, attend))
                width = c_out
            self.decoder.append(stage)
        self.norm, self.out = _norm(ops, width), ops.Conv2d(width, config.latent_channels, 3, padding=1)
        _zero(self.out)

    def forward(self, x: Tensor) -> Tensor:
        if x.ndim not in (3, 4, 5) or x.shape[1] != self.config.latent_channels:
            raise ShapeError(
                f"this network is for latents of {self.config.latent_channels} channels; got {tuple(x.shape)}"
            )
        if x.ndim == 3:
            return self(x.unsqueeze(2)).squeeze(2)
        if x.ndim == 5:
            folded = x.transpose(1, 2).flatten(0, 1)  # [B*T, C, H, W]
            return self(folded).unflatten(0, (x.shape[0], x.shape[2])).transpose(1, 2)
        height, width = x.shape[2:]
        times = 2 ** len(self.down)
        x = F.pad(x, (0, -width % times, 0, -height % times), mode="replicate")
        return self._predict(x)[:, :, :height, :width]

    def _predict(self, x: Tensor) -> Tensor:
        seen, x = x, self.stem(x)
        skips = [x]
        for level, stage in enumerate(self.encoder):
            if level:
                x = self.down[level - 1](x)
                # The input itself, filtered down level by level, is added in at every resolution.
                x = seen = (x + _halve(self.residual[level - 1](seen))) * SKIP_SCALE
                skips.append(x)
            for block in stage:
                x = block(x)
                skips.append(x)
        x = self.middle(x)
        for level, stage in enumerate(self.decoder):
            if level:
                x = self.up[level - 1](x)
            for block in stage:
                x = block(torch.cat([x, skips.pop()], 1))
        return self.out(F.silu(self.norm(x)))


class _Block(nn.Module):
    """A residual block; one that resamples does so on both of its ways."""

    def __init__(self, ops: Any, c_in: int, c_out: int, attend: bool, resample: str):
        super().__init__()
        self.resample = {"": _keep, "down": _halve, "up": _double}[resample]
        self.norm0, self.conv0 = _norm(ops, c_in), ops.Conv2d(c_in, c_out, 3, padding=1)
        self.norm1, self.conv1 = _norm(ops, c_out), ops.Conv2d(c_out, c_out, 3, padding=1)
        self.skip = ops.Conv2d(c_in, c_out, 1) if resample or c_in != c_out else None
        self.attention = _Attention(ops, c_out) if attend else None
        _zero(self.conv1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv0(self.resample(F.silu(self.norm0(x))))
        h = self.conv1(F.silu(self.norm1(h)))
        x = self.resample(x)
        x = (h + (x if self.skip is None else self.skip(x))) * SKIP_SCALE
        return x if self.attention is None else self.attention(x)


class _Attention(nn.Module):
    """Self-attention over all places, with one head."""

    def __init__(self, ops: Any, width: int):
        super().__init__()
        self.norm, self.qkv, self.proj = (
            _norm(ops, width),
            ops.Conv2d(width, 3 * width, 1),
            ops.Conv2d(width, width, 1),
        )
        _zero(self.proj)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(self.norm(x)).flatten(2).transpose(1, 2).chunk(3, -1)  # each [B, H*W, C]
        h = F.scaled_dot_product_attention(q[:, None], k[:, None], v[:, None])[:, 0]
        return (x + self.proj(h.transpose(1, 2).reshape(x.shape))) * SKIP_SCALE


def _norm(ops: Any, channels: int) -> nn.Module:
    """EDM's: at most 32 groups, of 4 channels or more."""
    most = max(min(32, channels // 4), 1)
    groups = next(n for n in range(most, 0, -1) if channels % n == 0)
    return ops.GroupNorm(groups, channels, eps=1e-6)


def _zero(conv: nn.Module) -> None:
    for weight in conv.parameters():
        nn.init.zeros_(weight)


def _filter(x: Tensor) -> Tensor:
    """The FIR filter [1, 3, 3, 1] in both directions, once per channel, with sum 1."""
    t = torch.arange(4, device=x.device)
    taps = ((1 + t * (3 - t)) / 8).to(x.dtype)
    return torch.outer(taps, taps).expand(x.shape[1], 1, 4, 4)


def _halve(x: Tensor) -> Tensor:
    return F.conv2d(x, _filter(x), stride=2, padding=1, groups=x.shape[1])


def _double(x: Tensor) -> Tensor:
    return F.conv_transpose2d(x, 4 * _filter(x), stride=2, padding=1, groups=x.shape[1])


def _keep(x: Tensor) -> Tensor:
    return x
