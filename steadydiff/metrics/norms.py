"""Norms of the predicted noise, per step, in sampling and in "training", and their quotient ΔN."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from ..denoiser import Denoise, Space, add_noise, eps_from_denoised
from ..errors import SettingsError, ShapeError
from .running import RunningMoments


def eps_norm(eps: Tensor) -> Tensor:
    """L2 norm of each sample's noise over all its elements.

    Shapes:  eps [B, C, *S]; result [B].
    Dtype:   float64, on the CPU: a norm over a million half-precision elements would overflow.
    Source:  Ning et al., 2023, arXiv 2308.15321, figure 2.
    """
    return eps.flatten(1).cpu().double().norm(dim=1)


def predicted_norm(x: Tensor, denoised: Tensor, sigma: Tensor | float, space: Space = "ve") -> Tensor:
    """L2 norm of the noise that a clean estimate implies, per sample.

    Shapes:  x, denoised [B, C, *S]; sigma a number or [B]; result [B].
    """
    return eps_norm(eps_from_denoised(x, denoised, sigma, space))


def training_norm(
    denoise: Denoise, clean: Tensor, noise: Tensor, sigma: float, space: Space = "ve"
) -> Tensor:
    """L2 norm of the noise predicted where the network was trained: on clean samples noised to `sigma`.

    Shapes:  clean, noise [B, C, *S]; result [B].
    Source:  Ning et al., 2023, arXiv 2308.15321, figure 2, "training".
    """
    x = add_noise(clean, noise, sigma, space)
    at = torch.full((len(x),), sigma, dtype=torch.float32, device=x.device)
    return predicted_norm(x, denoise(x, at), sigma, space)


class NormCurve:
    """Norms gathered per step over batches; memory is a few numbers per step."""

    def __init__(self, steps: int) -> None:
        self._steps = [RunningMoments() for _ in range(steps)]

    def add(self, step: int, norms: Tensor) -> None:
        """Take in the norms [B] of one batch at a step, counted from 0, the noisiest."""
        if norms.ndim != 1:
            raise ShapeError(f"norms come as one number per sample, [B]; got {tuple(norms.shape)}")
        self._steps[step].add(norms)

    @property
    def mean(self) -> tuple[float, ...]:
        """Mean norm per step, the curve of the paper's figure 2."""
        return tuple(float(step.mean) for step in self._steps)

    @property
    def rms(self) -> tuple[float, ...]:
        """Root of the mean squared norm per step; its square is the energy of the predicted noise."""
        return tuple(float(step.mean_square.sqrt()) for step in self._steps)


def norm_quotient(sampling: Iterable[float], training: Iterable[float]) -> tuple[float, ...]:
    """ΔN per step: norm in sampling over norm in training; 1 is no drift, above 1 too much predicted noise.

    Raises:  SettingsError if the curves differ in length or a training norm is 0.
    Source:  Ning et al., 2023, arXiv 2308.15321, the left side of equation 21. Its right side, an integral of
             λ, is a heuristic that fails e.g. for data in one point; calibrate step by step instead.
    """
    sampling, training = tuple(sampling), tuple(training)
    if len(sampling) != len(training):
        raise SettingsError(f"two curves over the same steps; got {len(sampling)} and {len(training)} values")
    if not all(training):
        raise SettingsError(
            "the model predicts no noise at all on noised clean samples; there is no quotient"
        )
    return tuple(s / t for s, t in zip(sampling, training, strict=True))
