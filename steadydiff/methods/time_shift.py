"""Time Shift: call a network at another noise level than the state's.

A sampler with few or noisy steps makes states that are cleaner, or noisier, than its own noise level says.
Asked at the level that they really have, a network's estimate fits them better. Li et al., "Alleviating
Exposure Bias in Diffusion Models through Sampling with Shifted Time Steps", arXiv 2305.15583, shift the
timestep so; samplers that "lie" about sigma and Detail Daemon do the same to taste. `shift_level` and
`shift_state` are the formulas, `TimeShift` the settings.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from ..denoiser import Denoise, Run, Space, check_space, per_sample
from ..errors import SettingsError
from .method import Defaults
from .window import Windowed, check_window, edges


def shift_level(sigma: Tensor, factor: Tensor | float, space: Space) -> Tensor:
    """Return the sigma whose noise-to-signal ratio sigma / alpha is `factor` times that of `sigma`.

    "ve":    sigma' = factor * sigma
    "flow":  sigma' = factor * sigma / (1 + (factor - 1) * sigma)

    Shapes:  sigma, result [B]; factor a number or [B].
    Units:   factor is a ratio and positive; 1 returns sigma bit for bit.
    Source:  "ve" is the shifted timestep of Li et al., 2023, arXiv 2305.15583, as a factor on sigma; "flow"
             follows from x's own equation and is not in the paper.
    """
    check_space(space)
    shifted = sigma * factor
    return shifted if space == "ve" else shifted / (1 + (factor - 1) * sigma)


def shift_state(x: Tensor, sigma: Tensor, factor: Tensor | float, space: Space) -> Tensor:
    """Return the state that holds the same picture at the shifted level: x itself in "ve".

    In "flow" the share of the picture in x depends on sigma, so x' = x / (1 + (factor - 1) * sigma).

    Shapes:  x, result [B, C, *S]; sigma [B]; factor a number or [B].
    Dtype:   x.dtype and x.device in and out; nothing is changed in place.
    """
    if space == "ve":
        return x
    share = 1 + (factor - 1) * sigma
    return x / per_sample(share.to(x.dtype), x)


def levels_factor(sigma: Tensor, levels: float, table: Tensor, space: Space) -> Tensor:
    """Return the factor on sigma / alpha that leads `levels` training levels down, or up if negative.

    Between two levels of the table log(sigma / alpha) is interpolated; beyond its ends nothing is called, and
    a state more than half a level outside it is left alone: hosts and samplers round the ends differently.

    Shapes:  sigma, result [B]; table [T], the sigmas of the training's levels, rising.
    Units:   a level is a thousandth of the table, so that k means the same on models of more levels.
    """
    check_space(space)
    ratios = table.cpu().double()  # not every device knows float64
    if space == "flow":
        ratios = (ratios / (1 - ratios))[ratios < 1]
    known, level = ratios.log(), sigma.cpu().double()
    level = (level if space == "ve" else level / (1 - level)).log()
    above = torch.searchsorted(known, level).clamp(1, len(known) - 1)
    share = (level - known[above - 1]) / (known[above] - known[above - 1])
    place = above - 1 + share
    moved = (place - levels * len(table) / 1000).clamp(0, len(known) - 1)
    low = moved.floor().long().clamp(max=len(known) - 2)
    found = torch.lerp(known[low], known[low + 1], moved - low)
    inside = (place >= -0.5) & (place <= len(known) - 0.5)
    return torch.where(inside, (found - level).exp(), 1.0).to(sigma)


@dataclass(frozen=True)
class TimeShift(Windowed, Defaults):
    """Call the network as if the state's noise level were `factor` times as high.

    factor:     below 1 the network takes the state for cleaner than the sampler does and leaves more in it:
                more contrast and detail, in the end grain; above 1 it takes more away; 1 changes nothing
    levels:     if not 0, k: the network is called so many training levels lower instead of at a factor
    table:      the training levels' sigmas, rising, for `levels`
    sigma_high: noise level from which on (downwards) it acts, and
    sigma_low:  down to which; both included, compared in float32; equal bounds switch it off

    Neutral: factor 1 and levels 0, or equal bounds; `wrap` then returns the denoiser itself.

    What MDSS with the posterior target teaches a network is nearly the same as levels = k + 1: to
    sigma_t² / sigma_(t+k+1).
    Not to be confused with a flow model's `shift`, which moves the sampler's own noise levels.
    """

    title: ClassVar[str] = "Time Shift"
    order: ClassVar[int] = 0  # nearest the model: whatever else calls it is shifted as well
    shifts_level: ClassVar[bool] = True

    factor: float = 0.98
    sigma_high: float = math.inf
    sigma_low: float = 0.0
    levels: float = 0.0
    table: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if not (math.isfinite(self.factor) and self.factor > 0):
            raise SettingsError(f"factor is a finite number above 0; got {self.factor}")
        check_window(self.sigma_high, self.sigma_low)
        if not abs(self.levels) < 1000:
            raise SettingsError(f"levels is a number of training levels of 1000; got {self.levels}")
        rising = all(0 < a < b for a, b in zip(self.table, self.table[1:], strict=False))
        if self.levels and not (len(self.table) > 2 and rising):
            raise SettingsError("levels needs the sigmas of the model's training levels, rising; set factor")

    def __str__(self) -> str:
        return f"levels {self.levels:g}" if self.levels else f"factor {self.factor:g}"

    @property
    def is_off(self) -> bool:
        """Whether these settings change nothing."""
        return self.levels == 0 and self.factor == 1 or self.sigma_low == self.sigma_high

    def check(self, space: Space) -> None:
        """Raise SettingsError if these settings cannot work on a model of this space; they work on all."""
        check_space(space)

    def summary(self, run: Run) -> str:
        """Say at how many steps it acts, e.g. "noise level times 0.95 at 18 of 20 steps"."""
        low, high = edges(self.sigma_high, self.sigma_low, run)
        levels = sorted(run.sigmas, reverse=True)[:-1]
        acted = 0 if self.is_off else sum(low <= level <= high for level in levels)
        if not acted:
            return f"left all {len(levels)} steps as they were"
        by = (
            f"{self.levels:g} training levels lower"
            if self.levels
            else f"noise level times {self.factor:.6g}"
        )
        return f"{by} at {acted} of {len(levels)} steps"

    def wrap(self, denoise: Denoise, run: Run) -> Denoise:
        """Return a denoiser that calls `denoise` at the shifted level; called once per run."""
        if self.is_off:
            return denoise
        low, high = edges(self.sigma_high, self.sigma_low, run)
        table = torch.tensor(self.table, dtype=torch.float64)

        def factor_at(sigma: Tensor) -> Tensor | float:
            factor = levels_factor(sigma, self.levels, table, run.space) if self.levels else self.factor
            if low == 0 and high == math.inf:
                return factor
            return torch.where((sigma >= low) & (sigma <= high), factor, 1.0).to(sigma.dtype)

        return _Shifted(denoise, factor_at, run.space)


class _Shifted:
    """A denoiser that calls another at shifted levels and shows what that one shows (branches, cfg)."""

    def __init__(self, denoise: Denoise, factor_at: Callable[[Tensor], Tensor | float], space: Space) -> None:
        self._denoise, self._factor_at = denoise, factor_at
        self._space: Space = space

    def __call__(self, x: Tensor, sigma: Tensor) -> Tensor:
        factor = self._factor_at(sigma)
        shifted = shift_state(x, sigma, factor, self._space)
        return self._denoise(shifted, shift_level(sigma, factor, self._space))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._denoise, name)
