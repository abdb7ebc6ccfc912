"""A host without a network, for tests and docs: exact Gaussian denoisers under an Euler loop."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise

import torch
from torch import Tensor

from ..denoiser import Denoise, Run, Space, check_space, derivative, per_sample, signal_level


def gaussian_denoiser(mean: float = 0.0, std: float = 1.0, space: Space = "ve") -> Denoise:
    """Return the ideal denoiser for data distributed as N(mean, std²), element by element.

    Shapes:  the denoiser takes x [B, C, *S] and sigma [B] and keeps x's shape and dtype.
    Source:  conditional mean of a Gaussian, E[x0 | x] with x = alpha * x0 + sigma * eps.
    """
    check_space(space)

    def denoise(x: Tensor, sigma: Tensor) -> Tensor:
        level = per_sample(sigma.to(x.dtype), x)
        alpha = signal_level(level, space)
        gain = alpha * std**2 / (alpha**2 * std**2 + level**2)
        return mean + gain * (x - alpha * mean)

    return denoise


def sample_euler(denoise: Denoise, x: Tensor, sigmas: Iterable[float]) -> Tensor:
    """Follow dx/dsigma from the first sigma to the last, one model call per step.

    Shapes:  x, result [B, C, *S].
    Source:  Karras et al., 2022, arXiv 2206.00364, algorithm 1 without its second-order correction.
    """
    for sigma, sigma_next in pairwise(sigmas):
        at = torch.full((len(x),), sigma, dtype=torch.float32, device=x.device)
        x = x + derivative(x, denoise(x, at), sigma) * (sigma_next - sigma)
    return x


def generate(denoise: Denoise, run: Run, shape: tuple[int, ...], methods: Iterable = ()) -> Tensor:
    """Sample as a host would: seeded noise, each method wrapped once (the last one outermost), then Euler."""
    for method in methods:
        denoise = method.wrap(denoise, run)
    seeded = torch.Generator().manual_seed(run.seed or 0)
    noise = torch.randn(shape, generator=seeded)
    return sample_euler(denoise, noise * run.sigmas[0], run.sigmas)
