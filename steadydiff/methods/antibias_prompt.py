"""Anti-bias prompt: Zhang et al., "Anti-Exposure Bias in Diffusion Models", ICLR 2025.

A small network learns what one step of the base model leaves wrong on average, from the state alone; while
sampling, its output ("prompt" in the paper) is added to the state before the model sees it.
`exposure_bias` is what it learns, `rectify` the formula, `AntiBiasPrompt` the settings. The network lives in
`..networks.antibias_prompt`, its training in `..training.antibias`, its file in `..antibias_files`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import ClassVar, Literal, get_args

import torch
from torch import Tensor

from ..denoiser import Denoise, Run, Space, check_same_shape, check_space, per_sample
from ..errors import SettingsError
from ..memory import retry_on_oom
from .state import SAME_SIGMA, StateEditor, StateSettings, input_scale, inside

__all__ = [
    "AntiBiasPrompt",
    "Band",
    "PromptModel",
    "band_gain",
    "exposure_bias",
    "exposure_bias_vp",
    "input_scale",
    "rectify",
    "step_fraction",
]

Target = Literal["phi", "residual"]
"""What the network's output stands for: "phi" the bias of one step of the schedules it was trained on,
"residual" the same per unit of step, to be multiplied by the step's 1 - sigma_next / sigma."""

TARGETS: tuple[Target, ...] = get_args(Target)

Calls = Literal["every", "step starts"]
"""Before which model calls it acts: all but the first, or only those that start a step."""

CALLS: tuple[Calls, ...] = get_args(Calls)


def exposure_bias(x0: Tensor, denoised: Tensor, sigma: Tensor | float, sigma_next: Tensor | float) -> Tensor:
    """Return what one Euler step leaves wrong: (1 - sigma_next / sigma)·(x0 - denoised).

    Shapes:  x0, denoised, result [B, C, *S]; sigma and sigma_next numbers or [B].
    Units:   states, in "ve" and in "flow" alike; denoised is the model's prediction at sigma.
    Source:  Zhang et al., ICLR 2025, section 4.1: x_t minus the step's result. With the same noise in x_t and
             x_{t+1} the noise cancels, which gives this form; the paper does not write it.
    """
    check_same_shape(x0, denoised)
    return per_sample(1 - sigma_next / sigma, x0) * (x0 - denoised)


def exposure_bias_vp(x0: Tensor, denoised: Tensor, abar: Tensor | float, abar_next: Tensor | float) -> Tensor:
    """Return the same in the units of x = sqrt(abar)·x0 + sqrt(1 - abar)·eps.

    Shapes:  x0, denoised, result [B, C, *S]; abar and abar_next numbers or [B], abar_next the larger.
    Units:   equals `exposure_bias` divided by `input_scale` at sigma_next, for sigma² = 1 / abar - 1.
    Source:  as `exposure_bias`; a DDIM step instead of Euler's, which it is in these units.
    """
    check_same_shape(x0, denoised)
    kept = ((1 - abar_next) / (1 - abar)) ** 0.5  # of the noise
    return per_sample(abar_next**0.5 - abar**0.5 * kept, x0) * (x0 - denoised)


def step_fraction(sigma: Tensor, sigmas: tuple[float, ...]) -> Tensor:
    """Return 1 - sigma / before, where `before` is the run's level before sigma; 0 at its first.

    Whether a state is a step's result or an inner stage's, it came from that level, so the fraction of the
    way is known without knowing the sampler. In a run that rises (an inverted one) it is the level below, and
    the fraction negative, as the step's error is; at -1 it ends: no network has seen a longer step.

    Shapes:  sigma, result [B]; on sigma's device.
    """
    levels = torch.tensor(sorted({*sigmas}), dtype=torch.float32, device=sigma.device)
    if sigmas[-1] <= sigmas[0]:
        at = torch.searchsorted(levels, sigma.float() * (1 + SAME_SIGMA), right=True)
        before = levels[at.clamp(max=len(levels) - 1)]
        return (1 - sigma / before).clamp(min=0)
    at = torch.searchsorted(levels, sigma.float() * (1 - SAME_SIGMA))
    before = levels[(at - 1).clamp(min=0)]
    return torch.where(at > 0, (1 - sigma / before).clamp(-1, 0), 0.0).to(sigma.dtype)


def rectify(
    x: Tensor, network: Callable[[Tensor], Tensor], scale: Tensor | float, gain: Tensor | float
) -> Tensor:
    """Return x + gain·scale·network(x / scale): the state with the expected bias of the last step undone.

    Shapes:  x, result [B, C, *S]; scale and gain numbers or [B].
    Units:   scale from `input_scale`; gain is strength, times the step's fraction for target
             "residual".
    Dtype:   x.dtype in and out; the network takes care of its own.
    Source:  Zhang et al., ICLR 2025, equation 13 and algorithm 1, line 5.
    """
    scale = per_sample(scale, x)
    prompt = network((x / scale).to(x.dtype))
    return (x + per_sample(gain, x) * scale * prompt).to(x.dtype)


@dataclass(frozen=True)
class Band:
    """Noise levels of the states a network corrects, and what was measured there after its training.

    sigma:     from which level on, up to the next band's
    gain:      what the network's output is multiplied by, 0 to 1; 0 where nothing was learnt
    explained: share of the one-step bias that its output takes away on samples not trained on, without and
    applied:   with the gain
    """

    sigma: float
    gain: float
    explained: float = 0.0
    applied: float = 0.0

    def __post_init__(self) -> None:
        finite = math.isfinite(self.explained) and math.isfinite(self.applied)
        if not (0 <= self.sigma < math.inf and 0 <= self.gain <= 1 and finite):
            raise SettingsError(f"a band begins at a level of 0 or more and has a gain of 0 to 1; got {self}")


