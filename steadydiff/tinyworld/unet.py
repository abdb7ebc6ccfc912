"""The tiny world's UNet, with the layout and parameter names of SD1's: ComfyUI runs them in its own."""

# pyright: reportCallIssue=false, reportAttributeAccessIssue=false, reportGeneralTypeIssues=false
# pyright: reportIndexIssue=false, reportOperatorIssue=false, reportOptionalSubscript=false
# pyright: reportArgumentType=false, reportIncompatibleMethodOverride=false
# (torch types every child of a Module as "Tensor | Module")

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint


@dataclass(frozen=True)
class UNetConfig:
    """One residual and one transformer block per level; channels come in multiples of 32 (GroupNorm)."""

    channels: int = 64
    channel_mult: tuple[int, ...] = (1, 1)
    context: int = 64
    head_channels: int = 16
    latent_channels: int = 4

    def unet_config(self) -> dict:
        """The same as the `unet_config` that ComfyUI's model configurations carry."""
        levels = len(self.channel_mult)
        return {
            "image_size": 32,
            "in_channels": self.latent_channels,
            "out_channels": self.latent_channels,
            "model_channels": self.channels,
            "channel_mult": list(self.channel_mult),
            "num_res_blocks": [1] * levels,
            "transformer_depth": [1] * levels,
            "transformer_depth_middle": 1,
            "transformer_depth_output": [1] * (2 * levels),
            "use_spatial_transformer": True,
            "use_linear_in_transformer": False,
            "context_dim": self.context,
            "num_heads": -1,
            "num_head_channels": self.head_channels,
            "use_temporal_attention": False,
            "legacy": False,
        }


