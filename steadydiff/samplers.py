"""A host without a network or without ComfyUI, for tests, docs and benches: denoisers and plain samplers."""

from __future__ import annotations

import math
from collections.abc import Iterable
from itertools import pairwise

import torch
from torch import Tensor

from .denoiser import Denoise, Run, Space, check_space, derivative, per_sample, signal_level
from .metrics.deltas import one_step


def gaussian_denoiser(
    mean: float = 0.0, std: float = 1.0, space: Space = "ve", noise: float = 1.0
) -> Denoise:
    """Return the ideal denoiser for data distributed as N(mean, std²), element by element.

    noise: standard deviation of the noise in its states

    Shapes:  the denoiser takes x [B, C, *S] and sigma [B] and keeps x's shape and dtype.
    Source:  conditional mean of a Gaussian, E[x0 | x] with x = alpha * x0 + sigma * eps.
    """
    check_space(space)

    def denoise(x: Tensor, sigma: Tensor) -> Tensor:
        level = per_sample(sigma.to(x.dtype), x)
        alpha = signal_level(level, space)
        gain = alpha * std**2 / (alpha**2 * std**2 + (level * noise) ** 2)
        return mean + gain * (x - alpha * mean)

    return denoise


def sample_euler(denoise: Denoise, x: Tensor, sigmas: Iterable[float]) -> Tensor:
    """Follow dx/dsigma from the first sigma to the last, one model call per step.

    Shapes:  x, result [B, C, *S].
    Source:  Karras et al., 2022, arXiv 2206.00364, algorithm 1 without its second-order correction.
    """
    for sigma, sigma_next in pairwise(sigmas):
        x = x + derivative(x, denoise(x, _level(sigma, x)), sigma) * (sigma_next - sigma)
    return x


def sample_heun(denoise: Denoise, x: Tensor, sigmas: Iterable[float]) -> Tensor:
    """Follow dx/dsigma by Heun's method: a second model call per step, but for the last one to 0.

    Shapes:  x, result [B, C, *S].
    Source:  Karras et al., 2022, arXiv 2206.00364, algorithm 1.
    """
    for sigma, sigma_next in pairwise(sigmas):
        slope = derivative(x, denoise(x, _level(sigma, x)), sigma)
        reached = x + slope * (sigma_next - sigma)
        if sigma_next:
            there = derivative(reached, denoise(reached, _level(sigma_next, x)), sigma_next)
            reached = x + (slope + there) / 2 * (sigma_next - sigma)
        x = reached
    return x


def sample_ddpm(denoise: Denoise, x: Tensor, sigmas: Iterable[float], space: Space = "ve") -> Tensor:
    """Go down by the posterior of DDPM, fresh noise from torch's own stream at every step but the last.

    Shapes:  x, result [B, C, *S].
    Source:  `one_step`. In space "ve" it is what hosts call "euler ancestral"; in "flow" theirs differs.
    """
    for sigma, sigma_next in pairwise(sigmas):
        x = one_step(x, denoise(x, _level(sigma, x)), sigma, sigma_next, space, torch.randn_like(x))
    return x


def sample_dpmpp_2m(denoise: Denoise, x: Tensor, sigmas: Iterable[float]) -> Tensor:
    """Follow DPM-Solver++ of second order, which extrapolates from the clean estimate of the step before.

    Shapes:  x, result [B, C, *S].
    Source:  Lu et al., 2022, arXiv 2211.01095, algorithm 2, in log sigma; hosts use this line for flow models
             too, where it is of second order no more.
    """
    before, length_before = None, 0.0
    for sigma, sigma_next in pairwise(sigmas):
        denoised = denoise(x, _level(sigma, x))
        if not sigma_next:
            return denoised
        length, target = math.log(sigma / sigma_next), denoised
        if before is not None:
            target = torch.lerp(before, denoised, 1 + length / (2 * length_before))
        x = torch.lerp(target, x, sigma_next / sigma)
        before, length_before = denoised, length
    return x


def _level(sigma: float, x: Tensor) -> Tensor:
    return torch.full(x.shape[:1], sigma, dtype=torch.float32, device=x.device)


def generate(denoise: Denoise, run: Run, shape: tuple[int, ...], methods: Iterable = ()) -> Tensor:
    """Sample as a host would: seeded noise, each method wrapped once (the last one outermost), then Euler."""
    for method in methods:
        denoise = method.wrap(denoise, run)
    seeded = torch.Generator().manual_seed(run.seed or 0)
    noise = torch.randn(shape, generator=seeded)
    return sample_euler(denoise, noise * (run.noise * run.sigmas[0]), run.sigmas)
