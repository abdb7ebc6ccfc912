"""Sampling the photos without a host, under our contract: for benches and fast tests."""

from __future__ import annotations

import torch
from torch import Tensor

from ...denoiser import Denoise
from ..sampling import EpsilonDenoiser, FlowDenoiser, Network, evenly_timed
from ..sampling import sigmas as tiny_sigmas
from ..text import TextEncoder, tokenize
from .words import PhotoTokenizer


def alphas_cumprod() -> Tensor:
    """Return DDPM's linear schedule, [1000] float64: betas from 1e-4 to 0.02.

    Source:  Ho et al., 2020, arXiv 2006.11239, section 4.
    """
    return torch.cumprod(1 - torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64), 0)


def sigmas(variant: str, steps: int) -> tuple[float, ...]:
    """Return noise levels from the first to 0, steps + 1 of them, spaced as the tiny world's are."""
    return tiny_sigmas("flow", steps) if variant == "flow" else evenly_timed(alphas_cumprod(), steps)


@torch.no_grad()
def embed(text: TextEncoder, prompts: list[str]) -> tuple[Tensor, Tensor]:
    """Return the context of the prompts and of as many empty ones, each [B, T, D]."""
    empty = text(tokenize([""], PhotoTokenizer())).expand(len(prompts), -1, -1)
    return text(tokenize(prompts, PhotoTokenizer())), empty


def denoiser(variant: str, unet: Network, context: Tensor, uncond: Tensor, cfg: float) -> Denoise:
    """Return the guided clean estimate, pictures in -1..1, as a Denoise function with branches and cfg.

    Shapes:  context, uncond [B, T, D], one row per sample of x.
    """
    both = torch.cat([context, uncond]) if cfg != 1 else context
    if variant == "flow":
        return FlowDenoiser(unet, both, cfg)
    return EpsilonDenoiser(unet, both, cfg, alphas_cumprod())
