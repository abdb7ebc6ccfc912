"""Noise levels and denoisers of the photos' networks without a host, under our contract."""

from __future__ import annotations

import torch
from torch import Tensor


def alphas_cumprod() -> Tensor:
    """Return DDPM's linear schedule, [1000] float64: betas from 1e-4 to 0.02."""
    return torch.cumprod(1 - torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64), 0)
