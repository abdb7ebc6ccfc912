"""Sampling the photos without a host: as the tiny world, on DDPM's noise levels and the photos' words."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from ...denoiser import Denoise
from .. import sampling
from .words import PhotoTokenizer


def alphas_cumprod() -> Tensor:
    """Return DDPM's linear schedule, [1000] float64: betas from 1e-4 to 0.02.

    Source:  Ho et al., 2020, arXiv 2006.11239, section 4.
    """
    return torch.cumprod(1 - torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64), 0)


sigmas = partial(sampling.sigmas, levels=alphas_cumprod)
embed = partial(sampling.embed, tokenizer=PhotoTokenizer())
denoiser = partial(sampling.denoiser, levels=alphas_cumprod)


def clipped(denoise: Denoise) -> Denoise:
    """Return a denoiser whose clean estimates are clipped to -1..1, what a picture can hold.

    Source:  Ho et al., 2020, their published code; pixel models of that time sample so.
    """
    return lambda x, sigma: denoise(x, sigma).clamp(-1, 1)