def timestep_embedding(t: Tensor, dim: int) -> Tensor:
    """Sinusoids of the timestep [B] in 0..1000, cosines first, [B, dim]."""
    freqs = torch.exp(-math.log(10000) * torch.arange(dim // 2, device=t.device) / (dim // 2))
    angles = t.float()[:, None] * freqs
    return torch.cat([angles.cos(), angles.sin()], -1)


class ResBlock(nn.Module):
    def __init__(self, c_in: int, c_out: int, emb: int):
        super().__init__()
        self.in_layers = nn.Sequential(
            nn.GroupNorm(32, c_in), nn.SiLU(), nn.Conv2d(c_in, c_out, 3, padding=1)
        )
        self.emb_layers = nn.Sequential(nn.SiLU(), nn.Linear(emb, c_out))
        last = nn.Conv2d(c_out, c_out, 3, padding=1)
        self.out_layers = nn.Sequential(nn.GroupNorm(32, c_out), nn.SiLU(), nn.Identity(), last)
        self.skip_connection = nn.Conv2d(c_in, c_out, 1) if c_in != c_out else nn.Identity()
        nn.init.zeros_(last.weight)

    def forward(self, x: Tensor, emb: Tensor, context: Tensor) -> Tensor:
        del context
        h = self.in_layers(x) + self.emb_layers(emb)[:, :, None, None]
        return self.skip_connection(x) + self.out_layers(h)


class Attention(nn.Module):
    def __init__(self, width: int, context: int, head_channels: int):
        super().__init__()
        self.head_channels = head_channels
        self.to_q = nn.Linear(width, width, bias=False)
        self.to_k, self.to_v = nn.Linear(context, width, bias=False), nn.Linear(context, width, bias=False)
        self.to_out = nn.Sequential(nn.Linear(width, width), nn.Identity())

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        q, k, v = (
            y.unflatten(-1, (-1, self.head_channels)).transpose(1, 2)
            for y in (self.to_q(x), self.to_k(context), self.to_v(context))
        )
        return self.to_out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class GEGLU(nn.Module):
    def __init__(self, width: int, inner: int):
        super().__init__()
        self.proj = nn.Linear(width, 2 * inner)

    def forward(self, x: Tensor) -> Tensor:
        x, gate = self.proj(x).chunk(2, -1)
        return x * F.gelu(gate)


class TransformerBlock(nn.Module):
    def __init__(self, width: int, context: int, head_channels: int):
        super().__init__()
        self.attn1, self.attn2 = (
            Attention(width, width, head_channels),
            Attention(width, context, head_channels),
        )
        self.ff = nn.Module()
        self.ff.net = nn.Sequential(GEGLU(width, 4 * width), nn.Identity(), nn.Linear(4 * width, width))
        self.norm1, self.norm2, self.norm3 = (nn.LayerNorm(width) for _ in range(3))

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        h = self.norm1(x)
        x = x + self.attn1(h, h)
        x = x + self.attn2(self.norm2(x), context)
        return x + self.ff.net(self.norm3(x))


class SpatialTransformer(nn.Module):
    def __init__(self, width: int, context: int, head_channels: int):
        super().__init__()
        self.norm = nn.GroupNorm(32, width, eps=1e-6)
        self.proj_in, self.proj_out = nn.Conv2d(width, width, 1), nn.Conv2d(width, width, 1)
        self.transformer_blocks = nn.ModuleList([TransformerBlock(width, context, head_channels)])
        nn.init.zeros_(self.proj_out.weight)

    def forward(self, x: Tensor, emb: Tensor, context: Tensor) -> Tensor:
        del emb
        h = self.proj_in(self.norm(x)).flatten(2).transpose(1, 2)  # [B, H*W, C]
        h = self.transformer_blocks[0](h, context)
        return x + self.proj_out(h.transpose(1, 2).reshape(x.shape))


class Downsample(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.op = nn.Conv2d(width, width, 3, stride=2, padding=1)

    def forward(self, x: Tensor, emb: Tensor, context: Tensor) -> Tensor:
        return self.op(x)


class Upsample(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: Tensor, emb: Tensor, context: Tensor) -> Tensor:
        return self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))


class _Stem(nn.Conv2d):
    def forward(self, x: Tensor, emb: Tensor, context: Tensor) -> Tensor:
        return super().forward(x)


class UNet(nn.Module):
    """Noised latent, timestep and text to the network's raw output (noise, or velocity in the flow twin).

    checkpointing: whether training keeps only what goes from block to block, and works out the rest twice

    Shapes:  x, result [B, 4, H, W] with H, W even; t [B] in 0..1000; context [B, T, D].
    """

    def __init__(self, config: UNetConfig | None = None):
        super().__init__()
        self.config = config = config or UNetConfig()
        self.checkpointing = False
        ch, emb = config.channels, 4 * config.channels
        widths = [ch * m for m in config.channel_mult]

        def stage(c_in: int, c_out: int, *more: nn.Module) -> nn.ModuleList:
            attend = SpatialTransformer(c_out, config.context, config.head_channels)
            return nn.ModuleList([ResBlock(c_in, c_out, emb), attend, *more])

        self.time_embed = nn.Sequential(nn.Linear(ch, emb), nn.SiLU(), nn.Linear(emb, emb))
        self.input_blocks = nn.ModuleList([nn.ModuleList([_Stem(config.latent_channels, ch, 3, padding=1)])])
        skips, width = [ch], ch
        for level, c_out in enumerate(widths):
            self.input_blocks.append(stage(width, c_out))
            skips.append(width := c_out)
            if level < len(widths) - 1:
                self.input_blocks.append(nn.ModuleList([Downsample(width)]))
                skips.append(width)
        self.middle_block = stage(width, width)
        self.middle_block.append(ResBlock(width, width, emb))
        self.output_blocks = nn.ModuleList()
        for level, c_out in reversed(list(enumerate(widths))):
            self.output_blocks.append(stage(width + skips.pop(), c_out))
            more = [Upsample(c_out)] if level else []
            self.output_blocks.append(stage(c_out + skips.pop(), c_out, *more))
            width = c_out
        self.out = nn.Sequential(
            nn.GroupNorm(32, ch), nn.SiLU(), nn.Conv2d(ch, config.latent_channels, 3, padding=1)
        )
        nn.init.zeros_(self.out[2].weight)

    def forward(self, x: Tensor, t: Tensor, context: Tensor) -> Tensor:
        emb = self.time_embed(timestep_embedding(t, self.config.channels))
        skips = []
        for blocks in self.input_blocks:
            x = self._through(blocks, x, emb, context)
            skips.append(x)
        x = self._through(self.middle_block, x, emb, context)
        for blocks in self.output_blocks:
            x = self._through(blocks, torch.cat([x, skips.pop()], 1), emb, context)
        return self.out(x)

    def _through(self, blocks: nn.ModuleList, x: Tensor, emb: Tensor, context: Tensor) -> Tensor:
        for block in blocks:
            if self.checkpointing and torch.is_grad_enabled():
                x = cast(Tensor, checkpoint(block, x, emb, context, use_reentrant=False))
            else:
                x = block(x, emb, context)
        return x