def band_gain(sigma: Tensor, bands: tuple[Band, ...]) -> Tensor:
    """Return the gain of the band in which each level lies; below the lowest that of the lowest, 1 without.

    Shapes:  sigma, result [B]; on sigma's device. bands from the lowest to the highest.
    """
    if not bands:
        return torch.ones_like(sigma)
    low, gain = (
        torch.tensor(values, dtype=torch.float32, device=sigma.device)
        for values in zip(*((band.sigma, band.gain) for band in bands), strict=True)
    )
    at = torch.searchsorted(low, sigma.float() * (1 + SAME_SIGMA), right=True) - 1
    return gain[at.clamp(min=0)].to(sigma.dtype)


@dataclass(frozen=True)
class PromptModel:
    """A trained network and what must be known of it to apply it.

    network:     state in the base model's input scaling -> correction in the same units, shapes alike
    target:      what its output stands for, see Target
    space:       of the base model it was trained on
    sigma_data:  the base model's, for its input scaling in "ve"
    sigma_range: lowest and highest noise level of the states it was trained on; it is not called outside
    bands:       how much of its output counts where, from the lowest level up; () = all of it everywhere
    """

    network: Callable[[Tensor], Tensor]
    target: Target
    space: Space
    sigma_data: float = 1.0
    sigma_range: tuple[float, float] = (0.0, math.inf)
    bands: tuple[Band, ...] = ()

    def __post_init__(self) -> None:
        check_space(self.space)
        if self.target not in TARGETS:
            raise SettingsError(f"target is one of {', '.join(TARGETS)}; got {self.target!r}")


@dataclass(frozen=True)
class AntiBiasPrompt(StateSettings):
    """Add the network's correction to the sampler's state before every model call but the first.

    model:      the trained network
    strength:   the correction is multiplied by this; 0 changes nothing, 1 is the paper
    calls:      before which model calls it acts. "every": all but the first, inner stages of multi-stage
                solvers included, as in the paper; "step starts": those that start a step, but the first; or
                their numbers, from 0
    sigma_high: noise level from which on (downwards) it acts, and
    sigma_low:  down to which, both included

    Neutral: strength 0 or equal bounds; `wrap` then returns the denoiser itself.

    It rectifies the sampler's own state: the wrapped denoiser writes into x.
    """

    title: ClassVar[str] = "Anti-Bias Prompt"
    what: ClassVar[str] = "anti-bias model"
    order: ClassVar[int] = 4  # before the model is called; the order among its like changes nothing

    model: PromptModel
    strength: float = 1.0
    calls: tuple[int, ...] | Calls = "every"
    sigma_high: float = math.inf
    sigma_low: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if isinstance(self.calls, str) and self.calls not in CALLS:
            raise SettingsError(f"calls is one of {', '.join(CALLS)}; got {self.calls!r}")

    @property
    def wants_steps(self) -> bool:
        """Whether the run must tell which model calls start a step."""
        return self.calls == "step starts" and not self.is_off

    def masked(self, mask: Tensor) -> AntiBiasPrompt:
        """Return a copy that corrects a state as far as `mask` says."""
        whole = self.model.network
        return replace(self, model=replace(self.model, network=lambda seen: whole(seen) * mask))

    def wrap(self, denoise: Denoise, run: Run) -> Denoise:
        """Return a denoiser that rectifies its input in place, then calls it; called once per run.

        Raises:  SettingsError if the network was trained on a model of the other space.
        """
        if self.is_off:
            return denoise
        self.check(run.space)
        return _Rectified(self, denoise, run)


class _Rectified(StateEditor):
    """One run's wrapped denoiser."""

    def __init__(self, method: AntiBiasPrompt, denoise: Denoise, run: Run):
        super().__init__(denoise)
        self._method, self._run = method, run

    def __call__(self, x: Tensor, sigma: Tensor) -> Tensor:
        if self._acts(self._calls) and self._is_new(x, sigma):
            model, gain = self._method.model, self._gain(sigma)
            if gain.any():
                scale = input_scale(sigma, model.space, model.sigma_data)
                network = retry_on_oom(model.network, f"the {self._method.what}")
                x.copy_(rectify(x, network, scale, gain))
                self._note(x, sigma)
        self._calls += 1
        return self._denoise(x, sigma)

    def _acts(self, call: int) -> bool:
        calls = self._method.calls
        if calls == "step starts":
            calls = (self._run.step_calls or ())[1:]
        return call > 0 if isinstance(calls, str) else call in calls

    def __str__(self) -> str:
        """For a host's log."""
        return f"corrected the state before {self.applied} of {self._calls} model calls"

    def _gain(self, sigma: Tensor) -> Tensor:
        """Strength, times the band's gain and, where asked for, the step's fraction; 0 outside the bounds."""
        method, model = self._method, self._method.model
        gain = inside(sigma, (method.sigma_low, method.sigma_high), model.sigma_range)
        gain = gain * band_gain(sigma, model.bands)
        if model.target == "residual":
            gain = gain * step_fraction(sigma, self._run.sigmas)
        return method.strength * gain
